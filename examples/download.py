"""Download a file over HTTP/3: `python download.py URL FILE`. The connection changes networks when the machine does."""

import asyncio
import sys

import whimbrel.http


async def main(url: str, file: str) -> None:
    async with whimbrel.http.connect(url) as client:
        response = await client.request("GET", whimbrel.http.Url.parse(url).target)
        with open(file, "wb") as out:
            async for chunk in response:
                out.write(chunk)


asyncio.run(main(*sys.argv[1:]))
