"""httpx, and httpx2, its continuation by Pydantic: two libraries of one shape. Which of them a request is of.

A transport serves both, so that it need not be said which; whatever it makes is of the library that the request is of.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import TYPE_CHECKING

from whimbrel._errors import (
    ConnectFailed,
    ConnectionLost,
    ConnectTimeout,
    LocalProtocolError,
    StatelessReset,
    WhimbrelError,
)

if TYPE_CHECKING:
    import httpx

NAMES = ("httpx", "httpx2")


def base(name: str) -> type:
    """A class of both libraries at once, as far as they are installed, to be derived from.

    Raises:
        ModuleNotFoundError: neither is.
    """
    found = [importlib.import_module(library) for library in NAMES if importlib.util.find_spec(library)]
    if not found:
        raise ModuleNotFoundError("whimbrel's transports need httpx: pip install 'whimbrel[httpx]'", name="httpx")
    return type(name, tuple(getattr(library, name) for library in found), {})


def library_of(request: object) -> ModuleType:
    """The library that a request is of."""
    kind = type(request)
    for ancestor in kind.__mro__:
        name = ancestor.__module__.partition(".")[0]
        if name in NAMES:
            return importlib.import_module(name)
    raise TypeError(f"a request of httpx or httpx2 is needed, not a {kind.__module__}.{kind.__qualname__}")


def translated(error: WhimbrelError, library: ModuleType, request: object) -> httpx.TransportError:
    """What httpx calls what happened.

    ==================================  ======================
    whimbrel                            httpx
    ==================================  ======================
    ConnectTimeout                      ConnectTimeout
    ConnectFailed, CertificateError, …  ConnectError
    IdleTimeout, OutageTimeout,
    StatelessReset                      ReadError
    ConnectionClosed, StreamReset,
    RequestRejected,
    RemoteProtocolError                 RemoteProtocolError
    LocalProtocolError                  LocalProtocolError
    ==================================  ======================
    """
    match error:
        case ConnectTimeout():
            name = "ConnectTimeout"
        case ConnectFailed():
            name = "ConnectError"
        case LocalProtocolError():
            name = "LocalProtocolError"
        case TimeoutError() | StatelessReset():
            # Nobody set this limit, and the network is at fault.
            name = "ReadError"
        case ConnectionLost() | _:
            name = "RemoteProtocolError"
    kind = getattr(library, name)
    found: httpx.TransportError = kind(str(error), request=request)
    return found
