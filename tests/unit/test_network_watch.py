"""When to ask again, and the watchers that do: over a pipe instead of netlink, with answers from a list."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from itertools import pairwise

import pytest

from whimbrel.network import NetlinkNews, PolledNews, Settling, _netlink, _poll, subscribe, watch
from whimbrel.network._watch import Asking


def test_one_message_is_asked_about_at_once_and_three_times_after() -> None:
    settling = Settling()
    assert settling.deadline is None
    settling.heard(10.0)
    assert _questions(settling) == pytest.approx([10.0, 10.002, 10.01, 10.05])
    assert settling.deadline is None


def test_a_burst_is_one_question_and_those_after_it() -> None:
    settling = Settling()
    settling.heard(10.0)
    settling.asked(10.0)
    for message in range(1, 9):
        settling.heard(10.0 + message / 10_000)
    # At most every 2 ms; then 2 ms after the last news, which is too soon after that; 10 and 50 ms after it.
    assert _questions(settling) == pytest.approx([10.002, 10.004, 10.0108, 10.0508])


def test_unending_news_is_asked_about_every_2_ms() -> None:
    settling, asked = Settling(), []
    for millisecond in range(1000):
        now = millisecond / 1000
        settling.heard(now)
        if settling.deadline is not None and settling.deadline <= now:
            asked.append(now)
            settling.asked(now)
    assert 330 <= len(asked) <= 500
    assert min(later - earlier for earlier, later in pairwise(asked)) >= 0.002 - 1e-9


def test_news_during_the_aftermath_begins_it_anew() -> None:
    settling = Settling()
    settling.heard(10.0)
    settling.asked(10.0)
    settling.asked(10.002)
    settling.asked(10.010)
    settling.heard(10.030)
    assert _questions(settling) == pytest.approx([10.030, 10.032, 10.040, 10.080])


def test_a_late_question_counts_for_all_that_were_due() -> None:
    settling = Settling()
    settling.heard(10.0)
    settling.asked(10.2)  # The thread was held up.
    assert settling.deadline is None


def test_only_another_answer_is_an_event(pipe: PipeNews) -> None:
    answers = ["wlan0", "wlan0", "wlan0", "wwan0"]  # The change is seen by the second question after the news.
    with Asking(("192.0.2.1",), lambda _: answers.pop(0) if len(answers) > 1 else answers[0], lambda: pipe) as changes:
        assert changes.routes == {"192.0.2.1": "wlan0"}
        pipe.tell()
        assert next(changes) == ("192.0.2.1", "wwan0")
        assert changes.routes == {"192.0.2.1": "wwan0"}


def test_each_peer_has_its_own_answer(pipe: PipeNews) -> None:
    asked = dict.fromkeys(["192.0.2.1", "2001:db8::1"], 0)

    def count(peer: str) -> int:
        asked[peer] += 1
        return asked[peer]

    with Asking(("192.0.2.1", "2001:db8::1", "192.0.2.1"), count, lambda: pipe) as changes:
        pipe.tell()
        assert [next(changes), next(changes)] == [("192.0.2.1", 2), ("2001:db8::1", 2)]


def test_a_cancelled_wait_loses_nothing(pipe: PipeNews) -> None:
    async def scenario() -> None:
        answers = iter(range(100))
        async with Asking(("192.0.2.1",), lambda _: next(answers), lambda: pipe) as changes:
            waiting = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="two tasks"):
                await anext(changes)
            waiting.cancel()
            await asyncio.wait([waiting])
            pipe.tell()
            assert await anext(changes) == ("192.0.2.1", 1)

    asyncio.run(scenario())


def test_leaving_the_block_ends_the_subscription(pipe: PipeNews) -> None:
    changes = Asking(("192.0.2.1",), str, lambda: pipe)
    with pytest.raises(RuntimeError, match="iterate inside `with`"):
        next(changes)
    with changes, pytest.raises(RuntimeError, match="already watching"):
        changes.__enter__()
    assert pipe.closed
    changes.close()
    with pytest.raises(RuntimeError, match="iterate inside `with`"):
        next(changes)


def test_a_question_that_fails_at_first_leaves_nothing_open(pipe: PipeNews) -> None:
    def fail(_: str) -> None:
        raise OSError("out of descriptors")

    with pytest.raises(OSError, match="out of descriptors"), Asking(("192.0.2.1",), fail, lambda: pipe):
        pass
    assert pipe.closed


def test_what_cannot_be_watched_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="no peer"):
        watch()
    with pytest.raises(ValueError, match="is not an IP address"):
        watch("127.0.0.1", "localhost")


def test_the_kernels_news_comes_without_privileges() -> None:
    news = subscribe()
    assert isinstance(news, NetlinkNews)
    assert news.interval is None
    assert not news.drain()
    news.close()
    news.close()


def test_a_clock_stands_in_where_netlink_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_netlink, "_NETLINK_ROUTE", 999)  # No such protocol.
    news = subscribe()
    assert isinstance(news, PolledNews)
    assert news.fileno() is None
    assert news.interval == 0.25
    now = 100.0
    monkeypatch.setattr(_poll, "_clock", lambda: now)
    with PolledNews() as polled:
        assert not polled.drain()
        now = 100.25
        assert polled.drain()
        assert not polled.drain()


class PipeNews:
    """News on demand."""

    interval: float | None = None

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.closed = False

    def tell(self) -> None:
        os.write(self._writer, b"!")

    def fileno(self) -> int:
        return self._reader

    def drain(self) -> bool:
        try:
            return bool(os.read(self._reader, 100))
        except BlockingIOError:
            return False

    def close(self) -> None:
        if not self.closed:
            os.close(self._reader)
            os.close(self._writer)
        self.closed = True


@pytest.fixture
def pipe() -> Iterator[PipeNews]:
    news: PipeNews = PipeNews()
    yield news
    news.close()


def _questions(settling: Settling) -> list[float]:
    """When it asks from now on, by a caller who is always on time."""
    times = []
    while settling.deadline is not None:
        times.append(settling.deadline)
        settling.asked(settling.deadline)
    return times
