"""Address and port translation of one provider. IPv6 addresses are nobody's but the device's, and stay as they are."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whimbrel._path import Address


class Nat:
    """Gives each address and port inside one of its own outside, whatever it sends to (RFC 4787 §4.1)."""

    def __init__(self, number: int) -> None:
        self.timeout = math.inf
        """Seconds without any packet after which a translation is forgotten."""
        self._number = number
        self._addresses = itertools.count(1)
        self._ports = itertools.count(1024)
        self._outward: dict[Address, Address] = {}
        self._inward: dict[Address, tuple[Address, float]] = {}
        self.address = self._new_address()

    def _new_address(self) -> str:
        return f"203.0.{self._number}.{next(self._addresses)}"

    def outward(self, internal: Address, now: float) -> Address:
        """The external address of an internal one."""
        if ":" in internal[0]:
            return internal
        external = self._outward.get(internal)
        if external is None or self._is_stale(external, now):
            external = self._outward[internal] = self.address, next(self._ports)
        self._inward[external] = internal, now
        return external

    def inward(self, external: Address, now: float) -> Address | None:
        """The internal address of an external one; None: no longer known."""
        if ":" in external[0]:
            return external
        if external not in self._inward or self._is_stale(external, now):
            return None
        internal, _ = self._inward[external]
        self._inward[external] = internal, now
        return internal

    def forget(self, *, address: bool) -> None:
        """Lose all translations.

        Args:
            address: and take another address.
        """
        self._outward.clear()
        self._inward.clear()
        if address:
            self.address = self._new_address()

    def _is_stale(self, external: Address, now: float) -> bool:
        found = self._inward.get(external)
        return found is None or now - found[1] > self.timeout
