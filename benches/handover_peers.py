"""Handover gaps of clients that are told to move, beside ours, which nobody tells: the same server, radios and changes.

Run: python benches/handover_peers.py [--runs 20] [--scenario overlap ...] [--client quic-go ...] [--json runs.jsonl].
Root or user namespaces are needed, gtlsclient (Debian: ngtcp2-client) and Go. Clients take turns within each run. Every
client saves what it downloads into a pipe, and the reader of the pipe says when what came: `whimbrel.testing.find_gap`.

quic-go's Probe and Switch are called as soon as the change is made: the best that a program could do that heard of it
at once. gtlsclient changes its address by its own clock (--change-local-addr), so there it is the change that is timed:
some milliseconds before. "moved" says when a client's first packet left over the new network, seen from the change.

The gap is the longest that begins within 1.5 s of the change. "At the move" is the longest that begins within two round
trips of the move. Later ones come from packets lost in the server's slow start: they are the longer the more of a queue
it fills, and tell how fast it sends (Mbit/s) as much as how well a client moves.

Exit status: 1, a transfer of ours failed or our median is over the best of theirs; 2, there is nothing to tell.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))  # The peers and servers are those of the tests.

from handover_gap import busy_share, number, percentile
from tests.lab.interop import peers, servers
from tests.lab.interop.body import Body
from tests.lab.programs.content import content
from tests.lab.serving import route_by_source
from whimbrel.cli._demo.servers import PORT, ServerFailed, ServerMissing, Site
from whimbrel.testing import Laboratory, LaboratoryUnavailable, find_gap, prepare, resumption
from whimbrel.testing._capture import is_negotiation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from whimbrel.testing import AccessNetwork, Packet, Sample

Scenario = Literal["overlap", "hard-cut", "black-hole", "outage"]
Client = Literal["whimbrel", "gtlsclient", "quic-go"]
SCENARIOS: tuple[Scenario, ...] = ("overlap", "hard-cut", "black-hole", "outage")
CLIENTS: tuple[Client, ...] = ("whimbrel", "gtlsclient", "quic-go")
IMPOSSIBLE: dict[tuple[Scenario, Client], str] = {
    ("black-hole", "gtlsclient"): "it takes the address that the kernel prefers, that of the silent network",
    ("outage", "gtlsclient"): "it ends when the kernel has no route (sendmsg: Network is unreachable)",
}
SIZE = 100_000_000
"""More than comes in the time that a run takes: what has come is compared with the beginning of the file."""
WARM_UP = 1.0
"""Seconds from the handshake to the change."""
WINDOW = 1.5
"""Seconds from the change within which a gap may begin: a run ends with the first bytes that come later."""
OUTAGE = 3.0
LEAD: dict[Scenario, float] = {"overlap": 0.040, "hard-cut": 0.012}
"""Seconds that the change comes before gtlsclient's clock: what the kernel needs for it. Until Wi-Fi is gone it would
choose Wi-Fi again; when Wi-Fi appears, earlier costs nothing."""
_BUSY = ("--max-data=64K", "--max-stream-data-bidi-local=64K", "--max-window=0", "--max-stream-window=0")
"""Has gtlsclient always have something under way that it repeats: after a cut it sends nothing otherwise."""
_PATIENCE = 10.0
_ATTEMPTS = 3
_USAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One change, and what it cost."""

    number: int
    scenario: Scenario
    client: Client
    equal: bool
    """What came is the beginning of the file."""
    gap_ms: float | None
    """None: for good. After an outage: from the network's return to the first new bytes."""
    began_ms: float | None
    """When that gap began, seen from the change."""
    at_move_ms: float | None
    """The same of gaps that begin within two round trips after the first packet over the new network."""
    mbit: float
    """Megabits per second, from a fifth of a second after the change."""
    moved_ms: float | None
    """From the change to the first packet over the new network. None: there was none."""
    said: str
    """The client's last words, where something is wrong."""
    load: float
    """Part of all processors that was busy just before."""


def main() -> int:
    args = _arguments()
    try:
        prepare()
    except (LaboratoryUnavailable, ModuleNotFoundError) as error:
        print(f"handover_peers: no laboratory here: {error}", file=sys.stderr)
        return _USAGE
    try:
        servers.find(args.server)
        clients = list(_here(args.client or CLIENTS))
    except peers.NotHere as error:
        print(f"handover_peers: {args.server} is not here: {error}", file=sys.stderr)
        return _USAGE
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="whimbrel-bench-") as folder, contextlib.suppress(KeyboardInterrupt):
        site = Site(Path(folder), "192.0.2.80")
        site.prepare()
        with site.file.open("wb") as file:
            file.writelines(content(SIZE))
        for number_ in range(1, args.runs + 1):
            for scenario in args.scenario or SCENARIOS[:2]:
                for client in clients:
                    if (scenario, client) in IMPOSSIBLE:
                        continue
                    run = _timed(number_, scenario, client, site, args.server)
                    runs.append(run)
                    _report(run, args.json)
    return _tell(runs, args.server) if runs else _USAGE


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure handover gaps of clients that are told to move, beside ours.")
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="of each scenario (default: 20)")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, help="may be repeated (default: overlap, hard-cut)"
    )
    parser.add_argument("--client", action="append", choices=CLIENTS, help="may be repeated (default: all)")
    parser.add_argument("--server", choices=sorted(servers.NAMES), default="caddy")
    parser.add_argument("--json", metavar="FILE", help="append each run as a line of JSON")
    return parser.parse_args()


