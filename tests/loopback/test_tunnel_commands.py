"""`whimbrel serve --tunnel`, `pipe`, `forward`, `proxy`, `run` and `keygen` as their users run them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pycurl  # type: ignore[import-untyped]
import pytest

from tests.loopback.tunnel_peers import echo, target
from whimbrel import ConnectionLost
from whimbrel.tunnel import Refused, TcpTarget, Tunnels, read_token, write_token

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

ATTEMPTS = 10_000


@pytest.fixture
def anyio_backend() -> str:
    """What is tried here runs in processes of its own, with loops of their own."""
    return "asyncio"


async def started(folder: Path, *arguments: object) -> Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "XDG_STATE_HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    command = [sys.executable, "-m", "whimbrel", *map(str, arguments)]
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=pipe, stdout=pipe, stderr=pipe
    )


async def done(folder: Path, *arguments: object, stdin: bytes = b"") -> tuple[int, bytes, str]:
    """Run a command to its end: exit status, standard output and error."""
    process = await started(folder, *arguments)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out, err.decode()


async def ended(process: Process, number: int = signal.SIGTERM) -> tuple[int, str]:
    """End a command; exit status, and the rest of standard error."""
    process.send_signal(number)
    _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode()


class Serving:
    """A `whimbrel serve --tunnel` that runs."""

    def __init__(self, process: Process, folder: Path, said: dict[str, str]) -> None:
        self.process, self.folder, self.said = process, folder, said
        self.place = said["listening"].split()[-1]
        self.met = ["--cafile", said["certificate"], "--token-file", "token"]
        self.via = ["--via", self.place, *self.met]

    def audited(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about one kind of event."""
        lines = map(json.loads, (self.folder / "audit").read_text().splitlines())
        return [line for line in lines if line["event"] == event]


@contextlib.asynccontextmanager
async def serving(folder: Path, *arguments: object) -> AsyncIterator[Serving]:
    """With a token for anna."""
    if not (folder / "token").exists():
        assert (await done(folder, "keygen", "--token-file", "token", "--name", "anna"))[0] == 0
    common = ("--tunnel", "--token-file", "token", "--audit-log", "audit", "--host", "127.0.0.1", "--port", 0)
    process = await started(folder, "serve", *common, *arguments)
    said: dict[str, str] = {}
    try:
        assert process.stdout is not None
        while "try:" not in said:
            word, _, rest = (await process.stdout.readline()).decode().strip().partition(" ")
            assert word, (await process.communicate())[1].decode()
            said[word] = rest
        yield Serving(process, folder, said)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.communicate()


async def test_the_command_that_is_printed_pipes(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        words = server.said["try:"].split()
        assert words[:2] == ["whimbrel", "pipe"]
        status, out, err = await done(tmp_path, *words[1:], "--to", f"localhost:{port}", stdin=content)
        assert (status, out == content, err) == (0, True, "")
        (closed,) = server.audited("closed")
        assert (closed["who"], closed["target"], closed["address"]) == (
            "anna",
            f"localhost:{port}",
            f"127.0.0.1:{port}",
        )
        assert (closed["bytes_to_target"], closed["bytes_from_target"]) == (len(content), len(content))
        token = (tmp_path / "token").read_text().split()[0]
        assert token not in (tmp_path / "audit").read_text()


async def test_a_pipe_takes_a_socket_for_both_ways(tmp_path: Path) -> None:
    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"first")
        writer.write_eof()
        heard.set_result(await reader.read())
        writer.close()

    heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with target(attend) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "whimbrel", "pipe", *server.met, server.place, "--to", f"localhost:{port}"]
        process = await asyncio.create_subprocess_exec(
            *command, cwd=tmp_path, stdin=theirs.fileno(), stdout=theirs.fileno()
        )
        theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        # Their half has ended, and ours goes on.
        assert await reader.read() == b"first"
        writer.write(b"second")
        writer.write_eof()
        assert await heard == b"second"
        assert await process.wait() == 0
        writer.close()


async def test_a_pipe_that_is_ended_says_so(tmp_path: Path) -> None:
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        # ssh sends SIGHUP to its ProxyCommand when it goes.
        pipe = await started(tmp_path, "pipe", *server.met, server.place, "--to", f"localhost:{port}")
        assert pipe.stdin is not None
        assert pipe.stdout is not None
        pipe.stdin.write(b"hello")
        assert await pipe.stdout.readexactly(5) == b"hello"
        assert await ended(pipe, signal.SIGHUP) == (128 + signal.SIGHUP, "")
        while not server.audited("closed"):  # noqa: ASYNC110 - a file says nothing when it grows
            await asyncio.sleep(0.01)
        assert server.audited("closed")[0]["end"] != "complete"


