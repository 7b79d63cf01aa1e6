"""Which certificates are trusted, and one sentence where they cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trustme

from whimbrel import _tls
from whimbrel._errors import InsecureWarning


@pytest.fixture(scope="module")
def authority() -> bytes:
    return trustme.CA().cert_pem.bytes()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def test_a_file_is_trusted_as_it_is(tmp_path: Path, authority: bytes) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes(authority)
    assert _tls.trust_roots(file) == authority
    assert _tls.trust_roots(str(file)) == authority


def test_a_folder_is_trusted_once_for_each_certificate(tmp_path: Path, authority: bytes) -> None:
    other = trustme.CA().cert_pem.bytes()
    (tmp_path / "bundle.crt").write_bytes(b"# comment\n" + authority + other)
    (tmp_path / "one.pem").write_bytes(authority)
    (tmp_path / "0123abcd.0").symlink_to("one.pem")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "README").write_text("not a certificate; -----BEGIN CERTIFICATE----- without end")
    (tmp_path / "folder").mkdir()
    roots = _tls.trust_roots(tmp_path)
    assert roots is not None
    assert roots.count(b"BEGIN CERTIFICATE") == 2
    assert authority.strip() in roots
    assert other.strip() in roots


def test_a_folder_that_changed_is_read_again(tmp_path: Path, authority: bytes) -> None:
    (tmp_path / "one.pem").write_bytes(authority)
    assert _tls.trust_roots(tmp_path)
    other = trustme.CA().cert_pem.bytes()
    (tmp_path / "two.pem").write_bytes(other)
    os.utime(tmp_path, ns=(1, 1))
    roots = _tls.trust_roots(tmp_path)
    assert roots is not None
    assert other.strip() in roots


def test_the_systems_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: bytes) -> None:
    file, folder = tmp_path / "ca.pem", tmp_path / "folder"
    file.write_bytes(authority)
    folder.mkdir()
    other = trustme.CA().cert_pem.bytes()
    (folder / "other.pem").write_bytes(other)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert _tls.trust_roots(True) == authority
    monkeypatch.setenv("SSL_CERT_DIR", str(folder))
    roots = _tls.trust_roots(True)
    assert roots is not None
    assert authority in roots
    assert other.strip() in roots


def test_a_variable_that_leads_nowhere_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing.pem"))
    with pytest.raises(
        FileNotFoundError, match=r"^cannot read the file named by SSL_CERT_FILE '.*missing\.pem': No such"
    ):
        _tls.trust_roots(True)


def test_trusting_anybody_warns() -> None:
    with pytest.warns(InsecureWarning, match="anybody on the way"):
        assert _tls.trust_roots(False) is None


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^cannot read the CA file '.*nothing': No such file or directory$"
    ) as caught:
        _tls.trust_roots(tmp_path / "nothing")
    assert caught.value.errno == 2


def test_a_file_that_is_not_for_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Root may read everything, so the refusal is played.
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError, match=r"^cannot read the private key '.*key\.pem': Permission denied$"):
        _tls.private_key(tmp_path / "key.pem")


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"])
def test_a_file_without_certificates(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "odd.pem"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^the CA file '.*odd\.pem' holds no PEM certificate$"):
        _tls.trust_roots(file)


def test_a_folder_without_certificates(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the CA folder '.*' holds no file with a PEM certificate$"):
        _tls.trust_roots(tmp_path)


def test_private_keys(tmp_path: Path, authority: bytes) -> None:
    file = tmp_path / "key.pem"
    for kind in (b"", b"RSA ", b"EC "):
        content = b"-----BEGIN %bPRIVATE KEY-----\nAAAA\n-----END %bPRIVATE KEY-----\n" % (kind, kind)
        file.write_bytes(content)
        assert _tls.private_key(file) == content
    file.write_bytes(authority)
    with pytest.raises(ValueError, match="holds no PEM private key"):
        _tls.private_key(file)
    for content in (
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED",
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is encrypted"):
            _tls.private_key(file)
