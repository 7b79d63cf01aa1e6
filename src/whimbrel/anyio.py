"""Connections for anyio: on trio, and on asyncio where structured concurrency is wanted.

::

    async with whimbrel.anyio.connect("example.org", 4433, alpn="echo") as connection:
        async with await connection.open_stream() as stream:
            await stream.send(b"hello")
            await stream.send_eof()
            print(await stream.receive())

Streams are `anyio.abc.ByteStream`, with anyio's exceptions; time limits are anyio's and trio's own cancel scopes. Needs
``pip install whimbrel[trio]``. Clients only.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from whimbrel import _client, sync
from whimbrel._anyio_driver import Driver
from whimbrel._errors import Busy, ConnectionLost, WhimbrelError
from whimbrel.sync._connection import _PathChanges
from whimbrel.sync._options import takes_what
from whimbrel.sync._pump import Line

if TYPE_CHECKING:
    import concurrent.futures
    from types import TracebackType

    from typing_extensions import Buffer

    from whimbrel._connection_base import ConnectionStats
    from whimbrel._events import PathChange, PathProbed
    from whimbrel._path import Path

__all__ = ["Connection", "ReceiveStream", "SendStream", "Stream", "connect"]

T = TypeVar("T")


@takes_what(_client.connect)
def connect(*args: object, **options: object) -> _Connect:
    """Open a connection: ``async with connect(...) as connection``.

    Takes what `whimbrel.connect` takes, and raises what that raises. Cancelled, it leaves nothing behind.
    """
    return _Connect(lambda: sync.connect(*args, **options))  # type: ignore[arg-type]


class _Connect:
    """A connection that was described and not dialled yet."""

    def __init__(self, dial: Callable[[], sync.Connection]) -> None:
        self._dial = dial
        self._leaving = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Connection:
        blocking = await _dialled(self._dial)
        return await self._leaving.enter_async_context(_driven(blocking))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._leaving.__aexit__(kind, error, trace)


async def _dialled(dial: Callable[[], sync.Connection]) -> sync.Connection:
    """Dial on a thread: what is waited for there are several connections at once, and a look-up that heeds nobody."""
    lock, unwanted = threading.Lock(), False

    def work() -> sync.Connection:
        connection = dial()
        with lock:
            if unwanted:
                connection._close_now(0, "")
        return connection

    try:
        return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except BaseException:
        with lock:
            unwanted = True
        raise


@contextlib.asynccontextmanager
async def _driven(blocking: sync.Connection) -> AsyncIterator[Connection]:
    driver = Driver(blocking._pump)
    connection = Connection(blocking, driver)
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.run)
        try:
            yield connection
            await connection.close()
        except Exception as error:  # noqa: BLE001 - raised again below, where no group wraps it
            failed = error
        finally:
            # The peer must not take this for the good end of what we were doing. After a good one, it is none.
            blocking._close_now(1, "")
            tasks.cancel_scope.cancel()
    if failed is not None:
        raise failed


class Connection:
    """One QUIC connection; made by `connect`. Its attributes are those of `whimbrel.Connection`."""

    def __init__(self, blocking: sync.Connection, driver: Driver) -> None:
        """Made by this module only."""
        self._blocking = blocking
        self._driver = driver

    @property
    def alpn(self) -> str:
        """The application protocol agreed on."""
        return self._blocking.alpn

    @property
    def peer_certificate(self) -> bytes | None:
        """The server's certificate, DER."""
        return self._blocking.peer_certificate

    @property
    def path(self) -> Path:
        """The path in use now."""
        return self._blocking.path

    @property
    def max_datagram_size(self) -> int:
        """The largest datagram that fits now, bytes; 0 when the peer takes none."""
        return self._blocking.max_datagram_size

    def stats(self) -> ConnectionStats:
        """What it has done so far."""
        return self._blocking.stats()

    async def open_stream(self) -> Stream:
        """Open a stream in both directions; wait while the peer's limit is reached. Raises ConnectionLost."""
        return Stream(self, await self._open(0, lambda number: sync.Stream(self._blocking, number)))

    async def open_send_stream(self) -> SendStream:
        """Open a stream in our direction only. Raises ConnectionLost."""
        return SendStream(self, await self._open(1, lambda number: sync.SendStream(self._blocking, number)))

    async def accept_stream(self) -> Stream | ReceiveStream:
        """Wait for a stream that the peer opens. Raises ConnectionLost."""
        stream = await self._until(self._blocking._accept, self._blocking._accepters)
        return Stream(self, stream) if isinstance(stream, sync.Stream) else ReceiveStream(self, stream)

    async def streams(self) -> AsyncIterator[Stream | ReceiveStream]:
        """The streams that the peer opens. Ends quietly when the connection ends cleanly, else by ConnectionLost."""
        while True:
            try:
                stream = await self.accept_stream()
            except ConnectionLost:
                if self._blocking._is_clean():
                    return
                raise
            yield stream

    def send_datagram(self, data: Buffer) -> None:
        """Send an unreliable datagram (RFC 9221). Raises DatagramTooLarge, ConnectionLost."""
        self._blocking.send_datagram(data)

    async def receive_datagram(self) -> bytes:
        """Wait for a datagram of the peer's. Raises ConnectionLost."""
        return await self._until(self._blocking._take_datagram, self._blocking._datagram_readers)

    def path_changes(self) -> AsyncIterator[PathChange]:
        """What happens to the path from now on. Each caller has its own; it ends with the connection."""
        changes = self._blocking.path_changes()
        assert isinstance(changes, _PathChanges), "nothing else is made there"
        return self._changes(changes)

    async def _changes(self, changes: _PathChanges) -> AsyncIterator[PathChange]:
        def attempt() -> list[PathChange] | None:
            try:
                change = changes._next()
            except StopIteration:
                return []
            return None if change is None else [change]

        while found := await self._until(attempt, changes._line):
            yield found[0]

    async def migrate(self, *, interface: str | None = None) -> Path:
        """Move the connection to another network path and return that. Raises what `whimbrel.Connection.migrate` does.

        Cancelled, it stops asking, and the connection stays where it is.
        """
        attachment = self._blocking._steered()
        moving = attachment.request_move(interface)
        return await self._answer(moving, lambda: attachment.cancel_move(moving))

    async def probe(self, *, interface: str | None = None) -> PathProbed:
        """Ask the server over another network, and stay on this one. Raises what `whimbrel.Connection.probe` does."""
        attachment = self._blocking._steered()
        asking = attachment.request_probe(interface)
        return await self._answer(asking, lambda: attachment.cancel_probe(asking))

    async def close(self, code: int = 0, reason: str = "", *, linger: float = 3.0) -> None:
        """Close the connection. Finished streams are first given `linger` seconds to be acknowledged.

        May be called twice. Cancelled meanwhile, it closes without waiting.
        """
        blocking = self._blocking
        first, blocking._closing = not blocking._closing, True
        if first and blocking._lost is None:
            try:
                if blocking._finishing and linger > 0:
                    with anyio.move_on_after(linger):
                        await self._until(blocking._is_acknowledged, blocking._lingering)
            finally:
                blocking._close_now(code, reason)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the connection has ended, whoever ended it and why."""
        await self._until(lambda: self._blocking._lost, self._blocking._waiting_closed)

    def __repr__(self) -> str:
        return repr(self._blocking)

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _until(self, attempt: Callable[[], T | None], line: object) -> T:
        assert isinstance(line, Line), "the blocking face has no others"
        return await self._driver.until(attempt, line.waiters, object())

    async def _open(self, kind: int, make: Callable[[int], T]) -> T:
        def attempt() -> T | None:
            if self._blocking._lost is not None:
                raise self._blocking._error()
            number = self._blocking._core.open_stream(kind == 1)
            return None if number is None else make(number)

        return await self._until(attempt, self._blocking._openers[kind])

    async def _answer(self, future: concurrent.futures.Future[T], cancel: Callable[[], None]) -> T:
        decided = Line(self._blocking._pump)
        future.add_done_callback(lambda _: decided.wake_all())
        try:
            return await self._until(lambda: future.result() if future.done() else None, decided)
        except ConnectionLost:
            await self.wait_closed()
            raise self._blocking._error() from None
        finally:
            if not future.done():
                cancel()


class _Handle(anyio.abc.AsyncResource, anyio.TypedAttributeProvider):
    """What both directions share."""

    def __init__(self, connection: Connection, blocking: sync.Stream | sync.SendStream | sync.ReceiveStream) -> None:
        """Made by a connection only."""
        self.connection = connection
        self._any = blocking

    @property
    def id(self) -> int:
        """Its number, unlike any other's on the connection."""
        return self._any.id

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """As those of a socket, of the path that is in use when they are asked."""
        path = self.connection
        return {
            anyio.abc.SocketAttribute.local_address: lambda: path.path.local,
            anyio.abc.SocketAttribute.remote_address: lambda: path.path.remote,
            anyio.abc.SocketAttribute.local_port: lambda: path.path.local[1],
            anyio.abc.SocketAttribute.remote_port: lambda: path.path.remote[1],
        }

    async def aclose(self) -> None:
        """Be done with it: what was sent is finished, what is still to come is not wanted. May be called twice."""
        with _telling(), contextlib.suppress(ConnectionLost):
            self._any.close()
        await anyio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            # Half of something must not look whole.
            with contextlib.suppress(WhimbrelError):
                self._any.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return repr(self._any)


