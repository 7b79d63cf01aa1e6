"""ASGI applications over HTTP/3: what they are told, and what becomes of what they send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import pytest

from tests.loopback.http_peers import other_client, request
from tests.loopback.support import turns, until
from whimbrel import ConnectionClosed, PathMigrated, StreamReset, http
from whimbrel.http import asgi

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.loopback.support import Certificates
    from whimbrel.http.asgi import Application, Message, Receive, Scope, Send

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


async def test_content_comes_as_it_is_sent(certificates: Certificates) -> None:
    pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            more = True
            while more:
                message = await receive()
                more = message["more_body"]
                await send({"type": "http.response.body", "body": message["body"].upper(), "more_body": more})

    async def body() -> AsyncIterator[bytes]:
        while (piece := await pieces.get()) is not None:
            yield piece

    async with running(certificates, app) as (_, client):
        # An answer begins with the first piece of its content, and each piece is there before the next is asked for.
        pieces.put_nowait(b"one")
        response = await client.request("POST", "/", body=body())
        assert await anext(response) == b"ONE"
        pieces.put_nowait(b"two")
        assert await anext(response) == b"TWO"
        pieces.put_nowait(None)
        assert await response.read() == b""


async def test_a_slow_client_holds_its_application_back(certificates: Certificates) -> None:
    sent = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            while sent < 100 * len(LARGE):
                await send({"type": "http.response.body", "body": LARGE, "more_body": True})
                sent += len(LARGE)

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        await anext(response)
        await turns(200)
        assert sent < 10 * len(LARGE)
        await response.close()


async def test_an_application_that_does_not_read_holds_its_client_back(certificates: Certificates) -> None:
    go_on = asyncio.Event()
    offered = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await go_on.wait()
            await answer(send, body=b"%d" % len(await content(receive)))

    async def body() -> AsyncIterator[bytes]:
        nonlocal offered
        for _ in range(8):
            offered += len(LARGE)
            yield LARGE

    async with running(certificates, app) as (_, client):
        asking = asyncio.create_task(client.request("POST", "/", body=body()))
        await turns(200)
        assert offered < 8 * len(LARGE)
        go_on.set()
        response = await asking
        assert int(await response.read()) == 8 * len(LARGE) == offered


@pytest.mark.parametrize("listens", [True, False])
async def test_an_application_learns_that_its_client_gave_up(certificates: Certificates, listens: bool) -> None:
    heard: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        assert await content(receive) == b""
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        if listens:
            heard.set_result(await receive())
            return
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
        except OSError as error:
            heard.set_result(error)
            raise

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        assert await anext(response) == b"begun"
        await response.close()
        if listens:
            assert await heard == {"type": "http.disconnect"}
        else:
            assert isinstance(await heard, asgi.ClientDisconnected)


async def test_work_after_the_answer_is_completed_although_the_client_has_gone(certificates: Certificates) -> None:
    go_on, done = asyncio.Event(), asyncio.Event()
    messages: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            assert await content(receive) == b""
            await answer(send, body=b"hello")
            messages.append(await receive())
            await go_on.wait()
            done.set()

    async with running(certificates, app) as (server, client):
        assert await (await client.request("GET", "/")).read() == b"hello"
        assert messages == [{"type": "http.disconnect"}]
        await client.close()
        await until(lambda: not server.connections)
        go_on.set()
        await done.wait()


async def test_a_server_that_closes_ends_what_still_runs(certificates: Certificates) -> None:
    ended: list[type[BaseException]] = []
    running_now = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            running_now.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                ended.append(type(error))
                raise

    async with running(certificates, app) as (server, client):
        asking = asyncio.create_task(client.request("GET", "/"))
        await running_now.wait()
        await server.close()
        with pytest.raises((ConnectionClosed, StreamReset)):
            await asking
    assert ended == [asyncio.CancelledError]


async def test_answers_are_finished_while_a_server_drains(certificates: Certificates) -> None:
    go_on, running_now = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            running_now.set()
            await go_on.wait()
            await answer(send, body=b"hello")

    async with running(certificates, app) as (server, client):
        asking = asyncio.create_task(client.request("GET", "/"))
        await running_now.wait()
        closing = asyncio.create_task(server.close(drain=60))
        await turns(20)
        go_on.set()
        assert await (await asking).read() == b"hello"
        await closing


# What applications send -----------------------------------------------------------------------------------------------


async def test_trailers_and_early_hints(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload"]})
        await send({"type": "http.response.start", "status": 200, "headers": [(b"trailer", b"a")], "trailers": True})
        await send({"type": "http.response.body", "body": b"hello"})
        await send({"type": "http.response.trailers", "headers": [(b"A", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [(b"b", b"2")]})

    async with asgi.serve(app, "127.0.0.1", cert=certificates.pair, tcp=False) as server:
        async with other_client(certificates, server.http3) as client:
            got = await client.answer(client.ask(request("GET", "/")))
        assert [dict(fields) for fields in got.interim] == [{b":status": b"103", b"link": b"</style.css>; rel=preload"}]
        assert (got.status, got.content, got.trailers) == (200, b"hello", [(b"a", b"1"), (b"b", b"2")])


async def test_a_file_is_sent_by_its_path(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(LARGE)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.pathsend", "path": str(tmp_path / "large")})

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        assert response.headers["content-length"] == str(len(LARGE))
        assert await response.read() == LARGE


async def test_what_only_http1_has_is_left_out(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answer(
                send, headers=[(b"Connection", b"keep-alive"), (b"Transfer-Encoding", b"chunked"), (b"X", b"1")]
            )

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        assert set(response.headers) == {"x", "date", "content-length"}


@pytest.mark.parametrize(
    ("begun", "messages"),
    [
        (False, []),
        (False, [{"type": "http.response.start", "status": 200}]),
        (False, [{"type": "http.response.body", "body": b"x"}]),
        (
            False,
            [
                {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b\r\nc: d")]},
                {"type": "http.response.body"},
            ],
        ),
        (False, [{"type": "something"}]),
        (True, [{"type": "http.response.body", "body": b"x"}, {"type": "http.response.start", "status": 200}]),
    ],
)
async def test_an_application_that_breaks_off_is_no_success(
    certificates: Certificates, caplog: pytest.LogCaptureFixture, begun: bool, messages: list[Message]
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if begun:
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await send({"type": "http.response.body"})
        for message in messages:
            await send(message)

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        if not begun:
            assert (response.status, await response.read()) == (500, b"The server failed.\n")
        else:
            assert await response.read() == b"begun"
        await until(lambda: "the handler of GET / failed" in caplog.text)


async def test_half_an_answer_is_not_taken_for_the_whole(certificates: Certificates) -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            await go_on.wait()

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        assert await anext(response) == b"begun"
        go_on.set()
        with pytest.raises(StreamReset, match="H3_INTERNAL_ERROR"):
            await response.read()


async def test_an_application_whose_client_left_may_fail_only_by_itself(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    failing = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200})
        with contextlib.suppress(OSError):
            while True:
                await send({"type": "http.response.body", "body": LARGE, "more_body": True})
        failing.set()
        raise ZeroDivisionError("of the application itself")

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        await response.close()
        await failing.wait()
        await until(lambda: "ZeroDivisionError: of the application itself" in caplog.text)


async def test_a_send_that_was_cancelled_loses_nothing(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200})
        sending = asyncio.ensure_future(send({"type": "http.response.body", "body": LARGE * 3, "more_body": True}))
        await turns(50)
        assert sending.cancel()
        await asyncio.wait({sending})
        await send({"type": "http.response.body", "body": b"the end"})

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        await turns(200)
        assert await response.read() == LARGE * 3 + b"the end"


# The connection -------------------------------------------------------------------------------------------------------


async def test_an_application_sees_its_client_move(certificates: Certificates) -> None:
    moved: list[PathMigrated] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/nudge":
            await answer(send)
            return
        view: asgi.ConnectionView = scope["extensions"]["whimbrel"]
        assert (view.path.remote, view.moves, view.early) == (scope["client"], 0, False)
        changes = view.path_changes()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        change = await anext(changes)
        assert isinstance(change, PathMigrated)
        moved.append(change)
        # As a handler that blocks would ask: from a thread of its own.
        path, moves = await asyncio.to_thread(lambda: (view.path, view.moves))
        text = f"{scope['client'][0]} {path.remote[0]} {moves}"
        await send({"type": "http.response.body", "body": text.encode()})

    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/")
        assert await anext(response) == b"begun"
        assert client.connection._core.pin(socket.if_nametoindex("lo"), "127.0.0.2", True)
        await client.request("GET", "/nudge")
        assert await response.read() == b"127.0.0.1 127.0.0.2 1"
    assert [(change.old.remote[0], change.new.remote[0]) for change in moved] == [("127.0.0.1", "127.0.0.2")]


# The application's life -----------------------------------------------------------------------------------------------


async def test_an_application_prepares_itself_and_cleans_up(certificates: Certificates) -> None:
    story: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            assert await receive() == {"type": "lifespan.startup"}
            scope["state"]["shared"] = story
            story.append("up")
            await send({"type": "lifespan.startup.complete"})
            assert await receive() == {"type": "lifespan.shutdown"}
            story.append("down")
            await send({"type": "lifespan.shutdown.complete"})
            return
        scope["state"]["shared"].append(scope["type"])
        assert "mine" not in scope["state"]
        scope["state"]["mine"] = 1
        await answer(send)

    async with running(certificates, app) as (_, client):
        assert story == ["up"]
        await client.request("GET", "/")
        await client.request("GET", "/")
    assert story == ["up", "http", "http", "down"]


async def test_an_application_that_cannot_start_is_not_served(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback:\n  here\nOSError: no database\n"})

    with pytest.raises(asgi.LifespanFailed, match=r"^the application did not start: OSError: no database$") as failed:
        await asgi.serve(app, "127.0.0.1", cert=certificates.pair, tcp=False)
    assert failed.value.details.startswith("Traceback")


async def test_an_application_that_cannot_clean_up_says_so(certificates: Certificates) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "too late"})

    server = await asgi.serve(app, "127.0.0.1", cert=certificates.pair, tcp=False)
    with pytest.raises(asgi.LifespanFailed, match=r"^the application did not shut down: too late$"):
        await server.close()
    await server.close()


async def test_starting_can_be_cancelled(certificates: Certificates) -> None:
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    starting = asyncio.ensure_future(asgi.serve(app, "127.0.0.1", cert=certificates.pair, tcp=False).__aenter__())
    await turns(5)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert ended.is_set()
