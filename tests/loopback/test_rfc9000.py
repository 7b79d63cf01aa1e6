"""What our ends put into packets about paths and connection IDs, as another implementation decrypts it.

docs/rfc9000.md says which requirement of RFC 9000 each of these shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionId
from aioquic.quic.packet import QuicPreferredAddress, QuicTransportParameters, push_quic_transport_parameters

import whimbrel
import whimbrel.network
from tests.loopback.hostile import OddClient, _Ears, frame
from tests.loopback.support import ALPN, Relay, echo_server, turns, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aioquic._buffer import Buffer
    from aioquic.quic.events import QuicEvent

    from tests.loopback.support import Certificates

pytestmark = pytest.mark.anyio

PADDING, PING, NEW_TOKEN, NEW_CONNECTION_ID, RETIRE_CONNECTION_ID = 0x00, 0x01, 0x07, 0x18, 0x19
PATH_CHALLENGE, PATH_RESPONSE = 0x1A, 0x1B
FULL = 1200
"""Bytes of a datagram that shows what a path can carry (§8.2.1)."""
CONNECTION_ID_LIMIT_ERROR = 0x09


@dataclass(frozen=True)
class Heard:
    """One frame of the server's."""

    kind: int
    content: tuple[Any, ...]
    size: int
    """Of its datagram."""
    port: int
    """Of ours, that it came to."""


class Scribe(OddClient):
    """A client that notes what it is sent about paths, and answers challenges only when told."""

    def __init__(self, certificates: Certificates, *, limit: int = 8) -> None:
        super().__init__(certificates)
        self.heard: list[Heard] = []
        self.addressed: list[bytes] = []
        """The connection IDs of the datagrams that came."""
        self.quic._local_active_connection_id_limit = limit
        self._changed = asyncio.Event()
        self._arriving = (0, 0)
        self._others: list[asyncio.DatagramTransport] = []
        handlers = self.quic._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for kind in (NEW_TOKEN, NEW_CONNECTION_ID, RETIRE_CONNECTION_ID, PATH_CHALLENGE, PATH_RESPONSE):
            handle, epochs = handlers[kind]
            handlers[kind] = (self._noting(kind, handle), epochs)

    async def __aexit__(self, *exception: object) -> None:
        for other in self._others:
            other.abort()
        await super().__aexit__(*exception)

    async def connect(self, address: tuple[str, int]) -> Self:
        await super().connect(address)
        assert self._transport is not None
        ears = self._transport.get_protocol()
        assert isinstance(ears, _Ears)
        ears._heard = functools.partial(self._heard, port=self.port)
        return self

    @property
    def port(self) -> int:
        """The one that packets leave by."""
        assert self._transport is not None
        return _port(self._transport)

    async def open_port(self) -> asyncio.DatagramTransport:
        """Another port of ours."""
        loop = asyncio.get_running_loop()
        transport, ears = await loop.create_datagram_endpoint(lambda: _Ears(self._heard), remote_addr=self._address)
        ears._heard = functools.partial(self._heard, port=_port(transport))
        self._others.append(transport)
        return transport

    async def change_port(self) -> int:
        """Have what follows leave by another port; what comes to the old one is still heard. Returns the old."""
        assert self._transport is not None
        old = self.port
        self._others.append(self._transport)
        self._transport = await self.open_port()
        return old

    def send_challenge(self, data: bytes, *, small: bool = False) -> int:
        """In a probing packet. Returns the bytes of the datagram."""
        sizes: list[int] = []

        def send(datagram: bytes) -> None:
            sizes.append(len(datagram))
            OddClient.send(self, datagram)

        with mock.patch.object(self, "send", send):
            # aioquic makes a packet that begins with PATH_CHALLENGE a full one.
            self.send_frames(*[frame(PADDING)] * small, frame(PATH_CHALLENGE, data=data))
        (size,) = sizes
        return size

    async def wait(self, kind: int, count: int = 1, *, port: int | None = None) -> list[Heard]:
        """Wait for so many frames of a kind, at one port or any."""
        while len(found := self.of(kind, port=port)) < count:
            self._changed.clear()
            await self._changed.wait()
        return found

    def of(self, kind: int, *, port: int | None = None) -> list[Heard]:
        return [each for each in self.heard if each.kind == kind and port in (None, each.port)]

    async def is_answered(self) -> None:
        """A round trip: what the server had to say before was said."""
        token = os.urandom(8)
        self.send_frames(frame(PATH_CHALLENGE, data=token))
        while not any(each.content == (token,) for each in self.of(PATH_RESPONSE)):
            self._changed.clear()
            await self._changed.wait()

    def _heard(self, data: bytes, port: int | None = None) -> None:
        self._arriving = (len(data), self.port if port is None else port)
        if not data[0] & 0x80:
            self.addressed.append(data[1 : 1 + len(self.quic.host_cid)])
        super()._heard(data)
        self._changed.set()

    def _noting(self, kind: int, handle: Callable[..., None]) -> Callable[..., None]:
        def note(context: object, frame_type: int, buffer: Buffer) -> None:
            begin = buffer.tell()
            self.heard.append(Heard(kind, _content(kind, buffer), *self._arriving))
            if kind in (NEW_CONNECTION_ID, RETIRE_CONNECTION_ID, NEW_TOKEN):
                buffer.seek(begin)
                handle(context, frame_type, buffer)

        return note


