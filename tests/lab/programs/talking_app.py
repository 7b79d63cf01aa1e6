"""An application that says what it hears, and how often who says it has moved."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket


async def echo(websocket: WebSocket) -> None:
    """Answer each message by itself, and by the client's moves so far."""
    await websocket.accept()
    view = websocket.scope["extensions"]["whimbrel"]
    async for message in websocket.iter_text():
        await websocket.send_json([message, view.moves])


app = Starlette(routes=[WebSocketRoute("/echo", echo)])
