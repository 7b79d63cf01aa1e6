"""A certificate for trying things out: made when none is given, kept, and renewed before it expires.

Whoever trusts its file trusts this server and nobody else: it signs itself, and can sign nothing more.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable

VALID = dt.timedelta(days=10)
"""Browsers take a certificate by its hash alone only where it is valid for 14 days at most (WebTransport §3.1)."""
RENEW = dt.timedelta(days=2)
"""Made anew when less than this is left: a server may run over the weekend."""
_CLOCK_SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, in files."""

    chain: Path
    key: Path

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, as browsers and OpenSSL show it."""
        digest = hashlib.sha256(self._load().public_bytes(serialization.Encoding.DER)).hexdigest()
        return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)).upper()

    @property
    def spki(self) -> str:
        """SHA-256 of the public key in base64: for Chromium's ``--ignore-certificate-errors-spki-list``."""
        public = self._load().public_key()
        encoded = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return base64.b64encode(hashlib.sha256(encoded).digest()).decode("ascii")

    def _load(self) -> x509.Certificate:
        # The first of a chain is the server's own.
        return x509.load_pem_x509_certificates(self.chain.read_bytes())[0]


def state_folder() -> Path:
    """Where this user's programs keep what should outlive them (XDG Base Directory Specification)."""
    named = os.environ.get("XDG_STATE_HOME", "")
    # The specification has relative paths ignored.
    base = Path(named) if named.startswith("/") else Path.home() / ".local" / "state"
    return base / "whimbrel"


def development_certificate(names: Iterable[str], folder: Path, now: dt.datetime) -> Certificate:
    """The certificate kept in a folder; made anew where there is none, it nears its end, or it lacks a name.

    Args:
        names: addresses and host names that the server is reached by, besides the loopback's and the machine's own.
        folder: where it is kept; made if it does not exist.
        now: the time, with its zone.

    Raises:
        OSError: the folder cannot be written to.
    """
    certificate = Certificate(folder / "certificate.pem", folder / "key.pem")
    wanted = _general_names(names)
    if not _is_good(certificate, wanted, now):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make(certificate, wanted, now)
    return certificate


def _general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    every = ["localhost", socket.gethostname(), "127.0.0.1", "::1", *sorted(names)]
    return list(dict.fromkeys(_general_name(name.partition("%")[0]) for name in every if name.isascii() and name))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _is_good(certificate: Certificate, names: list[x509.GeneralName], now: dt.datetime) -> bool:
    try:
        held = certificate._load()
        key = serialization.load_pem_private_key(certificate.key.read_bytes(), None)
        has = set(held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    fits = held.public_key() == key.public_key()
    return fits and has >= set(names) and held.not_valid_before_utc <= now <= held.not_valid_after_utc - RENEW


def _make(certificate: Certificate, names: list[x509.GeneralName], now: dt.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own for each: some programs remember a certificate by issuer and number.
    serial = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"whimbrel development {serial:x}"[:64])])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now - _CLOCK_SKEW + VALID)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # No authority: verifiers that follow RFC 5280 refuse one in a server's place.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(certificate.key, encoded, 0o600)
    _write(certificate.chain, built.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Put a file in its place whole; nobody but us can read it before it has its mode."""
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
