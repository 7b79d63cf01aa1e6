"""What ``whimbrel watch`` says. tests/lab/test_network.py runs it while a network changes."""

from __future__ import annotations

import argparse

import pytest

from whimbrel.cli import watch
from whimbrel.network import Route

_WLAN0 = Route("wlan0", 3, "10.1.0.2")
_WWAN0 = Route("wwan0", 5, "10.2.0.2")


@pytest.mark.parametrize(
    ("before", "now", "step", "sentence"),
    [
        ([_WWAN0], [_WLAN0, _WWAN0], "probe", "would probe wlan0, then move"),
        ([_WWAN0], [_WLAN0], "move", "would move at once to wlan0: wwan0 is gone"),
        ([_WWAN0], [], "hold", "would hold on until there is a network"),
        ([], [_WLAN0], "resume", "would go on over wlan0"),
        ([_WLAN0, _WWAN0], [_WLAN0], "stay", "would stay on wlan0"),
        ([_WLAN0], [Route("wlan0", 3, "10.1.0.9")], "move", "would move at once: 10.1.0.2 is gone from wlan0"),
        (
            [_WLAN0],
            [_WWAN0, Route("wlan0", 3, "10.1.0.9")],
            "move",
            "would move at once to wwan0: 10.1.0.2 is gone from wlan0",
        ),
    ],
)
def test_it_says_what_a_connection_would_do(before: list[Route], now: list[Route], step: str, sentence: str) -> None:
    assert watch.next_step(before, now) == (step, sentence)


def test_it_begins_with_what_is() -> None:
    assert watch.first_step([_WLAN0, _WWAN0]) == ("connect", "would connect over wlan0")
    assert watch.first_step([]) == ("hold", "no way there: would wait for a network")


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("no-such-host.invalid", "whimbrel watch: cannot find no-such-host.invalid: "),
        ("a..b", "whimbrel watch: cannot find a..b: not a valid host name"),
        ("fe80::1", "whimbrel watch: 'fe80::1' is link-local: say on which interface, as in 'fe80::1%wlan0'"),
    ],
)
def test_a_host_that_cannot_be_watched_is_one_sentence(
    host: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    watch.add_arguments(parser)
    assert watch.run(parser.parse_args([host])) == 1
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(sentence)
    assert error.count("\n") == 1
