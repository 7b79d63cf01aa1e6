"""`whimbrel doctor` and servers of every kind. tests/lab/test_doctor.py has machines with two networks."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.loopback.support import Relay, echo_server, nothing_left, turns
from whimbrel import _core, http
from whimbrel.cli import main

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.loopback.support import Certificates
    from whimbrel import Server

pytestmark = pytest.mark.anyio

PATIENCE = "0.5"
"""Seconds, where the answer is that there is none."""


@pytest.fixture
def anyio_backend() -> str:
    """The command has a loop of its own."""
    return "asyncio"


@dataclass
class Said:
    """What came of a run."""

    status: int
    output: str
    error: str

    @property
    def verdict(self) -> str:
        return self.output.splitlines()[-1]

    @property
    def json(self) -> Any:
        return json.loads(self.output)


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs the command beside the server."""

    async def run(*arguments: object) -> Said:
        status = await asyncio.to_thread(_run, [str(argument) for argument in arguments])
        return Said(status, *capsys.readouterr())

    return run


def _run(arguments: list[str]) -> int:
    try:
        return main(["doctor", *arguments])
    except SystemExit as ended:  # argparse
        return int(ended.code or 0)


async def answer(request: http.Request) -> None:
    await request.respond(204)


def serving(certificates: Certificates) -> http._server._Serve:
    return http.serve(answer, "127.0.0.1", cert=certificates.pair)


def forbidding(certificates: Certificates, **how: Any) -> http._server._Serve:
    """A server that does not want its clients to move. No option of ours: nobody wants one."""
    with mock.patch.object(_core, "ServerConfig", functools.partial(_core.ServerConfig, **how)):
        return serving(certificates)


async def test_a_server_whose_clients_may_move(certificates: Certificates, doctor: Callable[..., Any]) -> None:
    async with serving(certificates) as server:
        said = await doctor("localhost", "--port", server.addresses[0][1], "--cafile", certificates.ca)
        assert said.status == 0, said
        assert said.error == ""
        assert "127.0.0.1 answers HEAD / with status 204 over lo" in said.output
        assert "It allows migration, with connection IDs of 8 bytes, of which it gives 4 to spare.\n" in said.output
        assert "\nA move to a new port on lo: survived, an answer came after " in said.output
        assert said.verdict == "Verdict: connections to localhost follow this machine from network to network."
        assert server.stats().moves == 1


async def test_the_same_for_programs(certificates: Certificates, doctor: Callable[..., Any]) -> None:
    async with serving(certificates) as server:
        port = server.addresses[0][1]
        said = await doctor("127.0.0.1", "-p", port, "--cafile", certificates.ca, "--json")
    assert said.status == 0
    found = said.json
    assert found["verdict"] == "follows"
    assert (found["quic"], found["http3"], found["status"], found["tcp"]) == (True, True, 204, None)
    assert (found["host"], found["port"], found["remote"], found["interface"]) == ("127.0.0.1", port, "127.0.0.1", "lo")
    assert (found["allows_migration"], found["connection_id_length"], found["spare_connection_ids"]) == (True, 8, 4)
    assert found["idle_timeout"] == 90.0
    assert found["preferred_address"] == []
    [move] = found["moves"]
    assert move.pop("answer_ms") > 0
    assert move == {"kind": "port", "interface": "lo", "survived": True, "linkable": False, "problem": None}
    [way] = found["ways"]
    assert way["answer_ms"] > 0


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"migration": False}, "It forbids migration (disable_active_migration)."),
        ({"id_length": 0}, "Its connection IDs are empty: it knows clients by their addresses, so none can move."),
    ],
    ids=["disable_active_migration", "empty-ids"],
)
async def test_a_server_that_forbids_moving_is_not_moved_away_from(
    certificates: Certificates, doctor: Callable[..., Any], how: dict[str, Any], sentence: str
) -> None:
    async with forbidding(certificates, **how) as server:
        said = await doctor("127.0.0.1", "-p", server.addresses[0][1], "--cafile", certificates.ca)
        assert said.status == 3
        assert sentence in said.output
        assert "A move to a new port on lo: not tried, since the server forbids it." in said.output
        assert said.verdict.endswith("stay on the network they began on: the server forbids moving.")
        assert server.stats().moves == 0


@pytest.mark.parametrize("answers", ["nobody", "the port before"])
async def test_a_move_that_something_on_the_way_does_not_let_through(
    certificates: Certificates, doctor: Callable[..., Any], answers: str
) -> None:
    async with serving(certificates) as server, stubborn(server, drops=answers == "nobody") as port:
        said = await doctor("127.0.0.1", "-p", port, "--cafile", certificates.ca, "--timeout", PATIENCE)
    assert said.status == 3
    assert "A move to a new port on lo: not survived (no-answer)." in said.output
    assert said.verdict.endswith("work, and do not survive a move, although the server allows it.")


async def test_a_server_that_cannot_be_asked_beforehand(certificates: Certificates, doctor: Callable[..., Any]) -> None:
    async with serving(certificates) as server, mute(server) as port:
        said = await doctor("127.0.0.1", "-p", port, "--cafile", certificates.ca)
    assert said.status == 0
    assert "\nIt answers no version negotiation, so whimbrel cannot ask before it moves" in said.output


async def test_nothing_listens(doctor: Callable[..., Any]) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    said = await doctor("127.0.0.1", "-p", port)
    assert said.status == 4
    assert said.verdict == (
        f"Verdict: 127.0.0.1 is not reached with QUIC: nothing listens on UDP port {port} there. "
        f"Neither does TCP port {port} answer."
    )


