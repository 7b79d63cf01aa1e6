"""Compiles programs on first use: ours in Rust, and peers in Rust and Go, which have lock files of their own."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "benches" / "native"
TOOLS = str(ROOT / "tools" / "native")
CARGO = (TOOLS, "cargo", "build", "--quiet", "--release", "--locked", "--message-format=json")
OWN = ("bare", "crowd", "floor")
PACKAGES = {"quinn": "quinn", "noq": "noq", "s2n-quic": "s2n-quic", "quic-go": "github.com/quic-go/quic-go"}
"""Programs around something of others', and the name of that."""


class CannotBuild(RuntimeError):
    """The message says why not."""


def path(name: str) -> str:
    """Return the path of a program, which is built if it was not yet.

    Raises:
        CannotBuild: there is no compiler, or a package cannot be had.
    """
    programs, obstacle = _quic_go() if name == "quic-go" else _own() if name in OWN else _peers()
    if name not in programs:
        raise CannotBuild(obstacle or f"there is no program {name}")
    return programs[name]


def obstacle(name: str) -> str | None:
    """Build a program. Return what stands in the way."""
    try:
        path(name)
    except CannotBuild as error:
        return str(error)
    return None


def version(name: str) -> str:
    """Return the locked version of what a program is made around."""
    if name == "quic-go":
        text, pattern = (NATIVE / "quic-go" / "go.mod").read_text(), r"{} v(\S+)"
    else:
        text, pattern = (NATIVE / "peers" / "Cargo.lock").read_text(), r'name = "{}"\nversion = "(.+)"'
    found = re.search(pattern.format(re.escape(PACKAGES[name])), text)
    return found[1] if found else "?"


Built = tuple[dict[str, str], str | None]
"""Paths by name, and what stood in the way: that is remembered too, so that it is waited for once."""


@functools.cache
def _own() -> Built:
    return _cargo(ROOT, "--package", "whimbrel-bench")


@functools.cache
def _peers() -> Built:
    return _cargo(NATIVE / "peers")


def _cargo(folder: Path, *options: str) -> Built:
    told, obstacle = _done([*CARGO, *options], folder)
    messages = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    made = [message["executable"] for message in messages if message.get("executable")]
    return {Path(each).name: each for each in made}, obstacle


@functools.cache
def _quic_go() -> Built:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if go is None:
        return {}, "no Go"
    where = subprocess.run(
        [TOOLS, "sh", "-c", "echo $CARGO_TARGET_DIR"], stdout=subprocess.PIPE, text=True, check=False
    )
    # Where cargo's are, if there is cargo: a folder that outlasts this and is nobody's checkout.
    program = Path(where.stdout.strip() or ROOT / "target") / "quic-go-bench"
    _, obstacle = _done([go, "build", "-o", str(program), "."], NATIVE / "quic-go")
    return ({"quic-go": str(program)} if obstacle is None else {}), obstacle


def _done(argv: Sequence[str], folder: Path) -> tuple[str, str | None]:
    try:
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        return "", str(error)
    if done.returncode == 0:
        return done.stdout, None
    lines = done.stderr.strip().splitlines()
    # Of cargo's words the first error says what is wrong; the last line, that something was.
    return done.stdout, next((line for line in lines if "error" in line), lines[-1] if lines else "it failed")
