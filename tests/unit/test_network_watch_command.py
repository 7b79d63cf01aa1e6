"""What ``whimbrel watch`` says. tests/lab/test_network.py runs it while a network changes."""

from __future__ import annotations

import argparse

import pytest

from whimbrel.cli import watch


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
