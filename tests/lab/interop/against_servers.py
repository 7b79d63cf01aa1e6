"""Whimbrel as the client: `whimbrel get` downloads from a server while it is taken through a journey."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.interop import servers
from tests.lab.interop.body import Body
from tests.lab.interop.outcome import PATIENCE, RATE, SIZE, Crossed, Failed, Journey, expect
from tests.lab.programs.content import content, sha256
from whimbrel.cli._demo.servers import PORT, Site
from whimbrel.testing import CELLULAR, SCENARIOS, WIFI, Laboratory
from whimbrel.testing import Journey as Travel

if TYPE_CHECKING:
    from whimbrel.testing import Radio

_SCENARIOS: dict[Journey, str] = {"there and back": "hard-cut", "silence": "black-hole", "rebinding": "nat-rebind"}
_MOVES: dict[Journey, list[str]] = {
    "there and back": ["wwan0 → wlan0", "wlan0 → wwan0"],
    "silence": ["wwan0 → wlan0", "wlan0 → wwan0"],
    "rebinding": [],
}


def cross(peer: str, journey: Journey) -> Crossed:
    """Take a download from that server through a journey.

    Raises:
        NotHere: the server is not installed.
        Failed: it did not come whole, or did not move as it should.
    """
    servers.find(peer)
    with tempfile.TemporaryDirectory(prefix="whimbrel-interop-") as name:
        folder = Path(name)
        with Laboratory(wifi=slow(WIFI), cellular=slow(CELLULAR)) as lab:
            site = prepare(folder, lab.server_address)
            servers.start(lab, site, peer)
            return _download(lab, site, journey)


def prepare(folder: Path, address: str) -> Site:
    """Make the file that is downloaded, and certificates for its server."""
    site = Site(folder, address)
    site.prepare()
    with site.file.open("wb") as file:
        file.writelines(content(SIZE))
    return site


def slow(radio: Radio) -> Radio:
    """Return that radio, slow enough for journeys."""
    return dataclasses.replace(radio, rate=RATE)


def _download(lab: Laboratory, site: Site, journey: Journey) -> Crossed:
    pipe, log = site.folder / "arrived", site.folder / "client.log"
    argv = ["-m", "whimbrel", "get", site.url, "--cafile", str(site.cafile), "--output", "-", "--verbose"]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    with Travel(lab, SCENARIOS[_SCENARIOS[journey]]) as travel:
        began = time.monotonic()
        with Body(pipe, SIZE, on_progress=travel.progress) as body, pipe.open("wb") as output, log.open("wb") as errors:
            process = lab.python("cli", argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
            output.close()
            try:
                status = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise Failed(f"no end after {PATIENCE:.0f} s, at {body.received / SIZE:.0%}: {_last(log)}") from None
        seconds = time.monotonic() - began
        is_over = travel.wait(0)
    moves = [f"{move.source} → {move.target}" for move in lab.moves(PORT)]
    linkable = {way: len(lab.linkable(PORT, way)) for way in ("to_server", "to_client")}
    expect(status == 0, f"exit status {status}: {_last(log)}")
    expect(body.sha256 == sha256(SIZE), "what came is not the file")
    expect(is_over, "the download was over before the journey was")
    expect(moves == _MOVES[journey], f"moved {', '.join(moves) or 'nowhere'}")
    expect(not linkable["to_server"], f"{linkable['to_server']} of our connection IDs on both networks")
    return Crossed(moves=moves, linkable=linkable, seconds=seconds)


def _last(log: Path) -> str:
    said = log.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else "it said nothing"
