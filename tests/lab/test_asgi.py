"""Applications whose clients move while they are answered: run by `whimbrel serve`, as their users run them.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.lab.crossing import News, Program
from tests.lab.serving import Output

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[2]
EVENTS = 1000


class App:
    """A running ``whimbrel serve`` of an application."""

    def __init__(self, lab: Laboratory, folder: Path, name: str, state: Path) -> None:
        process = lab.python(
            "srv",
            ["-m", "whimbrel", "serve", name, "--host", lab.server_address, "--no-tcp", "-v"],
            cwd=folder,
            env={**os.environ, "XDG_STATE_HOME": str(state), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = Output(process)
        self.certificate = self.output.wait(r"^certificate (.+)")[1]
        self.url = self.output.wait(r"^serving .+ at (https://.+/)$")[1]
        self.output.wait("^try: ")

    def requests(self, path: str) -> list[str]:
        """What the access log has of them, without who and how long."""
        found = (re.search(rf" (GET|WebSocket) {re.escape(path)} (.+)", line) for line in self.output.lines)
        return [re.sub(r" \d+\.\d{3} s", "", match[2]) for match in found if match]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.end()


class Client(Program):
    """A program that asks such an application."""

    def __init__(self, lab: Laboratory, app: App, module: str, path: str) -> None:
        self._received = 0
        super().__init__(lab, "cli", module, {"url": app.url + path, "certificate": app.certificate})

    def reaches(self, count: int) -> None:
        """Wait until so many events have come."""
        self.wait(lambda: self._received >= count or None, f"{count} events have come")

    def heard(self, news: News) -> None:
        if news["kind"] == "progress":
            self._received = news["received"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def test_each_event_comes_once_and_in_order_over_two_moves(lab: Laboratory, tmp_path: Path) -> None:
    pytest.importorskip("fastapi")
    path = f"tokens?n={EVENTS}&pause=0.004"
    lab.cellular.join()
    with App(lab, ROOT / "examples" / "token_stream", "server:app", tmp_path) as app:
        with Client(lab, app, "token_client", path) as client:
            client.reaches(EVENTS // 4)
            lab.wifi.join()
            app.output.wait(r"whimbrel: .+ moved to .+ \(peer\)")
            client.reaches(EVENTS // 2)
            lab.wifi.down()
            (done,) = client.wait(lambda: client.news("done") or None, "all events have come", 60)
            assert client.finish() == 0
        assert done["numbers"] == list(range(EVENTS))
        assert (done["status"], done["version"]) == (200, "HTTP/3")
        sent = sum(len('data: {"n": }\n\n') + len(str(number)) for number in range(EVENTS))
        app.output.wait(rf" GET /{re.escape(path)} ")
        # The application was asked once.
        assert app.requests(f"/{path}") == [f"200 {sent}, moved 2 times"]


def test_a_conversation_goes_on_over_two_moves(lab: Laboratory, tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    lab.cellular.join()
    with App(lab, ROOT, "tests.lab.programs.talking_app:app", tmp_path) as app:
        with Client(lab, app, "talking_client", "") as client:

            def say(text: str) -> dict[str, object]:
                count = len(client.news("heard"))
                client.tell(say=text)
                heard = client.wait(lambda: client.news("heard")[count:] or None, f"the answer to {text!r}")[0]
                assert heard["text"] == text
                return heard

            assert say("over 5G")["moves"] == 0
            lab.wifi.join()
            app.output.wait(r"whimbrel: .+ moved to .+ \(peer\)")
            heard = say("over Wi-Fi")
            assert (heard["moves"], heard["interface"]) == (1, "wlan0")
            lab.wifi.down()
            heard = say("over 5G again")
            assert heard["interface"] == "wwan0"
            # The packet that brought it was the first over the new path: what is told comes with it.
            assert heard["moves"] == 2
            assert client.finish() == 0
            (closed,) = client.news("closed")
            assert closed["code"] == 1000
        app.output.wait(" WebSocket /echo ")
        (line,) = app.requests("/echo")
        assert line.endswith(", moved 2 times")
