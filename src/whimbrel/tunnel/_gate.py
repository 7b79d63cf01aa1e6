"""The server's end: who may have a tunnel, and where to. Everything is refused that no rule and no token lets in."""

from __future__ import annotations

import asyncio
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

from whimbrel._errors import WhimbrelError, address_text
from whimbrel.http import ErrorCode
from whimbrel.tunnel._bearer import certificate_name
from whimbrel.tunnel._dial import dial
from whimbrel.tunnel._refusal import Reason, Refused, proxy_status
from whimbrel.tunnel._relay import Traffic, relay
from whimbrel.tunnel._target import BadTarget, Target, parse_authority
from whimbrel.tunnel._throttle import Quota, Throttle

if TYPE_CHECKING:
    from whimbrel._connection import Connection
    from whimbrel.http import Request, Server
    from whimbrel.tunnel._audit import Audit
    from whimbrel.tunnel._rules import Rules
    from whimbrel.tunnel._tokens import Tokens

EACH = 256
"""Tunnels that one bearer may have at once. A browser opens some dozens."""
IN_ALL = 2048
"""Of all bearers together; each takes a descriptor for its target."""

SILENCE = 90.0
"""Seconds: the idle timeout of a server that has no tunnels."""


class Gate:
    """Answers CONNECT by tunnels, or by why there is none.

    Args:
        rules: where they may lead.
        tokens: who may have them. None: whoever has shown a certificate, which the server must have been told to
            verify.
        audit: is told of each.
        silence: seconds after which `dismiss_strangers` dismisses.
    """

    def __init__(self, rules: Rules, tokens: Tokens | None, audit: Audit, *, silence: float = SILENCE) -> None:
        self._rules, self._tokens, self._audit, self._silence = rules, tokens, audit, silence
        self._throttle = Throttle()
        self._quota = Quota(EACH, IN_ALL)
        self._admitted: weakref.WeakSet[Connection] = weakref.WeakSet()

    async def __call__(self, request: Request) -> None:
        """Answer one request: what `whimbrel.http.serve` takes as ``connect=``."""
        try:
            who = self._who(request)
        except Refused as refusal:
            await self._refuse(request, refusal)
            return
        if not self._quota.take(who):
            await self._refuse(request, Refused(Reason.TOO_MANY_TUNNELS, "too many tunnels are open"), who)
            return
        try:
            await self._tunnel(request, who)
        except Refused as refusal:
            await self._refuse(request, refusal, who)
        finally:
            self._quota.give_back(who)

    def _who(self, request: Request) -> str:
        """Who asks, by the name for the log."""
        now, address = asyncio.get_running_loop().time(), request.client[0]
        is_known = request.connection in self._admitted
        if not is_known and self._throttle.is_blocked(address, now):
            raise Refused(Reason.TOO_MANY_FAILURES, "too many failed attempts")
        certificate = request.connection.peer_certificate
        if self._tokens is None:
            who = None if certificate is None else certificate_name(certificate)
            problem = "no certificate"
        else:
            given = request.headers.get("proxy-authorization")
            who = None if given is None else self._tokens.bearer(given)
            problem = "no token" if given is None else "wrong token"
        if who is None:
            self._throttle.failed(address, now)
            raise Refused(Reason.UNAUTHENTICATED, problem)
        self._admitted.add(request.connection)
        return who

    def certificate_refused(self, client: str, problem: str) -> None:
        """TLS has turned a client away, before there was a request.

        Args:
            client: its address and port.
            problem: what is wrong with its certificate, such as "missing".
        """
        address, now = client.rpartition(":")[0].strip("[]"), asyncio.get_running_loop().time()
        attempts = self._throttle.unheard(address) if self._throttle.is_blocked(address, now) else None
        self._throttle.failed(address, now)
        if attempts is None or _is_told(attempts):
            why = "no certificate" if problem == "missing" else f"wrong certificate: {problem}"
            self._audit.tell("refused", client=client, why=why, attempts=attempts)

    async def dismiss_strangers(self, server: Server) -> None:
        """Close connections on which nobody was let in, after silence: patience is for those who were.

        Args:
            server: whose connections; for as long as this runs.
        """
        loop = asyncio.get_running_loop()
        heard: weakref.WeakKeyDictionary[Connection, tuple[int, float]] = weakref.WeakKeyDictionary()
        while True:
            await asyncio.sleep(self._silence / 3)
            for connection in server.connections:
                if connection in self._admitted:
                    continue
                received = connection.stats().bytes_received
                before, since = heard.get(connection, (-1, 0.0))
                if received != before:
                    heard[connection] = received, loop.time()
                elif loop.time() - since >= self._silence:
                    await connection.close(ErrorCode.H3_NO_ERROR, linger=0.0)

    async def _tunnel(self, request: Request, who: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        target = _target(request)
        local, place = await dial(target, self._rules)
        traffic = Traffic()
        facts = {"who": who, "target": str(target), "address": place if place != str(target) else None}
        self._audit.tell("opened", client=address_text(request.client), **facts)
        end = "cancelled"
        try:
            tunnel = await request.accept()
            broken = await relay(local, tunnel, traffic, towards_tunnel=False)
            end = "complete" if broken is None else _why(broken)
        except WhimbrelError as error:
            end = _why(error)
            raise
        finally:
            self._audit.tell(
                "closed",
                client=address_text(request.client),
                **facts,
                bytes_to_target=traffic.to_target,
                bytes_from_target=traffic.from_target,
                seconds=round(loop.time() - began, 3),
                end=end,
            )
            if end == "complete":
                await local.close()
            else:
                local.cancel()

    async def _refuse(self, request: Request, refusal: Refused, who: str | None = None) -> None:
        unheard = None
        if refusal.reason is Reason.TOO_MANY_FAILURES:
            unheard = self._throttle.unheard(request.client[0])
        # Somebody who tries a thousand times a second shall not fill the disk: 1, 2, 4, 8, … are told.
        if unheard is None or _is_told(unheard):
            self._audit.tell(
                "refused",
                client=address_text(request.client),
                who=who,
                target=request.authority,
                why=refusal.message,
                status=refusal.reason.status,
                attempts=unheard,
            )
        headers = {"proxy-status": proxy_status(refusal.reason)}
        if refusal.reason is Reason.UNAUTHENTICATED:
            headers["proxy-authenticate"] = "Bearer"
        with suppress(WhimbrelError):  # Whoever was refused may be gone.
            await request.respond(refusal.reason.status, headers)


def _target(request: Request) -> Target:
    try:
        return parse_authority(request.authority)
    except BadTarget as error:
        raise Refused(Reason.BAD_TARGET, str(error)) from None


def _is_told(attempts: int) -> bool:
    return attempts & (attempts - 1) == 0


def _why(error: BaseException) -> str:
    return error.message if isinstance(error, WhimbrelError) else str(error)
