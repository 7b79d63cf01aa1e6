"""Ends with a live connection: `exiting.py CA PORT`. Says on stdout when it is about to."""

import asyncio
import sys

import whimbrel


async def dial() -> whimbrel.Stream:
    authority, port = sys.argv[1:]
    connection = await whimbrel.connect("127.0.0.1", int(port), alpn="test", verify=authority, migration=None)
    stream = await connection.open_stream()
    await stream.write(b"x")
    assert await stream.readexactly(1) == b"x"
    return stream


loop = asyncio.new_event_loop()
stream = loop.run_until_complete(dial())
sys.stdout.write("up\n")
sys.stdout.flush()
sys.stdin.readline()
