"""HTTP/3 over connections that follow the machine from network to network (RFC 9114).

::

    async with whimbrel.http.connect("https://example.org/") as client:
        response = await client.request("GET", "/large.iso")
        async for chunk in response:
            ...

May change at any time, until the documentation says otherwise.
"""

from whimbrel.http._client import Body, Client, ConnectOptions, connect
from whimbrel.http._headers import Headers
from whimbrel.http._protocol import ErrorCode
from whimbrel.http._response import RequestRejected, Response
from whimbrel.http._url import InvalidUrl, Url

__all__ = [
    "Body",
    "Client",
    "ConnectOptions",
    "ErrorCode",
    "Headers",
    "InvalidUrl",
    "RequestRejected",
    "Response",
    "Url",
    "connect",
]
