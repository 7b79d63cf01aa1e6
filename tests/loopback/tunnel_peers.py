"""A gate, tunnels through it, and targets behind it, all in this process."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from whimbrel import Limits, http
from whimbrel.tunnel import Audit, Gate, Rules, Tokens, Tunnels, parse_rule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.loopback.support import Certificates

TOKEN = "a-token-of-thirty-characters.."


class Served:
    """A server of tunnels."""

    def __init__(self, server: http.Server, gate: Gate, log: Path, certificates: Certificates) -> None:
        self.server, self.gate, self.certificates = server, gate, certificates
        self._log = log

    @property
    def port(self) -> int:
        """Its UDP port."""
        return self.server.addresses[0][1]

    def tunnels(self, token: str | None = TOKEN) -> Tunnels:
        """A client of it."""
        return Tunnels("127.0.0.1", self.port, token=token, verify=self.certificates.ca, migration=None)

    def audited(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about one kind of event."""
        return [line for text in self._log.read_text().splitlines() if (line := json.loads(text))["event"] == event]

    async def audits(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many."""
        while len(found := self.audited(event)) < count:  # noqa: ASYNC110 - a file says nothing when it grows
            await asyncio.sleep(0.01)
        return found


@contextlib.asynccontextmanager
async def gate(certificates: Certificates, folder: Path, *allowed: str, silence: float = 90.0) -> AsyncIterator[Served]:
    """A server that allows these targets to who has the token."""
    audit = Audit(folder / "audit.log", lambda: datetime.now(UTC))
    handler = Gate(Rules(map(parse_rule, allowed)), Tokens({TOKEN: "anna"}), audit, silence=silence)

    async def nothing(request: http.Request) -> None:
        await request.respond(404)

    options: http.ServeOptions = {"limits": Limits(max_streams=256)}
    with contextlib.closing(audit):
        async with http.serve(nothing, "127.0.0.1", cert=certificates.pair, connect=handler, **options) as server:
            yield Served(server, handler, folder / "audit.log", certificates)


@contextlib.asynccontextmanager
async def target(
    attend: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A TCP server; its port. What it does not close is closed at the end."""
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def attended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await attend(reader, writer)

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        tasks.add(asyncio.create_task(attended(reader, writer)))

    server = await asyncio.start_server(accepted, "127.0.0.1", 0, backlog=1000)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send back what comes, each piece at once; end when it ends."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()
