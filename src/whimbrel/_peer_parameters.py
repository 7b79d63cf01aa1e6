"""What a peer said of itself in the handshake, as far as it concerns moving (transport parameters, RFC 9000 §18)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from whimbrel._path import Address

_MAX_IDLE_TIMEOUT = 0x01
_DISABLE_ACTIVE_MIGRATION = 0x0C
_PREFERRED_ADDRESS = 0x0D
_ACTIVE_CONNECTION_ID_LIMIT = 0x0E
_INITIAL_SOURCE_CONNECTION_ID = 0x0F

_LEAST_CONNECTION_IDS = 2
"""What a peer keeps of ours where it says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerParameters:
    """The peer's transport parameters that decide whether, and how well, a connection can move (RFC 9000 §18.2)."""

    disable_active_migration: bool
    """The peer forbids its clients to move on purpose."""
    connection_id_length: int
    """Of the connection IDs that the peer is addressed by, bytes. With 0 it knows its clients by their addresses, and
    they may not move (§9)."""
    active_connection_id_limit: int
    """How many of our connection IDs the peer keeps."""
    max_idle_timeout: float | None
    """Seconds without any packet after which the peer gives the connection up; None: never. It bounds the outages that
    can be survived (§10.1)."""
    preferred_address: tuple[Address, ...]
    """Where a server would rather be reached after the handshake (§9.6). The engine does not go there."""

    @property
    def allows_migration(self) -> bool:
        """Whether a client may move."""
        return not self.disable_active_migration and self.connection_id_length > 0

    @classmethod
    def read(cls, encoded: bytes) -> Self:
        """Parameters as the engine, which has checked them, gives them."""
        parameters = _parameters(encoded)
        idle = _number(parameters.get(_MAX_IDLE_TIMEOUT, b"\0"))
        limit = parameters.get(_ACTIVE_CONNECTION_ID_LIMIT)
        return cls(
            disable_active_migration=_DISABLE_ACTIVE_MIGRATION in parameters,
            connection_id_length=len(parameters.get(_INITIAL_SOURCE_CONNECTION_ID, b"")),
            active_connection_id_limit=_LEAST_CONNECTION_IDS if limit is None else _number(limit),
            max_idle_timeout=idle / 1000 if idle else None,
            preferred_address=_addresses(parameters.get(_PREFERRED_ADDRESS, b"")),
        )


def _parameters(encoded: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while encoded:
        name, encoded = _take_number(encoded)
        length, encoded = _take_number(encoded)
        found[name], encoded = encoded[:length], encoded[length:]
    return found


def _addresses(value: bytes) -> tuple[Address, ...]:
    """IPv4 address and port, then IPv6 address and port; all zero where there is none of that family."""
    parts = ((value[:4], value[4:6]), (value[6:22], value[22:24]))
    return tuple((str(ipaddress.ip_address(ip)), int.from_bytes(port)) for ip, port in parts if any(ip + port))


def _number(value: bytes) -> int:
    return _take_number(value)[0]


def _take_number(data: bytes) -> tuple[int, bytes]:
    """A variable-length integer (§16), and what follows it."""
    length = 1 << (data[0] >> 6)
    return int.from_bytes(data[:length]) & ((1 << (8 * length - 2)) - 1), data[length:]
