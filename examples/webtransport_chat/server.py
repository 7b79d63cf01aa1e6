"""A chat over WebTransport, for browsers: `python server.py CERTIFICATE KEY [HOST [PORT]]`.

Its page shows, live, the path that it is on as this server sees it, and the bytes that have crossed.
"""

import asyncio
import json
import sys
from contextlib import suppress
from pathlib import Path

import whimbrel.http
from whimbrel.http import Request, WebTransportSession

PAGE = Path(__file__).with_name("page.html")
members: set[asyncio.Queue[bytes]] = set()


async def page(request: Request) -> None:
    if request.path == "/":
        await request.respond(200, {"content-type": "text/html; charset=utf-8"}, PAGE.read_bytes())
    else:
        await request.respond(404)


async def chat(request: Request) -> None:
    """One member: a session, whose first stream carries lines both ways."""
    lines: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1000)
    async with await request.accept_webtransport() as session, asyncio.TaskGroup() as tasks:
        stream = await session.accept_stream()
        assert isinstance(stream, whimbrel.Stream)
        beside = [tasks.create_task(tell(session)), tasks.create_task(send(lines, stream))]
        members.add(lines)
        try:
            while line := await stream.readline():
                for member in members:
                    with suppress(asyncio.QueueFull):  # Who does not read misses something, and holds up nobody.
                        member.put_nowait(line)
        finally:
            members.discard(lines)
            for task in beside:
                task.cancel()


async def send(lines: asyncio.Queue[bytes], stream: whimbrel.SendStream) -> None:
    while True:
        await stream.write(await lines.get())


async def tell(session: WebTransportSession) -> None:
    """Answer each datagram with the state of the connection: should one be lost, the next says it better."""
    while True:
        await session.receive_datagram()
        path, stats = session.connection.path, session.connection.stats()
        state = {"path": "{}:{}".format(*path.remote), "rtt": path.rtt, "moves": stats.moves}
        crossed = {"sent": stats.bytes_sent, "received": stats.bytes_received}
        session.send_datagram(json.dumps(state | crossed).encode())


async def main(certificate: str, key: str, host: str = "127.0.0.1", port: str = "0") -> None:
    pair, protocols = (certificate, key), {"webtransport": chat}
    async with whimbrel.http.serve(page, host, int(port), cert=pair, protocols=protocols) as server:
        print(f"https://{host}:{server.addresses[0][1]}/", flush=True)
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
