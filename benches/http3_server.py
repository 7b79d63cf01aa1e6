"""What HTTP/3 adds to a server that sends a file: its CPU, against the same file on a raw stream.

Run: python benches/http3_server.py. The two take turns over the loopback. What counts is the server's process: engine,
sockets, threads and Python together; the client is a process of its own.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import whimbrel
from whimbrel import http
from whimbrel.cli._certificate import development_certificate

SIZE = 60_000_000
ROUNDS = 15
PIECE = 256 << 10


async def main() -> None:
    costs: dict[str, list[float]] = {"stream": [], "http3": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(os.urandom(SIZE))  # noqa: ASYNC240 - nothing else runs yet
        made = development_certificate([], Path(folder), dt.datetime.now(dt.UTC))
        pair = (made.chain, made.key)

        async def answer(request: http.Request) -> None:
            before = time.process_time()
            with path.open("rb") as file:
                await request.respond(200, {}, file)
            await request.connection.close(http.ErrorCode.H3_NO_ERROR)
            costs["http3"].append((time.process_time() - before) * 1000)

        async def send(connection: whimbrel.Connection) -> None:
            stream = await connection.accept_stream()
            assert isinstance(stream, whimbrel.Stream)
            before = time.process_time()
            with path.open("rb", buffering=0) as file:
                while piece := file.read(PIECE):
                    await stream.write(piece)
            await stream.finish()
            await connection.close()
            costs["stream"].append((time.process_time() - before) * 1000)

        async with (
            http.serve(answer, "127.0.0.1", cert=pair) as web,
            whimbrel.serve(send, "127.0.0.1", cert=pair, alpn="raw") as raw,
        ):
            ports = [str(server.addresses[0][1]) for server in (web, raw)]
            client = await asyncio.create_subprocess_exec(sys.executable, __file__, str(made.chain), *ports)
            assert await client.wait() == 0
    print(f"milliseconds of CPU in the server for {SIZE / 1e6:.0f} MB, {ROUNDS} rounds")
    for name, values in costs.items():
        low, middle, high = statistics.quantiles(values)
        print(f"{name:>8}: {middle:.1f} (quartiles {low:.1f}-{high:.1f})")
    medians = [statistics.median(values) for values in costs.values()]
    print(f"HTTP/3 adds {100 * (medians[1] / medians[0] - 1):.0f} %")


async def fetch(cafile: str, web: str, raw: str) -> None:
    for _ in range(ROUNDS):
        async with http.connect("127.0.0.1", int(web), verify=cafile, migration=None) as client:
            response = await client.request("GET", "/")
            assert sum([len(piece) async for piece in response]) == SIZE
        async with whimbrel.connect("127.0.0.1", int(raw), alpn="raw", verify=cafile, migration=None) as connection:
            stream = await connection.open_stream()
            await stream.write(b"?")
            assert sum([len(piece) async for piece in stream]) == SIZE


if __name__ == "__main__":
    asyncio.run(fetch(*sys.argv[1:]) if sys.argv[1:] else main())
