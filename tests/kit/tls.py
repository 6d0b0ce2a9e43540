"""Upstreams by TLS: certificates made for the occasion."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kit.upstream import ScriptedUpstream, Turn


def make_certificate(
    folder: Path, name: str, *, address: str = "127.0.0.1", valid_days: int = 1
) -> tuple[Path, Path]:
    """A self-signed certificate for an address, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_file, key_file


def served_with(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """How a server uses a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def served_pair(folder: Path, name: str = "gateway", *, valid_days: int = 1) -> dict[str, Any]:
    """A gateway's settings of a new certificate."""
    certificate, key = make_certificate(folder, name, valid_days=valid_days)
    key.chmod(0o600)
    return {"tls_certificate": str(certificate), "tls_key": str(key)}


class TlsUpstream(ScriptedUpstream):
    """A scripted upstream by TLS."""

    def __init__(self, folder: Path) -> None:
        certificate = make_certificate(folder, "upstream")
        super().__init__(tls=served_with(certificate))
        self._ca_file = certificate[0]

    @property
    def settings(self) -> dict[str, Any]:
        """A gateway's settings of its upstream."""
        return {
            "base_url": f"https://127.0.0.1:{self.port}/v1",
            "api_key": "sk-upstream-key",
            "ca_file": str(self._ca_file),
        }


def cut(turn: Turn) -> None:
    """End the connection as whoever is on the way could, without a word of the upstream's own."""
    with socket.socket(fileno=os.dup(turn.writer.get_extra_info("socket").fileno())) as sock:
        sock.shutdown(socket.SHUT_RDWR)
