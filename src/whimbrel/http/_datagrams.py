"""HTTP datagrams (RFC 9297): which of a connection's datagrams belongs to which tunnel, and how many may wait there.

They are as unreliable as those of QUIC that carry them: what nobody fetches in time is dropped, the oldest first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from whimbrel._loop import Line
from whimbrel.http._protocol import ConnectionFailed, DatagramReceived

if TYPE_CHECKING:
    from collections.abc import Callable

    from whimbrel._connection import Connection
    from whimbrel.http._protocol import Http3

WAITING = 256
"""Datagrams that may wait at one tunnel, at most: some 300 kB."""

TURN = 64
"""Datagrams that are sorted before the loop's other tasks have a turn."""


class DatagramQueue:
    """Those of one tunnel that came and were not fetched yet."""

    def __init__(self) -> None:
        self.dropped = 0
        self._waiting: deque[bytes] = deque()
        self._readers = Line(asyncio.get_running_loop())
        self._ended = False

    def put(self, data: bytes) -> None:
        """One has come."""
        if len(self._waiting) == WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(data)
        self._readers.wake()

    async def get(self) -> bytes | None:
        """Wait for the next. None: no more will come."""
        while not self._waiting:
            if self._ended:
                return None
            await self._readers.wait()
        data = self._waiting.popleft()
        if self._waiting:
            self._readers.wake()
        return data

    def end(self) -> None:
        """No more will come; those that wait may still be fetched."""
        self._ended = True
        self._readers.wake_all()


class Datagrams:
    """Sorts the datagrams of one connection.

    Args:
        connection: where they come from.
        http3: tells which stream they are about.
        unwanted: called with the stream of one that no tunnel expects.
        failed: called where the peer broke a rule of the connection.
    """

    def __init__(
        self,
        connection: Connection,
        http3: Http3,
        *,
        unwanted: Callable[[int], None],
        failed: Callable[[ConnectionFailed], None],
    ) -> None:
        self.dropped = 0
        self._connection, self._http3 = connection, http3
        self._unwanted, self._failed = unwanted, failed
        self._queues: dict[int, DatagramQueue] = {}
        self._ended = False

    def expect(self, stream: int) -> DatagramQueue:
        """Keep those about a stream from now on."""
        queue = self._queues[stream] = DatagramQueue()
        if self._ended:
            queue.end()
        return queue

    def forget(self, stream: int) -> None:
        """The tunnel is over."""
        if (queue := self._queues.pop(stream, None)) is not None:
            queue.end()

    async def run(self) -> None:
        """Sort what comes, until the connection ends.

        Raises:
            ConnectionLost: it has.
        """
        try:
            while True:
                for _ in range(TURN):
                    self._sort(await self._connection.receive_datagram())
                await asyncio.sleep(0)
        finally:
            self._ended = True
            for queue in self._queues.values():
                queue.end()

    def _sort(self, datagram: bytes) -> None:
        for event in self._http3.datagram_received(datagram):
            match event:
                case DatagramReceived(stream=stream, data=data) if stream in self._queues:
                    self._queues[stream].put(data)
                case DatagramReceived(stream=stream):
                    self.dropped += 1
                    self._unwanted(stream)
                case ConnectionFailed():
                    self._failed(event)
                case _:
                    raise AssertionError(f"{event} has nothing to do with a datagram")
