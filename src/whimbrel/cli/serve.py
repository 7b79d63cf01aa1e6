"""``whimbrel serve``: a folder or an application over HTTP/3, for clients that may move.

Decides what is said on the terminal and when it ends; `_static` answers, `_uploads` stores, `_app` runs applications.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime as dt
import ipaddress
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from whimbrel.cli import _app, _tunnel_server, _workers, fail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from whimbrel import http
    from whimbrel._workers import Workers
    from whimbrel.cli._certificate import Certificate
    from whimbrel.http import asgi

DEFAULT_PORT = 4433
PATIENCE = 3.0
"""Seconds that answers are waited for at the end; a second Ctrl-C waits no longer."""

# Addresses that are nobody's (RFC 5737, RFC 3849): the way there tells this machine's own.
_SOMEWHERE = ("192.0.2.1", "2001:db8::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "folder",
        metavar="DIR|MODULE:ATTRIBUTE",
        type=Path,
        nargs="?",
        help="what is served: a folder's files, and lists of them; where none has that name, an ASGI application",
    )
    parser.add_argument("--host", metavar="H", help="address or name to listen on (default: all, IPv4 and IPv6)")
    parser.add_argument(
        "--port", metavar="P", type=_port, default=DEFAULT_PORT, help=f"UDP port (default: {DEFAULT_PORT}; 0: any)"
    )
    parser.add_argument("--cert", metavar="FILE", type=Path, help="certificate chain, PEM (default: one is made)")
    parser.add_argument("--key", metavar="FILE", type=Path, help="its private key, PEM")
    parser.add_argument(
        "--dispatch",
        choices=("wildcard", "connected"),
        default="wildcard",
        help="how packets find their connection: by its ID, on one socket (default), or by a socket for each client",
    )
    parser.add_argument(
        "--retry",
        choices=("auto", "always", "never"),
        default="auto",
        help="have newcomers prove their address first (default: auto, when many come at once)",
    )
    parser.add_argument("--client-ca", metavar="FILE", type=Path, help="serve only who has a certificate of this CA")
    parser.add_argument("--upload", metavar="DIR", type=Path, help="take files by PUT, and store them here")
    parser.add_argument("-q", "--quiet", action="store_true", help="no line for each request")
    _workers.add_arguments(parser)
    _app.add_arguments(parser)
    _tunnel_server.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes. Returns the exit status."""
    if (args.cert is None) != (args.key is None):
        return fail("--cert and --key go together", 2)
    if problem := _app.problem(args):
        return fail(problem, 2)
    is_app = _app.is_named(args.folder)
    if problem := _tunnel_server.problem(args) or _workers.problem(args, is_app=is_app):
        return fail(problem, 2)
    if args.folder is None and (args.upload or not args.tunnel):
        return fail("DIR, the folder to serve, is missing", 2)
    if args.folder is not None and not is_app and (problem := _folder_problem(args.folder, os.R_OK | os.X_OK, "read")):
        return fail(problem)
    if args.upload is not None and (problem := _folder_problem(args.upload, os.W_OK | os.X_OK, "write")):
        return fail(problem)
    try:
        return asyncio.run(_app.serve(args) if is_app else _workers.serve(args) if args.workers else _serve(args))
    except socket.gaierror as error:
        return fail(f"cannot find {args.host}: {error.strerror}")
    except (OSError, ValueError) as error:
        return fail(error)
    except KeyboardInterrupt:
        return 0  # Before there was anything to end.


def _folder_problem(folder: Path, wanted: int, what: str) -> str:
    if not folder.exists():
        return f"{folder} does not exist"
    if not folder.is_dir():
        return f"{folder} is no folder"
    return "" if os.access(folder, wanted) else f"cannot {what} in {folder}: permission denied"


async def _serve(args: argparse.Namespace) -> int:
    pair, certificate = _certificates(args)
    with _ended_by_signals() as ended:
        async with _site(args, pair, _hosts(args), args.port) as server:
            _announce(args, server, pair[0], certificate)
            await ended.first.wait()
            await _close(server, server, ended.second)
    return 0