def _issue(issued: QuicConnectionId, *, retire_prior_to: int) -> bytes:
    """NEW_CONNECTION_ID."""
    data = bytes([len(issued.cid)]) + issued.cid + issued.stateless_reset_token
    return frame(NEW_CONNECTION_ID, issued.sequence_number, retire_prior_to, data=data)


def _port(transport: asyncio.BaseTransport) -> int:
    port: int = transport.get_extra_info("sockname")[1]
    return port


def _content(kind: int, buffer: Buffer) -> tuple[Any, ...]:
    match kind:
        case 0x07:
            return (buffer.pull_bytes(buffer.pull_uint_var()),)
        case 0x18:
            sequence, retire_prior_to = buffer.pull_uint_var(), buffer.pull_uint_var()
            return sequence, retire_prior_to, buffer.pull_bytes(buffer.pull_uint8()), buffer.pull_bytes(16)
        case 0x19:
            return (buffer.pull_uint_var(),)
        case _:
            return (buffer.pull_bytes(8),)


@contextlib.asynccontextmanager
async def connected(certificates: Certificates, **options: Any) -> AsyncIterator[tuple[Scribe, whimbrel.Connection]]:
    """A scribe and the server's end of its connection."""
    async with echo_server(certificates) as server, Scribe(certificates, **options) as scribe:
        await scribe.connect(server.addresses[0])
        await until(lambda: bool(server.connections))
        (connection,) = server.connections
        await scribe.is_answered()
        yield scribe, connection


# Path validation (§8.2) -----------------------------------------------------------------------------------------------


async def test_a_challenge_is_echoed_once_and_in_a_full_datagram(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, _):
        sent = scribe.send_challenge(b"question", small=True)
        assert sent < 100  # Which is no excuse.
        await scribe.wait(PATH_RESPONSE, 2)
        await scribe.is_answered()
        answers = [each for each in scribe.of(PATH_RESPONSE) if each.content == (b"question",)]
        assert len(answers) == 1
        assert answers[0].size >= FULL


def was_reached_since(connection: whimbrel.Connection, since: float) -> bool:
    return connection._core.facts().reached > since


async def test_a_packet_that_only_asks_says_that_the_path_carries_and_no_more(certificates: Certificates) -> None:
    """§9.1: who probes has not moved. What a client has to know of a server, both ends find out alike."""
    async with connected(certificates) as (scribe, connection):
        before = after = connection._core.facts()
        for _ in range(20):
            await until(lambda: time.monotonic() > connection._core.facts().heard + 0.020)
            before = connection._core.facts()
            scribe.send_challenge(b"question")
            with mock.patch.object(scribe, "send"):  # It would acknowledge the answer.
                await until(functools.partial(was_reached_since, connection, before.reached))
                after = connection._core.facts()
            if after.reached > after.heard:  # Otherwise an acknowledgement was under way.
                break
        assert after.reached > after.heard == before.heard
        scribe.send_frames(frame(PING))
        await until(lambda: connection._core.facts().heard > after.reached)
        assert connection._core.facts().reached == connection._core.facts().heard


async def test_a_challenge_from_another_address_is_answered_there_and_moves_nothing(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, connection):
        place, home = connection.path.remote, scribe._transport
        scribe._transport = elsewhere = await scribe.open_port()
        sent = scribe.send_challenge(b"question")
        scribe._transport = home  # Acknowledgements would move it.
        assert sent >= FULL
        (answer,) = await scribe.wait(PATH_RESPONSE, port=_port(elsewhere))
        assert answer.content == (b"question",)
        assert answer.size >= FULL
        assert connection.path.remote == place
        assert scribe.of(PATH_CHALLENGE) == []


