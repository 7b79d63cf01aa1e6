"""Which programs there are, and what each needs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol, cast

from programs._files import Files


class Client(Protocol):
    """One end of a connection."""

    async def exchange(self, up: int, down: int) -> None:
        """Send so many bytes, and get so many back."""


class Resuming(Client, Protocol):
    """One end of a connection that went on from an earlier one, or was to."""

    def resumed(self) -> bool:
        """Whether it did; where it was to send early, whether the server took that."""


class Program(Protocol):
    """What a module of this package offers. Where it blocks, its coroutines never wait."""

    def serve(self, files: Files, accepted: Callable[[], None], **options: Any) -> AbstractAsyncContextManager[int]:
        """Serve on a free port, which is the value; call `accepted` once for each connection that stands."""

    def connect(self, files: Files, port: int, **options: Any) -> AbstractAsyncContextManager[Client]:
        """Open a connection: a handshake in full, unless `handshake` is `resumed` or `early` (0-RTT)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write a server and a client."""

    name: str
    module: str = ""
    needs: tuple[str, ...] = ()
    """Modules that must be there."""
    loop: str = "asyncio"
    """`asyncio`, `uvloop`, or `none` for a program that blocks."""
    library: str | None = None
    """Of two with the same interface, this one."""
    streams: int = 1000
    """How many a connection may have at once. TCP's have none, so that work side by side takes a connection each."""
    is_fast: bool = True
    """Whether as much work may be given to it as to others."""
    resumes: bool = False
    """Whether the program can resume sessions."""
    crowd: bool = True
    """Whether the crowd in Rust can be the clients of a server of this kind."""
    is_web: bool = False
    """Whether it is a client of HTTP, and no server."""
    native: str | None = None
    """A program that is compiled, with the same command line but for this kind's name; it has no module."""

    def missing(self) -> list[str]:
        """Return the modules that are not there."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def program(self) -> Program:
        module = importlib.import_module(f"programs.{self.module}")
        return cast("Program", module if self.library is None else module.program(self.library))


KINDS = (
    Kind("whimbrel asyncio", "_whimbrel", ("whimbrel",), resumes=True),
    Kind("whimbrel uvloop", "_whimbrel", ("whimbrel", "uvloop"), loop="uvloop", resumes=True),
    Kind("whimbrel.sync", "_whimbrel_sync", ("whimbrel", "whimbrel.sync"), loop="none", resumes=True),
    Kind("quinn", native="quinn", resumes=True),
    Kind("noq", native="noq", resumes=True),
    Kind("s2n-quic", native="s2n-quic"),
    Kind("quic-go", native="quic-go"),
    Kind("aioquic", "_aioquic", ("aioquic",), library="aioquic", resumes=True, is_fast=False),
    # It raises at the peer's limit instead of waiting, and the credit for another comes too late.
    Kind("qh3", "_aioquic", ("qh3",), library="qh3", streams=50, is_fast=False),
    Kind("pywebtransport", "_webtransport", ("pywebtransport",), crowd=False),
    Kind("TLS asyncio", "_tls", streams=0, crowd=False),
    Kind("TLS blocking", "_tls_blocking", loop="none", streams=0, crowd=False),
    Kind("whimbrel HTTP/3", "_web", ("whimbrel",), library="whimbrel", is_web=True),
    Kind("whimbrel with httpx", "_httpx", ("whimbrel", "httpx"), library="whimbrel", is_web=True),
    # One request at a time: nobody has written more for it.
    Kind("aioquic HTTP/3", "_web", ("aioquic",), library="aioquic", streams=1, is_fast=False, is_web=True),
    Kind("httpx HTTP/2", "_httpx", ("httpx", "h2"), library="httpx", is_web=True),
    Kind("pycurl HTTP/3", "_curl", ("pycurl",), loop="none", is_web=True),
)


def named(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def run(kind: Kind, work: Awaitable[None]) -> None:
    """Like `asyncio.run`, on the kind's loop; without a loop the work must never wait."""
    import asyncio

    async def outer() -> None:
        await work

    if kind.loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(outer())
    elif kind.loop == "asyncio":
        asyncio.run(outer())
    else:
        try:
            outer().send(None)
        except StopIteration:
            return
        raise RuntimeError(f"{kind.name} waits for an event loop, and has none")
