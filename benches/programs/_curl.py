"""curl by its binding for Python: HTTP/3, many requests at once on one connection."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from programs._files import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from programs._files import Files


@contextlib.asynccontextmanager
async def connect(files: Files, port: int) -> AsyncIterator[Client]:
    yield Client(files, port)


class Client:
    """Each exchange is a file whose name is its size. It never waits for an event loop: curl has its own."""

    def __init__(self, files: Files, port: int) -> None:
        import pycurl

        self._curl: Any = pycurl
        self._files, self._port = files, port
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)

    async def exchange(self, up: int, down: int) -> None:
        self.side_by_side(1, 1, down)

    def side_by_side(self, count: int, width: int, size: int) -> None:
        """Get a file so often, so many at once."""
        waiting = [self._request(size) for _ in range(width)]
        begun = ended = 0
        while ended < count:
            while waiting and begun < count:
                self._multi.add_handle(waiting.pop())
                begun += 1
            self._multi.perform()
            _, done, failed = self._multi.info_read()
            if failed:
                raise ConnectionError(failed[0][2])
            for request in done:
                assert request.body.tell() == size, "the server sent something else"
                request.body.seek(0)
                self._multi.remove_handle(request)
                waiting.append(request)
            ended += len(done)
            if not done:
                self._multi.select(1.0)

    def _request(self, size: int) -> Any:
        curl = self._curl
        request = curl.Curl()
        request.body = io.BytesIO()
        request.setopt(curl.URL, f"https://{HOST}:{self._port}/{size}")
        request.setopt(curl.HTTP_VERSION, curl.CURL_HTTP_VERSION_3ONLY)
        request.setopt(curl.CAINFO, str(self._files.authority))
        request.setopt(curl.PIPEWAIT, 1)
        request.setopt(curl.WRITEDATA, request.body)
        return request
