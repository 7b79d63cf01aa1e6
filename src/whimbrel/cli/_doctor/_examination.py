"""The examination itself: ask, connect, move, and see what becomes of it.

Two connections are made. The first moves to a new port of the same network, which only the server's consent and its
path validation decide about. The second moves by `Connection.migrate` to each other network of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import warnings
from typing import TYPE_CHECKING, Any

from whimbrel import (
    AlpnMismatch,
    CertificateError,
    ConnectFailed,
    HandshakeFailed,
    InsecureWarning,
    Migration,
    NoAnswer,
    NoRoute,
    PathMigrated,
    WhimbrelError,
    http,
)
from whimbrel._client import in_turns, resolve
from whimbrel._probe import ProbeDatagram, ProbeSocket
from whimbrel._steering import CONTROL_END, CONTROL_TIMES
from whimbrel.cli._doctor._findings import Change, Findings, Trial, Way
from whimbrel.cli._judgement import Standing, next_step
from whimbrel.network import Route, routes_to

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from whimbrel import Connection
    from whimbrel._path import Address

LOOPBACK = "lo"
TCP_WAIT = 3.0
"""Seconds for a TCP handshake, SYN sent again included: it only explains a failure."""
AGAIN = 0.05
"""Seconds between requests on a path that has brought nothing yet."""
_ANOTHER = Route("another network", 0, "")
"""Stands for one that this machine does not have now."""


class Examination:
    """Finds out about one host.

    Args:
        host: name or address.
        port: UDP port.
        verify: as for `whimbrel.connect`.
        timeout: seconds for each step that waits for the host.
    """

    def __init__(self, host: str, port: int, *, verify: bool | str, timeout: float) -> None:
        self.findings = Findings(host, port)
        self._verify = verify
        self._timeout = timeout

    async def run(self) -> Findings:
        """Do it. What goes wrong is among the findings."""
        found = self.findings
        try:
            async with asyncio.timeout(self._timeout):
                addresses = in_turns(await resolve(found.host, found.port))
        except (OSError, UnicodeError) as error:
            found.problem, found.sentence = "unknown-host", _unknown(found.host, error)
            return found
        found.addresses = [address for address, _ in addresses]
        try:
            routes = {address: routes_to(address[0]) for address in addresses}
        except ValueError as error:  # A link-local address that does not name its interface.
            found.problem, found.sentence = NoRoute.slug, str(error)
            return found
        if not any(routes.values()):
            found.problem, found.sentence = NoRoute.slug, f"no network leads to {found.host}"
            return found
        found.ways, found.refused = await asyncio.gather(_ask(routes), _refuse([a for a in routes if routes[a]]))
        found.quic = any(way.answer_ms is not None for way in found.ways)
        if found.refused and not found.quic:
            found.problem, found.sentence = "refused", f"nothing listens on UDP port {found.port} there"
        else:
            await self._connect()
        if not found.quic:
            found.tcp = await self._answers_tcp()
        return found

    # The first connection ---------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        found = self.findings
        try:
            client = await self._dial(None)
        except ConnectFailed as error:
            found.problem, found.sentence = error.slug, _refusal(error)
            # Whose certificate is wrong, or who speaks something else, has answered.
            found.quic = found.quic or isinstance(error, HandshakeFailed)
            return
        except WhimbrelError as error:  # HTTP/3's own beginning.
            found.quic, found.problem, found.sentence = True, error.slug, error.message
            return
        async with _closing(client):
            found.quic = True
            connection = client.connection
            try:
                found.status = await self._request(client)
                await self._confirmed(connection)
            except (WhimbrelError, TimeoutError) as error:
                found.problem, found.sentence = _slug(error), f"HEAD / is not answered: {_text(error)}"
                return
            found.http3 = True
            self._look_at(connection)
            await self._try_moves(client)

    def _look_at(self, connection: Connection) -> None:
        found, path, said = self.findings, connection.path, connection.peer_parameters
        assert said is not None, "the handshake is complete"
        found.remote, found.interface = path.remote[0], path.interface
        found.rtt_ms = _ms(path.rtt)
        found.allows_migration = said.allows_migration
        found.disable_active_migration = said.disable_active_migration
        found.connection_id_length = said.connection_id_length
        found.spare_connection_ids = connection.stats().spare_connection_ids
        found.idle_timeout = said.max_idle_timeout
        found.preferred_address = list(said.preferred_address)
        standing = Standing(
            peer_forbids=not said.allows_migration, spare_ids=found.spare_connection_ids, rtt=connection.stats().rtt
        )
        found.network_changes = _changes(routes_to(path.remote[0]), standing)

    async def _try_moves(self, client: http.Client) -> None:
        """Every move that this machine can make, as long as the server allows any."""
        found, remote = self.findings, client.connection.path.remote[0]
        here = client.connection.path.interface
        routes = routes_to(remote)
        same = next((route for route in routes if route.interface == here), None)
        if not found.allows_migration:
            found.moves = [Trial("port", here or "", problem="migration-disabled")]
            return
        if same is not None:
            found.moves.append(await self._try_port(client, same))
        others = [route.interface for route in routes if route.interface != here]
        if others and all(trial.survived for trial in found.moves):
            found.moves += await self._try_interfaces(others)

    # Moves ------------------------------------------------------------------------------------------------------------

    async def _try_port(self, client: http.Client, route: Route) -> Trial:
        trial = Trial("port", route.interface)
        core = client.connection._core
        try:
            # No policy would ever do this, so `migrate` does not either: the network is the same.
            trial.linkable = not core.pin(route.index, route.source, True)
        except OSError:
            trial.problem = "no-way"
            return trial
        await self._see(client, trial, lambda: core.facts().heard > -math.inf)
        return trial

    async def _try_interfaces(self, interfaces: Sequence[str]) -> list[Trial]:
        trials = [Trial("interface", interface) for interface in interfaces]
        try:
            client = await self._dial(Migration(auto=False))
        except (WhimbrelError, OSError) as error:
            for trial in trials:
                trial.problem = _slug(error)
            return trials
        async with _closing(client):
            for trial in trials:
                if not await self._try_interface(client, trial):
                    break
        return trials

    async def _try_interface(self, client: http.Client, trial: Trial) -> bool:
        """Whether the connection still stands."""
        changes = client.connection.path_changes()
        try:
            await client.connection.migrate(interface=trial.interface, timeout=self._timeout)
        except (NoAnswer, NoRoute):
            trial.problem = "no-way"
            return True
        except WhimbrelError as error:
            trial.problem = error.slug
            return False
        async for change in changes:
            if isinstance(change, PathMigrated):
                trial.linkable = change.linkable
                break
        await self._see(client, trial, lambda: client.connection.path.validated)
        return trial.survived

    async def _see(self, client: http.Client, trial: Trial, heard: Callable[[], bool]) -> None:
        """Whether requests are answered on the path that the connection has moved to.

        Args:
            heard: whether anything came over that path. Answers that come by the old one are no proof; there may be
                some, since a server sends there until it has validated the new one (quic-go).
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                await self._request(client)
                while not heard():
                    await asyncio.sleep(AGAIN)
                    await self._request(client)
        except (WhimbrelError, TimeoutError) as error:
            trial.problem = _slug(error)
        else:
            trial.survived, trial.answer_ms = True, _ms(loop.time() - began)

    # Small parts ------------------------------------------------------------------------------------------------------

    async def _dial(self, migration: Migration | None) -> http.Client:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InsecureWarning)  # Said on the command line, and meant.
            dial = http.connect(
                self.findings.host,
                self.findings.port,
                verify=self._verify,
                timeout=self._timeout,
                migration=migration,
            )
            return await dial

    async def _request(self, client: http.Client) -> int:
        async with asyncio.timeout(self._timeout):
            async with await client.request("HEAD", "/") as response:
                return response.status

    async def _confirmed(self, connection: Connection) -> None:
        """RFC 9000 §9: no client moves before its handshake is confirmed."""
        async with asyncio.timeout(self._timeout):
            while not connection._confirmed:
                await connection._dialling.wait()

    async def _answers_tcp(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(min(self._timeout, TCP_WAIT)):
                _, writer = await asyncio.open_connection(self.findings.host, self.findings.port)
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return True
        return False


# Version negotiation -------------------------------------------------------------------------------------------------


async def _ask(routes: dict[Address, list[Route]]) -> list[Way]:
    """Every address over every network, at once: does it answer version negotiation?"""
    pairs = [(address, route) for address, ways in routes.items() for route in ways]
    answers = await asyncio.gather(*(_answer(address, route) for address, route in pairs))
    return [
        Way(address[0], route.interface, route.source, answer)
        for (address, route), answer in zip(pairs, answers, strict=True)
    ]


async def _answer(address: Address, route: Route) -> float | None:
    """How long an answer takes, milliseconds; None: none comes."""
    loop = asyncio.get_running_loop()
    try:
        probe = ProbeSocket(address, route)
    except OSError:
        return None
    asked: list[tuple[ProbeDatagram, float]] = []
    answered: asyncio.Future[float] = loop.create_future()

    def receive() -> None:
        for datagram in probe.receive():
            for question, sent in asked:
                if question.is_answered_by(datagram) and not answered.done():
                    answered.set_result(_ms(loop.time() - sent))

    def send() -> None:
        question = ProbeDatagram.new()
        asked.append((question, loop.time()))
        with contextlib.suppress(OSError):  # Nothing listens there, or the network went: no answer will come.
            probe.send(question.data)

    loop.add_reader(probe, receive)
    timers = [loop.call_later(at, send) for at in CONTROL_TIMES]
    try:
        async with asyncio.timeout(CONTROL_END):
            return await answered
    except TimeoutError:
        return None
    finally:
        for timer in timers:
            timer.cancel()
        loop.remove_reader(probe)
        probe.close()


async def _refuse(addresses: Sequence[Address]) -> bool:
    """Whether each of the addresses says that its port is closed."""
    return all(await asyncio.gather(*(_refuses(address) for address in addresses)))


async def _refuses(address: Address) -> bool:
    """Whether a datagram is answered by ICMP's "port unreachable", which only a connected socket is told of."""
    closed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    try:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Refusal(closed), remote_addr=address
        )
    except OSError:
        return False
    try:
        transport.sendto(ProbeDatagram.new().data)
        async with asyncio.timeout(CONTROL_END):
            return await closed
    except TimeoutError:
        return False
    finally:
        transport.abort()


