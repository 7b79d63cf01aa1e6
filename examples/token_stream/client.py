"""Tokens as they come, and over which network: `python client.py https://localhost:4433/tokens?n=1000`.

The certificate that `whimbrel serve` makes is trusted where SSL_CERT_FILE names it.
"""

import asyncio
import json
import sys

import httpx

import whimbrel.http


async def main(url: str) -> None:
    transport = whimbrel.http.AsyncTransport()
    async with httpx.AsyncClient(transport=transport, timeout=60) as client, client.stream("GET", url) as response:
        response.raise_for_status()
        carrier = response.extensions.get("whimbrel")  # None: it came over TCP.
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                token = json.loads(line.removeprefix("data: "))
                print(token["n"], carrier.path.interface if carrier else "TCP", flush=True)


asyncio.run(main(*sys.argv[1:]))
