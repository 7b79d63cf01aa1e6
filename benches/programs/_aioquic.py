"""aioquic, and qh3, which has the same interface: as protocols, the fastest way to use either.

Neither has back-pressure there: all of a transfer goes into its buffer at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
from typing import TYPE_CHECKING, Any

from programs._files import ALPN, DATAGRAM, FIRST, HOST, PIECE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from programs._files import Files

CONTENT = bytes(PIECE)


@functools.cache
def program(library: str) -> Program:
    """Return the program, made of one of them."""
    return Program(library)


class Program:
    """A server and a client."""

    def __init__(self, library: str) -> None:
        part = functools.partial(importlib.import_module, package=library)
        self._asyncio: Any = part(".asyncio")
        self._configuration: Any = part(".quic.configuration").QuicConfiguration
        base, self._events = self._asyncio.QuicConnectionProtocol, part(".quic.events")
        self._server: Any = type("Server", (_ServerMixin, base), {"events": self._events})
        self._client: Any = type("Client", (_ClientMixin, base), {"events": self._events})
        self._trust: Any = None
        self._resumes = library == "aioquic"
        self._tickets: list[Any] = []

    @contextlib.asynccontextmanager
    async def serve(self, files: Files, accepted: Callable[[], None]) -> AsyncIterator[int]:
        configuration = self._configuration(is_client=False, alpn_protocols=[ALPN], max_datagram_size=DATAGRAM)
        configuration.load_cert_chain(files.certificate, files.key)
        self._server.accepted = staticmethod(accepted)
        sessions: dict[bytes, Any] = {}
        resuming = {
            "session_ticket_handler": lambda ticket: sessions.update({ticket.ticket: ticket}),
            "session_ticket_fetcher": lambda label: sessions.pop(label, None),
        }
        server = await self._asyncio.serve(
            HOST, 0, configuration=configuration, create_protocol=self._server, **resuming if self._resumes else {}
        )
        yield server._transport.get_extra_info("sockname")[1]
        server.close()

    @contextlib.asynccontextmanager
    async def connect(self, files: Files, port: int, handshake: str = "full") -> AsyncIterator[Any]:
        if self._trust is None:
            self._trust = self._configuration(is_client=True, alpn_protocols=[ALPN], max_datagram_size=DATAGRAM)
            self._trust.load_verify_locations(str(files.authority))
        configuration, options = self._trust, {}
        if handshake != "full":
            configuration = dataclasses.replace(
                self._trust, session_ticket=self._tickets.pop() if self._tickets else None
            )
            options["session_ticket_handler"] = self._tickets.append
            options["wait_connected"] = handshake == "resumed" or configuration.session_ticket is None
        dial = self._asyncio.connect(HOST, port, configuration=configuration, create_protocol=self._client, **options)
        client = await dial.__aenter__()
        client.is_early = handshake == "early"
        try:
            yield client
        finally:
            # Leaving properly waits until the connection is drained: three probe timeouts.
            _leaving.add(task := asyncio.ensure_future(dial.__aexit__(None, None, None)))
            task.add_done_callback(_leaving.discard)


_leaving: set[asyncio.Future[Any]] = set()


class _ServerMixin:
    """Answers a stream when it has ended."""

    events: Any
    accepted: Callable[[], None]
    _quic: Any

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._heads: dict[int, bytes] = {}

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, self.events.StreamDataReceived):
            head = self._heads.get(event.stream_id, b"")
            if len(head) < 8:
                self._heads[event.stream_id] = head = head + event.data[: 8 - len(head)]
            if event.end_stream:
                del self._heads[event.stream_id]
                _send(self._quic, event.stream_id, int.from_bytes(head, "big"))
        elif isinstance(event, self.events.HandshakeCompleted):
            self.accepted()


class _ClientMixin:
    """Waits for the end of each answer."""

    events: Any
    is_early: bool
    _quic: Any
    transmit: Any

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._waiting: dict[int, tuple[list[int], asyncio.Future[None]]] = {}

    async def exchange(self, up: int, down: int) -> None:
        stream = self._quic.get_next_available_stream_id()
        done = asyncio.get_running_loop().create_future()
        self._waiting[stream] = ([down], done)
        head = down.to_bytes(8, "big") + bytes(min(up, FIRST))
        self._quic.send_stream_data(stream, head, end_stream=up <= FIRST)
        if up > FIRST:
            _send(self._quic, stream, up - FIRST)
        self.transmit()
        await done

    def resumed(self) -> bool:
        tls = self._quic.tls
        return bool(tls.early_data_accepted if self.is_early else tls.session_resumed)

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, self.events.StreamDataReceived):
            left, done = self._waiting[event.stream_id]
            left[0] -= len(event.data)
            if event.end_stream:
                del self._waiting[event.stream_id]
                assert left[0] == 0, "the server sent something else"
                done.set_result(None)
        elif isinstance(event, self.events.ConnectionTerminated):
            for _, done in self._waiting.values():
                done.set_exception(ConnectionError(f"the connection ended: {event.reason_phrase}"))


def _send(quic: Any, stream: int, count: int) -> None:
    while True:
        piece = min(count, PIECE)
        count -= piece
        quic.send_stream_data(stream, CONTENT if piece == PIECE else bytes(piece), end_stream=not count)
        if not count:
            return
