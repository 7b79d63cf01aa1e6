"""What several processes on one port share: the sockets, and the rule by which the kernel fills them.

Every process has a slot, and in each address' group of sockets (SO_REUSEPORT) the one of that number. The process that
supervises opens them all before the first worker starts, and keeps them: the kernel renumbers a group when one is
closed, and what a dead worker's socket holds waits there for who takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing import reduction
from typing import TYPE_CHECKING, Final, Protocol

from whimbrel import _core
from whimbrel._errors import address_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whimbrel._path import Address


@dataclass(frozen=True, slots=True)
class Seat:
    """One process's part of a port."""

    secret: bytes
    slots: int
    slot: int
    sockets: Sequence[tuple[Address, int]]
    """Where it listens, and by which descriptor."""

    def core(self) -> _core.Worker:
        """The same, for the engine."""
        return _core.Worker(self.secret, self.slots, self.slot)

    def descriptors(self, hosts: Sequence[str], port: int) -> list[int] | None:
        """The sockets for these hosts and this port; None where they are others than the port's own."""
        if [(host, port) for host in hosts] != [address for address, _ in self.sockets]:
            return None
        return [descriptor for _, descriptor in self.sockets]

    def __reduce__(self) -> tuple[object, ...]:
        """Take the descriptors along to a process that is being started."""
        sockets = [(address, reduction.DupFd(descriptor)) for address, descriptor in self.sockets]
        return _arrive, (self.secret, self.slots, self.slot, sockets)


class _Duplicate(Protocol):
    def detach(self) -> int:
        """The descriptor, in the process that it came to."""


def _arrive(secret: bytes, slots: int, slot: int, sockets: Sequence[tuple[Address, _Duplicate]]) -> Seat:
    return Seat(secret, slots, slot, [(address, duplicate.detach()) for address, duplicate in sockets])


seat: Final[ContextVar[Seat | None]] = ContextVar("whimbrel-seat", default=None)
"""In a worker: its own. A server that is to listen where the port is takes the sockets from here."""


class Port:
    """The sockets of all processes, on all addresses."""

    def __init__(self, addresses: Sequence[Address], slots: int) -> None:
        """Open them.

        Args:
            addresses: where to listen; with port 0, a free one is found that is the same for all.
            slots: how many processes there can be at once.

        Raises:
            OSError: an address is in use, or not ours.
        """
        self._slots = slots
        self._secret = os.urandom(32)
        self._groups = _open(addresses, slots)
        self._rule = _core.Worker(self._secret, slots, 0)

    @property
    def addresses(self) -> list[Address]:
        """Where it is."""
        return [address for address, _ in self._groups]

    def seat(self, slot: int) -> Seat:
        """What the process of this slot needs."""
        return Seat(self._secret, self._slots, slot, [(address, group[slot]) for address, group in self._groups])

    def steer(self, sockets: Sequence[int], newcomers: Sequence[int]) -> None:
        """Have the kernel fill the sockets so from now on.

        Args:
            sockets: for each slot, the one whose socket takes what is addressed to it.
            newcomers: the slots that take what is addressed to none, evenly.
        """
        for _, group in self._groups:
            _core.steer(group[0], self._rule, sockets, newcomers)

    def close(self) -> None:
        """Close them here. May be called twice."""
        groups, self._groups = self._groups, []
        for _, group in groups:
            _close(group)


def _open(addresses: Sequence[Address], slots: int) -> list[tuple[Address, list[int]]]:
    attempts = 20 if len(addresses) > 1 and addresses[0][1] == 0 else 1
    for _ in range(attempts):
        try:
            return _open_all(addresses, slots)
        except OSError as error:
            # The kernel picked a port for the first address that is taken on another: then the next one.
            if attempts == 1 or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free on all of them")


def _open_all(addresses: Sequence[Address], slots: int) -> list[tuple[Address, list[int]]]:
    groups: list[tuple[Address, list[int]]] = []
    try:
        for host, port in addresses:
            at = (host, groups[0][0][1] if port == 0 and groups else port)
            groups.append(_core.listen_together(at, slots))
    except OSError as error:
        for _, group in groups:
            _close(group)
        where = ", ".join(address_text(address) for address in addresses)
        told = type(error)(f"cannot listen on {where}: {error.strerror or error}")
        told.errno = error.errno
        raise told from None
    return groups


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
