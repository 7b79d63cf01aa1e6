"""What HTTP/3 adds to a download: client CPU for a whole body, against reading the same stream without looking at it.

Run: python benches/http3_download.py URL CAFILE, where URL is a file of some 60 MB on a server nearby. The two take
turns over one connection. What counts is this process: engine, sockets, threads and Python together.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time

from whimbrel.http import Client, Url, connect
from whimbrel.http._headers import request_headers
from whimbrel.http._response import READ_SIZE, TURN_SIZE

ROUNDS = 20


async def main(text: str, cafile: str) -> None:
    url = Url.parse(text)
    costs: dict[str, list[float]] = {"stream": [], "http3": []}
    size = 0
    async with connect(text, verify=cafile) as client:
        for _ in range(ROUNDS):
            for name, way in (("stream", stream), ("http3", http3)):
                before = time.process_time()
                size = await way(client, url)
                costs[name].append((time.process_time() - before) * 1000)
    print(f"milliseconds of CPU for {size / 1e6:.1f} MB, {ROUNDS} rounds")
    for name, values in costs.items():
        low, middle, high = statistics.quantiles(values)
        print(f"{name:>8}: {middle:.1f} (quartiles {low:.1f}-{high:.1f})")
    medians = [statistics.median(values) for values in costs.values()]
    print(f"HTTP/3 adds {100 * (medians[1] / medians[0] - 1):.0f} %")


async def http3(client: Client, url: Url) -> int:
    response = await client.request("GET", url.target)
    return sum([len(chunk) async for chunk in response])


async def stream(client: Client, url: Url) -> int:
    """The same request; of the response, only the bytes are counted."""
    one = await client.connection.open_stream()
    await one.write(client.http3.headers(one.id, request_headers("GET", url.authority, url.target, ()), end=True))
    await one.finish()
    client.control_ready()
    size = since_turn = 0
    while data := await one.read(READ_SIZE):
        size += len(data)
        since_turn += len(data)
        if since_turn >= TURN_SIZE:
            since_turn = 0
            await asyncio.sleep(0)
    client.http3.abandon(one.id)
    return size


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
