"""What the page on simulation shows."""

from __future__ import annotations

from tests.loopback.test_examples import shown


def test_what_the_page_on_simulation_shows_runs() -> None:
    program, networks = shown("docs/simulation.md")
    names: dict[str, object] = {}
    exec(program + networks, names)
    test = names["test_answers_come_though_wifi_is_left_behind"]
    assert callable(test)
    test()
