"""An application that counts how often it is run, says how far it is, and answers with what it was sent.

``POST /?pause=SECONDS`` works for so long once all has come. ``GET /`` says how often that was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from whimbrel.http.asgi import Receive, Scope, Send

MB = 1_000_000
runs = 0


def say(text: str) -> None:
    """For the test, in the server's log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """One request."""
    global runs
    assert scope["type"] == "http", "the server's lifespan is of no interest"
    digest, received = hashlib.sha256(), 0
    if scope["method"] == "POST":
        runs += 1
        say(f"run {runs}")
        while True:
            message = await receive()
            before = received // MB
            received += len(message.get("body", b""))
            digest.update(message.get("body", b""))
            if received // MB > before:
                say(f"received {received // MB} MB")
            if not message.get("more_body", False):
                break
        say("working")
        await asyncio.sleep(float(parse_qs(scope["query_string"].decode()).get("pause", ["0"])[0]))
    answer = json.dumps({"runs": runs, "sha256": digest.hexdigest(), "received": received})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer.encode()})
