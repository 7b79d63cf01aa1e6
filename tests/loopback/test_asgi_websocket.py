"""WebSockets over HTTP/3 (RFC 9220): what applications receive and send, and how conversations end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from wsproto.events import CloseConnection, TextMessage

from tests.loopback.support import turns, until
from tests.loopback.test_asgi import LARGE, running
from tests.loopback.websocket_peer import talking
from whimbrel import http
from whimbrel.http import asgi

if TYPE_CHECKING:
    from tests.loopback.support import Certificates
    from whimbrel.http.asgi import Message, Receive, Scope, Send

pytestmark = pytest.mark.anyio


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Says what it hears, until the client is gone."""
    if scope["type"] != "websocket":
        return
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def test_an_application_sees_who_asks_and_accepts(certificates: Certificates) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            seen.append(scope)
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"X-A", b"1")]})

    async with running(certificates, app) as (server, client):
        headers = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "a, b"), ("origin", "https://o")]
        async with talking(client, "/chat%20room?x=1", headers) as talk:
            assert talk.tunnel.status == 200
            assert dict(talk.tunnel.headers)["sec-websocket-protocol"] == "b"
            assert talk.tunnel.headers["x-a"] == "1"
        (scope,) = seen
        extensions = scope.pop("extensions")
        assert isinstance(extensions["whimbrel"], asgi.ConnectionView)
        assert extensions["websocket.http.response"] == {}
        assert scope == {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "3",
            "scheme": "wss",
            "path": "/chat room",
            "raw_path": b"/chat%20room",
            "query_string": b"x=1",
            "root_path": "",
            "headers": [(b"host", client.authority.encode()), *((k.encode(), v.encode()) for k, v in headers)],
            "client": client.connection.path.local,
            "server": server.addresses[0],
            "subprotocols": ["a", "b"],
            "state": {},
        }


async def test_messages_go_to_and_fro(certificates: Certificates) -> None:
    async with running(certificates, echo) as (_, client), talking(client, "/") as talk:
        for message in ("hällo", b"\x00\xff", "", b"", LARGE, "ü" * 300_000):
            sending = asyncio.create_task(talk.send(message))
            assert await talk.receive() == message
            await sending
        await talk.put(TextMessage("one ", message_finished=False))
        await talk.put(TextMessage("message", message_finished=True))
        assert await talk.receive() == "one message"
        assert await talk.ping() == b"here?"
        assert await talk.close(4000, "enough") == CloseConnection(4000, "enough")
        assert await talk.event() is None


async def test_a_ping_is_answered_while_the_application_is_busy(certificates: Certificates) -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await go_on.wait()

    async with running(certificates, app) as (_, client), talking(client, "/") as talk:
        assert await talk.ping() == b"here?"
        go_on.set()
        assert await talk.event() == CloseConnection(1000, "")


async def test_a_slow_application_holds_its_client_back(certificates: Certificates) -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await go_on.wait()
            for _ in range(10):
                assert (await receive())["bytes"] == LARGE

    async with running(certificates, app) as (_, client), talking(client, "/") as talk:
        sent = 0

        async def send_all() -> None:
            nonlocal sent
            for _ in range(10):
                await talk.send(LARGE)
                sent += 1

        sending = asyncio.create_task(send_all())
        await turns(300)
        assert sent < 10
        go_on.set()
        await sending
        assert await talk.event() == CloseConnection(1000, "")


@pytest.mark.parametrize("how", ["closes", "says nothing", "resets", "is gone"])
async def test_an_application_learns_that_its_client_left(certificates: Certificates, how: str) -> None:
    heard: list[Message] = []
    refused: list[OSError] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            heard.append(await receive())
            heard.append(await receive())
            try:
                await send({"type": "websocket.send", "text": "too late"})
            except OSError as error:
                await send({"type": "websocket.close"})  # That is no more than is so.
                refused.append(error)

    async with running(certificates, app) as (_, client), talking(client, "/") as talk:
        if how == "closes":
            await talk.close(4001, "bye")
        elif how == "says nothing":
            await talk.tunnel.finish()
        elif how == "resets":
            talk.tunnel.cancel()
        else:
            await client.close()
        await until(lambda: bool(refused))
        code, reason = (4001, "bye") if how == "closes" else (1006, "")
        assert heard == [{"type": "websocket.disconnect", "code": code, "reason": reason}] * 2
        assert isinstance(refused[0], asgi.ClientDisconnected)


async def test_an_application_closes(certificates: Certificates) -> None:
    heard: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": "last words"})
            await send({"type": "websocket.close", "code": 4002, "reason": "enough"})
            heard.append(await receive())

    async with running(certificates, app) as (_, client), talking(client, "/") as talk:
        assert await talk.receive() == "last words"
        assert await talk.event() == CloseConnection(4002, "enough")
        assert await talk.event() is None
    assert heard == [{"type": "websocket.disconnect", "code": 4002, "reason": "enough"}]


async def test_an_application_denies(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        if scope["path"] == "/plain":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"x", b"1")]})
        await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"are you?"})

    async with running(certificates, app) as (_, client):
        with pytest.raises(http.TunnelRefused) as refused:
            await client.tunnel(protocol="websocket", target="/plain", headers={"sec-websocket-version": "13"})
        assert refused.value.status == 403
        with pytest.raises(http.TunnelRefused) as refused:
            await client.tunnel(protocol="websocket", target="/own", headers={"sec-websocket-version": "13"})
        assert (refused.value.status, refused.value.headers["x"], refused.value.body) == (401, "1", b"who are you?")
        with pytest.raises(http.TunnelRefused) as refused:
            await client.tunnel(protocol="websocket", target="/own", headers={"sec-websocket-version": "8"})
        assert (refused.value.status, refused.value.headers["sec-websocket-version"]) == (400, "13")


@pytest.mark.parametrize("accepts", [True, False])
async def test_an_application_fails(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, accepts: bool
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            if accepts:
                await send({"type": "websocket.accept"})
            raise ZeroDivisionError("of the application itself")

    async with running(certificates, app) as (_, client):
        if accepts:
            async with talking(client, "/") as talk:
                event = await talk.event()
                assert isinstance(event, CloseConnection)
                assert event.code == 1011
        else:
            with pytest.raises(http.TunnelRefused) as refused:
                await client.tunnel(protocol="websocket", target="/", headers={"sec-websocket-version": "13"})
            assert refused.value.status == 500
        await until(lambda: "of the application itself" in caplog.text)


async def test_a_client_that_breaks_the_rules_is_told(certificates: Certificates) -> None:
    async with running(certificates, echo) as (_, client):
        async with talking(client, "/") as talk:
            await talk.tunnel.write(b"\x81\x81\0\0\0\0\xff")  # A text that is none.
            event = await talk.event()
            assert isinstance(event, CloseConnection)
            assert event.code == 1007
        async with talking(client, "/") as talk:
            await talk.put(TextMessage("x" * (1 << 20), message_finished=False))
            for _ in range(16):
                await talk.put(TextMessage("x" * (1 << 20), message_finished=False))
            event = await talk.event()
            assert isinstance(event, CloseConnection)
            assert event.code == 1009


async def test_a_server_that_closes_says_so(certificates: Certificates) -> None:
    async with running(certificates, echo) as (server, client), talking(client, "/") as talk:
        await talk.send("hello")
        assert await talk.receive() == "hello"
        closing = asyncio.create_task(server.close(drain=60))
        assert await talk.event() == CloseConnection(1001, "")
        await closing
