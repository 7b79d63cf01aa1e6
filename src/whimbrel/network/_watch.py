"""When to ask again which way a peer is, and the watchers that do.

News (``_netlink.py``, or ``_poll.py`` where that is refused) says that something may have changed, never what. So the
kernel is asked again; the same answer is no event.

    news ──▶ Settling: ask at once, then again as things calm down ──▶ route_to() ──▶ another answer: an event
"""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, Self, TypeVar

from whimbrel.network._lookup import NetlinkRefused, Peer
from whimbrel.network._netlink import NetlinkNews
from whimbrel.network._poll import PolledNews
from whimbrel.network._route import Route, route_to

_Answer = TypeVar("_Answer")


def watch(*peers: str) -> Watcher:
    """Watches which way the kernel would send to some peers. No packet is sent.

    Use it as ``with`` and ``for``, or ``async with`` and ``async for``: each turn is ``(peer, route)``, when the
    answer of `route_to` for that peer has become another one. The first answers are in `Watcher.routes`.

    Args:
        peers: IP addresses, as for `route_to`.

    Raises:
        ValueError: no peer, or not an IP address.
    """
    return Watcher(peers, route_to)


def subscribe() -> NetworkNews:
    """Starts listening to the kernel's network news; by the clock, where the kernel's own may not be heard.

    Raises:
        OSError: out of file descriptors.
    """
    try:
        return NetlinkNews()
    except NetlinkRefused:
        return PolledNews()


class NetworkNews(Protocol):
    """Says when to ask again: one for a thread, however many peers it cares for."""

    interval: float | None
    """Seconds after which to call `drain` where `fileno` is None; else None."""

    def fileno(self) -> int | None:
        """A file descriptor that is readable when there is news."""

    def drain(self) -> bool:
        """Forgets the news that came. Returns whether there was any."""

    def close(self) -> None:
        """Ends it. May be called twice."""


class Settling:
    """When to ask, after news. It takes the time as an argument, and neither waits nor asks.

    One change of the network is 4 to 9 messages, and some of them precede what they tell: "the link is down" is sent
    before the link's routes are removed, and their removal is not told. So the kernel is asked at the first message,
    at most every `SPACING` while more come, and again some time after the last one.
    """

    SPACING = 0.002
    """Least seconds between two questions."""
    AFTERMATH = (0.0, 0.002, 0.01, 0.05)
    """Seconds after the last news at which to ask. The second sees a link that went down (Linux 6.18), the later ones
    are for a kernel held up amid its change."""

    def __init__(self) -> None:
        self.deadline: float | None = None
        """When to ask next, in seconds on the caller's clock; None: not before more news."""
        self._heard = self._asked = float("-inf")

    def heard(self, now: float) -> None:
        """There is news."""
        self._heard = now
        self._plan()

    def asked(self, now: float) -> None:
        """The kernel was asked."""
        self._asked = now
        self._plan()

    def _plan(self) -> None:
        for delay in self.AFTERMATH:
            if self._asked < self._heard + delay:
                self.deadline = max(self._heard + delay, self._asked + self.SPACING)
                return
        self.deadline = None


class Asking(Generic[_Answer]):
    """Asks one question about each peer, again and again; iteration gives each answer that differs from the last.

    A context manager, plain or asynchronous: entering asks for the first time, leaving closes the subscription.
    An object is for one thread, and one task, at a time.
    """

    def __init__(
        self,
        peers: tuple[str, ...],
        question: Callable[[str], _Answer],
        listen: Callable[[], NetworkNews] = subscribe,
    ) -> None:
        if not peers:
            raise ValueError("no peer to watch")
        for peer in peers:
            Peer.parse(peer)
        self._peers = tuple(dict.fromkeys(peers))
        self._question = question
        self._listen = listen
        self._news: NetworkNews | None = None
        self._settling = Settling()
        self._changes: deque[tuple[str, _Answer]] = deque()
        self._waiting = False
        self.routes: dict[str, _Answer] = {}
        """The latest answer for each peer."""

    def __enter__(self) -> Self:
        if self._news is not None:
            raise RuntimeError("already watching: make another watcher for a second block")
        self._news = self._listen()  # Before the first answer, or a change between the two would go unheard.
        try:
            self.routes = {peer: self._question(peer) for peer in self._peers}
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the subscription. May be called twice."""
        if self._news is not None:
            self._news.close()
            self._news = None
        self._changes.clear()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, _Answer]:
        while not self._changes:
            news = self._open_news()
            descriptor = news.fileno()
            poll = select.poll()
            if descriptor is not None:
                poll.register(descriptor, select.POLLIN)
            timeout = self._timeout(news)
            poll.poll(None if timeout is None else timeout * 1000)
            self._look()
        return self._changes.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, _Answer]:
        if self._waiting:
            raise RuntimeError("two tasks iterate over one watcher: make one for each")
        self._waiting = True
        try:
            while not self._changes:
                news = self._open_news()
                await _readable(news.fileno(), self._timeout(news))
                self._look()
        finally:
            self._waiting = False
        return self._changes.popleft()

    def _open_news(self) -> NetworkNews:
        if self._news is None:
            raise RuntimeError("not watching: iterate inside `with` or `async with`")
        return self._news

    def _timeout(self, news: NetworkNews) -> float | None:
        """Seconds to wait for news before looking all the same."""
        if self._settling.deadline is None:
            return news.interval
        return max(0.0, self._settling.deadline - time.monotonic())

    def _look(self) -> None:
        if self._open_news().drain():
            self._settling.heard(time.monotonic())
        if self._settling.deadline is None or time.monotonic() < self._settling.deadline:
            return
        # Taken before the questions: what changes while they are asked is news after them.
        self._settling.asked(time.monotonic())
        for peer, before in self.routes.items():
            now = self._question(peer)
            if now != before:
                self.routes[peer] = now
                self._changes.append((peer, now))


class Watcher(Asking[Route | None]):
    """What `watch` returns. Iterate over it to get ``(peer, Route | None)`` whenever the kernel's choice changed."""


async def _readable(descriptor: int | None, timeout: float | None) -> None:
    """Returns when the file descriptor is readable, or after so many seconds."""
    if descriptor is None:
        await asyncio.sleep(timeout or 0.0)
        return
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout(timeout):
            await readable.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(descriptor)
