"""A server of several processes: ``python -m programs._workers FILES COUNT``.

It tells its port and their numbers in a line of JSON, and goes when its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import whimbrel
from programs._files import ALPN, HOST, Files
from programs._whimbrel import answer


async def attend(connection: whimbrel.Connection) -> None:
    async for stream in connection.streams():
        assert isinstance(stream, whimbrel.Stream), "the clients open no others"
        await answer(stream)


async def main(folder: str, count: str) -> None:
    files = Files(Path(folder))
    cert = (files.certificate, files.key)
    async with whimbrel.serve(attend, HOST, cert=cert, alpn=ALPN, workers=int(count)) as server:
        print(json.dumps({"port": server.addresses[0][1], "workers": list(server.processes)}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
