"""Chromium: chats over WebTransport, and reads from the page which path it is on. It is told what to say."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, cast

from selenium.webdriver import Chrome, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.lab.programs.arrival import tell
from tests.lab.programs.browser import Order, _die_with_parent, _options

if TYPE_CHECKING:
    from collections.abc import Callable

STATE = ("path", "moves", "sent", "received")
PATIENCE = 20


def main(order: Order) -> None:
    """Load the page; then for each line of input: say it, wait until it and the expected path are shown, and tell."""
    service = ChromeService(order["driver"], popen_kw={"preexec_fn": _die_with_parent})
    with Chrome(_options(order), service) as browser:
        browser.get(order["page"])

        def shown(name: str) -> str:
            return browser.find_element(By.ID, name).text

        def wait(condition: Callable[[], bool]) -> None:
            WebDriverWait(browser, PATIENCE, 0.05).until(lambda _: condition())

        wait(lambda: ":" in shown("path"))
        protocol = browser.execute_script("return performance.getEntriesByType('navigation')[0].nextHopProtocol")
        tell("loaded", protocol=protocol, version=browser.capabilities["browserVersion"])
        for line in sys.stdin:
            asked = json.loads(line)
            wait(lambda: shown("moves") == str(asked["moves"]))  # noqa: B023 - it is done with before the next
            browser.find_element(By.ID, "line").send_keys(asked["say"] + "\n")
            wait(lambda: asked["say"] in shown("talk"))  # noqa: B023
            tell("said", talk=shown("talk").splitlines(), **{name: shown(name) for name in STATE})


if __name__ == "__main__":
    main(cast("Order", json.loads(sys.argv[1])))
