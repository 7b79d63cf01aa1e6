"""Probes as datagrams."""

from __future__ import annotations

from aioquic._buffer import Buffer
from aioquic.quic.packet import encode_quic_version_negotiation, pull_quic_header

from whimbrel._probe import SIZE, ProbeDatagram


def test_a_server_that_reads_on_before_it_looks_at_the_version_answers_every_probe() -> None:
    for _ in range(100):
        probe = ProbeDatagram.new()
        assert len(probe.data) == SIZE
        header = pull_quic_header(Buffer(data=probe.data))
        assert (header.destination_cid, header.source_cid) == (probe.theirs, probe.ours)
        answer = encode_quic_version_negotiation(
            source_cid=header.destination_cid, destination_cid=header.source_cid, supported_versions=[1]
        )
        assert probe.is_answered_by(answer)
        assert not ProbeDatagram.new().is_answered_by(answer)
