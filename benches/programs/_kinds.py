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


class Program(Protocol):
    """What a module of this package offers. Where it blocks, its coroutines never wait."""

    def serve(self, files: Files, accepted: Callable[[], None], **options: Any) -> AbstractAsyncContextManager[int]:
        """Serve on a free port, which is the value; call `accepted` once for each connection that stands."""

    def connect(self, files: Files, port: int) -> AbstractAsyncContextManager[Client]:
        """Open a connection: a handshake in full."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to write a server and a client."""

    name: str
    module: str
    needs: tuple[str, ...] = ()
    """Modules that must be there."""
    loop: str = "asyncio"
    """`asyncio`, `uvloop`, or `none` for a program that blocks."""
    library: str | None = None
    """Of two with the same interface, this one."""

    def missing(self) -> list[str]:
        """Return the modules that are not there."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]

    def program(self) -> Program:
        module = importlib.import_module(f"programs.{self.module}")
        return cast("Program", module if self.library is None else module.program(self.library))


KINDS = (
    Kind("whimbrel asyncio", "_whimbrel", ("whimbrel",)),
    Kind("whimbrel uvloop", "_whimbrel", ("whimbrel", "uvloop"), loop="uvloop"),
    Kind("whimbrel.sync", "_whimbrel_sync", ("whimbrel", "whimbrel.sync"), loop="none"),
    Kind("aioquic", "_aioquic", ("aioquic",), library="aioquic"),
    Kind("qh3", "_aioquic", ("qh3",), library="qh3"),
    Kind("TLS asyncio", "_tls"),
    Kind("TLS blocking", "_tls_blocking", loop="none"),
    Kind("whimbrel HTTP/3", "_web", ("whimbrel",), library="whimbrel"),
    Kind("aioquic HTTP/3", "_web", ("aioquic",), library="aioquic"),
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