async def test_a_small_challenge_from_another_address_is_not_answered_by_a_large_datagram(
    certificates: Certificates,
) -> None:
    """Who names a victim's address gets it three times the bytes and no more (§8.2.2, §9.3.1)."""
    async with connected(certificates) as (scribe, connection):
        home = scribe._transport
        scribe._transport = elsewhere = await scribe.open_port()
        sent = [scribe.send_challenge(os.urandom(8), small=True) for _ in range(3)]
        scribe._transport = home
        assert FULL > 3 * sum(sent) > 300
        await scribe.is_answered()
        assert scribe.of(PATH_RESPONSE, port=_port(elsewhere)) == []
        assert connection.path.remote[1] == scribe.port


async def test_only_the_right_answer_proves_a_new_address(certificates: Certificates) -> None:
    """Neither another's, nor that of the previous address, nor acknowledgements: it goes on asking."""
    async with connected(certificates) as (scribe, connection):
        old = await scribe.change_port()
        scribe.send_frames(frame(PING))
        asked, *_ = await scribe.wait(PATH_CHALLENGE, port=scribe.port)
        previous, *_ = await scribe.wait(PATH_CHALLENGE, port=old)
        assert connection.path.remote == ("127.0.0.1", scribe.port)
        assert asked.content != previous.content
        for wrong in (bytes(8), previous.content[0]):
            scribe.heard.clear()
            scribe.send_frames(frame(PATH_RESPONSE, data=wrong))
            await scribe.is_answered()
            assert asked.content in [each.content for each in scribe.of(PATH_CHALLENGE)]
        scribe.send_frames(frame(PATH_RESPONSE, data=asked.content[0]))
        await scribe.is_answered()
        scribe.heard.clear()
        await scribe.is_answered()
        assert scribe.of(PATH_CHALLENGE) == []
        assert connection.path.validated


async def test_both_addresses_are_asked_and_never_the_same_question(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, connection):
        questions: list[bytes] = []
        for _ in range(3):
            old = await scribe.change_port()
            scribe.send_frames(frame(PING))
            new, *_ = await scribe.wait(PATH_CHALLENGE, port=scribe.port)
            previous, *_ = await scribe.wait(PATH_CHALLENGE, port=old)
            assert min(new.size, previous.size) >= FULL
            questions += [new.content[0], previous.content[0]]
            scribe.send_frames(frame(PATH_RESPONSE, data=new.content[0]))
            await until(lambda: connection.path.validated)
            scribe.heard.clear()
        assert len(set(questions)) == 6


async def test_a_packet_holds_one_challenge(certificates: Certificates) -> None:
    """What is asked again is asked in another packet."""
    async with connected(certificates) as (scribe, _):
        sizes: list[int] = []
        decrypt = scribe.quic._payload_received

        def look(context: Any, plain: bytes, **options: Any) -> tuple[bool, bool]:
            before = len(scribe.of(PATH_CHALLENGE))
            result = decrypt(context, plain, **options)
            sizes.append(len(scribe.of(PATH_CHALLENGE)) - before)
            return result

        scribe.quic._payload_received = look  # type: ignore[method-assign,assignment]
        await scribe.change_port()
        for _ in range(10):
            scribe.send_frames(frame(PING))
            await scribe.is_answered()
        assert sum(sizes) >= 10
        assert max(sizes) == 1


# Connection IDs (§5.1) ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "given"), [(2, 1), (5, 4), (8, 7), (100, 7)])
async def test_connection_ids_are_numbered_different_and_no_more_than_the_client_keeps(
    certificates: Certificates, limit: int, given: int
) -> None:
    async with connected(certificates, limit=limit) as (scribe, _):
        await scribe.wait(NEW_CONNECTION_ID, given)
        await scribe.is_answered()
        issued = [each.content for each in scribe.of(NEW_CONNECTION_ID)]
        assert [sequence for sequence, *_ in issued] == list(range(1, given + 1))
        assert len({scribe.quic._peer_cid.cid, *(each[2] for each in issued)}) == given + 1
        assert len({each[3] for each in issued}) == given  # No stateless reset token twice (§10.3.2).


async def test_every_connection_id_that_was_issued_is_good_at_once(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, _):
        await scribe.wait(NEW_CONNECTION_ID, 7)
        for _, _, connection_id, _ in [each.content for each in scribe.of(NEW_CONNECTION_ID)]:
            scribe.quic._peer_cid.cid = connection_id
            await scribe.is_answered()


