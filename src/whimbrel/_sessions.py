"""SessionStore: what connections leave behind for the next ones to the same servers."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING

from whimbrel import _core

if TYPE_CHECKING:
    from whimbrel._path import Address

SERVERS = 256
"""As many as the core remembers tickets of."""


class SessionStore:
    """A memory of servers, to be given to `connect` as ``sessions=``, by as many connections and threads as you like.

    It keeps TLS session tickets, so that the next handshake needs no certificates and can send at once
    (``early_data=True``), and tokens that prove our address to a server which would otherwise ask for proof first
    (RFC 9000 §8.1.3). Each is used once, so that nobody on the way can tell by them that two connections are of one
    client (RFC 8446 §C.4).

    What is kept for a name and a port is further kept apart by whom the caller trusts (``verify``), by its own
    certificate (``cert``) and by the protocols offered (``alpn``): a ticket stands for the look at a certificate that
    another connection took, and is never used where that look would have been another. It is bounded to 256 servers,
    the one not asked for the longest forgotten first, lives in this process only, and is empty in the child of a fork.
    """

    def __init__(self) -> None:
        self._core = _core.SessionStore()
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, Address] = OrderedDict()
        _stores.add(self)

    def clear(self) -> None:
        """Forget all of it, as after a log-out. Connections that stand are not concerned."""
        with self._lock:
            self._addresses.clear()
        self._core.clear()

    def __len__(self) -> int:
        """Of how many servers there is something to use."""
        return len(self._core)

    def __bool__(self) -> bool:
        """An empty one is one, too."""
        return True

    def __repr__(self) -> str:
        return f"<SessionStore of {len(self)} servers>"

    def _answered(self, server: str, address: Address) -> None:
        """This address of the server's is good."""
        with self._lock:
            self._addresses[server] = address
            self._addresses.move_to_end(server)
            if len(self._addresses) > SERVERS:
                self._addresses.popitem(last=False)

    def _address(self, server: str) -> Address | None:
        """The address that answered last."""
        with self._lock:
            return self._addresses.get(server)

    def _forget_parent(self) -> None:
        # The locks may be held for ever by threads that were not copied; and a ticket used by both would link them.
        self._core = _core.SessionStore()
        self._lock = threading.Lock()
        self._addresses = OrderedDict()


_stores: weakref.WeakSet[SessionStore] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for store in list(_stores):
        store._forget_parent()


os.register_at_fork(after_in_child=_after_fork_in_child)