def _here(wanted: Sequence[Client]) -> Iterator[Client]:
    """Return those that are installed, and say which are not."""
    find: dict[str, Callable[[], str]] = {"gtlsclient": peers.gtlsclient, "quic-go": peers.quic_go}
    for client in wanted:
        try:
            find.get(client, str)()
        except peers.NotHere as error:
            print(f"handover_peers: {client} is not here: {error}", file=sys.stderr)
            continue
        yield client


def _timed(number_: int, scenario: Scenario, client: Client, site: Site, server: str) -> Run:
    """Do it once; anew where gtlsclient stayed where it was: its clock was ahead, or it had nothing to repeat."""
    run = _once(number_, scenario, client, site, server)
    for _ in range(_ATTEMPTS - 1):
        if client != "gtlsclient" or run.moved_ms is not None:
            break
        print(f"{number_:3} {scenario:<10} {client:<10} sent nothing over the new network: once more", file=sys.stderr)
        run = _once(number_, scenario, client, site, server)
    return run


def _once(number_: int, scenario: Scenario, client: Client, site: Site, server: str) -> Run:
    busy = busy_share(0.25)
    with tempfile.TemporaryDirectory(prefix="whimbrel-bench-") as name, Laboratory() as lab:
        folder = Path(name)
        lab.cellular.join()
        route_by_source(lab)
        if scenario in ("hard-cut", "black-hole"):
            lab.wifi.join()
        servers.start(lab, site, server)
        source = lab.wifi.address if scenario in ("hard-cut", "black-hole") else lab.cellular.address
        with Body(folder / site.file.name, SIZE) as body, (folder / "client.log").open("w+b") as log:
            process = _start(lab, site, client, scenario, source, body.path, log)
            try:
                change, new = _change(lab, scenario, client, process, body)
                body.comes_after(change + WINDOW, _PATIENCE)
            finally:
                process.kill()
                process.wait()
                if process.stdin is not None:
                    process.stdin.close()
        log_text = (folder / "client.log").read_text(errors="replace").strip().splitlines()
        moved = _first_packet(new, change)
    gap = find_gap(body.samples, change, window=WINDOW)
    measured = resumption(body.samples, change) if scenario == "outage" else gap.seconds
    # What is lost later, in a slow start that fills the new network's queue, the move is not to blame for.
    late = WINDOW if moved is None else min(WINDOW, moved + 2 * new.radio.rtt)
    at_move = measured if scenario == "outage" else find_gap(body.samples, change, window=late).seconds
    equal = body.sha256 == _sha256(site.file, body.received)
    is_well = equal and math.isfinite(measured)
    return Run(
        number=number_,
        scenario=scenario,
        client=client,
        equal=equal,
        gap_ms=round(1000 * measured, 1) if math.isfinite(measured) else None,
        began_ms=None if scenario == "outage" else round(1000 * (gap.begin - change), 1),
        at_move_ms=round(1000 * at_move, 1) if math.isfinite(at_move) else None,
        mbit=round(_rate(body.samples, change + 0.2, change + WINDOW) / 1e6, 1),
        moved_ms=None if moved is None else round(1000 * moved, 1),
        said="" if is_well or not log_text else log_text[-1],
        load=round(busy, 2),
    )


def _start(
    lab: Laboratory, site: Site, client: Client, scenario: Scenario, source: str, pipe: Path, log: IO[bytes]
) -> subprocess.Popen[Any]:
    if client == "whimbrel":
        argv = [sys.executable, "-P", "-m", "whimbrel", "get", site.url, "--cafile", str(site.cafile)]
        with pipe.open("wb") as output:
            return lab.popen("cli", [*argv, "--quiet", "--output", "-"], stdout=output, stderr=log)
    if client == "gtlsclient":
        options = ["--quiet", "--exit-on-all-streams-close", f"--download={pipe.parent}"]
        options += [f"--change-local-addr={WARM_UP:g}s", *(_BUSY if scenario == "hard-cut" else ())]
        argv = [peers.gtlsclient(), *options, site.address, str(PORT), site.url]
    else:
        argv = [peers.quic_go(), "client", f"https://{site.address}:{PORT}/{site.file.name}"]
        argv += [str(site.cafile), str(pipe), source]
    return lab.popen("cli", argv, bufsize=0, stdin=subprocess.PIPE, stdout=log, stderr=log)


