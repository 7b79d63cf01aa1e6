"""What `peers.py` runs: cells, each one thing measured of one program. See `measures.py` for what comes of them."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import harness
from harness import Failed, Figures
from measures import BARE, FLOOR, OURS
from programs import _kinds
from programs._files import DATAGRAM, Files
from programs._work import SMALL, STREAMS

GROUPS = ("bulk", "mtu", "ping", "streams", "handshakes", "memory", "idle", "moves", "web")
JUMBO = 8952
"""UDP payload of an Ethernet that carries 9000 bytes, and IPv6."""
MOVES = {"no move": 0, "two moves": 2}
MOVED = 75_000_000
"""Bytes of a transfer in the laboratory: six seconds."""
JUMBO_PEERS = ("quinn", "noq", "s2n-quic")
"""Those whose path MTU discovery can be told to go so far; that of ours and of quic-go ends at 1452."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing measured of one program."""

    measure: str
    title: str
    """The program's, with what is special."""
    run: Callable[[], Figures]


def plan(args: argparse.Namespace, files: Files, stack: contextlib.ExitStack) -> Sequence[Cell]:
    """Return the cells of a round, in their order; say what is left out."""
    there = [kind for kind in _kinds.KINDS if _is_here(kind, args.without)]
    kinds = [kind for kind in there if not kind.is_web]
    cells: list[Cell] = []

    def add(measure: str, kind: _kinds.Kind, count: int, datagram: int = DATAGRAM) -> None:
        options: dict[str, Any] = {"datagram": datagram} if kind.native is not None else {}
        taking = {"early_data": True} if measure == "early" and kind.name.startswith("whimbrel") else {}
        what = measure.partition(",")[0]
        cells.append(Cell(measure, kind.name, partial(work, kind.name, files, what, count, options, taking)))

    bare = None if BARE in args.without else harness.obstacle("bare")
    if bare is not None:
        print(f"{BARE} is left out: {bare}", file=sys.stderr)

    def add_bare(measure: str, count: int, **options: int) -> None:
        if bare is None and BARE not in args.without:
            what = "requests" if measure == "streams" else measure
            cells.append(Cell(measure, BARE, partial(bare_loop, files, what, count, options)))

    for measure in ("download", "upload") if "bulk" in args.only else ():
        for kind in kinds:
            add(measure, kind, _megabytes(args, kind))
        add_bare(measure, args.size * 1_000_000)
    if "mtu" in args.only:
        for kind in kinds:
            if kind.name == OURS or kind.name in JUMBO_PEERS:
                add("download, MTU", kind, _megabytes(args, kind), JUMBO)
    for kind in kinds if "ping" in args.only else ():
        add("ping", kind, args.pings)
    if "ping" in args.only:
        add_bare("ping", args.pings)
    for kind in kinds if "streams" in args.only else ():
        if 0 < kind.streams < STREAMS:
            print(f"{kind.name} is left out of streams: it has no more than {kind.streams} at once", file=sys.stderr)
        else:
            add("streams", kind, args.requests // (1 if kind.is_fast else 10))
    if "streams" in args.only:
        add_bare("streams", args.requests, width=STREAMS, size=SMALL)
    for measure in ("handshakes", "first", "resumed", "early") if "handshakes" in args.only else ():
        for kind in kinds:
            if kind.resumes or measure not in ("resumed", "early"):
                add(measure, kind, args.handshakes)
    if {"memory", "idle"} & set(args.only):
        cells += _standing_cells(args, files, kinds)
    if "moves" in args.only and (kind := next((kind for kind in kinds if kind.name == OURS), None)):
        cells += [Cell(name, kind.name, partial(moving, files, number)) for name, number in MOVES.items()]
    if "web" in args.only and (web := [kind for kind in there if kind.is_web]):
        cells += _web_cells(args, files, web, stack)
    return cells


def _web_cells(
    args: argparse.Namespace, files: Files, kinds: Sequence[_kinds.Kind], stack: contextlib.ExitStack
) -> Sequence[Cell]:
    """Clients of one server, which is somebody else's."""
    caddy = stack.enter_context(harness.caddy(files, {1, SMALL, *[_megabytes(args, kind) for kind in kinds]}))

    def cell(measure: str, kind: _kinds.Kind, what: str, count: int) -> Cell:
        return Cell(measure, kind.name, partial(of_caddy, kind, files, caddy, what, count))

    downloads = [cell("web", kind, "download", _megabytes(args, kind)) for kind in kinds if kind.loop == "asyncio"]
    side_by_side = [kind for kind in kinds if kind.streams >= STREAMS]
    return downloads + [cell("requests", kind, "streams", args.requests // 4) for kind in side_by_side]


def _is_here(kind: _kinds.Kind, without: Sequence[str]) -> bool:
    if kind.name in without:
        return False
    missing = harness.missing(kind.name)
    if missing is not None:
        print(f"{kind.name} is left out: {missing}", file=sys.stderr)
    return missing is None


def _megabytes(args: argparse.Namespace, kind: _kinds.Kind) -> int:
    return int(args.size if kind.is_fast else args.slow_size) * 1_000_000


def _standing_cells(args: argparse.Namespace, files: Files, kinds: Sequence[_kinds.Kind]) -> Sequence[Cell]:
    """Servers of the same clients, the engine alone among them."""
    reason = harness.build_native()
    if reason is not None:
        print(f"memory and idle are left out, as their clients cannot be built: {reason}", file=sys.stderr)
        return []
    cells = []
    if "memory" in args.only:
        cells.append(Cell("memory", FLOOR, partial(memory_of_floor, files, args.connections)))
        for kind in kinds:
            run = partial(memory, kind, files, args.connections)
            if kind.name == OURS:
                ways = ("wildcard", "connected")
                cells += [Cell("memory", f"{OURS}, {way}", partial(run, sockets=way)) for way in ways]
            # Not of those that block: a thread for each connection, whose stack is what would be measured.
            elif kind.loop == "asyncio":
                cells.append(Cell("memory", kind.name, run))
    if "idle" in args.only:
        cells.append(Cell("idle", FLOOR, partial(idle_floor, files, args.many)))
        cells += [Cell("idle", OURS, partial(idle, kind, files, args.many)) for kind in kinds if kind.name == OURS]
    return cells


# Work -----------------------------------------------------------------------------------------------------------------


def work(
    kind: str, files: Files, what: str, count: int, options: dict[str, Any], taking: dict[str, Any] | None = None
) -> Figures:
    """One server, one client; `options` are for both, `taking` for the server."""
    with harness.server(kind, files, **options, **taking or {}) as server:
        before = server.usage()
        run = _asked(harness.client(kind, files, server.port, what, count, **options))
        after = server.usage()
    return run | {"count": count, "server_cpu": _used(before, after)}


def bare_loop(files: Files, what: str, count: int, options: dict[str, int]) -> Figures:
    """A loop over the engine with the settings of ours, and nothing else."""
    with harness.bare_server(files) as server:
        before = server.usage()
        run = _asked(harness.bare_client(files, server.port, what, count, **options))
        after = server.usage()
    return run | {"count": count, "server_cpu": _used(before, after)}


def of_caddy(kind: _kinds.Kind, files: Files, caddy: tuple[int, int], what: str, count: int) -> Figures:
    """One client, and a server that is there already."""
    port, process = caddy
    before = harness.processor_times(process)
    run = _asked(harness.client(kind.name, files, port, what, count))
    used = _used(before, harness.processor_times(process))
    return run | {"count": count, "server_cpu": used, "standing": used}


def moving(files: Files, moves: int) -> Figures:
    """A transfer in the laboratory."""
    run = _asked(harness.moves(files, MOVED, moves))
    if run["moves"] != moves:
        raise Failed(f"the connection moved {run['moves']} times, not {moves}")
    return run | {"count": MOVED}


def _asked(process: harness.Process) -> Figures:
    """Wait for what a client has to say."""
    try:
        return process.hear()
    finally:
        process.end()


def _used(before: Figures, after: Figures) -> float:
    return sum(after[name] - before[name] for name in ("user", "system"))


# Connections that stand -----------------------------------------------------------------------------------------------

WARM_UP = 10
"""Connections after which all code of a server has run once."""
WIDTH = 16
"""Handshakes at once."""
LOOK = 20.0
"""Seconds for which idle connections are watched."""

Connect = Callable[[int], object]


def memory(kind: _kinds.Kind, files: Files, count: int, **options: Any) -> Figures:
    """What a server's resident memory grows by with so many connections that do nothing."""
    if kind.native is not None:
        options = {"datagram": DATAGRAM}
    with harness.server(kind.name, files, **options) as server, _clients(kind, files, server.port) as connect:
        return _growth(server, connect, count)


def memory_of_floor(files: Files, count: int) -> Figures:
    with harness.floor(files) as server, _clients(None, files, server.port) as connect:
        return _growth(server, connect, count)


def _growth(server: harness.Server, connect: Connect, count: int) -> Figures:
    connect(WARM_UP)
    server.wait_for(WARM_UP)
    before = server.settle()
    connect(count)
    server.wait_for(WARM_UP + count)
    return {"count": count, "memory": server.settle()["memory"] - before["memory"]}


def idle(kind: _kinds.Kind, files: Files, count: int) -> Figures:
    """What so many connections cost a server that does nothing."""
    with harness.server(kind.name, files) as server, _clients(kind, files, server.port) as connect:
        return _rest(server, connect, count)


def idle_floor(files: Files, count: int) -> Figures:
    with harness.floor(files) as server, _clients(None, files, server.port) as connect:
        return _rest(server, connect, count)


def _rest(server: harness.Server, connect: Connect, count: int) -> Figures:
    connect(count)
    server.wait_for(count)
    server.settle()
    began, before = time.perf_counter(), harness.processor_times(server.pid)
    time.sleep(LOOK)
    used = _used(before, harness.processor_times(server.pid))
    seconds = time.perf_counter() - began
    if server.usage()["accepted"] < count:
        raise Failed("connections were lost while they did nothing")
    return {"count": count, "seconds": seconds, "server_cpu": used}


@contextlib.contextmanager
def _clients(kind: _kinds.Kind | None, files: Files, port: int) -> Iterator[Connect]:
    """Return a function that opens so many connections more, all from processes that are not the server's."""
    with contextlib.ExitStack() as stack:
        if kind is None or kind.crowd:
            crowd = stack.enter_context(harness.crowd(files, port))
            yield lambda count: crowd.ask(f"connect {count} {WIDTH}")
            return

        def connect(count: int) -> None:
            process = harness.client(kind.name, files, port, "idle", count)
            stack.callback(process.end)
            process.hear()

        yield connect