async def test_who_gives_a_connection_id_back_gets_another(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, _):
        await scribe.wait(NEW_CONNECTION_ID, 7)
        spare = scribe.quic._peer_cid_available
        for number in (3, 5):
            spare[:] = [each for each in spare if each.sequence_number != number]
            scribe.send_frames(frame(RETIRE_CONNECTION_ID, number))
            *_, new = await scribe.wait(NEW_CONNECTION_ID, 8 if number == 3 else 9)
            assert new.content[0] == (8 if number == 3 else 9)


async def test_connection_ids_that_the_client_takes_back_are_used_no_more(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, _):
        highest = max(each.sequence_number for each in scribe.quic._host_cids)
        fresh = QuicConnectionId(cid=os.urandom(8), sequence_number=highest + 1, stateless_reset_token=os.urandom(16))
        before = {each.cid for each in scribe.quic._host_cids}
        scribe.quic._host_cids.append(fresh)
        already = len(scribe.of(RETIRE_CONNECTION_ID))
        scribe.send_frames(_issue(fresh, retire_prior_to=fresh.sequence_number))
        await until(lambda: fresh.cid in scribe.addressed)
        del scribe.addressed[:]
        await scribe.is_answered()
        assert scribe.addressed
        assert not before.intersection(scribe.addressed)
        retired = [each.content[0] for each in scribe.of(RETIRE_CONNECTION_ID)]
        assert len(retired) > already
        assert highest + 1 not in retired


async def test_more_connection_ids_than_were_asked_for_end_the_connection(certificates: Certificates) -> None:
    async with connected(certificates) as (scribe, _):
        highest = max(each.sequence_number for each in scribe.quic._host_cids)
        scribe.send_frames(
            *(
                frame(NEW_CONNECTION_ID, highest + number, 0, data=bytes([8]) + os.urandom(24))
                for number in range(1, 12)
            )
        )
        ended = await scribe.ended()
        assert ended.error_code == CONNECTION_ID_LIMIT_ERROR


async def test_connection_ids_that_are_taken_back_without_end_end_the_connection(certificates: Certificates) -> None:
    """§5.1.2: each has to be given back by a frame, and those that wait to be sent are bounded."""
    async with connected(certificates) as (scribe, _):
        highest = max(each.sequence_number for each in scribe.quic._host_cids)
        taken = [
            QuicConnectionId(cid=os.urandom(8), sequence_number=number, stateless_reset_token=os.urandom(16))
            for number in range(highest + 5, highest + 5 * 15, 5)
        ]
        scribe.quic._host_cids += taken
        scribe.send_frames(*(_issue(each, retire_prior_to=each.sequence_number) for each in taken))
        ended = await scribe.ended()
        assert ended.error_code == CONNECTION_ID_LIMIT_ERROR


async def test_a_server_changes_its_connection_id_when_its_client_moves(certificates: Certificates) -> None:
    """And gives the old one back (§5.1.2, §9.5)."""
    async with connected(certificates) as (scribe, connection):
        before = set(scribe.addressed)
        retired = len(scribe.of(RETIRE_CONNECTION_ID))
        await scribe.change_port()
        del scribe.addressed[:]
        scribe.send_frames(frame(PING))
        asked, *_ = await scribe.wait(PATH_CHALLENGE, port=scribe.port)
        scribe.send_frames(frame(PATH_RESPONSE, data=asked.content[0]))
        await until(lambda: connection.path.validated)
        await scribe.wait(RETIRE_CONNECTION_ID, retired + 1)
        del scribe.addressed[:]
        await scribe.is_answered()
        assert not before.intersection(scribe.addressed)


# Our client, and a server that is elsewhere (§9, §9.6) ----------------------------------------------------------------


class TwoFaced(Relay):
    """What the server sends comes from another port than it was asked at, once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: asyncio.DatagramTransport | None = None
        self.diverted = 0

    def _from_server(self, data: bytes, source: tuple[str, int]) -> None:
        if self.elsewhere is None:
            super()._from_server(data, source)
        else:
            self.diverted += 1
            self.elsewhere.sendto(data, self._client)


async def test_packets_from_an_address_that_is_not_the_servers_are_not_the_servers(certificates: Certificates) -> None:
    between = TwoFaced()
    async with echo_server(certificates) as server:
        await between.start(server.addresses[0])
        other, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
        )
        try:
            async with whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca, migration=None) as client:
                stream = await client.open_stream()
                between.elsewhere = other
                await stream.write(b"hello")
                reading = asyncio.create_task(stream.readexactly(5))
                await until(lambda: between.diverted >= 3)
                assert not reading.done()
                between.elsewhere = None
                assert await reading == b"hello"
        finally:
            other.abort()
            between.stop()
            await turns()


class Echo(QuicConnectionProtocol):
    """aioquic's server, sending back what comes."""

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, events.StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data, event.end_stream)


