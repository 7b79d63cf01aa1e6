"""Whimbrel as the server: a client of others downloads from `whimbrel serve` and is taken through a journey."""

from __future__ import annotations

import contextlib
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pyroute2 import IPRoute  # type: ignore[import-untyped]

from tests.lab.crossing import PORT
from tests.lab.interop import clients
from tests.lab.interop.against_servers import slow
from tests.lab.interop.outcome import SIZE, Crossed, Journey, expect
from tests.lab.serving import Site, downloaded, has_a_middle, route_by_source
from whimbrel.testing import CELLULAR, WIFI, Laboratory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.crossing import Dispatch

_THERE, _BACK = "wwan0 → wlan0", "wlan0 → wwan0"
_FIRST, _SECOND = 0.25, 0.6
"""Parts of the download at which something happens."""
_BEGUN = 0.02
"""The same for gtlsclient, whose own clock says when it changes its address: well before that."""
_BUSY = ("--max-data=64K", "--max-stream-data-bidi-local=64K", "--max-window=0", "--max-stream-window=0")
"""Has gtlsclient always have news of its windows under way, which it repeats from its new port. What only receives and
acknowledges has nothing to repeat, and waits for ever for packets that go to the old one. So does what a lost packet
keeps from reading on."""


def cross(peer: str, journey: Journey, dispatch: Dispatch) -> Crossed:
    """Take that client's download through a journey.

    Raises:
        NotHere: the client is not installed.
        Failed: it did not come whole, or our server did not see it move as it should.
    """
    match peer, journey:
        case "gtlsclient", "there and back":
            there, back = _gtlsclient_there(dispatch), _gtlsclient_back(dispatch)
            linkable = {way: there.linkable[way] + back.linkable[way] for way in there.linkable}
            return Crossed(moves=there.moves + back.moves, linkable=linkable, seconds=there.seconds + back.seconds)
        case "gtlsclient", "rebinding":
            return _gtlsclient_rebound(dispatch)
        case _, "rebinding":
            return _rebound(peer, dispatch)
        case _:
            return _moved_by_hand(peer, journey, dispatch)


def _moved_by_hand(peer: str, journey: Journey, dispatch: Dispatch) -> Crossed:
    with _place(dispatch) as (lab, site, folder):
        began = time.monotonic()
        with clients.start(lab, site, folder, peer, lab.cellular.address) as client:
            client.reaches(_FIRST)
            lab.wifi.join()
            client.move(lab.wifi.address)
            client.reaches(_SECOND)
            if journey == "silence":
                lab.wifi.silence()
            else:
                lab.wifi.down()
            client.move(lab.cellular.address)
            digest = client.finish()
        return _judge(lab, site, digest, [_THERE, _BACK], began)


def _rebound(peer: str, dispatch: Dispatch) -> Crossed:
    parts = (_FIRST,) if peer == "chromium" else (_FIRST, _SECOND)  # A page tells only once how much has come.
    with _place(dispatch) as (lab, site, folder):
        began = time.monotonic()
        with clients.start(lab, site, folder, peer, lab.cellular.address) as client:
            for part in parts:
                client.reaches(part)
                lab.cellular.rebind()
            digest = client.finish()
        return _judge_rebound(lab, site, digest, len(parts), began)


def _gtlsclient_there(dispatch: Dispatch) -> Crossed:
    with _place(dispatch) as (lab, site, folder):
        began = time.monotonic()
        with clients.start(lab, site, folder, "gtlsclient", "", "--change-local-addr=1500ms") as client:
            client.reaches(_BEGUN)
            lab.wifi.join()
            digest = client.finish()
        return _judge(lab, site, digest, [_THERE], began)


def _gtlsclient_back(dispatch: Dispatch) -> Crossed:
    with _place(dispatch) as (lab, site, folder):
        lab.wifi.join()
        began = time.monotonic()
        with clients.start(lab, site, folder, "gtlsclient", "", "--change-local-addr=1500ms") as client:
            client.reaches(_BEGUN)
            # Not a cut: it sends nothing when it changes its address, but when something comes that it answers.
            _prefer_cellular(lab)
            digest = client.finish()
        return _judge(lab, site, digest, [_BACK], began)


def _prefer_cellular(lab: Laboratory) -> None:
    """Have Wi-Fi carry only what bears its address from now on, as systems do that find no Internet behind it."""
    route_by_source(lab, lab.wifi, table=101)
    with lab.enter("cli"), IPRoute() as kernel:
        (index,) = kernel.link_lookup(ifname=lab.wifi.interface)
        kernel.route("del", dst="0.0.0.0/0", oif=index)


def _gtlsclient_rebound(dispatch: Dispatch) -> Crossed:
    with _place(dispatch) as (lab, site, folder):
        lab.cellular.set(loss=0)
        began = time.monotonic()
        options = ("--change-local-addr=1s", "--nat-rebinding", *_BUSY)
        with clients.start(lab, site, folder, "gtlsclient", "", *options) as client:
            digest = client.finish()
        return _judge_rebound(lab, site, digest, 1, began)


@contextlib.contextmanager
def _place(dispatch: Dispatch) -> Iterator[tuple[Laboratory, Site, Path]]:
    with tempfile.TemporaryDirectory(prefix="whimbrel-interop-") as name:
        folder = Path(name)
        with Laboratory(wifi=slow(WIFI), cellular=slow(CELLULAR)) as lab, Site(lab, folder, dispatch, SIZE) as site:
            mine = folder / "client"
            mine.mkdir()
            lab.cellular.join()
            route_by_source(lab)
            yield lab, site, mine


def _judge(lab: Laboratory, site: Site, digest: str, went: list[str], began: float) -> Crossed:
    """Hold a journey to what it should be: the device's addresses that the file came to, in order."""
    seconds = time.monotonic() - began
    parts = downloaded(lab)
    named = {network.address: network.interface for network in lab.networks}
    moves = [f"{named[before]} → {named[now]}" for (before, _), (now, _) in pairwise(parts)]
    linkable = {way: len(lab.linkable(PORT, way)) for way in ("to_server", "to_client")}
    expect(digest == site.sha256, "what came is not the file")
    expect(moves == went, f"moved {', '.join(moves) or 'nowhere'}")
    expect(has_a_middle(parts, len(went) + 1), f"its sockets got {', '.join(map(str, parts.values()))} bytes")
    return Crossed(moves=moves, linkable=linkable, seconds=seconds)


def _judge_rebound(lab: Laboratory, site: Site, digest: str, count: int, began: float) -> Crossed:
    """Hold it to having been rebound so often, as our server says, and to no move."""
    seconds = time.monotonic() - began
    told = [move.reason for move in site.moves]
    expect(digest == site.sha256, "what came is not the file")
    # A client that has to wait for the processor may answer a challenge late: then our server goes back, and on again.
    expect(told.count("rebinding") >= count, f"the server saw {', '.join(told) or 'no change'}")
    expect("peer" not in told, f"the server saw {', '.join(told)}")
    return Crossed(moves=[], linkable={"to_server": 0, "to_client": 0}, seconds=seconds)
