"""The server's way to a target: looked up once, judged by the rules, and connected to by what was judged."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from whimbrel.tunnel._refusal import Reason, Refused
from whimbrel.tunnel._relay import SocketPipe
from whimbrel.tunnel._target import IpAddress, TcpTarget, UnixTarget, as_address

if TYPE_CHECKING:
    from whimbrel.tunnel._rules import Rules
    from whimbrel.tunnel._target import Target

PATIENCE = 10.0
"""Seconds for all of it: look-up and every address."""
TURN = 4.0
"""Seconds for one address, where others are left."""

_CLOSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})


async def dial(target: Target, rules: Rules) -> tuple[SocketPipe, str]:
    """Connect to a target that the rules allow. Returns the connection, and where it leads by address.

    Raises:
        Refused: they do not, or nobody is there.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            if isinstance(target, UnixTarget):
                return await _dial_socket(target, rules), target.path
            return await _dial_tcp(target, rules)
    except TimeoutError:
        raise Refused(Reason.NO_ANSWER, f"{target} did not answer") from None


async def _dial_socket(target: UnixTarget, rules: Rules) -> SocketPipe:
    if not rules.permits_socket(target):
        raise Refused(Reason.NOT_ALLOWED, f"no rule allows {target}")
    try:
        return SocketPipe(*await asyncio.open_unix_connection(target.path))
    except OSError as error:
        raise _failed(target, error) from None


async def _dial_tcp(target: TcpTarget, rules: Rules) -> tuple[SocketPipe, str]:
    if not rules.may_permit(target):
        raise Refused(Reason.NOT_ALLOWED, f"no rule allows {target}")
    addresses = await _look_up(target)
    permitted = rules.permitted(target, addresses)
    if not permitted:
        there = ", ".join(map(str, addresses[:4]))
        raise Refused(Reason.NOT_ALLOWED, f"{target} leads to {there}, where no rule lets it")
    for number, address in enumerate(permitted, 1):
        place = TcpTarget(str(address), target.port)
        try:
            async with asyncio.timeout(TURN if number < len(permitted) else None):
                return SocketPipe(*await asyncio.open_connection(place.host, place.port)), place.authority
        except OSError as error:  # A TimeoutError is one.
            if number == len(permitted):
                raise _failed(target, error) from None
    raise AssertionError("the last address returns or raises")


async def _look_up(target: TcpTarget) -> list[IpAddress]:
    if (address := target.address) is not None:
        return [address]
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Refused(Reason.NAME_UNKNOWN, f"cannot find {target.host}: {error}") from None
    addresses = (as_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found)
    return list(dict.fromkeys(address for address in addresses if address is not None))


def _failed(target: Target, error: OSError) -> Refused:
    if error.errno in _CLOSED or isinstance(error, FileNotFoundError):
        return Refused(Reason.PORT_CLOSED, f"nobody listens at {target}")
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return Refused(Reason.UNREACHABLE, f"no route leads to {target}")
    if isinstance(error, TimeoutError):
        return Refused(Reason.NO_ANSWER, f"{target} did not answer")
    return Refused(Reason.FAILED, f"cannot connect to {target}: {error.strerror or error}")
