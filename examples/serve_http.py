"""An HTTP/3 application: `python serve_http.py CERTIFICATE KEY [PORT]`. It takes files, and tells who moves."""

import asyncio
import hashlib
import json
import sys

import whimbrel.http


async def answer(request: whimbrel.http.Request) -> None:
    match request.method, request.path:
        case "GET", "/":
            path = request.connection.path
            about = {"you": path.remote, "rtt": path.rtt, "moves": request.connection.stats().moves}
            await request.respond(200, {"content-type": "application/json"}, json.dumps(about).encode())
        case "PUT", _:
            digest = hashlib.sha256()
            async for chunk in request:
                digest.update(chunk)
            await request.respond(200, {}, digest.hexdigest().encode())
        case "GET", "/moves":
            await request.start(200, {"content-type": "text/event-stream", "cache-control": "no-cache"})
            await request.write(b": here is a line for each time you move\n\n")
            async for change in request.connection.path_changes():
                await request.write(f"data: {change}\n\n".encode())
        case _:
            await request.respond(404)


async def main(certificate: str, key: str, port: str = "0") -> None:
    async with whimbrel.http.serve(answer, "localhost", int(port), cert=(certificate, key)) as server:
        print(f"https://localhost:{server.addresses[0][1]}/", flush=True)
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
