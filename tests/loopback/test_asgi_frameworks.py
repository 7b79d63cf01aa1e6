"""Applications of Starlette, FastAPI and Django over HTTP/3, as they are."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import TYPE_CHECKING, Any

import django  # type: ignore[import-untyped]
import pytest
from django.conf import settings  # type: ignore[import-untyped]
from django.core.asgi import get_asgi_application  # type: ignore[import-untyped]
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse  # type: ignore[import-untyped]
from django.urls import path  # type: ignore[import-untyped]
from fastapi import BackgroundTasks, FastAPI, Request, UploadFile, WebSocket
from starlette.applications import Starlette
from starlette.responses import FileResponse, PlainTextResponse
from starlette.routing import Route

from tests.loopback.support import until
from tests.loopback.test_asgi import LARGE, running
from tests.loopback.test_examples import shown
from tests.loopback.websocket_peer import talking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import starlette.requests

    from tests.loopback.support import Certificates
    from whimbrel.http.asgi import Application

pytestmark = pytest.mark.anyio


async def test_starlette(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)

    async def hello(request: starlette.requests.Request) -> PlainTextResponse:
        return PlainTextResponse(f"{request.method} {request.url} {request.query_params['a']}")

    async def file(request: starlette.requests.Request) -> FileResponse:
        return FileResponse(tmp_path / "file")

    app = Starlette(routes=[Route("/hello", hello), Route("/file", file)])
    async with running(certificates, app) as (_, client):
        response = await client.request("GET", "/hello?a=%C3%A9")
        assert (await response.read()).decode() == f"GET https://{client.authority}/hello?a=%C3%A9 é"
        assert await (await client.request("GET", "/file")).read() == LARGE
        response = await client.request("GET", "/file", headers={"range": "bytes=256-511"})
        assert (response.status, await response.read()) == (206, bytes(range(256)))
        assert (await client.request("HEAD", "/file")).headers["content-length"] == str(len(LARGE))
        assert (await client.request("GET", "/nothing")).status == 404
        assert (await client.request("POST", "/hello")).status == 405


async def test_fastapi(certificates: Certificates) -> None:
    app = FastAPI()
    done: list[int] = []

    @app.post("/items/{number}")
    async def item(number: int, body: dict[str, int], background: BackgroundTasks) -> dict[str, int]:
        background.add_task(done.append, number)
        return {"sum": number + body["add"]}

    @app.get("/blocking")
    def blocking(request: Request) -> dict[str, Any]:
        view = request.scope["extensions"]["whimbrel"]
        return {"remote": view.path.remote, "moves": view.moves}

    @app.post("/upload")
    async def upload(file: UploadFile) -> int:
        return len(await file.read())

    @app.websocket("/ws/{name}")
    async def greet(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{name}: {text}")

    async with running(certificates, app) as (_, client):
        kind = {"content-type": "application/json"}
        response = await client.request("POST", "/items/2", headers=kind, body=b'{"add": 3}')
        assert json.loads(await response.read()) == {"sum": 5}
        await until(lambda: done == [2])
        response = await client.request("POST", "/items/x", headers=kind, body=b'{"add": 3}')
        assert response.status == 422
        response = await client.request("GET", "/blocking")
        assert json.loads(await response.read()) == {"remote": list(client.connection.path.local), "moves": 0}
        form = (
            b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
            + LARGE[:500_000]
            + b"\r\n--b--\r\n"
        )
        form_kind = {"content-type": "multipart/form-data; boundary=b"}
        response = await client.request("POST", "/upload", headers=form_kind, body=form)
        assert int(await response.read()) == 500_000
        async with talking(client, "/ws/ann") as talk:
            await talk.send("hello")
            assert await talk.receive() == "ann: hello"


async def answer(request: HttpRequest) -> HttpResponse:
    return HttpResponse(
        f"{request.method} {request.scheme} {request.GET['a']} {request.COOKIES['c']} ".encode() + request.body
    )


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    async def events() -> AsyncIterator[bytes]:
        for number in range(100):
            yield b"data: %d\n\n" % number

    return StreamingHttpResponse(events(), content_type="text/event-stream")


def blocking(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"from a thread")


urlpatterns = [path("answer", answer), path("stream", stream), path("blocking", blocking)]


@pytest.fixture(scope="module")
def django_app() -> Application:
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="-")
    django.setup()
    app: Application = get_asgi_application()
    return app


async def test_django(certificates: Certificates, django_app: Application) -> None:
    # It has no lifespan, and says so by an exception.
    async with running(certificates, django_app) as (_, client):
        response = await client.request("POST", "/answer?a=b", headers={"cookie": "c=d"}, body=b"content")
        assert await response.read() == b"POST https b d content"
        response = await client.request("GET", "/stream")
        assert await response.read() == b"".join(b"data: %d\n\n" % number for number in range(100))
        assert await (await client.request("GET", "/blocking")).read() == b"from a thread"
        assert (await client.request("GET", "/nothing")).status == 404


async def test_what_the_page_shows_runs(certificates: Certificates, tmp_path: Path) -> None:
    app, program = shown("docs/asgi.md")
    # The client asks the server beside it; the rest is as it stands there.
    ask = (
        f'client = await whimbrel.http.connect("localhost", server.addresses[0][1], verify={str(certificates.ca)!r})\n'
        '        print(await (await client.request("GET", "/")).read())\n'
        "        await client.close()"
    )
    program = program.replace("await server.serve_forever()", ask).replace("4433", "0")
    program = program.replace('("chain.pem", "key.pem")', repr((str(certificates.chain), str(certificates.key))))
    command = [sys.executable, "-W", "error", "-c", app + program]
    process = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert re.fullmatch(rb"b'\{\"you\":\[\"(127.0.0.1|::1)\",\d+\],\"rtt\":.+,\"moves\":0\}'\n", out), out