class ReceiveStream(_Handle, anyio.abc.ByteReceiveStream):
    """The receiving end of a stream. One task at a time may receive."""

    def __init__(self, connection: Connection, blocking: sync.ReceiveStream) -> None:
        """Made by a connection only."""
        super().__init__(connection, blocking)
        self._receiving = blocking
        self._reader = anyio.ResourceGuard("receiving from")

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive what is there, waiting only if nothing is. Cancelled, it loses nothing.

        Raises:
            anyio.EndOfStream: the peer has finished.
            anyio.BrokenResourceError: the peer gave the stream up, or the connection ended; its cause says which.
            anyio.ClosedResourceError: it was closed by this end.
            anyio.BusyResourceError: another task receives.
        """
        if max_bytes < 1:
            raise ValueError("max_bytes must be 1 at least")
        stream, connection = self._receiving, self.connection
        with self._reader, _telling():
            stream._check_open()
            data = await connection._driver.until(
                lambda: stream._read_now(max_bytes), stream._connection._readers, stream.id
            )
        if not data:
            raise anyio.EndOfStream
        return data

    def stop(self, code: int = 0) -> None:
        """Ask the peer to send no more (STOP_SENDING), and drop what has come."""
        self._receiving.stop(code)


class SendStream(_Handle, anyio.abc.ByteSendStream):
    """The sending end of a stream. One task at a time may send."""

    def __init__(self, connection: Connection, blocking: sync.SendStream) -> None:
        """Made by a connection only."""
        super().__init__(connection, blocking)
        self._sending = blocking
        self._writer = anyio.ResourceGuard("sending to")

    @property
    def bytes_written(self) -> int:
        """How many bytes the connection has taken so far; right also after a `send` that was cancelled."""
        return self._sending.bytes_written

    async def send(self, item: Buffer) -> None:
        """Send bytes; return when all of them are taken. Waiting is the back-pressure.

        Raises:
            anyio.BrokenResourceError: the peer reads no more, or the connection ended; its cause says which.
            anyio.ClosedResourceError: it was closed or finished by this end.
            anyio.BusyResourceError: another task sends.
        """
        stream, connection = self._sending, self.connection
        view, taken = memoryview(item).cast("B"), 0

        def put() -> bool | None:
            nonlocal taken
            taken = stream._offer(view, taken)
            return True if taken == view.nbytes else None

        with self._writer, _telling():
            stream._check_open()
            if stream._finished:
                raise anyio.ClosedResourceError
            await connection._driver.until(put, stream._connection._writers, stream.id)

    async def send_eof(self) -> None:
        """Say that nothing more will follow (FIN). Raises what `send` raises."""
        with self._writer, _telling():
            self._sending.finish()
        await anyio.lowlevel.checkpoint()

    def reset(self, code: int = 0) -> None:
        """Give the stream up (RESET_STREAM): what was not delivered is dropped."""
        self._sending.reset(code)


class Stream(ReceiveStream, SendStream, anyio.abc.ByteStream):
    """Both directions. Leaving ``async with`` finishes it; with an exception, both directions are given up."""

    def __init__(self, connection: Connection, blocking: sync.Stream) -> None:
        """Made by a connection only."""
        super().__init__(connection, blocking)


@contextlib.contextmanager
def _telling() -> Iterator[None]:
    """Says in anyio's exceptions why a stream cannot be used."""
    try:
        yield
    except Busy as error:
        raise anyio.BusyResourceError("using") from error
    except WhimbrelError as error:
        raise anyio.BrokenResourceError(str(error)) from error
    except ValueError as error:
        raise anyio.ClosedResourceError from error
