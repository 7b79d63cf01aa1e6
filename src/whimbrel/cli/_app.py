"""``whimbrel serve MODULE:ATTRIBUTE``: an ASGI application, over HTTP/3 and what clients had before it.

Decides what is an application's name, and says in one sentence what is wrong with it; `whimbrel.http.asgi` runs it.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import inspect
import logging
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from whimbrel.cli import _reload, fail

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

    from whimbrel import http
    from whimbrel.http.asgi import Application

T = TypeVar("T")

_log = logging.getLogger("whimbrel")

_NAME = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*(\.[^\W\d]\w*)*)")


class Unusable(Exception):
    """What was named cannot be served. The message is for whoever named it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of applications."""
    parser.add_argument(
        "--no-tcp", action="store_true", help="serve an application over HTTP/3 alone, without HTTP/2 and HTTP/1.1"
    )
    parser.add_argument(
        "--reload", action="store_true", help="start an application anew when a Python file in this folder changes"
    )


def is_named(target: Path | None) -> bool:
    """Whether this names an application: it has a colon, and is no folder that exists."""
    return target is not None and ":" in str(target) and not target.exists()


def problem(args: argparse.Namespace) -> str:
    """What is wrong with the command line of an application or of a folder; "" if nothing is."""
    if is_named(args.folder):
        for_folders = [option for option in ("upload", "tunnel") if getattr(args, option, None)]
        return f"--{for_folders[0]} does not go with an application" if for_folders else ""
    for_apps = [option for option in ("no_tcp", "reload") if getattr(args, option)]
    return f"--{for_apps[0].replace('_', '-')} is for applications, named as MODULE:ATTRIBUTE" if for_apps else ""


async def serve(args: argparse.Namespace) -> int:
    """Serve until a signal comes, or a file changes. Returns the exit status.

    Raises:
        OSError: the port is in use, or a file cannot be read.
        ValueError: a file's content makes no sense.
    """
    from whimbrel.http.asgi import LifespanFailed

    if args.reload and (missing := _missing("watchfiles", "--reload")):
        return fail(missing)
    if not args.no_tcp and (missing := _missing("hypercorn", "HTTP/2 and HTTP/1.1 (or give --no-tcp)")):
        return fail(missing)
    # What changes while the application is loaded counts: the first turn begins to watch.
    changing = asyncio.ensure_future(_reload.changed() if args.reload else _never())
    await asyncio.sleep(0)
    try:
        await _serve(args, load(str(args.folder)), changing)
    except (Unusable, LifespanFailed) as failure:
        if isinstance(failure, LifespanFailed) and failure.details:
            _log.info("%s", failure.details)
        fail(failure)
        if not args.reload:
            return 1
        await changing
    return _reload.again() if changing.done() else 0


async def _serve(args: argparse.Namespace, app: Application, changing: asyncio.Future[None]) -> None:
    from whimbrel.cli import serve as command
    from whimbrel.cli._app_log import AppLog
    from whimbrel.http import asgi

    pair, certificate = command._certificates(args)
    options: http.ServeOptions = {"sockets": args.dispatch, "retry": args.retry}
    if args.client_ca is not None:
        options["client_ca"] = args.client_ca
    logged = app if args.quiet else AppLog(app)
    described = asgi.serve(logged, args.host, args.port, cert=pair, tcp=not args.no_tcp, **options)
    with command._ended_by_signals() as ended:
        starting = asyncio.ensure_future(described)
        if await _first(starting, ended.first.wait()) is not starting:
            starting.cancel()
            await asyncio.wait({starting})
        if starting.cancelled():
            return
        server = starting.result()
        try:
            if not args.no_tcp:
                print("HTTP/2 and HTTP/1.1 are served on the TCP port of the same number")
            command._announce(args, server.http3, pair[0], certificate)
            await _first(changing, ended.first.wait())
            await command._close(server, server.http3, ended.second)
        finally:
            await server.close()


async def _first(one: asyncio.Future[T], other: Coroutine[object, object, object]) -> asyncio.Future[T] | None:
    """Wait for either, and cancel the second one; the first one, where it is done."""
    second: asyncio.Future[object] = asyncio.ensure_future(other)
    try:
        await asyncio.wait([cast("asyncio.Future[object]", one), second], return_when=asyncio.FIRST_COMPLETED)
    finally:
        second.cancel()
    return one if one.done() else None


async def _never() -> None:
    await asyncio.Event().wait()


# The application by its name ------------------------------------------------------------------------------------------


def load(name: str) -> Application:
    """The application of that name.

    Raises:
        Unusable: there is none, or it is none. Where its module failed, the failure has been shown.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise Unusable(f"{name} is neither a folder nor the name of an application, such as package.module:app")
    if found["module"].endswith(".py"):
        raise Unusable(f"{name} names a file; its module is {name.replace('.py:', ':')}")
    # As `python -m` has it, and `python FILE`: what lies here can be imported.
    sys.path.insert(0, str(Path.cwd()))
    app: object = _module(found["module"])
    for attribute in found["attribute"].split("."):
        try:
            app = getattr(app, attribute)
        except AttributeError:
            raise Unusable(f"module {found['module']} has no {found['attribute']}") from None
    if reason := _unfit(app):
        raise Unusable(f"{name} {reason}")
    return cast("Application", app)


def _module(name: str) -> object:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            where = "here nor where Python looks for modules"
            raise Unusable(f"there is no module {error.name}, neither {where}") from None
        failure: BaseException = error
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it may fail in any way
        failure = error
    traceback.print_exception(type(failure), failure, _own_frames(failure.__traceback__))
    raise Unusable(f"module {name} cannot be imported: {type(failure).__name__}: {failure}")


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without those who imported: what is left is the application's."""
    while trace is not None and trace.tb_frame.f_code.co_filename in (__file__, importlib.__file__):
        trace = trace.tb_next
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        trace = trace.tb_next
    return trace


def _unfit(app: object) -> str:
    if not callable(app):
        return "is no application: it cannot be called"
    try:
        signature = inspect.signature(app)
    except ValueError:
        return ""  # It does not tell what it takes.
    try:
        signature.bind({}, None, None)
    except TypeError:
        wants_two = len(signature.parameters) == 2
        hint = " (WSGI? asgiref.wsgi.WsgiToAsgi makes one of it)" if wants_two else ""
        return f"is no ASGI 3 application: it does not take scope, receive and send{hint}"
    return ""


def _missing(package: str, purpose: str) -> str:
    if importlib.util.find_spec(package) is not None:
        return ""
    return f"{package} is not installed, for {purpose}: pip install 'whimbrel[asgi]'"
