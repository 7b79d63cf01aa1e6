"""A server with connected sockets and few descriptors: says its port, then, for each line that comes, how it fares."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys

import whimbrel

LIMIT = 64


async def echo(connection: whimbrel.Connection) -> None:
    async for stream in connection.streams():
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            await stream.write(await stream.read())


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


async def main(certificate: str, key: str) -> None:
    warnings = Warnings()
    logging.getLogger("whimbrel").addHandler(warnings)
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    async with whimbrel.serve(echo, "127.0.0.1", cert=(certificate, key), alpn="test", sockets="connected") as server:
        say(server.addresses[0][1])
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        stats = server.stats()
        free = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
        report = {
            "connections": stats.connections,
            "connected_sockets": stats.connected_sockets,
            "highest": free[-1],
            "warnings": warnings.texts,
        }
        say(json.dumps(report))
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        say(server.stats().connected_sockets)


asyncio.run(main(*sys.argv[1:]))