async def test_refusals_are_one_sentence_and_a_status(tmp_path: Path) -> None:
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        place, cafile = server.place, ("--cafile", server.said["certificate"])
        await done(tmp_path, "keygen", "--token-file", "wrong")

        async def refused(*arguments: object) -> str:
            status, out, err = await done(tmp_path, "pipe", place, *arguments)
            assert (status, out, err.count("\n")) == (1, b"", 1), err
            return err

        asked = ("--to", f"localhost:{port}")
        assert "wants another token or certificate" in await refused(*asked, *cafile)
        assert "wants another token or certificate" in await refused(*asked, *cafile, "--token-file", "wrong")
        assert f"does not allow tunnels to localhost:{port + 1}" in await refused(
            "--to", f"localhost:{port + 1}", *server.met
        )
        assert "certificate comes from an issuer" in await refused(*asked, "--token-file", "token")
        why = [line["why"] for line in server.audited("refused")]
        assert why == ["no token", "wrong token", f"no rule allows localhost:{port + 1}"]


async def test_a_certificate_lets_in(tmp_path: Path, issue: Callable[..., Certificates]) -> None:
    anna = issue("anna@example.org")
    stranger = issue("mallory@example.org")
    async with (
        target(echo) as port,
        serving(tmp_path, "--allow", f"localhost:{port}", "--client-ca", anna.ca) as server,
    ):
        asked = ("pipe", server.place, "--to", f"localhost:{port}", *server.met)
        status, out, _ = await done(tmp_path, *asked, "--cert", anna.chain, "--key", anna.key, stdin=b"hello")
        assert (status, out) == (0, b"hello")
        status, _, err = await done(tmp_path, *asked)
        assert (status, err.count("\n"), "client certificate" in err) == (1, 1, True)
        status, _, err = await done(tmp_path, *asked, "--cert", stranger.chain, "--key", stranger.key)
        assert (status, err.count("\n"), "issuer of the client certificate" in err) == (1, 1, True)
        why = [line["why"] for line in server.audited("refused")]
        assert why == ["no certificate", "wrong certificate: unknown issuer"]


async def test_ports_are_forwarded(tmp_path: Path) -> None:
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        specs = (f"0:localhost:{port}", f"{tmp_path}/here:127.0.0.1:{port}", "0:localhost:1")
        forward = await started(tmp_path, "forward", *specs, *server.via)
        assert forward.stdout is not None
        lines = [(await forward.stdout.readline()).decode() for _ in specs]
        assert lines[1] == f"forwarding {tmp_path}/here to 127.0.0.1:{port} via {server.place}\n"
        first, last = (int(line.split()[1].rpartition(":")[2]) for line in (lines[0], lines[2]))
        for opening in (
            asyncio.open_connection("127.0.0.1", first),
            asyncio.open_unix_connection(str(tmp_path / "here")),
        ):
            reader, writer = await opening
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"hello"
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", last)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
        status, err = await ended(forward)
        assert (status, err) == (0, "whimbrel: the server does not allow tunnels to localhost:1\n")
        assert not (tmp_path / "here").exists()


async def test_curl_goes_through_the_proxy_in_both_dialects(tmp_path: Path) -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
        writer.close()

    def fetch(proxy: str, port: int) -> bytes:
        body, curl = io.BytesIO(), pycurl.Curl()
        curl.setopt(curl.URL, f"http://localhost:{port}/")
        curl.setopt(curl.PROXY, proxy)
        curl.setopt(curl.HTTPPROXYTUNNEL, 1)
        curl.setopt(curl.NOPROXY, "")
        curl.setopt(curl.WRITEDATA, body)
        curl.perform()
        curl.close()
        return body.getvalue()

    async with target(web) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        proxy = await started(tmp_path, "proxy", "--listen", "127.0.0.1:0", *server.via)
        assert proxy.stdout is not None
        place = (await proxy.stdout.readline()).decode().split()[2]
        for scheme in ("socks5h", "http"):
            assert await asyncio.to_thread(fetch, f"{scheme}://{place}", port) == b"hello"
        assert await ended(proxy) == (0, "")


FETCH = """
import os, socket, sys
host, port = os.environ["HTTPS_PROXY"].removeprefix("http://").split(":")
with socket.create_connection((host, int(port))) as s:
    s.sendall(b"CONNECT localhost:%d HTTP/1.1\\r\\n\\r\\nhello" % int(sys.argv[1]))
    s.shutdown(socket.SHUT_WR)
    print(s.makefile("rb").read().rpartition(b"\\n")[2].decode())
sys.exit(7)
"""


async def test_a_program_runs_with_a_proxy_of_its_own(tmp_path: Path) -> None:
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:

        async def run(*command: object) -> tuple[int, bytes, str]:
            return await done(tmp_path, "run", *server.via, "--", *command)

        assert await run(sys.executable, "-c", FETCH, port) == (7, b"hello\n", "")
        assert (await run("sh", "-c", "kill -KILL $$"))[0] == 128 + signal.SIGKILL
        assert await run("no-such-program") == (127, b"", "whimbrel: no-such-program: there is no such program\n")
        assert (await run(tmp_path))[0] == 126
        program = await started(
            tmp_path, "run", *server.via, "sh", "-c", "trap 'exit 9' TERM; echo; while :; do :; done"
        )
        assert program.stdout is not None
        await program.stdout.readline()
        assert (await ended(program))[0] == 9