@contextlib.asynccontextmanager
async def _site(
    args: argparse.Namespace, pair: tuple[Path, Path], hosts: Sequence[str], port: int
) -> AsyncIterator[http.Server]:
    """The server that was asked for, in this process."""
    from whimbrel import http
    from whimbrel.cli._access_log import AccessLog
    from whimbrel.cli._static import Site
    from whimbrel.cli._static_folder import Folder
    from whimbrel.cli._uploads import Uploads

    site: http.Handler = _tunnel_server.nothing_else
    if args.folder is not None:
        site = Site(Folder(args.folder), Uploads(Folder(args.upload)) if args.upload else None)
    handler = site if args.quiet else AccessLog(site)
    options: http.ServeOptions = {"sockets": args.dispatch, "retry": args.retry}
    if args.tunnel:
        options |= _tunnel_server.options(args)
    if args.client_ca is not None:
        options["client_ca"] = args.client_ca
    with _tunnel_server.gate(args) as gate:
        async with (
            http.serve(handler, hosts, port, cert=pair, connect=gate, **options) as server,
            _tunnel_server.watched(gate, server),
        ):
            yield server


async def _close(server: http.Server | asgi.Server, http3: http.Server, at_once: asyncio.Event) -> None:
    """Let answers be finished, until somebody is impatient."""
    closing = asyncio.create_task(server.close(drain=PATIENCE))
    hurry = asyncio.create_task(at_once.wait())
    await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if hurry.cancel() is False:
        # A cancelled close() tells each client once, and in the middle of a download that is easily lost.
        await http3.close()
    closing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await closing


def _announce(
    args: argparse.Namespace, server: http.Server | Workers, chain: Path, certificate: Certificate | None
) -> None:
    from whimbrel._errors import address_text
    from whimbrel.cli._certificate import Certificate
    from whimbrel.http._url import authority

    port = server.addresses[0][1]
    host = "localhost" if args.host is None or _is_wildcard(args.host) else args.host
    url = f"https://{authority(host, port)}/"
    shown = certificate or Certificate(chain, Path())
    what = "tunnels" if args.folder is None else args.folder
    authority_file = "" if certificate is None else f"--cafile {shown.chain} "
    lines = [
        f"serving {what} at {url}",
        f"listening on {', '.join(address_text(address) for address in server.addresses)}",
        f"certificate {shown.chain}",
        f"sha-256 {shown.fingerprint}",
        f"spki {shown.spki}",
        f"try: whimbrel get {authority_file}{url}"
        if args.folder is not None
        else f"try: whimbrel pipe {authority_file}{_tunnel_server.shown(args)}{host}:{port}",
    ]
    print("\n".join(lines), flush=True)


def _hosts(args: argparse.Namespace) -> list[str]:
    return ["0.0.0.0", "::"] if args.host is None else [args.host]


def _certificates(args: argparse.Namespace) -> tuple[tuple[Path, Path], Certificate | None]:
    """Chain and key, and where they came from if they were not given."""
    if args.cert:
        return (args.cert, args.key), None
    certificate = _certificate(args.host)
    return (certificate.chain, certificate.key), certificate


def _certificate(host: str | None) -> Certificate:
    from whimbrel.cli._certificate import development_certificate, state_folder

    return development_certificate(_names(host), state_folder(), dt.datetime.now(dt.UTC))


def _names(host: str | None) -> Sequence[str]:
    """What clients may call the server, besides the loopback's names."""
    from whimbrel.network import routes_to

    if host is not None and not _is_wildcard(host):
        return [host]
    return [route.source for somewhere in _SOMEWHERE for route in routes_to(somewhere)]


def _is_wildcard(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


class _Ended:
    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()

    def signal(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[_Ended]:
    loop, ended = asyncio.get_running_loop(), _Ended()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.signal)
    try:
        yield ended
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= (value := int(text)) < 65536:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
