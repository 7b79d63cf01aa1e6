"""Local doors: ports and UNIX sockets whose callers are led through tunnels, to one target or to what they ask for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

from whimbrel._errors import WhimbrelError, address_text
from whimbrel.tunnel._dialect import BadGreeting, Dialect, dialect_of
from whimbrel.tunnel._refusal import Reason, Refused
from whimbrel.tunnel._relay import BREAKS, SocketPipe, Traffic, relay
from whimbrel.tunnel._target import BadTarget, parse_port, parse_target

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from types import TracebackType

    from whimbrel.tunnel._target import Target
    from whimbrel.tunnel._tunnels import Tunnels

GREETING = 30.0
"""Seconds that a program may take to say what it wants of a proxy."""


@dataclass(frozen=True, slots=True)
class LocalPort:
    """A TCP port here; 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return address_text((self.host, self.port))


@dataclass(frozen=True, slots=True)
class LocalSocket:
    """A UNIX socket here, which its owner alone may use."""

    path: str

    def __str__(self) -> str:
        return self.path


Local: TypeAlias = LocalPort | LocalSocket


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What comes in here goes out there."""

    local: Local
    target: Target

    @classmethod
    def parse(cls, text: str) -> Forwarding:
        """Take ``[ADDRESS:]PORT:HOST:PORT`` apart, as ssh's -L has it; either end may be the ``/PATH`` of a socket.

        Raises:
            BadTarget: it is something else.
        """
        if text.startswith("/"):
            path, _, there = text.partition(":")
            return cls(LocalSocket(path), parse_target(there))
        here, there = _split(text)
        return cls(parse_local(here), parse_target(there))


def parse_local(text: str) -> LocalPort:
    """What ``PORT`` or ``ADDRESS:PORT`` stands for; without an address, this machine alone gets in.

    Raises:
        BadTarget: it is something else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise BadTarget(f"{text!r}: an IPv6 address needs brackets, as in [::1]:8080")
    if colon and not host:
        raise BadTarget(f"{text!r} names no address: 127.0.0.1 is this machine alone")
    return LocalPort(host or "127.0.0.1", 0 if port == "0" else parse_port(port, text))


class Listeners:
    """Doors that are open. Leaving ``async with`` shuts them, and ends what goes through them.

    Args:
        tunnels: where callers are led through.
        tell: takes a sentence on each caller that could not be served.
    """

    def __init__(self, tunnels: Tunnels, tell: Callable[[str], None]) -> None:
        self._tunnels, self._tell = tunnels, tell
        self._servers: list[asyncio.Server] = []
        self._sockets: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def forward(self, forwarding: Forwarding) -> str:
        """Open a door to one target. Returns where it is.

        Raises:
            OSError: it cannot be opened there.
        """

        async def attend(local: SocketPipe) -> None:
            await self._lead(local, forwarding.target)

        return await self._listen(forwarding.local, attend)

    async def proxy(self, local: LocalPort) -> str:
        """Open a door to whatever is asked for by SOCKS5 or CONNECT. Returns where it is.

        Raises:
            OSError: it cannot be opened there.
        """
        return await self._listen(local, self._negotiate)

    async def close(self) -> None:
        """Shut all doors."""
        for server in self._servers:
            server.close()
        for path in self._sockets:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - a path of bytes in a string, as bind() took it
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _listen(self, local: Local, attend: Callable[[SocketPipe], Awaitable[None]]) -> str:
        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._attend(SocketPipe(reader, writer), attend))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        if isinstance(local, LocalSocket):
            umask = os.umask(0o177)
            try:
                server = await asyncio.start_unix_server(accepted, local.path)
            finally:
                os.umask(umask)
            self._sockets.append(local.path)
            self._servers.append(server)
            return local.path
        server = await asyncio.start_server(accepted, local.host, local.port)
        self._servers.append(server)
        return address_text(server.sockets[0].getsockname()[:2])

    async def _attend(self, local: SocketPipe, attend: Callable[[SocketPipe], Awaitable[None]]) -> None:
        try:
            await attend(local)
        except (*BREAKS, TimeoutError) as error:
            self._tell(error.message if isinstance(error, WhimbrelError) else str(error))
            local.cancel()
        except BaseException:
            local.cancel()
            raise

    async def _lead(self, local: SocketPipe, target: Target) -> None:
        tunnel = await self._tunnels.open(target)
        if await relay(local, tunnel, Traffic()) is None:
            await local.close()

    async def _negotiate(self, local: SocketPipe) -> None:
        try:
            async with asyncio.timeout(GREETING):
                dialect = await _greeted(local)
        except BadGreeting as error:
            await local.write(error.reply)
            await local.close()
            self._tell(str(error))
            return
        if dialect is None or dialect.target is None:
            await local.close()
            return
        try:
            tunnel = await self._tunnels.open(dialect.target)
        except WhimbrelError as error:
            reason = error.reason if isinstance(error, Refused) else Reason.LOST
            await local.write(dialect.refused(reason, error.message))
            await local.close()
            self._tell(error.message)
            return
        try:
            await local.write(dialect.granted())
            await tunnel.write(dialect.rest)
        except BaseException:
            tunnel.cancel()
            raise
        if await relay(local, tunnel, Traffic()) is None:
            await local.close()


async def _greeted(local: SocketPipe) -> Dialect | None:
    """What a program wants; None: it went away without having said so."""
    if not (data := await local.read(1 << 12)):
        return None
    dialect = dialect_of(data)
    while True:
        await local.write(dialect.receive(data))
        if dialect.target is not None:
            return dialect
        if not (data := await local.read(1 << 12)):
            return None


def _split(text: str) -> Sequence[str]:
    """The local end and the target apart, at the colon behind the local port."""
    depth = 0
    for position, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == ":" and not depth and text[:position].rpartition(":")[2].isdigit():
            return text[:position], text[position + 1 :]
    raise BadTarget(
        f"{text!r} is no forwarding: [ADDRESS:]PORT:HOST:PORT is wanted, either end perhaps the /PATH of a socket"
    )
