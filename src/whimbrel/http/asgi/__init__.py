"""ASGI applications (Starlette, FastAPI, Django) over HTTP/3, with HTTP/2 and HTTP/1.1 beside it on the same port.

::

    async with whimbrel.http.asgi.serve(app, "localhost", 4433, cert=("chain.pem", "key.pem")) as server:
        await server.serve_forever()

May change at any time, until the documentation says otherwise.
"""

from whimbrel.http.asgi._errors import ClientDisconnected, LifespanFailed
from whimbrel.http.asgi._server import Server, serve
from whimbrel.http.asgi._types import Application, Message, Receive, Scope, Send
from whimbrel.http.asgi._view import ConnectionView

__all__ = [
    "Application",
    "ClientDisconnected",
    "ConnectionView",
    "LifespanFailed",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "Server",
    "serve",
]
