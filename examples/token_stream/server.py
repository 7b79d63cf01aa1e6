"""Tokens one by one, as a language model makes them, to clients that may move meanwhile: server-sent events.

    whimbrel serve server:app

in this folder. `GET /tokens?n=1000` answers with so many events.
"""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()


@app.get("/tokens")
async def tokens(n: int = 100, pause: float = 0.02) -> StreamingResponse:
    headers = {"cache-control": "no-store"}
    return StreamingResponse(generate(n, pause), media_type="text/event-stream", headers=headers)


async def generate(count: int, pause: float) -> AsyncIterator[str]:
    for number in range(count):
        yield f"data: {json.dumps({'n': number})}\n\n"
        await asyncio.sleep(pause)
