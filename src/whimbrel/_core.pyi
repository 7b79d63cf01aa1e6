"""Typed face of the native module: sockets, engine and timers. Only `Endpoint.wait` waits; times are seconds."""

from collections.abc import Sequence
from typing import Final, Self, final

from typing_extensions import Buffer

__all__ = [
    "AVAILABLE",
    "CONFIRMED",
    "CONNECTED",
    "CROWDED",
    "DATAGRAM",
    "DATAGRAM_ROOM",
    "DUE",
    "FINISHED",
    "HEARD",
    "INCOMING",
    "LOST",
    "MOVED",
    "OPENED",
    "READABLE",
    "SEND_FAILED",
    "STOPPED",
    "WRITABLE",
    "ClientConfig",
    "Connection",
    "Endpoint",
    "Facts",
    "ServerConfig",
    "ServerStats",
    "SessionStore",
    "Stats",
    "TransportConfig",
    "Worker",
    "__version__",
    "check_identity",
    "check_roots",
    "listen_together",
    "steer",
]

__version__: Final[str]

# News: what `Endpoint.news` reports, as (connection, kind, value).
CONNECTED: Final[int]  # the handshake is complete
LOST: Final[int]  # the connection ended: see Connection.lost
READABLE: Final[int]  # value: stream id
WRITABLE: Final[int]  # value: stream id; write may take more
FINISHED: Final[int]  # value: stream id; all of it is acknowledged
STOPPED: Final[int]  # value: stream id; the peer reads no more of it
OPENED: Final[int]  # value: 0 bidirectional, 1 unidirectional; the peer opened some: accept them
AVAILABLE: Final[int]  # value: 0 or 1; we may open more
DATAGRAM: Final[int]  # datagrams to receive
DATAGRAM_ROOM: Final[int]  # room to send datagrams again
INCOMING: Final[int]  # server: a new connection (its number is in the tuple)
# server: the client's address changed; value: microseconds since the last packet over the old path << 2, plus 1 where
# we returned because the new one was not proven in time, plus 2 where the peer had left no spare connection ID
MOVED: Final[int]
CROWDED: Final[int]  # server: no connected socket can be had for this connection; value: errno
CONFIRMED: Final[int]  # client: the server's handshake is complete as well (HANDSHAKE_DONE)
# Control news (`Endpoint.control_news`), same form; CONNECTED and LOST come here as well.
SEND_FAILED: Final[int]  # value: errno of a packet that the kernel refused on the active path
HEARD: Final[int]  # the first packet over the active path after a move or a ping()
DUE: Final[int]  # after a quiet time the application asked for something: an answer is due again

@final
class TransportConfig:
    def __new__(
        cls,
        *,
        idle_timeout: float,
        keepalive: float | None = None,
        stream_window: int,
        connection_window: int,
        max_streams: int,
        send_buffer: int,
        initial_rtt: float = 0.1,
        mtu: int | None = None,  # fixed UDP payload; None: discovery up to 1452
        qlog: str | None = None,  # an existing folder: a file for each connection; else a file
    ) -> Self: ...

@final
class SessionStore:
    """Tickets and tokens of servers, for the next connections to them. Any thread may call."""
    def __new__(cls) -> Self: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...  # servers

# ValueError: a part does not parse, or the two do not belong together; the message says which.
def check_identity(certificate: bytes, key: bytes) -> None: ...
def check_roots(pem: bytes) -> None: ...

@final
class ClientConfig:
    """Raises ValueError where PEM does not parse (message says which part)."""
    def __new__(
        cls,
        *,
        alpn: Sequence[bytes],
        roots: bytes | None,  # PEM; None: verify nothing
        certificate: bytes | None = None,  # PEM chain
        key: bytes | None = None,
        transport: TransportConfig,
        sessions: tuple[SessionStore, str] | None = None,  # and the name of this server in it
        early_data: bool = False,  # needs sessions
        keylog: bool = True,  # honour SSLKEYLOGFILE
    ) -> Self: ...

@final
class ServerConfig:
    def __new__(
        cls,
        *,
        alpn: Sequence[bytes],
        certificate: bytes,
        key: bytes,
        client_roots: bytes | None = None,
        transport: TransportConfig,
        migration: bool = True,  # False: send disable_active_migration
        id_length: int = 8,  # of our connection IDs; 0 forbids migration as well
        early_data: bool = False,  # accept 0-RTT
        keylog: bool = True,
        reset_key: bytes | None = None,  # secret behind stateless resets (RFC 9000 §10.3.2); None: a new one each time
        worker: Worker | None = None,  # one of several processes: decides about reset_key and id_length
    ) -> Self: ...

