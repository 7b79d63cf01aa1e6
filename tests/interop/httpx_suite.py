"""httpx's own tests with our transport in place of its: `python -m tests.interop.httpx_suite FOLDER`.

FOLDER is the unpacked source distribution of httpx 0.28, which has the tests; pytest's options may follow. Those that
talk to their live server are run, with that server's application behind HTTP/3 (`whimbrel.http.asgi`), and with every
`httpx.Client` and `httpx.AsyncClient` that is given no transport having ours. Where they say "HTTP/1.1" and
"http://127.0.0.1:8000", the version and the address are replaced. What is left out is in `LEFT_OUT`, with its reason.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trustme

import whimbrel.http
from tests.interop.conftest import free_ports
from whimbrel.http import asgi

if TYPE_CHECKING:
    from collections.abc import Iterator

LEFT_OUT = {
    "test_main.py": "the command line makes its own client",
    "test_config.py": "about ssl.SSLContext",
    "test_pool_timeout": "expects that a connection carries one request at a time",
    "test_connect_timeout": "asks for http://, which is TCP's",
    "test_httpcore_exception_mapping": "about httpcore",
    "test_httpcore_lazy_loading": "about httpcore",
}
FILES = [
    "tests/client",
    *(f"tests/test_{name}.py" for name in ("api", "config", "exceptions", "main", "timeouts", "utils")),
]
"""Where tests are that talk to the server."""


@dataclass
class Server:
    """As the tests' own, as far as they look at it."""

    url: httpx.URL


class Plugin:
    """What is put in place of what."""

    def __init__(self, folder: Path, port: int) -> None:
        self._port = port
        self.left_out: dict[str, str] = {}
        self._authority = folder / "ca.pem"
        self._pair = folder / "chain.pem", folder / "key.pem"
        authority = trustme.CA()
        leaf = authority.issue_cert("127.0.0.1", "localhost")
        authority.cert_pem.write_to_path(str(self._authority))
        leaf.private_key_pem.write_to_path(str(self._pair[1]))
        self._pair[0].write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))

    @pytest.fixture(scope="session", autouse=True)
    def _ours(self) -> Iterator[None]:
        kinds = {httpx.Client: whimbrel.http.Transport, httpx.AsyncClient: whimbrel.http.AsyncTransport}
        with pytest.MonkeyPatch.context() as patch:
            for client, made in kinds.items():

                def init(
                    self: Any, *, transport: Any = None, limits: Any = None, made: Any = made, **_: object
                ) -> object:
                    return transport or made(verify=Plugin.current._authority, limits=limits)

                patch.setattr(client, "_init_transport", init)
            yield

    @pytest.fixture(scope="session")
    def whimbrel_server(self) -> Iterator[Server]:
        from tests.conftest import app  # type: ignore[attr-defined]  # httpx's, not ours

        began, ends = threading.Event(), threading.Event()

        async def run() -> None:
            async with asgi.serve(app, "127.0.0.1", self._port, cert=self._pair, tcp=False):
                began.set()
                await asyncio.to_thread(ends.wait)

        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        began.wait()
        yield Server(httpx.URL(f"https://127.0.0.1:{self._port}/"))
        ends.set()
        thread.join()

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Those that talk to a server, on asyncio."""
        kept, rest = [], []
        for item in items:
            reason = next((why for what, why in LEFT_OUT.items() if what in item.nodeid), "")
            talks = "server" in getattr(item, "fixturenames", ())
            if talks and "trio" not in item.name and not reason:
                kept.append(item)
            else:
                rest.append(item)
            if talks and reason:
                self.left_out[item.nodeid] = reason
        items[:] = kept
        config.hook.pytest_deselected(items=rest)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was left out, and why."""
        for name, reason in self.left_out.items():
            terminalreporter.write_line(f"left out: {name}: {reason}")

    current: Plugin


def main(source: str, *options: str) -> int:
    """Run them. Returns pytest's exit status."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copytree(Path(source) / "tests", folder / "tests")
        (port,) = free_ports(1)
        for file in folder.glob("tests/**/test_*.py"):
            text = file.read_text(encoding="utf-8").replace("HTTP/1.1", "HTTP/3")
            file.write_text(text.replace("http://127.0.0.1:8000", f"https://127.0.0.1:{port}"), encoding="utf-8")
        with (folder / "tests" / "conftest.py").open("a") as conftest:
            conftest.write(
                '\n\n@pytest.fixture(scope="session")\ndef server(whimbrel_server):\n    return whimbrel_server\n'
            )
        # Their package is called as ours is.
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        sys.path.insert(0, temporary)
        Plugin.current = Plugin(folder, port)
        os.chdir(temporary)
        settings = [
            "-p",
            "no:cacheprovider",
            "-p",
            "no:timeout",
            "-W",
            "ignore::pytest.PytestUnknownMarkWarning",
            "-o",
            "addopts=",
            "--rootdir",
            temporary,
        ]
        return int(pytest.main([*settings, *options, *FILES], plugins=[Plugin.current]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
