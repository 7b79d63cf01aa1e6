"""What can go wrong between a server and an application."""

from __future__ import annotations

from whimbrel._errors import WhimbrelError


class ClientDisconnected(WhimbrelError, ConnectionError):
    """The application sent something to a client that has given its request up, or is gone."""

    slug = "client-disconnected"
    default = "the client is gone"


class LifespanFailed(WhimbrelError, RuntimeError):
    """The application said that it cannot start, or could not end as it should (ASGI's lifespan protocol).

    Attributes:
        details: all that it said, which may be a traceback of many lines.
    """

    slug = "lifespan-failed"

    def __init__(self, message: str = "", *, details: str = "") -> None:
        super().__init__(message)
        self.details = details
