"""What the log calls the bearer of a certificate."""

from __future__ import annotations

from cryptography import x509


def certificate_name(certificate: bytes) -> str:
    """The first name that a certificate is about: an address for mail, a host's name, or its whole subject.

    Args:
        certificate: DER, verified.
    """
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return parsed.subject.rfc4514_string()
    told = [*names.get_values_for_type(x509.RFC822Name), *names.get_values_for_type(x509.DNSName)]
    return told[0] if told else parsed.subject.rfc4514_string()
