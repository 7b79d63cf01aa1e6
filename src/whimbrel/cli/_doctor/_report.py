"""The findings in plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from whimbrel._errors import address_text
from whimbrel.cli._doctor._findings import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from whimbrel.cli._doctor._findings import Findings, Trial


def lines(found: Findings) -> Iterator[str]:
    """What a person is told, the verdict last."""
    yield from _reached(found)
    if found.http3:
        yield from _server(found)
        yield from (_move(found, trial) for trial in found.moves)
        yield from (f"If {change.change}: whimbrel {change.sentence}." for change in found.network_changes)
    yield f"Verdict: {verdict(found)}"


def verdict(found: Findings) -> str:
    """The whole in one sentence."""
    match found.verdict:
        case Verdict.FOLLOWS:
            linkable = any(trial.linkable for trial in found.moves)
            but = ", but whoever watches both networks can link them: it leaves no spare connection ID"
            return f"connections to {found.host} follow this machine from network to network{but if linkable else ''}."
        case Verdict.STAYS if not found.allows_migration:
            return (
                f"connections to {found.host} work, and stay on the network they began on: the server forbids moving."
            )
        case Verdict.STAYS:
            return f"connections to {found.host} work, and do not survive a move, although the server allows it."
        case Verdict.REFUSED:
            return f"{found.host} is reached over UDP, and no HTTP/3 connection comes about: {found.sentence}."
        case Verdict.UNREACHABLE:
            return f"{found.host} is not reached with QUIC: {found.sentence}.{_hint(found)}"
        case Verdict.USAGE:
            raise AssertionError("nothing was found out then")
        case other:
            assert_never(other)


def _hint(found: Findings) -> str:
    if found.tcp is None:
        return ""
    if found.tcp:
        return (
            f" TCP port {found.port} answers: so either nothing serves HTTP/3 there, or something on the way drops UDP."
        )
    return f" Neither does TCP port {found.port} answer."


def _reached(found: Findings) -> Iterator[str]:
    for address in found.addresses:
        ways = [way for way in found.ways if way.address == address]
        if not ways:
            yield f"{address}: no network leads there."
        for way in ways:
            over = f"{address} over {way.interface} ({way.source})"
            if way.answer_ms is not None:
                yield f"{over}: answers in {way.answer_ms:.0f} ms."
            elif found.http3:
                yield f"{over}: no answer to version negotiation."
            else:
                yield f"{over}: no answer."


def _server(found: Findings) -> Iterator[str]:
    yield (
        f"HTTP/3 works: {found.remote} answers HEAD / with status {found.status} over {found.interface}, "
        f"round trip {found.rtt_ms:.0f} ms."
    )
    if found.http3 and not any(way.answer_ms is not None for way in found.ways):
        yield "It answers no version negotiation, so whimbrel cannot ask before it moves: it moves on trust."
    if found.disable_active_migration:
        yield "It forbids migration (disable_active_migration)."
    if found.connection_id_length == 0:
        yield "Its connection IDs are empty: it knows clients by their addresses, so none can move."
    if found.allows_migration:
        yield (
            f"It allows migration, with connection IDs of {found.connection_id_length} bytes, "
            f"of which it gives {found.spare_connection_ids} to spare."
        )
    if found.idle_timeout is not None:
        yield f"It gives up who is not heard for {found.idle_timeout:g} s: a longer outage ends a connection."
    for address in found.preferred_address:
        yield f"It would rather be reached at {address_text(address)} (preferred_address). whimbrel does not go there."


def _move(found: Findings, trial: Trial) -> str:
    what = f"A move to a new port on {trial.interface}"
    if trial.kind == "interface":
        what = f"A move from {found.interface} to {trial.interface}"
    if trial.survived:
        linkable = " The connection ID had to be kept." if trial.linkable else ""
        return f"{what}: survived, an answer came after {trial.answer_ms:.0f} ms.{linkable}"
    match trial.problem:
        case "no-way":
            return f"{what}: not made, {found.host} is not reached that way."
        case "migration-disabled":
            return f"{what}: not tried, since the server forbids it."
        case problem:
            return f"{what}: not survived ({problem})."
