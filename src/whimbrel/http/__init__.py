"""HTTP/3 over connections that follow the machine from network to network (RFC 9114).

::

    async with whimbrel.http.connect("https://example.org/") as client:
        response = await client.request("GET", "/large.iso")
        async for chunk in response:
            ...

    async def handler(request):
        await request.respond(200, {"content-type": "text/plain"}, b"hello")

    async with whimbrel.http.serve(handler, "localhost", 4433, cert=("chain.pem", "key.pem")) as server:
        await server.serve_forever()

May change at any time, until the documentation says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from whimbrel.http._client import Body, Client, ConnectOptions, connect
from whimbrel.http._files import FilePart
from whimbrel.http._headers import Headers
from whimbrel.http._pool import Carrier
from whimbrel.http._protocol import ErrorCode
from whimbrel.http._request import BodyTooShort, Content, Request
from whimbrel.http._response import RequestRejected, Response
from whimbrel.http._server import Handler, ServeOptions, Server, serve
from whimbrel.http._tunnel import Tunnel, TunnelClosed, TunnelRefused
from whimbrel.http._url import InvalidUrl, Url
from whimbrel.http._webtransport import WebTransportClosed, WebTransportSession

if TYPE_CHECKING:
    from whimbrel.http._httpx import AsyncTransport as AsyncTransport
    from whimbrel.http._httpx_sync import Transport as Transport

__all__ = [
    "Body",
    "BodyTooShort",
    "Carrier",
    "Client",
    "ConnectOptions",
    "Content",
    "ErrorCode",
    "FilePart",
    "Handler",
    "Headers",
    "InvalidUrl",
    "Request",
    "RequestRejected",
    "Response",
    "ServeOptions",
    "Server",
    "Tunnel",
    "TunnelClosed",
    "TunnelRefused",
    "Url",
    "WebTransportClosed",
    "WebTransportSession",
    "connect",
    "serve",
]


def __getattr__(name: str) -> object:
    # Only who asks for the transports needs httpx.
    if name == "AsyncTransport":
        from whimbrel.http._httpx import AsyncTransport

        return AsyncTransport
    if name == "Transport":
        from whimbrel.http._httpx_sync import Transport

        return Transport
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
