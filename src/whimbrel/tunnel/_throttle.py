"""How often one address may fail to get in, and how many tunnels there may be. No clock: the time is an argument.

What is remembered is bounded, however many come: where the table is full, who failed longest ago is forgotten.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from dataclasses import dataclass

FAILURES = 10
WINDOW = 60.0
"""Seconds: that many failures in so long, and the address is not listened to until they are over."""
ADDRESSES = 4096


@dataclass(slots=True)
class _Record:
    began: float
    failures: int = 0
    unheard: int = 0


class Throttle:
    """Failed attempts by address; IPv6 by its /64, which is one customer's."""

    def __init__(self, failures: int = FAILURES, window: float = WINDOW, addresses: int = ADDRESSES) -> None:
        self._failures, self._window, self._addresses = failures, window, addresses
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def is_blocked(self, address: str, now: float) -> bool:
        """Whether an address has failed too often. It costs it nothing to be asked, nor to be told so."""
        record = self._current(_network(address), now)
        return record is not None and record.failures >= self._failures

    def unheard(self, address: str) -> int:
        """One more that was not listened to; returns how many that makes since the window began."""
        record = self._records[_network(address)]
        record.unheard += 1
        return record.unheard

    def failed(self, address: str, now: float) -> None:
        """An attempt has failed."""
        key = _network(address)
        record = self._current(key, now)
        if record is None:
            record = self._records[key] = _Record(now)
            if len(self._records) > self._addresses:
                self._records.popitem(last=False)
        record.failures += 1
        self._records.move_to_end(key)

    def _current(self, key: str, now: float) -> _Record | None:
        record = self._records.get(key)
        if record is not None and now - record.began >= self._window:
            del self._records[key]
            return None
        return record


class Quota:
    """How many tunnels may be open, in all and for each who opens them."""

    def __init__(self, each: int, in_all: int) -> None:
        self._each, self._in_all = each, in_all
        self._open: Counter[str] = Counter()

    def take(self, who: str) -> bool:
        """Take a place; returns whether there was one."""
        if self._open[who] >= self._each or self._open.total() >= self._in_all:
            return False
        self._open[who] += 1
        return True

    def give_back(self, who: str) -> None:
        """A tunnel is over."""
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]


def _network(address: str) -> str:
    ip = ipaddress.ip_address(address)
    if ip.version == 4:
        return address
    return str(ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
