"""Capsules: typed messages within a tunnel (RFC 9297 §3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from whimbrel._errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Collection

    from whimbrel.http._tunnel import Tunnel

MAX_CAPSULE = 4 << 10
"""Bytes of a capsule that is wanted, at most: those that we know need a quarter of it."""


def varint(value: int) -> bytes:
    """A variable-length integer (RFC 9000 §16)."""
    for exponent, limit in enumerate((1 << 6, 1 << 14, 1 << 30, 1 << 62)):
        if value < limit:
            length = 1 << exponent
            return (value | exponent << (8 * length - 2)).to_bytes(length, "big")
    raise ValueError(f"{value} does not fit into a variable-length integer")


def capsule(kind: int, value: bytes = b"") -> bytes:
    """One capsule, as it is written."""
    return varint(kind) + varint(len(value)) + value


async def read_capsule(tunnel: Tunnel, wanted: Collection[int]) -> tuple[int, bytes] | None:
    """Wait for a capsule of one of these types; others are skipped, however long they are.

    Returns:
        Its type and value; None: the peer has ended the tunnel.

    Raises:
        RemoteProtocolError: the tunnel ends within a capsule, or one is too large.
        StreamReset, ConnectionLost: as `Tunnel.read`.
    """
    while True:
        try:
            kind = await _read_varint(tunnel)
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise _cut() from None
            return None
        try:
            length = await _read_varint(tunnel)
            if kind in wanted:
                if length > MAX_CAPSULE:
                    raise RemoteProtocolError(f"a capsule of {length} bytes is too large")
                return kind, await tunnel.readexactly(length)
            while length:
                skipped = await tunnel.read(min(length, 1 << 16))
                if not skipped:
                    raise _cut()
                length -= len(skipped)
        except asyncio.IncompleteReadError:
            raise _cut() from None


async def _read_varint(tunnel: Tunnel) -> int:
    first = await tunnel.readexactly(1)
    try:
        rest = await tunnel.readexactly((1 << (first[0] >> 6)) - 1)
    except asyncio.IncompleteReadError as error:
        raise asyncio.IncompleteReadError(first + error.partial, None) from None
    return int.from_bytes(bytes([first[0] & 0x3F]) + rest, "big")


def _cut() -> RemoteProtocolError:
    return RemoteProtocolError("the tunnel ended within a capsule")