class _Refusal(asyncio.DatagramProtocol):
    def __init__(self, closed: asyncio.Future[bool]) -> None:
        self._closed = closed

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._say(False)

    def error_received(self, exc: Exception) -> None:
        self._say(isinstance(exc, ConnectionRefusedError))

    def _say(self, closed: bool) -> None:
        if not self._closed.done():
            self._closed.set_result(closed)


# What would be -------------------------------------------------------------------------------------------------------


def _changes(routes: Sequence[Route], standing: Standing) -> list[Change]:
    """What could happen to the networks of this machine, and what a connection on the first would do."""
    if not routes or routes[0].interface == LOOPBACK:
        return []  # The host is this machine: no network leads there.
    first, *others = routes
    rest = others or [_ANOTHER]
    cases = [(f"{other.interface} is preferred", [other, *(r for r in routes if r != other)]) for other in rest]
    gone = f"{first.interface} goes away" if others else f"{first.interface} goes away and another network comes"
    cases += [(gone, list(rest)), ("no network is left", [])]
    return [Change(change, *next_step(routes, after, standing)) for change, after in cases]


@contextlib.asynccontextmanager
async def _closing(client: http.Client) -> AsyncIterator[None]:
    """Close it without waiting: it may be the one whose packets get lost."""
    try:
        yield
    finally:
        await client.close(linger=0.0)


def _unknown(host: str, error: OSError | UnicodeError) -> str:
    if isinstance(error, TimeoutError):
        return f"the look-up of {host} brought nothing in time"
    reason = error.strerror if isinstance(error, socket.gaierror) else "not a valid host name"
    return f"cannot find {host}: {reason}"


def _refusal(error: ConnectFailed) -> str:
    match error:
        case AlpnMismatch():
            return "the server speaks QUIC, but no HTTP/3"
        case CertificateError() if not error.ours:
            return f"{error.message}; --cafile names another authority to trust, --insecure trusts anybody"
        case _:
            return error.message


def _slug(error: Exception) -> str:
    return error.slug if isinstance(error, WhimbrelError) else NoAnswer.slug


def _text(error: Exception) -> str:
    return error.message if isinstance(error, WhimbrelError) else "no answer in time"


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