def _change(
    lab: Laboratory, scenario: Scenario, client: Client, process: subprocess.Popen[Any], body: Body
) -> tuple[float, AccessNetwork]:
    """Change the networks, and tell the client of it, if it is to be told. Return when, and which network is left."""
    if not body.reaches(1 / SIZE, _PATIENCE):
        raise ServerFailed(f"{client} got nothing")
    new = lab.cellular if scenario in ("hard-cut", "black-hole") else lab.wifi
    old = lab.wifi if new is lab.cellular else lab.cellular
    # The first bytes come when the handshake is confirmed, or a little later: from then gtlsclient's clock counts.
    lead = LEAD.get(scenario, 0.0) if client == "gtlsclient" else 0.0
    time.sleep(max(0.0, body.samples[0][0] + WARM_UP - lead - time.monotonic()))
    if scenario == "outage":
        old.down()
        time.sleep(OUTAGE)
    change = time.monotonic()
    match scenario:
        case "overlap" | "outage":
            new.join()
        case "hard-cut":
            old.down()
        case "black-hole":
            old.silence()
    if client == "quic-go" and process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(new.address.encode() + b"\n")
    return change, new


def _first_packet(network: AccessNetwork, change: float) -> float | None:
    """Return how long after the change a client first sent from that network's own address."""

    def counts(packet: Packet) -> bool:
        return packet.time > change and packet.source[0] == network.address and not is_negotiation(packet)

    return next((packet.time - change for packet in network.packets if counts(packet)), None)


def _rate(samples: Iterable[Sample], begin: float, end: float) -> float:
    """Return the bits per second that came."""
    return 8 * sum(count for at, count in samples if begin <= at <= end) / (end - begin)


def _sha256(file: Path, size: int) -> str:
    """The hash of the first bytes of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while size > 0 and (piece := opened.read(min(size, 1 << 20))):
            digest.update(piece)
            size -= len(piece)
    return digest.hexdigest()


def _report(run: Run, name: str | None) -> None:
    gap = number(math.inf if run.gap_ms is None else run.gap_ms)
    words = [f"{run.number:3} {run.scenario:<10} {run.client:<10} gap {gap} ms, moved {run.moved_ms} ms"]
    words += [] if run.equal else ["NOT EQUAL"]
    words += [run.said] if run.said else []
    print("; ".join([*words, f"busy {run.load:.0%} before"]), file=sys.stderr, flush=True)
    if name is not None:
        with Path(name).open("a") as file:
            file.write(json.dumps(asdict(run)) + "\n")


def _tell(runs: list[Run], server: str) -> int:
    """Print the table and the verdict; return the exit status."""
    versions = {client: peers.version(client) for client in dict.fromkeys(run.client for run in runs)}
    print(f"milliseconds; {server} {peers.version(server)} serves; {os.cpu_count()} processors")
    rows: list[tuple[str, ...]] = [
        ("scenario", "client", "runs", "equal", "went on", "moved", "at the move", "p99", "p50", "p99", "max", "Mbit/s")
    ]
    medians: dict[Scenario, dict[Client, float]] = defaultdict(dict)
    failed = False
    groups: dict[tuple[Scenario, Client], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.scenario, run.client].append(run)
    for (scenario, client), group in sorted(groups.items(), key=lambda item: SCENARIOS.index(item[0][0])):
        gaps = [math.inf if run.gap_ms is None else run.gap_ms for run in group]
        moved = [math.inf if run.moved_ms is None else run.moved_ms for run in group]
        equal, went_on = sum(run.equal for run in group), sum(map(math.isfinite, gaps))
        medians[scenario][client] = percentile(gaps, 50)
        failed |= client == "whimbrel" and min(equal, went_on) < len(group)
        at_move = [math.inf if run.at_move_ms is None else run.at_move_ms for run in group]
        figures = [percentile(moved, 50), percentile(at_move, 50), percentile(at_move, 99)]
        figures += [percentile(gaps, 50), percentile(gaps, 99), max(gaps), percentile([run.mbit for run in group], 50)]
        counts = [str(len(group)), f"{equal}/{len(group)}", f"{went_on}/{len(group)}"]
        rows.append((scenario, f"{client} {versions[client]}", *counts, *map(number, figures)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    for (scenario, client), why in IMPOSSIBLE.items():
        if scenario in medians and client in versions:
            print(f"{scenario}, {client}: not possible: {why}")
    for scenario, by_client in medians.items():
        theirs = [value for client, value in by_client.items() if client != "whimbrel"]
        if "whimbrel" not in by_client or not theirs:
            continue
        ours, best = by_client["whimbrel"], min(theirs)
        print(f"{scenario}: our median {number(ours)} ms, the best of theirs {number(best)} ms")
        # Nobody can tell a client of a silent network: the comparison is with what could be, if somebody did.
        failed |= scenario != "black-hole" and ours > best
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ServerFailed, ServerMissing, OSError) as failure:
        print(f"handover_peers: {failure}", file=sys.stderr)
        sys.exit(_USAGE)
