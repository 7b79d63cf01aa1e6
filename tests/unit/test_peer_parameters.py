"""Transport parameters as another implementation writes them."""

from __future__ import annotations

from aioquic._buffer import Buffer
from aioquic.quic.packet import QuicPreferredAddress, QuicTransportParameters, push_quic_transport_parameters

from whimbrel import PeerParameters


def encoded(parameters: QuicTransportParameters) -> bytes:
    buffer = Buffer(capacity=512)
    push_quic_transport_parameters(buffer, parameters)
    return buffer.data


def preferred(ipv4: tuple[str, int] | None, ipv6: tuple[str, int] | None) -> QuicPreferredAddress:
    return QuicPreferredAddress(ipv4, ipv6, connection_id=bytes(8), stateless_reset_token=bytes(16))


def test_what_is_said_is_read() -> None:
    said = QuicTransportParameters(
        max_idle_timeout=30_000,
        max_udp_payload_size=1452,
        disable_active_migration=True,
        active_connection_id_limit=8,
        initial_source_connection_id=bytes(5),
        preferred_address=preferred(("192.0.2.7", 4433), ("2001:db8::7", 443)),
    )
    assert PeerParameters.read(encoded(said)) == PeerParameters(
        disable_active_migration=True,
        connection_id_length=5,
        active_connection_id_limit=8,
        max_idle_timeout=30.0,
        preferred_address=(("192.0.2.7", 4433), ("2001:db8::7", 443)),
    )


def test_what_is_left_out_is_as_the_rfc_has_it() -> None:
    read = PeerParameters.read(encoded(QuicTransportParameters(initial_source_connection_id=bytes(8))))
    assert read.active_connection_id_limit == 2
    assert read.max_idle_timeout is None
    assert read.preferred_address == ()
    assert read.allows_migration


def test_a_server_may_prefer_an_address_of_one_family() -> None:
    said = QuicTransportParameters(preferred_address=preferred(None, ("2001:db8::7", 443)))
    assert PeerParameters.read(encoded(said)).preferred_address == (("2001:db8::7", 443),)


def test_whose_connection_ids_are_empty_cannot_be_moved_away_from() -> None:
    read = PeerParameters.read(encoded(QuicTransportParameters(initial_source_connection_id=b"")))
    assert not read.disable_active_migration
    assert not read.allows_migration
