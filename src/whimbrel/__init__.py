"""QUIC connections that follow the machine from network to network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from whimbrel._config import Limits, Migration
from whimbrel._errors import (
    AlpnMismatch,
    Busy,
    CertificateError,
    ConnectFailed,
    ConnectionClosed,
    ConnectionIdsExhausted,
    ConnectionLost,
    ConnectTimeout,
    DatagramTooLarge,
    HandshakeFailed,
    IdleTimeout,
    InsecureWarning,
    LocalProtocolError,
    MigrationDisabled,
    MigrationError,
    NoAnswer,
    NoRoute,
    OutageTimeout,
    ProtocolError,
    RemoteProtocolError,
    StatelessReset,
    StreamError,
    StreamReset,
    StreamStopped,
    WhimbrelError,
)
from whimbrel._events import (
    NetworkLost,
    NetworkRestored,
    PathChange,
    PathMigrated,
    PathProbed,
    PathRejected,
    Reason,
)
from whimbrel._path import Path

if TYPE_CHECKING:
    from whimbrel._client import connect
    from whimbrel._connection import Connection, ConnectionStats
    from whimbrel._path_stats import PathStats
    from whimbrel._peer_parameters import PeerParameters
    from whimbrel._server import Server, serve
    from whimbrel._server_stats import ServerStats
    from whimbrel._sessions import SessionStore
    from whimbrel._stream import ReceiveStream, SendStream, Stream
    from whimbrel._workers import Workers

    __version__: str

# These need the native module. They come when they are asked for, so that `whimbrel.network` costs only itself.
_LATER = {
    "Connection": "_connection",
    "ConnectionStats": "_connection",
    "PathStats": "_path_stats",
    "PeerParameters": "_peer_parameters",
    "ReceiveStream": "_stream",
    "SendStream": "_stream",
    "Server": "_server",
    "ServerStats": "_server_stats",
    "SessionStore": "_sessions",
    "Stream": "_stream",
    "Workers": "_workers",
    "connect": "_client",
    "serve": "_server",
    "__version__": "_core",
}

__all__ = [
    "AlpnMismatch",
    "Busy",
    "CertificateError",
    "ConnectFailed",
    "ConnectTimeout",
    "Connection",
    "ConnectionClosed",
    "ConnectionIdsExhausted",
    "ConnectionLost",
    "ConnectionStats",
    "DatagramTooLarge",
    "HandshakeFailed",
    "IdleTimeout",
    "InsecureWarning",
    "Limits",
    "LocalProtocolError",
    "Migration",
    "MigrationDisabled",
    "MigrationError",
    "NetworkLost",
    "NetworkRestored",
    "NoAnswer",
    "NoRoute",
    "OutageTimeout",
    "Path",
    "PathChange",
    "PathMigrated",
    "PathProbed",
    "PathRejected",
    "PathStats",
    "PeerParameters",
    "ProtocolError",
    "Reason",
    "ReceiveStream",
    "RemoteProtocolError",
    "SendStream",
    "Server",
    "ServerStats",
    "SessionStore",
    "StatelessReset",
    "Stream",
    "StreamError",
    "StreamReset",
    "StreamStopped",
    "WhimbrelError",
    "Workers",
    "__version__",
    "connect",
    "serve",
]


def __getattr__(name: str) -> object:
    module = _LATER.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
