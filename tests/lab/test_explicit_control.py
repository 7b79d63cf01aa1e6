"""What a program decides by itself, on a real kernel: whom it asks, where it would rather be, and its own policy.

cli ── wlan0 ~~~ ap  ── srv     10 ms
 └──── wwan0 ~~~ bts ──┘        40 ms
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Self, Unpack

import pytest

import whimbrel
from tests.lab.crossing import PORT, SOON, Certificates, News, Program, Server, to_server
from whimbrel import NoAnswer, NoRoute

if TYPE_CHECKING:
    from tests.lab.crossing import Options
    from whimbrel.testing import AccessNetwork, Laboratory

pytestmark = pytest.mark.timeout(60)
each_face = pytest.mark.parametrize("face", ["asyncio", "none"])


class Explicit(Program):
    """`tests.lab.programs.explicit_client`."""

    def __init__(self, lab: Laboratory, server: Server, face: Any, **options: Unpack[Options]) -> None:
        order: dict[str, object] = {
            "host": lab.server_address,
            "port": PORT,
            "ca": server.certificates.ca,
            "loop": face,
            "migration": {},
            "window": None,
            "idle_timeout": 90.0,
            "keepalive": None,
            **options,
        }
        self._numbers = itertools.count()
        super().__init__(lab, "cli", "explicit_client", order)
        self.wait(lambda: self.news("dialling") or None, "the client dials")

    def connected(self) -> News:
        """Wait until it is."""
        return self.wait(lambda: self.news("connected") or None, "the client connects")[0]

    def ask(self, do: str, interface: str | None) -> News:
        """Call that method, and wait for what comes of it.

        Raises:
            WhimbrelError: it raised that.
        """
        number = next(self._numbers)
        self.tell(number=number, do=do, interface=interface)

        def outcome() -> News | None:
            told = self.news("done") + self.news("failed")
            return next((news for news in told if news["number"] == number), None)

        news = self.wait(outcome, f"{do} of {interface}")
        if news["kind"] == "failed":
            error: type[whimbrel.WhimbrelError] = getattr(whimbrel, news["error"])
            raise error(news["text"])
        result: News = news["result"]
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.end()
            return
        assert self.finish() == 0


@each_face
def test_a_probe_asks_over_the_network_that_is_named(lab: Laboratory, certificates: Certificates, face: str) -> None:
    lab.cellular.join()
    lab.wifi.join()
    with Server(lab, certificates) as server, Explicit(lab, server, face) as client:
        assert client.connected()["path"]["interface"] == "wlan0"
        for interface, least in (("wwan0", 0.040), ("wlan0", 0.010), (None, 0.010)):
            told = client.ask("probe", interface)
            assert told["value"]["interface"] == interface or interface is None
            assert least <= told["value"]["rtt"] < least + 0.5
            assert told["path"]["interface"] == "wlan0"
        with pytest.raises(NoRoute):
            client.ask("probe", "tun7")
        lab.cellular.silence()
        with pytest.raises(NoAnswer, match="wwan0"):
            client.ask("probe", "wwan0")
    assert to_server(lab.cellular.packets) == []  # The connection's own, that is: there never was one.


def test_the_favourite_is_dialled_though_the_kernel_prefers_another(
    lab: Laboratory, certificates: Certificates
) -> None:
    lab.cellular.join()
    lab.wifi.join()
    with (
        Server(lab, certificates) as server,
        Explicit(lab, server, "asyncio", migration={"prefer": ["wwan*"]}) as client,
    ):
        assert client.connected()["path"]["interface"] == "wwan0"
        assert client.ask("migrate", "wlan0")["path"]["interface"] == "wlan0"
        assert client.ask("migrate", None)["path"]["interface"] == "wwan0"


@each_face
def test_a_policy_of_ones_own_moves_where_it_is_told(lab: Laboratory, certificates: Certificates, face: str) -> None:
    lab.cellular.join()
    lab.wifi.join()
    with (
        Server(lab, certificates) as server,
        Explicit(lab, server, face, migration={"policy": True}) as client,
    ):
        assert client.connected()["path"]["interface"] == "wlan0"
        assert client.ask("migrate", "wwan0")["path"]["interface"] == "wwan0"
        assert client.ask("probe", "wlan0")["path"]["interface"] == "wwan0"
    assert lab.linkable(PORT, "to_server") == frozenset()


def begins_over(network: AccessNetwork) -> None:
    """Wait until a first packet is seen there."""
    until = time.monotonic() + SOON
    while not network.packets:
        assert time.monotonic() < until, "nothing leaves"


@each_face
def test_a_handshake_is_tried_over_a_network_that_appears(
    lab: Laboratory, certificates: Certificates, face: str
) -> None:
    lab.cellular.join()
    lab.cellular.silence()
    with Server(lab, certificates) as server, Explicit(lab, server, face) as client:
        begins_over(lab.cellular)
        lab.wifi.join()
        assert client.connected()["path"]["interface"] == "wlan0"
    assert lab.linkable(PORT, "to_server") == frozenset()


@each_face
def test_a_handshake_is_tried_over_what_is_left(lab: Laboratory, certificates: Certificates, face: str) -> None:
    lab.cellular.join()
    lab.wifi.join()
    lab.wifi.silence()
    with Server(lab, certificates) as server, Explicit(lab, server, face) as client:
        begins_over(lab.wifi)
        lab.wifi.down()
        assert client.connected()["path"]["interface"] == "wwan0"
    assert lab.linkable(PORT, "to_server") == frozenset()
