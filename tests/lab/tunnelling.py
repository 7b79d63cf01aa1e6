"""`whimbrel serve --tunnel` in a laboratory, and OpenSSH through it, unmodified.

cli: ssh ── whimbrel pipe ~~~ the two networks ~~~ whimbrel serve --tunnel ── sshd :srv
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.lab.crossing import PORT, SOON
from tests.lab.serving import Output

if TYPE_CHECKING:
    from whimbrel.testing import Laboratory

SSH_PORT = 2222

News = dict[str, Any]


def program(name: str, package: str) -> str:
    """Where a program is; the test is skipped without it."""
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


class TunnelServer:
    """A running ``whimbrel serve --tunnel``, and a token that it lets in."""

    def __init__(self, lab: Laboratory, folder: Path, *options: str) -> None:
        self._folder = folder
        self._environment = {**os.environ, "XDG_STATE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self.host = lab.server_address
        self.token_file = folder / "token"
        keygen = [sys.executable, "-m", "whimbrel", "keygen", "--token-file", str(self.token_file), "--name", "anna"]
        subprocess.run(keygen, check=True, stdout=subprocess.DEVNULL)
        argv = ["-m", "whimbrel", "serve", "--tunnel", "--token-file", str(self.token_file), "--host", self.host, "-v"]
        self._output = Output(
            lab.python(
                "srv",
                [*argv, *options],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        self.certificate = self._output.wait(r"^certificate (.+)")[1]
        self._output.wait(r"^try: ")

    @property
    def met(self) -> list[str]:
        """The options of a client that is let in."""
        return ["--cafile", self.certificate, "--token-file", str(self.token_file)]

    @property
    def via(self) -> list[str]:
        """The same for commands that go ``--via`` it."""
        return ["--via", f"{self.host}:{PORT}", *self.met]

    def audited(self, event: str) -> list[News]:
        """The lines of the audit log about one kind of event."""
        lines = [json.loads(line) for line in self._output.lines if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def tells(self, event: str) -> News:
        """Wait for a line of the audit log, and return it."""
        self._output.wait(f'"event": "{event}"')
        return self.audited(event)[0]

    def moves(self) -> list[str]:
        """What it said of its clients' moves."""
        return [line for line in self._output.lines if re.search(r" moved to ", line)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._output.end()


class SshServer:
    """Debian's sshd, on a port of its own, with keys of its own."""

    def __init__(self, lab: Laboratory, folder: Path) -> None:
        sshd, keygen = program("sshd", "openssh-server"), program("ssh-keygen", "openssh-client")
        self._ssh, self._scp = program("ssh", "openssh-client"), program("scp", "openssh-client")
        self._folder = folder
        for name in ("host", "user"):
            subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "known").write_text(f"* {(folder / 'host.pub').read_text()}")
        config = {
            "Port": SSH_PORT,
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "authorized",
            "PidFile": "none",
            "UsePAM": "no",
            "StrictModes": "no",
            "PasswordAuthentication": "no",
            "PrintMotd": "no",
            "PrintLastLog": "no",
            "Subsystem": "sftp internal-sftp",
        }
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in config.items()))
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # noqa: PTH103
        argv = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self._process = lab.popen("srv", argv, stdin=subprocess.DEVNULL, **pipes)
        self._output = Output(self._process)
        self._output.wait("Server listening on 0.0.0.0")

    def options(self, proxy_command: str = "") -> list[str]:
        """What a client needs to know, as ssh and scp take it."""
        options = ["-F", "none", "-i", str(self._folder / "user"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        options += ["-o", f"UserKnownHostsFile={self._folder / 'known'}", "-o", "HostKeyAlgorithms=ssh-ed25519"]
        return [*options, "-o", f"ProxyCommand={proxy_command}"] if proxy_command else options

    def ssh(self, *arguments: str, proxy_command: str = "") -> list[str]:
        """A command line of ssh."""
        return [self._ssh, "-p", str(SSH_PORT), *self.options(proxy_command), *arguments]

    def scp(self, *arguments: str, proxy_command: str = "") -> list[str]:
        """A command line of scp."""
        return [self._scp, "-q", "-P", str(SSH_PORT), *self.options(proxy_command), *arguments]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Sessions that a failed test has left outlive the server, and hold its output open.
        pid = self._process.pid
        for session in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(session), signal.SIGTERM)
        self._output.end()


class Terminal:
    """A program in a terminal, and somebody who types and reads."""

    def __init__(self, lab: Laboratory, argv: list[str]) -> None:
        self._ours, theirs = os.openpty()
        self._process = lab.popen("cli", argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        self._shown = ""
        self._came = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, name="terminal")
        self._thread.start()

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._ours, line.encode() + b"\n")

    def shows(self, pattern: str, timeout: float = SOON) -> bool:
        """Wait until something is shown. Returns whether it was in time."""
        with self._came:
            self._came.wait_for(lambda: self._ended or re.search(pattern, self._shown), timeout)
            return re.search(pattern, self._shown) is not None

    def answers(self, number: int, timeout: float = SOON) -> bool:
        """Have the shell reckon something that is not in what was typed."""
        self.type(f"echo answer $(({number} * 1000 + 7))")
        return self.shows(rf"answer {number}007", timeout)

    def ends(self, timeout: float = SOON) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait(timeout)

    def shown(self) -> str:
        """All that was shown so far."""
        with self._came:
            return self._shown

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:  # EIO: nobody has the other end open any more.
                data = b""
            with self._came:
                self._shown += data.decode("utf-8", "replace")
                self._ended = not data
                self._came.notify_all()
            if not data:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        os.close(self._ours)
