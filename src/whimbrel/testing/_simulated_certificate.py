"""A certificate for the simulated server, and the authority that vouches for it. Made once, nobody else's.

Ed25519: its signatures have all the same length, so that handshakes of one seed are alike to the byte.
"""

from __future__ import annotations

import atexit
import datetime as dt
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

NAME: Final = "server.test"
_LIFE: Final = dt.timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files."""

    chain: Path
    key: Path
    authority: Path


@cache
def certificate() -> Certificate:
    """The files; they are removed when the interpreter ends."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tempfile.TemporaryDirectory(prefix="whimbrel-simulation-")
    atexit.register(folder.cleanup)
    files = Certificate(*(Path(folder.name, name) for name in ("chain.pem", "key.pem", "authority.pem")))
    authority, key = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    root = _signed("whimbrel's simulated authority", authority, authority, None)
    leaf = _signed(NAME, key, authority, root)
    files.authority.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    files.chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files.key.touch(mode=0o600)
    plain = serialization.NoEncryption()
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return files


def _signed(
    name: str, key: Ed25519PrivateKey, authority: Ed25519PrivateKey, issuer: x509.Certificate | None
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFE)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if issuer is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(authority, None)
