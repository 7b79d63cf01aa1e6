"""In which order, and how fast, many connections learn of a change."""

from __future__ import annotations

from whimbrel._herd import BURST, RATE, Herd


def turns(herd: Herd[int], now: float) -> list[tuple[float, list[int]]]:
    """Call it whenever it wants to be called."""
    found = []
    while True:
        turn = herd.next(now)
        found.append((now, turn))
        if herd.deadline is None:
            return found
        assert herd.deadline > now or turn, "it goes on without delay"
        now = max(now, herd.deadline)


def test_a_few_learn_at_once() -> None:
    herd: Herd[int] = Herd()
    herd.add(list(range(BURST)))
    assert herd.next(10.0) == list(range(BURST))
    assert herd.deadline is None


def test_a_thousand_learn_within_a_second_in_order_and_never_many_at_once() -> None:
    herd: Herd[int] = Herd()
    herd.add(list(range(1000)))
    found = turns(herd, 10.0)
    assert [member for _, turn in found for member in turn] == list(range(1000))
    assert 0.7 < found[-1][0] - 10.0 < 1.0
    for time, _ in found:
        assert sum(len(turn) for at, turn in found if time <= at < time + 0.1) <= BURST + 0.1 * RATE + 1


def test_news_that_follow_each_other_share_the_rate() -> None:
    herd: Herd[int] = Herd()
    herd.add(list(range(BURST)))
    herd.next(10.0)
    herd.add(list(range(BURST)))
    assert herd.next(10.0) == []
    assert turns(herd, 10.0)[-1][0] > 10.0
    herd.add(list(range(BURST)))
    assert len(herd.next(20.0)) == BURST, "and after a while it is as new"


def test_who_waits_already_keeps_its_place_and_who_is_gone_is_left_out() -> None:
    herd: Herd[int] = Herd()
    herd.add(list(range(BURST + 3)))
    herd.next(10.0)
    herd.add([7, BURST + 2, BURST])
    herd.discard(BURST + 1)
    assert herd.next(20.0) == [BURST, BURST + 2, 7]
