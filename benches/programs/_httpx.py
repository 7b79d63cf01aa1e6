"""httpx as a client, over its own transport (HTTP/2) or ours (HTTP/3)."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any

from programs._files import HOST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import SimpleNamespace

    import httpx

    from programs._files import Files


def program(library: str) -> Any:
    """Return the program, which has no server."""
    from types import SimpleNamespace

    made: SimpleNamespace = SimpleNamespace(connect=connect_ours if library == "whimbrel" else connect)
    return made


@contextlib.asynccontextmanager
async def connect(files: Files, port: int) -> AsyncIterator[Client]:
    import httpx

    # One connection, as QUIC has: it is what HTTP/2 is for.
    one = httpx.Limits(max_connections=1)
    trust = ssl.create_default_context(cafile=str(files.authority))
    async with httpx.AsyncClient(http2=True, http1=False, verify=trust, limits=one, timeout=60) as client:
        yield Client(client, port)


@contextlib.asynccontextmanager
async def connect_ours(files: Files, port: int) -> AsyncIterator[Client]:
    import httpx

    from whimbrel.http import AsyncTransport

    # QUIC alone: no race with TCP.
    transport = AsyncTransport(verify=files.authority, head_start=60)
    async with httpx.AsyncClient(transport=transport, timeout=60) as client:
        yield Client(client, port)


class Client:
    """Each exchange is a file whose name is its size."""

    def __init__(self, client: httpx.AsyncClient, port: int) -> None:
        self._client = client
        self._origin = f"https://{HOST}:{port}"

    async def exchange(self, up: int, down: int) -> None:
        response = await self._client.get(f"{self._origin}/{down}")
        assert len(response.content) == down, "the server sent something else"