@final
class Worker:
    """One of several processes on one port: what they have in common, and its slot among so many."""
    def __new__(cls, secret: bytes, slots: int, slot: int) -> Self: ...

# Sockets on one address, of which each process gets one: where they are, and descriptors that the caller owns.
def listen_together(at: tuple[str, int], count: int) -> tuple[tuple[str, int], list[int]]: ...

# Who gets what of such sockets, of which any is given: for each slot one of them, by its place, and some for newcomers.
def steer(socket: int, worker: Worker, sockets: Sequence[int], newcomers: Sequence[int]) -> None: ...

@final
class Facts:
    """What the policy must know of a connection's active path, at one moment (all times on time.monotonic's clock)."""

    heard: float  # when the last authenticated packet came over the active path, probes aside; -inf: none yet
    reached: float  # the same, probes included
    flowing: float  # since when they have come without a pause of 20 ms; inf: they do not, or nobody looked closely
    due: bool  # streams are open or data is unacknowledged: something is expected
    rtt: float
    pto: float
    spare_ids: int
    peer_forbids: bool
    confirmed: bool
    best_rtt: float
    packets_sent: int  # on all paths so far …
    packets_lost: int  # … and of these, how many are taken for lost (RFC 9002 §6)

@final
class Stats:
    bytes_sent: int
    bytes_received: int
    datagrams_sent: int
    datagrams_received: int
    packets_sent: int
    packets_lost: int
    rtt: float
    min_rtt: float
    congestion_window: int
    congestion_events: int
    mtu: int
    moves: int
    send_errors: int

@final
class ServerStats:
    """Counts of a server, since it began; `connected_sockets` is as it is now."""

    accepted: int
    refused: int
    retried: int
    handshakes_failed: int
    moves: int
    version_negotiations: int
    stateless_resets: int
    dropped: dict[str, int]
    datagrams_received: int
    bytes_received: int
    datagrams_sent: int
    bytes_sent: int
    connected_sockets: int

@final
class Connection:
    number: int
    def open_stream(self, unidirectional: bool) -> int | None: ...  # None: the peer's limit is reached
    def accept_stream(self, unidirectional: bool) -> int | None: ...
    # read: None: nothing yet; b"": the end. Raises whimbrel._errors.StreamReset(code); RuntimeError where the stream
    # is not ours to read.
    def read(self, stream: int, limit: int) -> bytes | None: ...
    def read_into(self, stream: int, buffer: Buffer) -> int | None: ...  # 0: the end
    # write: bytes taken (0: blocked; WRITABLE follows); packets leave on this thread, or, with `later`, by the next
    # Endpoint.flush() or pump(). Raises whimbrel._errors.StreamStopped(code).
    def write(self, stream: int, data: Buffer, later: bool = False) -> int: ...
    def finish(self, stream: int, later: bool = False) -> None: ...
    def reset(self, stream: int, code: int) -> None: ...
    def stop(self, stream: int, code: int) -> None: ...
    def pad_moves(self, stream: int, frame: bytes) -> None: ...  # written there at each move, between two writes
    def background(self, stream: int) -> None: ...  # nothing is expected of it: it does not make `due` true
    def max_datagram_size(self) -> int: ...  # 0: the peer takes none
    def send_datagram(self, data: Buffer) -> None: ...  # ValueError: too large
    def receive_datagram(self) -> bytes | None: ...
    # Both, while is_early(), are those of the session that is being resumed.
    def alpn(self) -> bytes | None: ...
    def peer_certificate(self) -> bytes | None: ...  # DER
    def peer_parameters(self) -> bytes | None: ...  # encoded as in RFC 9000 §18, those that the engine knows
    def is_resumed(self) -> bool: ...
    def is_early(self) -> bool: ...  # data may go and come, though the handshake is not complete (0-RTT)
    def early_data_accepted(self) -> bool | None: ...  # None: there was none, or the server has not answered
    def is_early_stream(self, stream: int) -> bool: ...  # the peer opened it before the handshake was complete
    def awaits_verdict(self) -> bool: ...  # the server asked for a certificate; CONFIRMED, or LOST, will follow
    def remote_address(self) -> tuple[str, int]: ...
    def local_address(self) -> tuple[str, int]: ...  # of the active path, as far as it is known
    def interface(self) -> str | None: ...  # that packets are pinned to
    def is_connected(self) -> bool: ...
    def is_validated(self) -> bool: ...  # the peer is known to be where packets go
    # Why it ended, None while it lives: (kind, code, reason, by_peer) with kind one of
    # "application", "transport", "idle", "reset", "version", "local" (we closed it), "refused", "late".
    def lost(self) -> tuple[str, int, str, bool] | None: ...
    def close(self, code: int, reason: bytes) -> None: ...
    def bound_handshake(self, within: float, reason: str) -> None: ...  # else it ends: "late", with that reason
    def ping(self) -> None: ...
    def pin(self, interface: int, source: str, fresh_socket: bool) -> bool: ...  # moves; False: no spare connection ID
    def rest(self, length: float) -> None: ...  # send nothing for so long, a move that follows included; 0 ends it
    def use_connected_socket(self, interface: int, source: str) -> bool: ...  # moves to a new connected socket
    # Both for the qlog alone, and nothing without one.
    def leaves_from(self, source: str) -> None: ...  # the address that the kernel has chosen
    # state: "probing_started", "probing_successful" or "probing_abandoned", of the path from this address
    def probing(self, state: str, source: str) -> None: ...
    def facts(self, close: bool = True) -> Facts: ...  # close: whether to say since when packets flow
    def stats(self) -> Stats: ...

