"""A relay that keeps what it carries, can hold the client's replies back, and can send on its own."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from tests.loopback.support import Relay, _Carry, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from whimbrel import Server


class Recorder(Relay):
    def __init__(self) -> None:
        super().__init__()
        self.carried: list[tuple[str, bytes]] = []
        """What came, as ("client" or "server", datagram), by whom it was sent."""
        self.hold_replies = False
        """Keep back what the client sends after the server's first answer, until `release`."""
        self._held: list[bytes] = []
        self._gone: tuple[str, int] | None = None

    async def begin(self, server: Server) -> None:
        """Have nothing more to do with clients that were here before: what comes from now on is of another one."""
        assert self._back is not None, "not started"
        self._back.abort()
        self._gone = self._client
        self.carried.clear()
        loop = asyncio.get_running_loop()
        self._back, _ = await loop.create_datagram_endpoint(
            lambda: _Carry(self._from_server), remote_addr=server.addresses[0]
        )

    def of_client(self) -> list[bytes]:
        return [datagram for sender, datagram in self.carried if sender == "client"]

    def release(self) -> None:
        self.hold_replies = False
        for data in self._held:
            self.send(data)
        self._held.clear()

    def send(self, data: bytes) -> None:
        """Send the server something, as a client would."""
        assert self._back is not None, "not started"
        self._back.sendto(data)

    def _from_client(self, data: bytes, source: tuple[str, int]) -> None:
        if source == self._gone:
            return
        answered = any(sender == "server" for sender, _ in self.carried)
        self.carried.append(("client", data))
        if self.hold_replies and answered:
            self._held.append(data)
        else:
            super()._from_client(data, source)

    def _from_server(self, data: bytes, source: tuple[str, int]) -> None:
        self.carried.append(("server", data))
        super()._from_server(data, source)


@contextlib.asynccontextmanager
async def recorder(server: Server) -> AsyncIterator[Recorder]:
    between = Recorder()
    await between.start(server.addresses[0])
    try:
        yield between
    finally:
        between.stop()
        await turns()  # Transports close their sockets one turn later.
