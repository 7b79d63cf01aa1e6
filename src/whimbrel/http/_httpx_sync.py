"""The transport for httpx's blocking client.

`whimbrel.sync` has no HTTP/3, and a second implementation of pool and race could only differ from the first. So the
asyncio transport runs on an event loop of its own, on one thread that begins with the first request and ends with the
transport. What the caller gives, such as the content of a request, is read on the caller's thread, as with httpx's own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from whimbrel.http._httpx import AsyncTransport, TransportOptions
from whimbrel.http._httpx_library import base, library_of

if TYPE_CHECKING:
    import httpx
    import httpx2

    # The two want requests of their own, and `Transport` takes either.
    class _SyncBase(httpx.BaseTransport, httpx2.BaseTransport): ...  # type: ignore[misc]

    class _ContentBase(httpx.SyncByteStream, httpx2.SyncByteStream): ...

    class _AsyncContentBase(httpx.AsyncByteStream, httpx2.AsyncByteStream): ...

else:
    _SyncBase = base("BaseTransport")
    _ContentBase = base("SyncByteStream")
    _AsyncContentBase = base("AsyncByteStream")

T = TypeVar("T")

_parents: list[object] = []
"""Loops of a parent process. To close one would take its file descriptors out of the epoll that both share."""


class Transport(_SyncBase):
    """HTTP/3 for `httpx.Client` and `httpx2.Client`: ``Client(transport=Transport())``.

    Any thread may use it. All that is said of `AsyncTransport` holds, and it takes the same options.
    """

    def __init__(self, **options: Unpack[TransportOptions]) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._engine: _Engine | None = self._new_engine()

    @overload
    def handle_request(self, request: httpx.Request) -> httpx.Response: ...
    @overload
    def handle_request(self, request: httpx2.Request) -> httpx2.Response: ...
    def handle_request(self, request: Any) -> Any:
        """Send a request and wait for the head of its response. Called by the client.

        Raises:
            httpx.TransportError: as `AsyncTransport.handle_async_request`.
        """
        library = library_of(request)
        engine = self._running()
        call = _Call(engine)
        trace = request.extensions.get("trace")
        extensions = request.extensions if trace is None else {**request.extensions, "trace": _traced(trace)}
        # Bytes can be read either way; anything else is for the caller's thread to read.
        is_bytes = isinstance(request.stream, library.ByteStream)
        lifted = library.Request(
            request.method,
            request.url,
            headers=request.headers,
            stream=request.stream if is_bytes else _Lifted(call, request.stream),
            extensions=extensions,
        )
        response = call.run(engine.transport.handle_async_request(lifted))
        content = _Content(call, response)
        made = library.Response(
            response.status_code, headers=response.headers, stream=content, extensions=response.extensions
        )
        content.extensions = made.extensions
        return made

    def close(self) -> None:
        """Close every connection, and end the thread. May be called twice."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.stop()

    def _running(self) -> _Engine:
        with self._lock:
            if self._engine is None:
                raise RuntimeError("this transport is closed")
            if self._engine.pid != os.getpid():
                # Its thread and its connections are the parent's.
                self._engine.stop()
                self._engine = self._new_engine()
            self._engine.start()
            return self._engine

    def _new_engine(self) -> _Engine:
        engine = _Engine(AsyncTransport(**self._options))
        # Nobody need close a transport, as with httpx's own: what is dropped is closed, at the program's end as well.
        weakref.finalize(self, engine.stop)
        return engine


class _Engine:
    """An event loop on its thread, and the transport that runs there."""

    def __init__(self, transport: AsyncTransport) -> None:
        self.transport = transport
        self.loop: asyncio.AbstractEventLoop | None = None
        self.pid = os.getpid()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless that is done."""
        if self._thread is None:
            self.loop = asyncio.new_event_loop()
            # A daemon, since a transport that nobody closes must not keep the program from its end.
            self._thread = threading.Thread(target=self.loop.run_forever, name="whimbrel-httpx", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Close all connections and end the thread."""
        thread, self._thread = self._thread, None
        if thread is None or self.loop is None:
            return
        if self.pid != os.getpid():
            _parents.append(self)
            return
        finishing = asyncio.run_coroutine_threadsafe(self._finish(), self.loop)
        if threading.current_thread() is thread:
            # The collector found the transport there: nobody is to be waited for.
            finishing.add_done_callback(lambda _: self.loop and self.loop.stop())
            return
        finishing.result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        thread.join()
        self.loop.close()

    async def _finish(self) -> None:
        await self.transport.aclose()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
        await asyncio.get_running_loop().shutdown_default_executor()


class _Call:
    """A request, whose caller waits now and then; meanwhile they do what the loop's thread asks of them."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self._errands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Have something done on the loop's thread, and wait for what comes of it."""
        loop = self._engine.loop
        assert loop is not None, "it was started"
        try:
            future = asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError:
            work.close()
            raise RuntimeError("this transport is closed") from None
        future.add_done_callback(lambda _: self._errands.put(None))
        try:
            while (errand := self._errands.get()) is not None:
                errand()
        except BaseException:
            future.cancel()
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("this transport was closed meanwhile") from None

    async def ask(self, errand: Callable[[], T]) -> T:
        """Have the caller do something, when they wait for us."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if answer.done():
                return
            if error is None:
                answer.set_result(result)  # type: ignore[arg-type]
            else:
                answer.set_exception(error)

        def run() -> None:
            try:
                result = errand()
            except Exception as error:  # noqa: BLE001 - whatever the caller's source raises is raised to the caller
                loop.call_soon_threadsafe(settle, None, error)
            else:
                loop.call_soon_threadsafe(settle, result, None)

        self._errands.put(run)
        return await answer


class _Lifted(_AsyncContentBase):
    """The content of a request, read by the caller's thread and sent by the loop's."""

    def __init__(self, call: _Call, stream: httpx.SyncByteStream) -> None:
        self._call, self._stream = call, stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = iter(self._stream)
        while (piece := await self._call.ask(lambda: next(pieces, None))) is not None:
            yield piece


class _Content(_ContentBase):
    """The content of a response, piece by piece from the loop's thread."""

    extensions: dict[str, Any]
    """Of the response: for the trailers."""

    def __init__(self, call: _Call, response: httpx.Response) -> None:
        self._call, self._response = call, response

    def __iter__(self) -> Iterator[bytes]:
        stream = self._response.stream
        assert not isinstance(stream, Iterator), "it is an asynchronous one"
        pieces = aiter(stream)  # type: ignore[arg-type]
        while (piece := self._call.run(_next(pieces))) is not None:
            yield piece
        self.extensions.update(self._response.extensions)

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # The transport is closed, and so is this.
            self._call.run(self._response.aclose())


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


def _traced(trace: Callable[[str, Any], object]) -> Callable[[str, Any], Coroutine[Any, Any, None]]:
    async def told(step: str, facts: Any) -> None:
        trace(step, facts)

    return told
