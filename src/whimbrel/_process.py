"""What a fork and the interpreter's end do to endpoints that are open.

A child of a fork inherits copies that must stay dumb: the connection goes on in the parent. An interpreter that ends
says goodbye on every connection. Both faces of the library, asyncio and blocking, enrol their pumps here.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Protocol

from whimbrel import _core

if TYPE_CHECKING:
    from whimbrel._core import Endpoint

logger = logging.getLogger("whimbrel")


class Target(Protocol):
    """What hears of one connection's news."""

    def _hear(self, kind: int, value: int) -> None:
        """Something changed; see the constants of ``_core``."""

    def _farewell(self) -> None:
        """The interpreter ends: tell the peer, without waiting."""


class Listener(Protocol):
    """What hears of new connections: a server."""

    def _incoming(self, number: int) -> None:
        """A new connection knocks."""


class Resident:
    """An endpoint of this process, with those who hear of its connections."""

    def __init__(self, endpoint: Endpoint, listener: Listener | None) -> None:
        """Enrol, until `leave`."""
        self.endpoint = endpoint
        self.stopped = False
        self.is_forked = False
        """Whether this is a dead copy in the child of a fork."""
        self._inherited: list[int] = []
        self._is_crowded = False
        # Weak, so that a connection that its owner has dropped can notice that.
        self._targets: dict[int, weakref.ref[Target]] = {}
        self._listener = weakref.ref(listener) if listener is not None else None
        with _lock:
            _live[id(self)] = weakref.ref(self)

    def add(self, number: int, target: Target) -> None:
        """Tell `target` what happens to a connection."""
        self._targets[number] = weakref.ref(target)

    def remove(self, number: int) -> None:
        """Tell nobody any more."""
        self._targets.pop(number, None)

    def gather(self) -> bool:
        """Whether a small write should wait for others that come at once, to leave with them; then it will leave."""
        return False

    def leave(self) -> None:
        """Neither a fork nor the interpreter's end concerns this any more."""
        with _lock:
            _live.pop(id(self), None)

    def tell(self, number: int, kind: int, value: int) -> None:
        """Hand one piece of the core's news to whom it is for."""
        if kind == _core.CROWDED:
            self._crowded(value)
            return
        reference = self._targets.get(number)
        target = reference() if reference is not None else None
        if target is not None:
            target._hear(kind, value)
        elif kind == _core.INCOMING:
            listener = self._listener() if self._listener is not None else None
            if listener is not None:
                listener._incoming(number)

    def _crowded(self, error: int) -> None:
        """A server's connection gets no socket of its own. It does without; that is said once."""
        if not self._is_crowded:
            self._is_crowded = True
            logger.warning(
                "no more connected sockets (%s): the other connections share the server's", os.strerror(error)
            )

    def farewell(self) -> None:
        """The interpreter ends: tell the peers, close the sockets, wait for nothing."""
        if self.stopped or self.is_forked:
            return
        for reference in self._targets.copy().values():
            target = reference()
            if target is not None:
                target._farewell()
        self.stopped = True
        self.endpoint.pump()
        self.endpoint.close()

    def before_fork(self) -> None:
        """Note what the child will inherit: there, the core can no longer be asked."""
        self._inherited = self.endpoint.descriptors()

    def orphan(self) -> None:
        """This is the child of a fork now: the connection goes on in the parent, and must not notice us.

        A loop's selector is shared with the parent, so that nothing may be unregistered; and a lock, the core's or
        one of ours, may be held for ever by a thread that was not copied, so that nothing may be called. What is left
        is to put something harmless in the sockets' places: closing the numbers alone would let others reuse them.
        """
        self.is_forked = True
        try:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return
        for descriptor in self._inherited:
            os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)


def forked() -> RuntimeError:
    """What the child of a fork is told that uses its parent's."""
    return RuntimeError("this connection belongs to the process that forked this one; open a new one here")


_live: dict[int, weakref.ref[Resident]] = {}
# Held while the process forks, so that the child finds the list whole. A finalizer may need it while we hold it.
_lock = threading.RLock()


def _residents() -> list[Resident]:
    with _lock:
        return [resident for reference in _live.values() if (resident := reference()) is not None]


def _before_fork() -> None:
    _lock.acquire()
    for resident in _residents():
        resident.before_fork()


def _after_fork_in_parent() -> None:
    _lock.release()


def _after_fork_in_child() -> None:
    for resident in _residents():
        resident.orphan()
    _live.clear()
    _lock.release()


@atexit.register
def _farewell() -> None:
    for resident in _residents():
        resident.farewell()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
