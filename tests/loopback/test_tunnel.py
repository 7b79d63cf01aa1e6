"""Tunnels from one end to the other: bytes both ways, ends that are told apart, and who is refused and why."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.loopback.http_peers import other_client
from tests.loopback.tunnel_peers import TOKEN, echo, gate, target
from whimbrel import ConnectionLost, StreamReset, http
from whimbrel.tunnel import Forwarding, Listeners, LocalPort, Reason, Refused, TcpTarget, parse_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.loopback.support import Certificates
    from whimbrel.tunnel import Tunnels

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The commands that this is for run on asyncio's own loop."""
    return "asyncio"


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def forwarded(tunnels: Tunnels, port: int, told: list[str] | None = None) -> AsyncIterator[int]:
    """A local port that leads to a target; its number."""
    told = [] if told is None else told
    async with tunnels, Listeners(tunnels, told.append) as listeners:
        where = await listeners.forward(Forwarding(LocalPort("127.0.0.1", 0), TcpTarget("127.0.0.1", port)))
        yield int(where.rpartition(":")[2])


def reset(writer: asyncio.StreamWriter) -> None:
    """End a TCP connection by RST."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# Bytes and ends -------------------------------------------------------------------------------------------------------


async def test_either_half_ends_by_itself(certificates: Certificates, tmp_path: Path) -> None:
    ends: asyncio.Queue[Ends] = asyncio.Queue()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait((reader, writer))

    async with (
        target(attend) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        forwarded(served.tunnels(), port) as here,
    ):
        for first_to_end in ("ours", "theirs"):
            our_reader, our_writer = await asyncio.open_connection("127.0.0.1", here)
            their_reader, their_writer = await ends.get()
            near, far = (our_reader, our_writer), (their_reader, their_writer)
            if first_to_end == "theirs":
                near, far = far, near
            near[1].write(b"all that I have to say")
            near[1].write_eof()
            assert await far[0].read() == b"all that I have to say"
            for number in range(3):
                far[1].write(b"%d" % number)
                assert await near[0].readexactly(1) == b"%d" % number
            far[1].write_eof()
            assert await near[0].read() == b""
            our_writer.close()
            their_writer.close()
        closed = await served.audits("closed", 2)
    assert [(line["bytes_to_target"], line["bytes_from_target"], line["end"]) for line in closed] == [
        (22, 3, "complete"),
        (3, 22, "complete"),
    ]
    assert {(line["who"], line["target"]) for line in closed} == {("anna", f"127.0.0.1:{port}")}


async def test_what_breaks_at_one_end_breaks_at_the_other(certificates: Certificates, tmp_path: Path) -> None:
    ends: asyncio.Queue[Ends] = asyncio.Queue()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.put_nowait((reader, writer))

    async with (
        target(attend) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        forwarded(served.tunnels(), port) as here,
    ):
        for breaks in ("theirs", "ours"):
            our_reader, our_writer = await asyncio.open_connection("127.0.0.1", here)
            their_reader, their_writer = await ends.get()
            our_writer.write(b"x")
            assert await their_reader.readexactly(1) == b"x"
            reset(their_writer if breaks == "theirs" else our_writer)
            with pytest.raises(ConnectionResetError):
                await (our_reader if breaks == "theirs" else their_reader).read()
            our_writer.close()
            their_writer.close()
        closed = await served.audits("closed", 2)
    assert all(line["end"] != "complete" for line in closed)


async def test_a_target_that_breaks_is_a_stream_error(certificates: Certificates, tmp_path: Path) -> None:
    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer)

    async with (
        target(attend) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        served.tunnels() as tunnels,
    ):
        tunnel = await tunnels.open(TcpTarget("127.0.0.1", port))
        await tunnel.write(b"x")
        with pytest.raises(StreamReset) as caught:
            await tunnel.read()
        assert caught.value.code == http.ErrorCode.H3_CONNECT_ERROR
        tunnel.cancel()


async def test_many_at_once_share_one_connection(certificates: Certificates, tmp_path: Path) -> None:
    async def talk(here: int, number: int) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", here)
        content = os.urandom(100_000 + number)

        async def speak() -> None:
            writer.write(content)
            await writer.drain()
            writer.write_eof()

        speaking = asyncio.create_task(speak())
        received = await reader.read()
        await speaking
        writer.close()
        return hashlib.sha256(received).digest() == hashlib.sha256(content).digest()

    async with (
        target(echo) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        forwarded(served.tunnels(), port) as here,
    ):
        assert all(await asyncio.gather(*(talk(here, number) for number in range(60))))
        assert len(served.server.connections) == 1
        assert len(await served.audits("closed", 60)) == 60


async def test_a_slow_reader_is_waited_for(certificates: Certificates, tmp_path: Path) -> None:
    sent = 0
    full = asyncio.Event()

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(bytes(1 << 20))
            try:
                async with asyncio.timeout(1):
                    await writer.drain()
            except TimeoutError:
                full.set()
                await writer.drain()
            sent += 1 << 20

    async with (
        target(attend) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        forwarded(served.tunnels(), port) as here,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", here, limit=1 << 16)
        await full.wait()
        # The windows of TCP, twice, and of QUIC: what is in flight is bounded by them and by nothing else.
        assert sent < 64 << 20
        before = sent
        for _ in range(128):
            await reader.readexactly(1 << 20)
        assert sent > before
        reset(writer)


async def test_unix_sockets_at_both_ends(certificates: Certificates, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    tasks = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(echo(reader, writer)))

    server = await asyncio.start_unix_server(accepted, there)
    async with gate(certificates, tmp_path, str(there)) as served, served.tunnels() as tunnels:
        told: list[str] = []
        async with Listeners(tunnels, told.append) as listeners:
            assert await listeners.forward(Forwarding.parse(f"{here}:{there}")) == str(here)
            assert here.stat().st_mode & 0o777 == 0o600
            reader, writer = await asyncio.open_unix_connection(here)
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"hello"
            writer.close()
            await asyncio.gather(*tasks)
            with pytest.raises(Refused) as caught:
                await tunnels.open(parse_target(f"{there}2"))
            assert caught.value.reason is Reason.NOT_ALLOWED
        assert not here.exists()
    server.close()


async def test_a_server_that_was_started_anew_is_met_again(certificates: Certificates, tmp_path: Path) -> None:
    async def hello(here: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", here)
        writer.write(b"hello")
        writer.write_eof()
        try:
            return await reader.read()
        finally:
            writer.close()

    async with target(echo) as port:
        async with gate(certificates, tmp_path, "localhost:*") as served:
            tunnels = served.tunnels()
            await tunnels.connect()
        async with gate(certificates, tmp_path, "localhost:*") as served:
            tunnels._port = served.port
            async with forwarded(tunnels, port) as here:
                assert await hello(here) == b"hello"


async def test_a_client_of_others_has_tunnels(certificates: Certificates, tmp_path: Path) -> None:
    async with (
        target(echo) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        other_client(certificates, served.server) as client,
    ):
        head = [(b":method", b"CONNECT"), (b":authority", b"127.0.0.1:%d" % port)]
        stream = client.ask([*head, (b"proxy-authorization", f"Bearer {TOKEN}".encode())], b"hello")
        answer = await client.answer(stream)
        assert (answer.status, answer.content) == (200, b"hello")
        answer = await client.answer(client.ask(head, b""))
        assert (answer.status, answer.headers["proxy-authenticate"]) == (407, "Bearer")


# Who is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "asked", "reason", "why"),
    [
        (None, "127.0.0.1:{port}", Reason.UNAUTHENTICATED, "no token"),
        (TOKEN[:-1], "127.0.0.1:{port}", Reason.UNAUTHENTICATED, "wrong token"),
        (TOKEN, "127.0.0.2:{port}", Reason.NOT_ALLOWED, "no rule allows 127.0.0.2:{port}"),
        (TOKEN, "127.0.0.1:1", Reason.NOT_ALLOWED, "no rule allows 127.0.0.1:1"),
        (TOKEN, "no-such-name.invalid:{port}", Reason.NAME_UNKNOWN, "cannot find no-such-name.invalid"),
        # A name by its rule, which says nothing of where it may lead: to this machine it may not. No DNS is needed
        # for it: getaddrinfo() takes what is no address by ipaddress.
        (TOKEN, "127.1:7", Reason.NOT_ALLOWED, "127.1:7 leads to 127.0.0.1, where no rule lets it"),
        (TOKEN, "127.0.0.1:2", Reason.PORT_CLOSED, "nobody listens at 127.0.0.1:2"),
    ],
)
async def test_refusals_have_a_reason_and_are_logged(
    certificates: Certificates, tmp_path: Path, token: str | None, asked: str, reason: Reason, why: str
) -> None:
    async with target(echo) as port:
        rules = (f"127.0.0.1:{port}", "127.0.0.1:2", f"10.0.0.0/8:{port}", "127.1:7")
        async with gate(certificates, tmp_path, *rules) as served, served.tunnels(token) as tunnels:
            with pytest.raises(Refused) as caught:
                await tunnels.open(parse_target(asked.format(port=port)))
            assert caught.value.reason is reason
            (line,) = served.audited("refused")
    assert line["why"].startswith(why.format(port=port))
    assert line["status"] == reason.status
    assert line.get("who") == ("anna" if token == TOKEN else None)
    assert line["target"] == asked.format(port=port)
    assert TOKEN[:-1] not in (tmp_path / "audit.log").read_text()


async def test_too_many_failures_are_not_listened_to(certificates: Certificates, tmp_path: Path) -> None:
    async with target(echo) as port, gate(certificates, tmp_path, "localhost:*") as served:
        place = TcpTarget("127.0.0.1", port)
        async with served.tunnels() as known, served.tunnels("wrong") as unknown:
            (await known.open(place)).cancel()
            reasons = []
            for _ in range(30):
                with pytest.raises(Refused) as caught:
                    await unknown.open(place)
                reasons.append(caught.value.reason)
            assert reasons == [Reason.UNAUTHENTICATED] * 10 + [Reason.TOO_MANY_FAILURES] * 20
            # From the same address, and yet not locked out: it has shown its token before.
            (await known.open(place)).cancel()
        async with served.tunnels() as newcomer:
            with pytest.raises(Refused) as caught:
                await newcomer.open(place)
            assert caught.value.reason is Reason.TOO_MANY_FAILURES
        refusals = served.audited("refused")
    assert [line.get("attempts") for line in refusals] == [None] * 10 + [1, 2, 4, 8, 16]


async def test_a_proxy_serves_both_dialects_on_one_port(certificates: Certificates, tmp_path: Path) -> None:
    told: list[str] = []
    async with (
        target(echo) as port,
        gate(certificates, tmp_path, "localhost:*") as served,
        served.tunnels() as tunnels,
        Listeners(tunnels, told.append) as listeners,
    ):
        where = await listeners.proxy(LocalPort("127.0.0.1", 0))
        number = int(where.rpartition(":")[2])
        for request, granted in (
            (b"\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + port.to_bytes(2, "big"), b"\x05\x00\x05\x00"),
            (f"CONNECT localhost:{port} HTTP/1.1\r\n\r\n".encode(), b"HTTP/1.1 200 Connection established\r\n\r\n"),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(request + b"at once")
            writer.write_eof()
            answer = await reader.read()
            assert answer.startswith(granted)
            assert answer.endswith(b"at once")
            writer.close()
        for request, refused in (
            (b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x16", b"\x05\x00\x05\x02"),
            (b"CONNECT 10.0.0.1:22 HTTP/1.1\r\n\r\n", b"HTTP/1.1 403 Refused\r\n"),
            (b"GET http://localhost/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 501 Refused\r\n"),
            (b"\x04\x01", b""),
            (b"\x16\x03\x01", b""),
            (b"", b""),
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            writer.write(request)
            writer.write_eof()
            assert (await reader.read()).startswith(refused)
            writer.close()
    assert [line for line in told if "10.0.0.1:22" in line] == ["the server does not allow tunnels to 10.0.0.1:22"] * 2
    assert len(told) == 5


async def test_tunnels_end_with_their_connection(certificates: Certificates, tmp_path: Path) -> None:
    async with target(echo) as port:
        async with gate(certificates, tmp_path, "localhost:*") as served:
            tunnels = served.tunnels()
            tunnel = await tunnels.open(TcpTarget("127.0.0.1", port))
        with pytest.raises(ConnectionLost):
            await tunnel.read()
        await tunnels.close()


async def test_strangers_are_dismissed_and_others_are_not(certificates: Certificates, tmp_path: Path) -> None:
    async with target(echo) as port, gate(certificates, tmp_path, "localhost:*", silence=0.3) as served:
        watching = asyncio.create_task(served.gate.dismiss_strangers(served.server))
        place = TcpTarget("127.0.0.1", port)
        async with served.tunnels() as anna, served.tunnels("wrong") as stranger, served.tunnels() as mute:
            (await anna.open(place)).cancel()
            with pytest.raises(Refused):
                await stranger.open(place)
            await mute.connect()
            clients = [tunnels._client for tunnels in (anna, stranger, mute)]
            assert all(clients)
            for client in clients[1:]:
                assert client is not None
                await client.connection.wait_closed()
            assert len(served.server.connections) == 1
            (await anna.open(place)).cancel()
            # Who was away may come again.
            (await mute.open(place)).cancel()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
