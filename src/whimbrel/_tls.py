"""Certificates: which files to read, and one clear sentence where that fails. What they mean is for the core to say."""

from __future__ import annotations

import functools
import os
import ssl
import sys
import warnings
from pathlib import Path

from whimbrel import _core
from whimbrel._errors import InsecureWarning

StrPath = str | os.PathLike[str]

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def trust_roots(verify: bool | StrPath) -> bytes | None:
    """The certificates to trust, as PEM; None where nothing is to be verified.

    Args:
        verify: True: the system's store, as `ssl.get_default_verify_paths` knows it, so that SSL_CERT_FILE and
            SSL_CERT_DIR count; a file or a folder of PEM certificates; False: trust anybody.

    Raises:
        OSError: a file or folder is missing or unreadable; the message says which.
        ValueError: no certificate is in it.
    """
    if verify is False:
        warnings.warn(
            "certificates are not verified: anybody on the way can read and change everything",
            InsecureWarning,
            stacklevel=_callers_level(),
        )
        return None
    if verify is True:
        return _system_roots()
    path = Path(verify)
    if path.is_dir():
        return _folder(path, "CA folder")
    return authorities(path, "CA file")


def authorities(path: StrPath, what: str) -> bytes:
    """The content of a PEM file with at least one certificate that can be trusted.

    Raises:
        OSError: it is missing or unreadable.
        ValueError: no certificate is in it, or none that can be read.
    """
    data = certificates(path, what)
    try:
        _core.check_roots(data)
    except ValueError as error:
        raise ValueError(f"the {what} {os.fspath(path)!r} cannot be used: {error}") from None
    return data


def identity(cert: tuple[StrPath, StrPath], what: str) -> tuple[bytes, bytes]:
    """A certificate chain and its private key, known to belong together.

    Args:
        cert: the two files, PEM.
        what: their part in the play, for the message: "certificate", "client certificate".

    Raises:
        OSError: a file is missing or unreadable.
        ValueError: one holds not what it should, or the key is that of another certificate.
    """
    chain_file, key_file = (os.fspath(path) for path in cert)
    chain = _read(Path(chain_file), what)
    if _BEGIN not in chain:
        holds = "no PEM certificate"
        if b"PRIVATE KEY-----" in chain:
            holds = "a private key and no certificate; in cert= the chain comes first"
        raise ValueError(f"the {what} {chain_file!r} holds {holds}")
    key = private_key(key_file)
    try:
        _core.check_identity(chain, key)
    except ValueError as error:
        raise ValueError(
            f"the {what} {chain_file!r} and the private key {key_file!r} cannot be used together: {error}"
        ) from None
    return chain, key


def _callers_level() -> int:
    """How far up the first caller is who is not of this package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_globals.get("__name__", "").partition(".")[0] == "whimbrel" and frame.f_back is not None:
        level, frame = level + 1, frame.f_back
    return level


def certificates(path: StrPath, what: str) -> bytes:
    """The content of a PEM file with at least one certificate.

    Args:
        path: the file.
        what: its part in the play, for the message: "CA file", "certificate".

    Raises:
        OSError: it is missing or unreadable.
        ValueError: no certificate is in it.
    """
    data = _read(Path(path), what)
    if _BEGIN not in data:
        raise ValueError(f"the {what} {os.fspath(path)!r} holds no PEM certificate")
    return data


def private_key(path: StrPath) -> bytes:
    """The content of a PEM file with a private key.

    Raises:
        OSError: it is missing or unreadable.
        ValueError: no private key is in it, or it is encrypted.
    """
    data = _read(Path(path), "private key")
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in data or b"Proc-Type: 4,ENCRYPTED" in data:
        raise ValueError(f"the private key {os.fspath(path)!r} is encrypted; whimbrel reads only plain ones")
    if b"PRIVATE KEY-----" not in data:
        raise ValueError(f"the private key {os.fspath(path)!r} holds no PEM private key")
    return data


def _system_roots() -> bytes:
    paths = ssl.get_default_verify_paths()
    # The look-up function drops what does not exist. A variable that points nowhere is a mistake to be told, not a
    # reason to trust the system's store instead.
    named_file, named_folder = os.environ.get(paths.openssl_cafile_env), os.environ.get(paths.openssl_capath_env)
    parts: list[bytes] = []
    if named_file:
        parts.append(certificates(named_file, f"file named by {paths.openssl_cafile_env}"))
    elif paths.cafile:
        parts.append(certificates(paths.cafile, "system's CA file"))
    if named_folder:
        what = f"folder named by {paths.openssl_capath_env}"
        parts.extend(_folder(Path(name), what) for name in _split(named_folder))
    elif paths.capath and not parts:
        # Distributions keep the same certificates in file and folder; hundreds of small files cost milliseconds.
        parts.append(_folder(Path(paths.capath), "system's CA folder"))
    if not parts:
        raise ValueError("this system has no trusted certificates: install ca-certificates or set SSL_CERT_FILE")
    return b"\n".join(parts)


def _split(folders: str) -> list[str]:
    # OpenSSL takes several, as in PATH.
    return [folder for folder in folders.split(os.pathsep) if folder]


def _folder(path: Path, what: str) -> bytes:
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise _sentence(error, path, what) from None
    return _folder_content(path, what, changed)


@functools.lru_cache(maxsize=8)
def _folder_content(path: Path, what: str, changed: int) -> bytes:  # noqa: ARG001 - part of the key
    try:
        files = sorted(file for file in path.iterdir() if file.is_file())
    except OSError as error:
        raise _sentence(error, path, what) from None
    # Each certificate is there several times: by name, by hash, and once more in a bundle of all.
    blocks: dict[bytes, None] = {}
    for file in files:
        try:
            data = file.read_bytes()
        except OSError:
            # One file that is not for us must not make the other hundred worthless; OpenSSL skips it as well.
            continue
        blocks.update(dict.fromkeys(_blocks(data)))
    if not blocks:
        raise ValueError(f"the {what} {os.fspath(path)!r} holds no file with a PEM certificate")
    return b"\n".join(blocks) + b"\n"


def _blocks(data: bytes) -> list[bytes]:
    blocks = []
    start = data.find(_BEGIN)
    while start >= 0:
        end = data.find(_END, start)
        if end < 0:
            break
        blocks.append(data[start : end + len(_END)])
        start = data.find(_BEGIN, end)
    return blocks


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _sentence(error, path, what) from None


def _sentence(error: OSError, path: Path, what: str) -> OSError:
    """The same kind of error, in one sentence that names the file and its part in the play."""
    told = type(error)(f"cannot read the {what} {os.fspath(path)!r}: {error.strerror}")
    told.errno = error.errno
    return told
