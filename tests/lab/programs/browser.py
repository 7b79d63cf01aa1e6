"""Chromium: loads a page, and fetches a file from it, over HTTP/3 and nothing else."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from typing import TypedDict, cast

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from tests.lab.programs.arrival import tell

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

BEGIN = """
    const [url, part, told] = arguments;
    async function fetchAll() {
        const response = await fetch(url, {cache: "no-store"});
        const body = response.body.getReader(), pieces = [];
        for (let received = 0;;) {
            const {done, value} = await body.read();
            if (done)
                break;
            pieces.push(value);
            received += value.length;
            if (received >= part)
                told(received);
        }
        const whole = await new Blob(pieces).arrayBuffer();
        const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
        const entry = performance.getEntriesByName(url)[0];
        return {
            status: response.status,
            received: whole.byteLength,
            sha256: Array.from(digest, byte => byte.toString(16).padStart(2, "0")).join(""),
            protocol: entry.nextHopProtocol,
        };
    }
    window.fetched = fetchAll();
    window.fetched.catch(error => told(String(error)));
"""
"""Tells when part of it has come, and goes on."""
END = """
    const [told] = arguments;
    window.fetched.then(told, error => told({error: String(error)}));
"""


class Order(TypedDict):
    """The process's only argument, as JSON."""

    url: str
    page: str
    host: str
    port: int
    spki: str
    profile: str
    part: int
    """Bytes of the file that are waited for before the news of them."""
    chromium: str
    driver: str


def main(order: Order) -> None:
    """Load, fetch, and tell what came."""
    service = ChromeService(order["driver"], popen_kw={"preexec_fn": _die_with_parent})
    with Chrome(_options(order), service) as browser:
        browser.set_script_timeout(60)
        browser.get(order["page"])
        protocol = browser.execute_script("return performance.getEntriesByType('navigation')[0].nextHopProtocol")
        tell("loaded", title=browser.title, protocol=protocol, version=browser.capabilities["browserVersion"])
        received = browser.execute_async_script(BEGIN, order["url"], order["part"])
        tell("progress", received=received)
        tell("done", **browser.execute_async_script(END))


def _options(order: Order) -> ChromeOptions:
    options = ChromeOptions()
    options.binary_location = order["chromium"]
    for argument in (
        "headless=new",
        "no-sandbox",  # It would not start as root; nobody's pages but ours are loaded.
        "disable-gpu",
        "disable-background-networking",
        "disable-component-update",
        # Nobody answers such questions in the laboratory, and it waits for answers.
        "no-proxy-server",
        f"host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {order['host']}",
        "remote-debugging-pipe",  # It ends with its driver, however that ends.
        f"user-data-dir={order['profile']}",
        f"origin-to-force-quic-on={order['host']}:{order['port']}",
        f"ignore-certificate-errors-spki-list={order['spki']}",
    ):
        options.add_argument(f"--{argument}")
    return options


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main(cast("Order", json.loads(sys.argv[1])))
