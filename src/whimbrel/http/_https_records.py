"""HTTPS records (RFC 9460): what the DNS says about how an origin may be asked. Needs dnspython; without it, none are.

A look-up costs a connection over QUIC a part of its head start at most, and never its existence: whatever fails, no
record is what there is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from whimbrel._client import literal_address

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_CHAIN = 8
"""Aliases that are followed."""
_log = logging.getLogger("whimbrel")


@dataclass(frozen=True, slots=True)
class Service:
    """A place that answers for an origin."""

    host: str
    port: int
    speaks_http3: bool


@dataclass(frozen=True, slots=True)
class Services:
    """What the records of one origin say."""

    places: tuple[Service, ...]
    """The favourite first; empty where there is no record."""
    seconds: float
    """How long that is good for."""


NOTHING_KNOWN = Services((), 60.0)
"""No record, or no way to ask; in a minute there may be."""


async def look_up(host: str, port: int, resolver: Resolver | None, timeout: float) -> Services:
    """Ask for an origin's records.

    Args:
        host: as in the URL.
        port: as in the URL; other than 443 it is part of the name that is asked for (§9.1).
        resolver: whom to ask; None: those of the system, and about names only that the DNS may know of.
        timeout: seconds, at most.
    """
    if literal_address(host, port) is not None:
        return NOTHING_KNOWN
    if resolver is None and (host.rstrip(".") == "localhost" or host.endswith(".localhost")):
        return NOTHING_KNOWN  # RFC 6761 §6.3
    try:
        import dns.asyncresolver
        import dns.exception
    except ModuleNotFoundError:
        return NOTHING_KNOWN
    name = host if port == 443 else f"_{port}._https.{host}"
    try:
        # Made anew each time: a machine that moves is told of other servers by other networks.
        resolver = resolver or dns.asyncresolver.Resolver()
        for _ in range(_CHAIN):
            answer = await resolver.resolve(_absolute(name), "HTTPS", raise_on_no_answer=False, lifetime=timeout)
            records: list[Any] = sorted(answer.rrset or [], key=lambda record: record.priority)
            seconds = float(answer.rrset.ttl) if answer.rrset else NOTHING_KNOWN.seconds
            if not records or records[0].priority:
                owner = answer.canonical_name.to_text(omit_final_dot=True)
                found = [_service(record, owner, port) for record in records]
                return Services(tuple(service for service in found if service is not None), seconds)
            name = records[0].target.to_text()  # AliasMode (§2.4.2)
            if name == ".":
                break
    except (dns.exception.DNSException, OSError) as error:
        _log.debug("no HTTPS record of %s: %s", name, error)
    return NOTHING_KNOWN


def _service(record: Any, owner: str, port: int) -> Service | None:
    """What a record in ServiceMode says; None where it asks for what we do not know (§8)."""
    import dns.rdtypes.svcbbase as svcb

    parameters = record.params
    mandatory = parameters.get(svcb.ParamKey.MANDATORY)
    if mandatory is not None and any(int(key) not in _UNDERSTOOD for key in mandatory.keys):
        return None
    target = record.target.to_text(omit_final_dot=True)
    ids = parameters.get(svcb.ParamKey.ALPN)
    own_port = parameters.get(svcb.ParamKey.PORT)
    return Service(
        owner if target in ("", ".") else target,
        port if own_port is None else cast("int", own_port.port),
        ids is not None and b"h3" in ids.ids,
    )


_UNDERSTOOD = frozenset({0, 1, 2, 3, 4, 6})
"""mandatory, alpn, no-default-alpn, port, ipv4hint, ipv6hint; the hints are not needed."""


def _absolute(name: str) -> str:
    # A search list would ask for another name.
    return name if name.endswith(".") else name + "."
