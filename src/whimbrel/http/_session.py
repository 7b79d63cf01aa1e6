"""What both ends of an HTTP/3 connection do: the control and QPACK streams (RFC 9114 §6.2), and failing as a whole.

Each request is read and written by a task of its own. What all share is here: two tasks write and read the control
streams, so that no cancelled request can leave half an instruction on them.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from whimbrel._errors import RemoteProtocolError, StreamReset, StreamStopped, WhimbrelError
from whimbrel._stream import ReceiveStream, SendStream, Stream
from whimbrel.http._aioquic import AioquicHttp3
from whimbrel.http._datagrams import Datagrams
from whimbrel.http._protocol import (
    NOTHING_MORE,
    ConnectionFailed,
    Event,
    Extensions,
    GoAway,
    Http3,
    StreamIntroduced,
    code_name,
)
from whimbrel.http._webtransport import WebTransportSession, refuse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from whimbrel._connection import Connection

CONTROL_STREAMS = 3  # Control, QPACK encoder, QPACK decoder (RFC 9114 §6.2.1, RFC 9204 §4.2).
PADDING = 780
"""Bytes that a move brings along: three times the datagram that they make are two full PATH_CHALLENGEs (RFC 9000 §8.1,
§8.2.1), as much as a server needs at first."""

_log = logging.getLogger("whimbrel")


class Session(ABC):
    """One end of an HTTP/3 connection, as far as it is the same for both."""

    connection: Connection
    http3: Http3
    datagrams: Datagrams

    _other_end: ClassVar[str]
    """What messages call the peer."""

    def __init__(self, connection: Connection, peer: str) -> None:
        self.connection = connection
        self._peer = peer
        self._control: dict[int, SendStream] = {}
        self._control_waiting: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settings = asyncio.Event()
        self.webtransports: dict[int, WebTransportSession] = {}
        self._failure: ConnectionFailed | None = None
        self._closed = False

    def control_ready(self) -> None:
        """The HTTP layer may have bytes for the control streams."""
        # Mostly it has none, and nobody is woken: this is asked after each read.
        for waiting in self.http3.take_control():
            self._control_waiting.put_nowait(waiting)

    def connection_failed(self, event: ConnectionFailed) -> None:
        """The peer broke a rule of the connection: close it, and say why."""
        if self._failure is None and not self._closed:
            self._failure = event
            _log.debug("%s broke the protocol: %s", self._peer, event.reason)
            self.spawn(partial(self.connection.close, event.code, event.reason, linger=0.0))

    def failure(self) -> RemoteProtocolError | None:
        """What the peer did wrong, once it has."""
        if self._failure is None:
            return None
        what = f"{self._failure.reason} ({code_name(self._failure.code)})"
        return RemoteProtocolError(f"{self._other_end} broke the HTTP/3 protocol: {what}", peer=self._peer)

    async def peer_extensions(self) -> Extensions | None:
        """What the peer announced in its SETTINGS, which are waited for. None: the connection ended before."""
        settings = asyncio.ensure_future(self._settings.wait())
        closed = asyncio.ensure_future(self.connection.wait_closed())
        try:
            await asyncio.wait({settings, closed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            settings.cancel()
            closed.cancel()
        return self.http3.peer_extensions()

    def spawn(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do something beside, until the connection ends."""
        task = asyncio.create_task(_quietly(work), name="whimbrel-http")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def introduced(self, stream: Stream | ReceiveStream, event: StreamIntroduced) -> None:
        """The peer opened a stream for a WebTransport session."""
        if (session := self.webtransports.get(event.session)) is not None:
            session.arrived(stream, event.data)
        else:
            refuse(stream)

    # For each end to fill in ------------------------------------------------------------------------------------------

    @abstractmethod
    async def _accepted(self, stream: Stream) -> None:
        """The peer opened a stream in both directions."""

    @abstractmethod
    def _unwanted_datagram(self, stream: int) -> None:
        """The peer sent a datagram about a stream whose request has none (RFC 9297 §2), or that is no more."""

    @abstractmethod
    def _going_away(self, first: int) -> None:
        """The peer said GOAWAY."""

    # Inside -----------------------------------------------------------------------------------------------------------

    async def _start(self, *, is_client: bool, extensions: Extensions = NOTHING_MORE) -> None:
        streams = [await self.connection.open_send_stream() for _ in range(CONTROL_STREAMS)]
        for stream in streams:
            # Open for as long as the connection is: nothing is due because of them.
            stream.background()
        self._control = {stream.id: stream for stream in streams}
        self.http3 = AioquicHttp3(
            [stream.id for stream in streams],
            is_client=is_client,
            peer_takes_datagrams=lambda: self.connection.max_datagram_size > 0,
            extensions=extensions,
        )
        self.datagrams = Datagrams(
            self.connection, self.http3, unwanted=self._unwanted_datagram, failed=self.connection_failed
        )
        for waiting in self.http3.take_control():
            await self._write_control(*waiting)
        if is_client:
            streams[0].pad_moves(self.http3.padding(PADDING))
        self.spawn(self._write_all_control)
        if extensions.datagrams:
            self.spawn(self.datagrams.run)

    async def _stop(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write_all_control(self) -> None:
        while True:
            await self._write_control(*await self._control_waiting.get())

    async def _write_control(self, stream: int, data: bytes) -> None:
        try:
            await self._control[stream].write(data)
        except StreamStopped as stopped:
            self._apply(self.http3.stop_received(stream, stopped.code))

    async def _accept(self) -> None:
        while True:
            stream = await self.connection.accept_stream()
            if isinstance(stream, Stream):
                await self._accepted(stream)
            else:
                stream.background()
                self.spawn(partial(self._read_control, stream))

    async def _read_control(self, stream: ReceiveStream) -> None:
        try:
            while data := await stream.read(1 << 16):
                events = self.http3.receive(stream.id, data)
                if events and isinstance(events[0], StreamIntroduced):
                    self.introduced(stream, events[0])
                    return
                self._apply(events)
        except StreamReset as reset:
            self._apply(self.http3.reset_received(stream.id, reset.code))
        else:
            self._apply(self.http3.receive(stream.id, b"", ended=True))

    def _apply(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case GoAway(stream=first):
                    self._going_away(first)
                case ConnectionFailed():
                    self.connection_failed(event)
                case _:
                    raise AssertionError(f"{event} has nothing to do with a control stream")
        if self.http3.peer_extensions() is not None:
            self._settings.set()
        self.control_ready()


async def _quietly(work: Callable[[], Awaitable[None]]) -> None:
    # That the connection ended is told to whoever waits for a message.
    with suppress(WhimbrelError):
        await work()
