"""Streams over QUIC, both ends: `python echo.py CA CERTIFICATE KEY` echoes a line, and tells when the path changes."""

import asyncio
import sys

import whimbrel


async def echo(connection: whimbrel.Connection) -> None:
    async for stream in connection.streams():
        assert isinstance(stream, whimbrel.Stream)
        async with stream:
            await stream.write(await stream.read())


async def tell(connection: whimbrel.Connection) -> None:
    async for change in connection.path_changes():
        print(change)


async def main(ca: str, certificate: str, key: str) -> None:
    async with whimbrel.serve(echo, "127.0.0.1", cert=(certificate, key), alpn="echo") as server:
        host, port = server.addresses[0]
        async with whimbrel.connect(host, port, alpn="echo", verify=ca) as connection, asyncio.TaskGroup() as group:
            group.create_task(tell(connection))
            stream = await connection.open_stream()
            await stream.write(b"hello from " + str(connection.path.local).encode())
            await stream.finish()
            print((await stream.read()).decode())
            await connection.close()


asyncio.run(main(*sys.argv[1:]))
