"""An echo server of the blocking face, and a client of the anyio face that uses it on trio or on asyncio.

`anyio_echo.py serve ADDRESS PORT CHAIN KEY` or `anyio_echo.py trio|asyncio ADDRESS PORT CA`. The client tells each path
change, and once it is back on its first network, how much came back, all of it as it was sent.
"""

from __future__ import annotations

import os
import shutil
import sys

import anyio

import whimbrel
import whimbrel.anyio
import whimbrel.sync


def serve(address: str, port: str, chain: str, key: str) -> None:
    def echo(connection: whimbrel.sync.Connection) -> None:
        for stream in connection.streams():
            assert isinstance(stream, whimbrel.sync.Stream)
            with stream:
                shutil.copyfileobj(stream, stream)

    with whimbrel.sync.serve(echo, address, int(port), cert=(chain, key), alpn="echo") as server:
        tell("ready")
        server.serve_forever()


async def client(*arguments: str) -> None:
    address, port, ca = arguments
    connect = whimbrel.anyio.connect(address, int(port), alpn="echo", verify=ca, server_hostname="localhost")
    async with connect as connection, anyio.create_task_group() as tasks:
        first = connection.path.interface
        back = anyio.Event()

        async def watch() -> None:
            async for change in connection.path_changes():
                if isinstance(change, whimbrel.PathMigrated):
                    tell(f"moved to {change.new.interface}")
                    if change.new.interface == first:
                        back.set()

        async def send(stream: whimbrel.anyio.Stream) -> None:
            while not back.is_set():
                sent.append(os.urandom(10_000))
                await stream.send(sent[-1])
                await anyio.sleep(0.01)
            await stream.send_eof()

        sent: list[bytes] = []
        tasks.start_soon(watch)
        async with await connection.open_stream() as stream, anyio.create_task_group() as sending:
            sending.start_soon(send, stream)
            tell("sending")
            came = b"".join([chunk async for chunk in stream])
        tasks.cancel_scope.cancel()
    assert came == b"".join(sent)
    tell(f"echoed {len(came)}")


def tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:])
    else:
        anyio.run(client, *sys.argv[2:], backend=sys.argv[1])
