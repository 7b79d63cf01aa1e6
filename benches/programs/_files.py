"""Certificates, as files in one folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
ALPN = "bench"
DATAGRAM = 1452
"""UDP payload of a path with an MTU of 1500 and IPv6."""
PIECE = 1 << 20
FIRST = 1 << 14
"""Bytes that a request has in its first write, with the head: one that is small needs no second."""


@dataclass(frozen=True, slots=True)
class Files:
    """An authority that nobody else trusts, and a certificate of it for 127.0.0.1."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "server.pem"

    @property
    def key(self) -> Path:
        return self.folder / "server.key"

    def make(self) -> None:
        """Make them all."""
        import trustme

        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        issued = authority.issue_cert(HOST)
        issued.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
