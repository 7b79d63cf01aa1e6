"""curl: downloads one file over HTTP/3 and nothing else."""

from __future__ import annotations

import json
import sys
from typing import TypedDict, cast

import pycurl  # type: ignore[import-untyped]

from tests.lab.programs.arrival import Arrival, tell


class Order(TypedDict):
    """The process's only argument, as JSON."""

    url: str
    certificate: str


def main(order: Order) -> None:
    """Download."""
    arrival = Arrival(0)
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, order["url"])
    curl.setopt(pycurl.CAINFO, order["certificate"])
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_3ONLY)
    curl.setopt(pycurl.WRITEFUNCTION, arrival.take)
    curl.perform()
    http, status = curl.getinfo(pycurl.INFO_HTTP_VERSION), curl.getinfo(pycurl.RESPONSE_CODE)
    curl.close()
    tell("done", version=pycurl.version, is_http3=http == pycurl.CURL_HTTP_VERSION_3, status=status, **arrival.result())


if __name__ == "__main__":
    main(cast("Order", json.loads(sys.argv[1])))
