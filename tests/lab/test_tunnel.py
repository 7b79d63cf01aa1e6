"""Programs that know nothing of QUIC go on while the device changes networks: OpenSSH and git, as Debian has them.

cli: ssh, scp, git ── whimbrel ~~~ 5G / Wi-Fi ~~~ whimbrel serve --tunnel ── sshd, git daemon :srv
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.crossing import MB, PORT
from tests.lab.serving import Output
from tests.lab.tunnelling import SSH_PORT, SshServer, Terminal, TunnelServer, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.testing import Laboratory

pytestmark = [pytest.mark.interop, pytest.mark.timeout(240)]

EXAMPLES = Path(__file__).parents[2] / "examples"
OUTAGE = 60.0
"""Seconds without any network."""


@pytest.fixture
def lab(lab: Laboratory) -> Laboratory:
    """The device is on the cellular network."""
    lab.cellular.join()
    return lab


@pytest.fixture
def server(lab: Laboratory, tmp_path: Path) -> Iterator[TunnelServer]:
    with TunnelServer(lab, tmp_path, "--allow", f"localhost:{SSH_PORT}", "--allow", "127.0.0.1:9418") as server:
        yield server


@pytest.fixture
def sshd(lab: Laboratory, tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(lab, tmp_path) as sshd:
        yield sshd


def pipe(server: TunnelServer) -> str:
    """A ProxyCommand."""
    command = [
        sys.executable,
        "-m",
        "whimbrel",
        "pipe",
        f"%h:{PORT}",
        "--to",
        "localhost:%p",
        "--timeout",
        "60",
        *server.met,
    ]
    return shlex.join(command)


def wait_for(condition: threading.Event, seconds: float) -> None:
    """The length of an outage is a time, and no event."""
    condition.wait(seconds)


def test_a_shell_and_a_copy_outlive_two_networks_and_an_outage(
    lab: Laboratory, server: TunnelServer, sshd: SshServer, tmp_path: Path
) -> None:
    for network in lab.networks:
        network.set(rate=30e6, loss=0)  # The copy is to last until the outage, and not much longer.
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(50 * MB))
    through = pipe(server)
    # As people set it who want to be told; without, it would stay there for hours, dead.
    alive = ["-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"]
    copying = lab.popen("cli", sshd.scp(str(source), f"{lab.server_address}:{copy}", proxy_command=through))
    with (
        Terminal(lab, sshd.ssh("-tt", lab.server_address, "sh", proxy_command=through)) as shell,
        Terminal(lab, sshd.ssh("-tt", *alive, lab.server_address, "sh")) as plain,
    ):
        assert shell.answers(1), shell.shown()
        assert plain.answers(1), plain.shown()
        lab.wifi.join()
        lab.cellular.leave()
        assert shell.answers(2), shell.shown()
        assert copying.poll() is None, "the copy was over before the outage"
        lab.wifi.leave()
        shell.type("echo typed in the dark $((40 + 2))")
        wait_for(threading.Event(), OUTAGE)
        assert copying.poll() is None, "the copy was over before the outage"
        lab.cellular.join()
        began = time.monotonic()
        assert shell.shows("typed in the dark 42"), shell.shown()
        sys.stdout.write(f"the shell answers {time.monotonic() - began:.3f} s after the outage\n")
        assert shell.answers(3), shell.shown()
        assert plain.ends() == 255, plain.shown()
        assert copying.wait(60) == 0
        assert hashlib.sha256(copy.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
        shell.type("exit 5")
        assert shell.ends() == 5
    assert len(server.moves()) >= 4, "two connections, two moves"


def test_ports_lead_through_ssh_both_ways(lab: Laboratory, server: TunnelServer, sshd: SshServer) -> None:
    # srv:7001 ── -R ──▶ cli:7002 ── -L ──▶ sshd in srv, which greets.
    forwarding = ["-L", f"7002:localhost:{SSH_PORT}", "-R", "7001:localhost:7002", "-o", "ExitOnForwardFailure=yes"]
    greet = f"{sys.executable} -c 'import socket; print(socket.create_connection((\"127.0.0.1\", 7001)).recv(99))'"
    argv = sshd.ssh(*forwarding, lab.server_address, greet, proxy_command=pipe(server))
    ssh = lab.popen("cli", argv, stdout=subprocess.PIPE, text=True)
    out, _ = ssh.communicate(timeout=60)
    assert ssh.returncode == 0
    assert "SSH-2.0-OpenSSH" in out
    # A session that has ended leaves nothing behind at the server: the pipe said so when it went.
    assert server.tells("closed")["who"] == "anna"


def repository(tmp_path: Path, size: int) -> Path:
    """So many bytes that do not compress, in some files and commits."""
    git = program("git", "git")
    folder = tmp_path / "repositories" / "made"
    folder.mkdir(parents=True)
    identity = ["-c", "user.name=anna", "-c", "user.email=anna@example.org", "-c", "core.compression=0"]
    run = [git, "-C", str(folder), *identity]
    subprocess.run([*run, "init", "--quiet", "--initial-branch=main"], check=True)
    for number in range(5):
        for part in range(5):
            (folder / f"{number}-{part}").write_bytes(os.urandom(size // 25))
        subprocess.run([*run, "add", "."], check=True)
        subprocess.run([*run, "commit", "--quiet", "-m", f"part {number}"], check=True)
    return folder


def head(repository: Path) -> str:
    """The commit that a repository is at."""
    argv = ["git", "-C", str(repository), "rev-parse", "HEAD"]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_a_clone_over_a_forwarded_port_goes_on_across_a_move(
    lab: Laboratory, server: TunnelServer, tmp_path: Path
) -> None:
    for network in lab.networks:
        network.set(rate=80e6, loss=0)  # What is lost, and how often, would decide how long this takes.
    git, made = program("git", "git"), repository(tmp_path, 100 * MB)
    daemon = [git, "daemon", "--export-all", "--listen=127.0.0.1", f"--base-path={made.parent}", "--verbose"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    serving = Output(lab.popen("srv", daemon, **pipes))
    forward = Output(
        lab.python("cli", ["-m", "whimbrel", "forward", "9418:127.0.0.1:9418", *server.via], **pipes),
    )
    clone = tmp_path / "clone"
    try:
        serving.wait("Ready to rumble")
        forward.wait("^forwarding 127.0.0.1:9418 to 127.0.0.1:9418")
        argv = [git, "clone", "--progress", "git://127.0.0.1/made", str(clone)]
        cloning = Output(lab.popen("cli", argv, **pipes))
        try:
            cloning.wait("Receiving objects: +3[0-9]%", 60)
            lab.wifi.join()
            lab.cellular.leave()
            assert cloning.exits() == 0, cloning.lines
        finally:
            cloning.end()
    finally:
        forward.end()
        serving.end()
    assert head(clone) == head(made)
    subprocess.run([git, "-C", str(clone), "fsck", "--full"], check=True, stderr=subprocess.DEVNULL)
    closed = server.tells("closed")
    assert (closed["end"], closed["bytes_from_target"] > 100 * MB) == ("complete", True)
    assert len(server.moves()) == 1


def test_the_examples_run(lab: Laboratory, server: TunnelServer, sshd: SshServer, tmp_path: Path) -> None:
    made = repository(tmp_path, MB)
    config = tmp_path / "whimbrel"
    config.mkdir(exist_ok=True)
    (config / "token").write_text(server.token_file.read_text())
    (config / "token").chmod(0o600)
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(tmp_path),
        "SSL_CERT_FILE": server.certificate,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SSH_OPTIONS": shlex.join(sshd.options()),
    }

    def run(example: str, *arguments: str) -> str:
        argv = [str(EXAMPLES / example), *arguments]
        process = lab.popen("cli", argv, env=environment, stdout=subprocess.PIPE, text=True)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        return str(out)

    options = [*sshd.options(), "-p", str(SSH_PORT)]
    assert run("tunnel_ssh.sh", *options, lab.server_address, "echo hello").endswith("hello\n")
    clone = tmp_path / "clone"
    run("tunnel_git_clone.sh", f"ssh://{lab.server_address}:{SSH_PORT}{made}", str(clone))
    assert head(clone) == head(made)
