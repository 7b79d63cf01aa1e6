"""What a request is called in ASGI: its ``scope``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from whimbrel.http.asgi._view import ConnectionView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whimbrel.http._headers import Headers
    from whimbrel.http._protocol import RawHeaders
    from whimbrel.http._request import Request
    from whimbrel.http.asgi._types import Scope

# Frameworks take 2.4 for a promise that they learn of a client's leaving by what they send next. Up to 2.3 they listen
# for it meanwhile, so that a source of rare events is not kept for nobody.
_HTTP_SPEC = "2.3"
_WEBSOCKET_SPEC = "2.4"

_EXTENSIONS = ("http.response.trailers", "http.response.early_hint", "http.response.pathsend")


def http_scope(request: Request, state: Mapping[str, Any]) -> Scope:
    """The scope of a request."""
    extensions: dict[str, object] = {name: {} for name in _EXTENSIONS}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": _HTTP_SPEC},
        "method": request.method.upper(),
        **_common(request, state, extensions),
    }


def websocket_scope(request: Request, state: Mapping[str, Any]) -> Scope:
    """The scope of a request for a WebSocket (RFC 9220)."""
    offered = ",".join(request.headers.get_all("sec-websocket-protocol"))
    return {
        **_common(request, state, {"websocket.http.response": {}}),
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": _WEBSOCKET_SPEC},
        "scheme": "wss",
        "subprotocols": [name for part in offered.split(",") if (name := part.strip())],
    }


def _common(request: Request, state: Mapping[str, Any], extensions: dict[str, object]) -> dict[str, Any]:
    path = request.connection.path
    extensions["whimbrel"] = ConnectionView(request)
    return {
        "http_version": "3",
        "scheme": request.scheme,
        "path": unquote(request.path),
        "raw_path": request.path.encode("latin-1"),
        "query_string": request.query.encode("latin-1"),
        "root_path": "",
        "headers": raw_headers(request.authority, request.headers),
        "client": path.remote,
        "server": path.local,
        "state": dict(state),
        "extensions": extensions,
    }


def raw_headers(authority: str, headers: Headers) -> RawHeaders:
    """Header fields as applications know them from HTTP/1.1: ``host`` comes first, and there is one ``cookie``."""
    fields = [(b"host", authority.encode("latin-1"))]
    crumbs = headers.get_all("cookie")
    for name, value in headers.fields():
        if name == "cookie":
            # RFC 9114 §4.2.1: they come apart for the sake of compression, and no further.
            if crumbs:
                fields.append((b"cookie", "; ".join(crumbs).encode("latin-1")))
                crumbs = []
        elif name != "host":
            fields.append((name.encode("latin-1"), value.encode("latin-1")))
    return fields
