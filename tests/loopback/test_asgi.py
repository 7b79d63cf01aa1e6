"""ASGI applications over HTTP/3: what they are told, and what becomes of what they send."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from whimbrel import http
from whimbrel.http import asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.loopback.support import Certificates
    from whimbrel.http.asgi import Application, Receive, Scope, Send

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * 20_000  # 5 MB: more than windows and buffers hold.


@contextlib.asynccontextmanager
async def running(certificates: Certificates, app: Application) -> AsyncIterator[tuple[asgi.Server, http.Client]]:
    """An application, and a client of it, over HTTP/3 alone."""
    async with asgi.serve(app, "127.0.0.1", cert=certificates.pair, tcp=False) as server:
        port = server.addresses[0][1]
        async with http.connect("127.0.0.1", port, verify=certificates.ca, migration=None) as client:
            yield server, client


async def answer(send: Send, status: int = 200, body: bytes = b"", headers: object = (), **more: object) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers, **more})
    await send({"type": "http.response.body", "body": body})


async def content(receive: Receive) -> bytes:
    pieces = []
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


# What applications are told -------------------------------------------------------------------------------------------


async def test_an_application_sees_what_was_asked(certificates: Certificates) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.append(scope)
            await answer(send, body=await content(receive))

    async with running(certificates, app) as (server, client):
        headers = [("Accept", "*/*"), ("x", "1"), ("cookie", "a=b"), ("x", "2"), ("cookie", "c=d")]
        response = await client.request("POST", "/a%20b%2fc/%C3%A9?d=e?%20", headers=headers, body=b"content")
        assert (response.status, await response.read()) == (200, b"content")
        (scope,) = seen
        extensions = scope.pop("extensions")
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "3",
            "method": "POST",
            "scheme": "https",
            "path": "/a b/c/é",
            "raw_path": b"/a%20b%2fc/%C3%A9",
            "query_string": b"d=e?%20",
            "root_path": "",
            "headers": [
                (b"host", client.authority.encode()),
                (b"accept", b"*/*"),
                (b"x", b"1"),
                (b"cookie", b"a=b; c=d"),
                (b"x", b"2"),
                (b"content-length", b"7"),
            ],
            "client": client.connection.path.local,
            "server": server.addresses[0],
            "state": {},
        }
        assert set(extensions) == {
            "http.response.early_hint",
            "http.response.pathsend",
            "http.response.trailers",
            "whimbrel",
        }
