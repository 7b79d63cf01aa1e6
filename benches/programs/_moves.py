"""A transfer in the laboratory, with or without moves to the other radio and back.

``python -m programs._moves FILES COUNT MOVES`` tells in a line of JSON how long `COUNT` bytes took. Both radios are
there all the time, so that moves overlap, and both are alike, so that nothing but moving can cost anything. At even
distances the client is told to move: when it would do so by itself takes no part.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import whimbrel
from programs._files import ALPN, HOST, PIECE, Files
from programs._whimbrel import attend
from whimbrel.testing import Laboratory, Radio

RADIO = Radio(rtt=0.020, rate=100e6, loss=0)
PORT = 4433


def main() -> None:
    match sys.argv[1:]:
        case ["server", folder, address]:
            asyncio.run(serve(Files(Path(folder)), address))
        case ["client", folder, address, count, moves]:
            asyncio.run(download(Files(Path(folder)), address, int(count), int(moves)))
        case [folder, count, moves]:
            with Laboratory(wifi=RADIO, cellular=RADIO) as lab:
                for network in lab.networks:
                    network.join()
                both = (folder, lab.server_address)
                server = lab.python("srv", ["-m", "programs._moves", "server", *both], stdout=-1, text=True)
                assert server.stdout is not None
                server.stdout.readline()
                client = lab.python("cli", ["-m", "programs._moves", "client", *both, count, moves])
                sys.exit(client.wait())
        case words:
            raise SystemExit(f"what is {words}?")


async def serve(files: Files, address: str) -> None:
    cert = (files.certificate, files.key)
    async with whimbrel.serve(attend, address, PORT, cert=cert, alpn=ALPN):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def download(files: Files, address: str, count: int, moves: int) -> None:
    migration = whimbrel.Migration(auto=False)
    async with whimbrel.connect(
        address, PORT, alpn=ALPN, verify=files.authority, server_hostname=HOST, migration=migration
    ) as connection:
        stream = await connection.open_stream()
        began = time.perf_counter()
        await stream.write(count.to_bytes(8, "big"))
        await stream.finish()
        got, due, moving = 0, 1, []
        while piece := await stream.read(PIECE):
            got += len(piece)
            if due <= moves and got * (moves + 1) >= count * due:
                other = "wwan0" if due % 2 else "wlan0"
                moving.append(asyncio.create_task(connection.migrate(interface=other)))
                due += 1
        seconds = time.perf_counter() - began
        assert got == count, "the server sent something else"
        for move in moving:
            await move
        print(json.dumps({"seconds": seconds, "moves": connection.stats().moves}), flush=True)


if __name__ == "__main__":
    main()
