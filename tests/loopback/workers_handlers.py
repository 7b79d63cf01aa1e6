"""What the workers of `test_workers` run: workers are other processes, which import it from here."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING

import whimbrel

if TYPE_CHECKING:
    from whimbrel.http import Request


async def number_and_echo(connection: whimbrel.Connection) -> None:
    """On each stream, the process's number on a line of its own, and what came."""

    async def answer(stream: whimbrel.Stream) -> None:
        async with stream:
            await stream.write(b"%d\n" % os.getpid())
            async for chunk in stream:
                await stream.write(chunk)

    async with asyncio.TaskGroup() as tasks:
        async for stream in connection.streams():
            assert isinstance(stream, whimbrel.Stream)
            tasks.create_task(answer(stream))


async def number_of_process(request: Request) -> None:
    await request.respond(200, {}, str(os.getpid()).encode())


async def stuck(connection: whimbrel.Connection) -> None:
    """Greets, and then keeps its process from everything else."""
    stream = await connection.accept_stream()
    assert isinstance(stream, whimbrel.Stream)
    await stream.write(b"%d\n" % os.getpid())
    await stream.finish()
    await asyncio.sleep(0)
    time.sleep(3600)  # noqa: ASYNC251 - on purpose


class CannotTravel:
    def __init__(self) -> None:
        self.lock = socket.socket  # What it is does not matter.

    def __reduce__(self) -> str:
        raise TypeError("it cannot travel")

    async def __call__(self, connection: whimbrel.Connection) -> None:
        await connection.wait_closed()
