"""Version-negotiation probes: can the server be reached over that network?

One datagram of a version that nobody speaks; any server answers it with Version Negotiation, in one round trip (RFC
9000 §6.1, RFC 8999 §6). It leaves from a socket of its own with random connection IDs, so that nothing links it to the
connection, and no state is made anywhere. Answers are believed only where they echo these IDs.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from whimbrel._path import Address
    from whimbrel.network import Route

# RFC 9000 §14.1: a server ignores a first datagram that is smaller.
SIZE: Final = 1200
# RFC 9000 §15: 0x?a?a?a?a is reserved, so that no server ever speaks it.
VERSION: Final = bytes.fromhex("1a2a3a4a")
ID_LENGTH: Final = 8


@dataclass(frozen=True, slots=True)
class ProbeDatagram:
    """A question, and what its answer must repeat."""

    data: bytes
    ours: bytes
    theirs: bytes

    @classmethod
    def new(cls) -> ProbeDatagram:
        """Make one with fresh random IDs."""
        ours, theirs = secrets.token_bytes(ID_LENGTH), secrets.token_bytes(ID_LENGTH)
        # Long header, fixed bit; the rest of the first byte is the version's own business (RFC 8999 §5.1).
        header = bytes([0xC0]) + VERSION + bytes([ID_LENGTH]) + theirs + bytes([ID_LENGTH]) + ours
        # Zeros, which are an empty token and an empty payload to a server that reads on by the rules of its own version
        # before it looks at this one's: aioquic does, and drops what makes no sense to it.
        return cls(header.ljust(SIZE, b"\0"), ours, theirs)

    def is_answered_by(self, datagram: bytes) -> bool:
        """Whether this is Version Negotiation in answer to it (RFC 8999 §6): the IDs come back, exchanged."""
        expected = b"\0\0\0\0" + bytes([ID_LENGTH]) + self.ours + bytes([ID_LENGTH]) + self.theirs
        return len(datagram) > len(expected) and bool(datagram[0] & 0x80) and datagram.startswith(expected, 1)


class ProbeSocket:
    """A socket that sends over one interface, whatever the kernel would prefer."""

    def __init__(self, remote: Address, route: Route) -> None:
        """Open it.

        Raises:
            OSError: the interface or its address is gone.
        """
        family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # Unprivileged since Linux 5.7.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, route.interface.encode() + b"\0")
            self._socket.bind((route.source, 0))
            self._remote = socket.getaddrinfo(*remote, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)[0][4]
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when an answer may be there."""
        return self._socket.fileno()

    def send(self, datagram: bytes) -> None:
        """Send it.

        Raises:
            OSError: the kernel refuses.
        """
        with contextlib.suppress(BlockingIOError):  # A full queue is a lost packet.
            self._socket.sendto(datagram, self._remote)

    def receive(self) -> list[bytes]:
        """Whatever has come."""
        came: list[bytes] = []
        with contextlib.suppress(OSError):
            while len(came) < 16:
                came.append(self._socket.recv(2048))
        return came

    def close(self) -> None:
        """Close it."""
        self._socket.close()