async def test_only_tcp_is_served(doctor: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        said = await doctor("127.0.0.1", "-p", port)
        found = (await doctor("127.0.0.1", "-p", port, "--json")).json
    assert said.status == 4
    assert f" TCP port {port} answers: so either nothing serves HTTP/3 there, or " in said.verdict
    assert (found["verdict"], found["quic"], found["tcp"], found["refused"]) == ("unreachable", False, True, True)


async def test_udp_vanishes_on_the_way(doctor: Callable[..., Any]) -> None:
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as hole:
        hole.bind(("127.0.0.1", 0))
        said = await doctor("127.0.0.1", "-p", hole.getsockname()[1], "--timeout", PATIENCE, "--json")
    assert said.status == 4
    assert said.json["problem"] == "connect-timeout"
    assert not said.json["refused"]


async def test_a_certificate_of_nobody_that_we_trust(
    certificates: Certificates, issue: Callable[..., Certificates], doctor: Callable[..., Any]
) -> None:
    async with serving(certificates) as server:
        port = server.addresses[0][1]
        said = await doctor("127.0.0.1", "-p", port, "--cafile", issue("elsewhere").ca)
        assert said.status == 5
        assert "127.0.0.1 is reached over UDP, and no HTTP/3 connection comes about: the server's" in said.verdict
        assert said.verdict.endswith("--cafile names another authority to trust, --insecure trusts anybody.")
        assert (await doctor("127.0.0.1", "-p", port, "--insecure")).status == 0


async def test_quic_without_http3(certificates: Certificates, doctor: Callable[..., Any]) -> None:
    async with echo_server(certificates) as server:
        said = await doctor("127.0.0.1", "-p", server.addresses[0][1], "--cafile", certificates.ca)
    assert said.status == 5
    assert said.verdict.endswith("no HTTP/3 connection comes about: the server speaks QUIC, but no HTTP/3.")


@pytest.mark.parametrize(
    ("host", "because"),
    [
        ("no-such-host.invalid", "cannot find no-such-host.invalid: "),
        ("a..b", "cannot find a..b: not a valid host name."),
        ("fe80::1", "'fe80::1' is link-local: say on which interface, "),
    ],
)
async def test_a_host_that_cannot_be_found(doctor: Callable[..., Any], host: str, because: str) -> None:
    said = await doctor(host)
    assert said.status == 4
    assert said.error == ""
    assert said.verdict.startswith(f"Verdict: {host} is not reached with QUIC: {because}")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["https://example.org/"], "whimbrel: 'https://example.org/' is neither a name nor an address; "),
        ([""], "whimbrel: '' is neither a name nor an address; "),
        (["127.0.0.1", "--cafile", "no-such-file"], "whimbrel: cannot read the CA file 'no-such-file': "),
        (["127.0.0.1", "-p", "0"], "argument -p/--port: '0' is not a port, 1 to 65535"),
        (["127.0.0.1", "--timeout", "nan"], "argument --timeout: 'nan' is not a number of seconds"),
    ],
)
async def test_what_makes_no_sense_is_said_in_a_sentence(
    doctor: Callable[..., Any], arguments: list[str], complaint: str
) -> None:
    said = await doctor(*arguments)
    assert (said.status, said.output) == (2, "")
    assert complaint in said.error
    assert "Traceback" not in said.error


async def test_nothing_is_left_behind(
    certificates: Certificates, issue: Callable[..., Certificates], doctor: Callable[..., Any]
) -> None:
    await asyncio.to_thread(int)  # Its thread stays.
    elsewhere = issue("elsewhere").ca
    async with serving(certificates) as server:
        for cafile, status in ((certificates.ca, 0), (elsewhere, 5)):
            async with nothing_left():
                said = await doctor("127.0.0.1", "-p", server.addresses[0][1], "--cafile", cafile)
                assert said.status == status
    async with nothing_left():
        assert (await doctor("127.0.0.1", "-p", server.addresses[0][1])).status == 4


# What may be between ------------------------------------------------------------------------------------------------


class Between(Relay):
    """A relay with habits."""

    def __init__(self, *, follows: bool = True, drops: bool = False, mute: bool = False) -> None:
        super().__init__()
        self._follows, self._drops, self._mute = follows, drops, mute

    def _from_client(self, data: bytes, source: tuple[str, int]) -> None:
        long_header = data[0] & 0x80
        if self._mute and long_header and data[1:5] != b"\0\0\0\1":
            return
        if self._follows or long_header or source == self._client:
            super()._from_client(data, source)
        elif not self._drops and self._client is not None:
            super()._from_client(data, self._client)


@contextlib.asynccontextmanager
async def carrying(between: Between, server: http.Server | Server) -> AsyncIterator[int]:
    await between.start(server.addresses[0])
    try:
        yield between.address[1]
    finally:
        between.stop()
        await turns()


def stubborn(server: http.Server, *, drops: bool) -> contextlib.AbstractAsyncContextManager[int]:
    """It knows each client by the port of its handshake, and answers no other; it may drop what comes from there."""
    return carrying(Between(follows=False, drops=drops), server)


def mute(server: http.Server) -> contextlib.AbstractAsyncContextManager[int]:
    """It lets nothing through but QUIC version 1."""
    return carrying(Between(mute=True), server)
