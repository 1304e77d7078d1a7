"""Certificates that nobody should trust, and servers that show them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    from pathlib import Path


class House:
    """An authority with all its powers; `tests.support.Authority` has only those that most tests want."""

    def __init__(self) -> None:
        self.ca = trustme.CA()

    def client(self, **identity: str) -> ssl.SSLContext:
        """Make a client's context that trusts this authority; ``name=`` gives it a certificate too."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        if identity:
            self.ca.issue_cert(identity["name"]).configure_cert(context)
        return context

    def server(self, *names: str, days: int = 30, wants_client: bool = False) -> ssl.SSLContext:
        """Make a server's context; a negative number of days means expired."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        now = datetime.now(UTC)
        cert = self.ca.issue_cert(
            *names, not_before=now - timedelta(days=90), not_after=now + timedelta(days=days)
        )
        cert.configure_cert(context)
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            self.ca.configure_trust(context)
        return context


def self_signed(folder: Path, name: str) -> ssl.SSLContext:
    """Make a server's context with a certificate that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    cert = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "self-signed.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context
