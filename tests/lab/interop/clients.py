"""Clients of others that download from `whimbrel serve`, as processes of a laboratory, and what can be told to them.

gtlsclient changes its address by itself, once. aioquic, quic-go and quinn are told to. curl and Chromium never do.
"""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Protocol, Self

from tests.lab.crossing import PORT
from tests.lab.interop import peers
from tests.lab.interop.body import Body
from tests.lab.interop.outcome import PATIENCE, SIZE, Failed
from tests.lab.serving import FILE, PAGE, Fetch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from tests.lab.serving import Site
    from whimbrel.testing import Laboratory


class Client(Protocol):
    """One download under way."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...

    def reaches(self, part: float) -> None:
        """Wait until so much has come, 0 to 1."""

    def move(self, source: str) -> None:
        """Have it go on from another address."""

    def finish(self) -> str:
        """Wait for its end; return the hash of what came."""


def start(lab: Laboratory, site: Site, folder: Path, peer: str, source: str, *options: str) -> Client:
    """Start a client from an address of the device.

    Args:
        lab: where.
        site: what it downloads.
        folder: for its files.
        peer: its name.
        source: the address to begin from; clients that never move leave that to the kernel.
        options: more, for gtlsclient.

    Raises:
        NotHere: it is not installed.
    """
    match peer:
        case "aioquic":
            return _Fetching(Fetch(lab, site, "aioquic_client", source=source))
        case "curl":
            peers.package("pycurl")
            return _Fetching(Fetch(lab, site, "curl_client"))
        case "chromium":
            return _Fetching(Fetch(lab, site, "browser", **_browser(site, folder)))
        case "gtlsclient":
            return _Saving(lab, folder, _gtlsclient(lab, site, folder, options))
        case "quic-go" | "quinn":
            program = peers.quic_go() if peer == "quic-go" else peers.quinn()
            order = ["client", site.url(), site.certificate, str(folder / FILE), source]
            return _Saving(lab, folder, [program, *order])
        case other:
            raise ValueError(f"who is {other!r}?")


class _Saving:
    """A program that saves into a file, which is a pipe. It may take addresses on standard input."""

    def __init__(self, lab: Laboratory, folder: Path, argv: list[str]) -> None:
        self._body = Body(folder / FILE, SIZE)
        self._log = folder / "client.log"
        with self._log.open("wb") as log:
            self._process = lab.popen("cli", argv, bufsize=0, stdin=subprocess.PIPE, stdout=log, stderr=log)

    def reaches(self, part: float) -> None:
        if not self._body.reaches(part, PATIENCE):
            raise Failed(f"stopped {self._last()}")

    def move(self, source: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # Its end is told by whoever waits for it.
            self._process.stdin.write(source.encode() + b"\n")

    def finish(self) -> str:
        try:
            status = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed(f"no end after {PATIENCE:.0f} s, {self._last()}") from None
        self._body.close()
        if status != 0:
            raise Failed(f"exit status {status}, {self._last()}")
        return self._body.sha256

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._body.close()

    def _last(self) -> str:
        said = self._log.read_text(errors="replace").strip().splitlines()
        return f"at {self._body.received / SIZE:.0%}: {said[-1] if said else 'it said nothing'}"


class _Fetching:
    """A program of ours around a library, which tells how much has come."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch

    def reaches(self, part: float) -> None:
        self._wait(lambda: self._fetch.reaches(part))

    def move(self, source: str) -> None:
        self._fetch.tell(source=source)

    def finish(self) -> str:
        found: list[str] = []
        self._wait(lambda: found.append(self._fetch.result()["sha256"]))
        return found[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._fetch.end()

    @staticmethod
    def _wait(wait: Callable[[], object]) -> None:
        try:
            wait()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise Failed(str(error)) from error


def _gtlsclient(lab: Laboratory, site: Site, folder: Path, options: tuple[str, ...]) -> list[str]:
    plain = ["--no-quic-dump", "--no-http-dump", "--exit-on-all-streams-close", f"--download={folder}"]
    return [peers.gtlsclient(), *plain, *options, lab.server_address, str(PORT), site.url()]


def _browser(site: Site, folder: Path) -> dict[str, object]:
    browser, driver = peers.chromium()
    order: dict[str, object] = {"page": site.url(PAGE), "spki": site.spki, "profile": folder / "profile"}
    return order | {"part": SIZE // 4, "chromium": browser, "driver": driver}