async def test_ten_thousand_refusals_leave_memory_flat(tmp_path: Path) -> None:
    def resident() -> int:
        pages = (Path("/proc") / str(server.process.pid) / "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    async def attempt(count: int) -> None:
        host, _, port = server.place.rpartition(":")
        async with Tunnels(host, int(port), token="wrong", verify=server.said["certificate"]) as tunnels:
            for number in range(count):
                with contextlib.suppress(Refused):
                    await tunnels.open(TcpTarget(f"host-{number}.example", 22))

    async def attempts(count: int) -> None:
        await asyncio.gather(*(attempt(count // 20) for _ in range(20)))

    async with serving(tmp_path, "--allow", "localhost:22") as server:
        await attempts(ATTEMPTS // 4)
        before = resident()
        await attempts(ATTEMPTS)
        grown = resident() - before
        log = (tmp_path / "audit").read_text()
        assert log.count("\n") < 100
        assert [line["why"] for line in server.audited("refused")][-1] == "too many failed attempts"
    sys.stdout.write(f"{ATTEMPTS} refused attempts: {grown / 1e6:+.1f} MB\n")
    assert grown < 8_000_000, "less than a kilobyte each"


async def test_a_server_that_was_killed_is_met_again(tmp_path: Path) -> None:
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        host, _, number = server.place.rpartition(":")
        token, place = read_token(tmp_path / "token"), TcpTarget("127.0.0.1", port)
        verify = server.said["certificate"]
        async with Tunnels(host, int(number), token=token, verify=verify, doubt=0.1, keepalive=0.2) as tunnels:
            tunnel = await tunnels.open(place)
            await tunnel.write(b"hello")
            assert await tunnel.readexactly(5) == b"hello"
            server.process.kill()
            await server.process.communicate()
            async with serving(tmp_path, "--allow", f"localhost:{port}", "--port", number):
                # It knows nothing of the connection, whose patience is an hour.
                with pytest.raises(ConnectionLost, match="no longer knows it"):
                    await tunnel.read()
                tunnel = await tunnels.open(place)
                await tunnel.write(b"again")
                assert await tunnel.readexactly(5) == b"again"
                tunnel.cancel()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("serve --tunnel --token-file token", "leads nowhere without --allow"),
        ("serve --tunnel --allow localhost:22", "lets nobody in unasked"),
        ("serve --tunnel --allow localhost --token-file token", "is no rule"),
        ("serve . --allow localhost:22", "--allow is for --tunnel"),
        ("serve", "DIR, the folder to serve, is missing"),
        ("serve --tunnel --allow localhost:22 --token-file nowhere --port 0", "cannot read nowhere"),
        ("serve --tunnel --allow localhost:22 --token-file open --port 0", "chmod 600 open"),
        ("serve --tunnel --allow localhost:22 --token-file token --audit-log /proc/x --port 0", "/proc/x"),
        ("pipe", "the following arguments are required"),
        ("pipe a:b", "no port"),
        ("pipe localhost --to nowhere", "names no port"),
        ("pipe localhost --token-file nowhere", "cannot read nowhere"),
        ("pipe localhost --token-file open", "chmod 600 open"),
        ("pipe localhost --cert token", "--cert and --key go together"),
        ("pipe localhost --cafile nowhere", "nowhere"),
        ("pipe localhost --patience soon", "no time above 0"),
        ("pipe no-such-host.invalid", "no-such-host.invalid"),
        ("forward 80 --via localhost", "is no forwarding"),
        ("forward 80:localhost:80", "--via"),
        ("proxy --listen nowhere --via localhost", "no port"),
        ("keygen --token-file token", "exists already"),
        ("keygen --token-file /proc/x/y", "cannot make /proc/x/y"),
        ("run --via localhost", "COMMAND"),
        ("run --via no-such-host.invalid true", "no-such-host.invalid"),
    ],
)
async def test_what_cannot_be_is_said_in_one_sentence(tmp_path: Path, command: str, said: str) -> None:
    write_token(tmp_path / "token", "anna")
    (tmp_path / "open").write_text((tmp_path / "token").read_text())
    (tmp_path / "open").chmod(0o644)
    status, out, err = await done(tmp_path, *command.split())
    last = err.splitlines()[-1]
    assert status != 0
    assert out == b""
    assert said in last
    assert last.startswith(("whimbrel: ", f"whimbrel {command.split(maxsplit=1)[0]}: "))
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1 or err.startswith("usage: ")


async def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    async with target(echo) as port, serving(tmp_path, "--allow", f"localhost:{port}") as server:
        status, _, err = await done(tmp_path, "forward", f"{port}:localhost:{port}", *server.via)
        assert (status, err.count("\n"), f"cannot listen on 127.0.0.1:{port}" in err) == (1, 1, True)
        status, _, err = await done(tmp_path, "proxy", "--listen", f"127.0.0.1:{port}", *server.via)
        assert (status, err.count("\n"), f"cannot listen on 127.0.0.1:{port}" in err) == (1, 1, True)
