"""A pytest plugin: Starlette's own tests, with HTTP/3 between its test client and the applications.

::

    test ─▶ TestClient ─▶ OverHttp3 ─▶ whimbrel.http.connect ~~~ UDP ~~~ whimbrel.http.asgi.serve ─▶ application
                              └──────────── what the application raised ◀──────────────────────────────┘

What a test can see that no HTTP carries is handed past it: who the client claims to be, the scheme, the state of the
lifespan, and exceptions of the application. The lifespan itself has nothing to do with HTTP and is left alone.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import trustme
from starlette import testclient
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from whimbrel import http
from whimbrel.http import asgi
from whimbrel.http._headers import CONNECTION_SPECIFIC

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel.http.asgi import Application, Message, Receive, Scope, Send

_DEBUG = "http.response.debug"
PATIENCE = 2.0
"""Seconds that are enough on a loopback."""
_FORCED = ("client", "server", "scheme", "root_path", "state")
_FOLDER = tempfile.TemporaryDirectory()


def _files() -> tuple[Path, tuple[Path, Path]]:
    authority, folder = trustme.CA(), Path(_FOLDER.name)
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    return folder / "ca.pem", (folder / "chain.pem", folder / "key.pem")


_CA, _PAIR = _files()


class OverHttp3:
    """An application that has another one answer, at the far end of an HTTP/3 connection."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def far(far_scope: Scope, receive: Receive, far_send: Send) -> None:
            if far_scope["type"] == "lifespan":
                return
            far_scope.update({name: scope[name] for name in _FORCED if name in scope})
            far_scope["extensions"] |= {name: {} for name in scope["extensions"] if name == _DEBUG}

            async def send_from_afar(message: Message) -> None:
                await (send if message["type"] == _DEBUG else far_send)(message)

            try:
                await self._app(far_scope, receive, send_from_afar)
            except BaseException as error:
                ended.set_exception(error)
                raise
            ended.set_result(None)

        # A test that is over cancels what it left: a conversation ends by itself, since it has said goodbye before.
        with anyio.CancelScope(shield=scope["type"] == "websocket"):
            async with asgi.serve(far, "127.0.0.1", cert=_PAIR, tcp=False) as server:
                port = server.addresses[0][1]
                async with http.connect("127.0.0.1", port, verify=_CA, migration=None) as client:
                    relay = _relay_http if scope["type"] == "http" else _relay_websocket
                    await relay(client, scope, receive, send)
                # What the application makes of that comes after a while.
                with anyio.CancelScope(shield=True):
                    await asyncio.wait({ended}, timeout=PATIENCE)
        if ended.done():
            ended.result()


async def _relay_http(client: http.Client, scope: Scope, receive: Receive, send: Send) -> None:
    async def body() -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            yield message.get("body", b"")

    authority, headers = _asked(scope)
    response = await client.request(scope["method"], _target(scope), headers=headers, body=body(), authority=authority)
    # Nothing but a server adds this one.
    answered = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.headers.fields() if k != "date"]
    await send({"type": "http.response.start", "status": response.status, "headers": answered, "trailers": True})
    async for chunk in response:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body"})
    trailers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.trailers.fields()]
    await send({"type": "http.response.trailers", "headers": trailers})


async def _relay_websocket(client: http.Client, scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "websocket.connect"}
    authority, headers = _asked(scope)
    try:
        tunnel = await client.tunnel(authority, protocol="websocket", target=_target(scope), headers=headers)
    except http.TunnelRefused as refused:
        if refused.status == 403 and not refused.body:
            await send({"type": "websocket.close"})
            return
        fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in refused.headers.fields() if k != "date"]
        await send({"type": "websocket.http.response.start", "status": refused.status, "headers": fields})
        await send({"type": "websocket.http.response.body", "body": refused.body})
        return
    async with tunnel:
        fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in tunnel.headers.fields()]
        subprotocol = tunnel.headers.get("sec-websocket-protocol")
        own = [(k, v) for k, v in fields if k not in (b"date", b"sec-websocket-protocol")]
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": own})
        frames = Connection(ConnectionType.CLIENT)
        listening = asyncio.create_task(_listen(tunnel, frames, send))
        talking = asyncio.create_task(_talk(tunnel, frames, receive))
        await asyncio.wait({listening, talking}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({listening}, timeout=PATIENCE)
        talking.cancel()
        listening.cancel()
        await asyncio.wait({listening, talking})


async def _talk(tunnel: http.Tunnel, frames: Connection, receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            if frames.state is ConnectionState.OPEN:
                await tunnel.write(frames.send(CloseConnection(message.get("code", 1000), message.get("reason"))))
            return
        data: Any = message.get("bytes")
        await tunnel.write(frames.send(TextMessage(message["text"]) if data is None else BytesMessage(data)))


async def _listen(tunnel: http.Tunnel, frames: Connection, send: Send) -> None:
    partial: list[Any] = []
    while data := await tunnel.read(1 << 16):
        frames.receive_data(data)
        for event in frames.events():
            match event:
                case TextMessage(message_finished=finished) | BytesMessage(message_finished=finished):
                    partial.append(event.data)
                    if not finished:
                        continue
                    if isinstance(event, TextMessage):
                        await send({"type": "websocket.send", "text": "".join(partial)})
                    else:
                        await send({"type": "websocket.send", "bytes": b"".join(partial)})
                    partial = []
                case CloseConnection(code=code, reason=reason):
                    if frames.state is ConnectionState.REMOTE_CLOSING:
                        await tunnel.write(frames.send(event.response()))
                    await send({"type": "websocket.close", "code": code, "reason": reason or ""})


def _asked(scope: Scope) -> tuple[str, list[tuple[str, str]]]:
    """What is asked for, and the fields of the request that HTTP/3 carries."""
    fields = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in scope["headers"]]
    authority = next(value for name, value in fields if name == "host")
    return authority, [(name, value) for name, value in fields if name not in CONNECTION_SPECIFIC]


def _target(scope: Scope) -> str:
    query: str = scope["query_string"].decode("latin-1")
    path: str = scope["raw_path"].decode("latin-1")
    return f"{path}?{query}" if query else path


_original = testclient.TestClient.__init__


def _init(self: testclient.TestClient, app: Any, *args: Any, **options: Any) -> None:
    _original(self, app, *args, **options)
    over: Any = OverHttp3(self.app)
    self.app = self._transport.app = over  # type: ignore[attr-defined]


testclient.TestClient.__init__ = _init  # type: ignore[method-assign]