@contextlib.asynccontextmanager
async def other_server(certificates: Certificates) -> AsyncIterator[tuple[Relay, Callable[[], QuicConnection]]]:
    """aioquic's server behind a relay, and its end of a connection."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[ALPN])
    configuration.load_cert_chain(certificates.chain, certificates.key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Echo)
    between = Relay()
    assert server._transport is not None
    await between.start(server._transport.get_extra_info("sockname"))
    try:
        yield between, lambda: next(iter(server._protocols.values()))._quic
    finally:
        between.stop()
        server.close()
        await turns()


async def echoed(client: whimbrel.Connection) -> None:
    async with await client.open_stream() as stream:
        await stream.write(b"hello")
        await stream.finish()
        assert await stream.read() == b"hello"


def _preferring(address: tuple[str, int]) -> Callable[[QuicConnection], bytes]:
    """How a server of aioquic's says that it would rather be elsewhere, which it has no option for."""
    plain = QuicConnection._serialize_transport_parameters

    def serialize(connection: QuicConnection) -> bytes:
        if connection._is_client:
            return plain(connection)
        spare = QuicConnectionId(
            cid=os.urandom(8), sequence_number=connection._host_cid_seq, stateless_reset_token=os.urandom(16)
        )
        spare.was_sent = True
        connection._host_cid_seq += 1
        connection._host_cids.append(spare)
        connection._events.append(events.ConnectionIdIssued(connection_id=spare.cid))

        def push(buffer: Buffer, parameters: QuicTransportParameters) -> None:
            parameters.preferred_address = QuicPreferredAddress(address, None, spare.cid, spare.stateless_reset_token)
            push_quic_transport_parameters(buffer, parameters)

        with mock.patch("aioquic.quic.connection.push_quic_transport_parameters", push):
            return plain(connection)

    return serialize


async def test_a_server_that_would_rather_be_elsewhere_is_talked_to_where_it_is(certificates: Certificates) -> None:
    came: list[bytes] = []
    loop = asyncio.get_running_loop()
    elsewhere, _ = await loop.create_datagram_endpoint(lambda: _Ears(came.append), local_addr=("127.0.0.1", 0))
    address = elsewhere.get_extra_info("sockname")
    try:
        with mock.patch.object(QuicConnection, "_serialize_transport_parameters", _preferring(address)):
            async with (
                other_server(certificates) as (between, _),
                whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca) as client,
            ):
                assert client.peer_parameters is not None
                assert client.peer_parameters.preferred_address == (address,)
                for _ in range(3):
                    await echoed(client)
                assert client.path.remote == between.address
        assert came == []
    finally:
        elsewhere.abort()
        await turns()


# Stateless reset (§10.3) ----------------------------------------------------------------------------------------------


def reset(token: bytes) -> bytes:
    """A datagram that ends a connection, to whoever knows the token."""
    return b"\x40" + os.urandom(60) + token


def inject(between: Relay, datagram: bytes) -> None:
    """Send the client something in the server's name."""
    assert between._front is not None
    assert between._client is not None
    between._front.sendto(datagram, between._client)


async def test_only_the_token_of_the_connection_id_in_use_resets(certificates: Certificates) -> None:
    """§10.3.1: neither those of spare ones count, nor that of one that was given back."""
    async with other_server(certificates) as (between, server):
        client = await whimbrel.connect(*between.address, alpn=ALPN, verify=certificates.ca, migration=None)
        await until(lambda: client.stats().spare_connection_ids == 4)
        await echoed(client)
        zeroth, first_spare, *more = [each.stateless_reset_token for each in server()._host_cids]
        for spare in (first_spare, *more):
            inject(between, reset(spare))
        await echoed(client)
        route = whimbrel.network.route_to("127.0.0.1")
        assert route is not None
        assert client._core.pin(route.index, route.source, True)  # From now on the first spare one is in use.
        await echoed(client)
        inject(between, reset(zeroth))
        await echoed(client)
        inject(between, reset(first_spare))
        with pytest.raises(whimbrel.StatelessReset):
            await client.accept_stream()
        await client.wait_closed()
