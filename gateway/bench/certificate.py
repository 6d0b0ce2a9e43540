"""A certificate for one run: that of an upstream on loopback which speaks TLS."""

from __future__ import annotations

import datetime as dt
import ssl
from ipaddress import ip_address
from pathlib import Path

CERTIFICATE_FILE, KEY_FILE = "upstream.pem", "upstream-key.pem"


def make_certificate(directory: Path) -> Path:
    """Write a certificate for 127.0.0.1 and localhost, good for a day, with its key; returns what clients trust."""
    # Imported here: who only asks, or serves without TLS, need not wait for it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "raw upstream")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / CERTIFICATE_FILE
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / KEY_FILE).touch(mode=0o600)
    (directory / KEY_FILE).write_bytes(encoded)
    return path


def served_with(directory: Path) -> ssl.SSLContext:
    """How a server uses what `make_certificate` wrote."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / CERTIFICATE_FILE, directory / KEY_FILE)
    return context
