"""``whimbrel doctor HOST``: can connections to it follow this machine from network to network?

`_doctor` examines; what the findings come to is the exit status.
"""

from __future__ import annotations

import argparse
import asyncio
import json

from whimbrel.cli import INTERRUPTED, fail
from whimbrel.cli._doctor._findings import Verdict
from whimbrel.cli._transfers import seconds

EPILOG = f"""exit status: {Verdict.FOLLOWS.value} connections follow this machine, {Verdict.USAGE.value} usage,
{Verdict.STAYS.value} they work but cannot move, {Verdict.UNREACHABLE.value} nothing answers over UDP,
{Verdict.REFUSED.value} something does, but no HTTP/3 connection comes about (certificate, protocol),
{INTERRUPTED} interrupted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Find out whether HTTP/3 reaches HOST, whether its connections may move and survive that, and what whimbrel "
        "would do when the network changes. Some datagrams and two connections with HEAD requests are all that is sent."
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument("host", metavar="HOST", help="name or IP address")
    parser.add_argument("-p", "--port", type=_port, default=443, help="UDP port (default: 443)")
    parser.add_argument("--cafile", metavar="FILE", help="trust the certificates in FILE instead of the system's")
    parser.add_argument("--insecure", action="store_true", help="do not verify the server's certificate")
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="S", help="seconds to wait for each answer (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of sentences")


def run(args: argparse.Namespace) -> int:
    """Examine the host. Returns the exit status."""
    from whimbrel._tls import trust_roots
    from whimbrel.cli._doctor import _report
    from whimbrel.cli._doctor._examination import Examination

    if not args.host or "/" in args.host:
        return fail(f"{args.host!r} is neither a name nor an address; a URL's host is what stands here", Verdict.USAGE)
    if args.cafile is not None:
        try:
            trust_roots(args.cafile)
        except (OSError, ValueError) as error:
            return fail(error, Verdict.USAGE)
    verify = False if args.insecure else args.cafile or True
    found = asyncio.run(Examination(args.host, args.port, verify=verify, timeout=args.timeout).run())
    if args.json:
        print(json.dumps(found.as_json(_report.verdict(found))), flush=True)
    else:
        print("\n".join(_report.lines(found)), flush=True)
    return found.verdict


def _port(text: str) -> int:
    if text.isascii() and text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port, 1 to 65535")