@final
class Endpoint:
    """The sockets of one client connection, or of a server, with the engine behind them."""
    @staticmethod
    # seed: of what the engine throws dice for, where it is simulated; not of IDs and keys
    def client(config: ClientConfig, *, simulated: bool = False, seed: int | None = None) -> Endpoint: ...
    @staticmethod
    def server(
        config: ServerConfig,
        addresses: Sequence[tuple[str, int]],
        *,
        connected: bool = False,  # a connected socket for each client that has proven its address
        # descriptors from listen_together() instead of new sockets; they stay the caller's
        adopted: Sequence[int] | None = None,
        retry: str = "auto",  # or "always", "never"
        max_connections: int | None = None,
        simulated: bool = False,
        seed: int | None = None,
    ) -> Endpoint: ...
    # sockets: "pinned" | "unconnected" | "connected"; pin: (interface index, source address). OSError where no socket
    # can be had.
    def connect(
        self, remote: tuple[str, int], server_name: str, sockets: str, pin_to: tuple[int, str] | None
    ) -> Connection: ...
    def connection(self, number: int) -> Connection: ...  # of a server: after INCOMING
    def addresses(self) -> list[tuple[str, int]]: ...
    def fileno(self) -> int: ...  # readable: pump
    def wake_fileno(self) -> int: ...  # readable: another thread left news; pump() clears it
    def control_fileno(self) -> int: ...  # readable: control_news
    def descriptors(self) -> list[int]: ...  # all that are open now: the child of a fork must not keep them
    def pump(self) -> float | None: ...  # receives, runs timers, sends; returns seconds to the next timer
    def flush(self) -> None: ...  # sends what waits to be sent
    # Blocks without Python's lock until there is something to pump or news to take, a timer is due, it is closed, a
    # signal comes, or the time (seconds; None: no limit) is up. May return early: look at the clock.
    def wait(self, timeout: float | None) -> None: ...
    def news(self) -> list[tuple[int, int, int]]: ...
    def control_news(self) -> list[tuple[int, int, int]]: ...
    def hold(self, held: bool) -> None: ...  # the engine's clock stands still
    def forget(self, number: int) -> None: ...
    def close(self) -> None: ...  # closes the sockets
    # servers only
    def refuse_newcomers(self) -> None: ...
    def unanswered(self) -> int: ...  # connections closed here whose peers may not know it yet
    def server_stats(self) -> ServerStats: ...
    # simulated endpoints only: no sockets, time by hand
    def set_time(self, now: float) -> None: ...
    def deliver(self, data: bytes, source: tuple[str, int], destination: tuple[str, int], interface: int) -> None: ...
    # What there is to send from; a packet from elsewhere is refused (ENETUNREACH). Before the first call, anything
    # goes.
    def set_addresses(self, addresses: Sequence[tuple[int, str]]) -> None: ...  # (interface index, address)
    # (datagram, source address, source port, interface index, destination); None and 0: the kernel chooses
    def take(self) -> list[tuple[bytes, str | None, int, int, tuple[str, int]]]: ...
