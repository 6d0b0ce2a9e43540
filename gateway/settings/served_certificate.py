"""The certificate by which the gateway serves TLS itself, and its key."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from gateway.settings.kept_file import KeptFile
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Settings

_NO_MATCH = "KEY_VALUES_MISMATCH"


@dataclass(frozen=True, slots=True)
class ServedCertificate:
    """A pair that can be served with."""

    certificate: KeptFile
    key: KeptFile
    context: ssl.SSLContext
    expires_at: float
    """Unix time; of the server's own, not of those that vouch for it."""

    @property
    def until(self) -> str:
        """When it expires, as people read it."""
        return _shown(self.expires_at)

    def is_of(self, settings: Settings) -> bool:
        """Whether these settings name the same."""
        return (self.certificate, self.key) == (settings.tls_certificate, settings.tls_key)


def served_certificate(settings: Settings, *, now: float | None = None) -> ServedCertificate | None:
    """How to serve TLS; None: without. Takes a while: not for the loop.

    Raises SettingsInvalid for a pair that cannot be used, and, where `now` (Unix time) is given, for one that has
    expired by then.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:
        return None
    expires_at = _expiry(certificate)
    _check_key(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    with _file_of(bytes(certificate)) as chain, _file_of(bytes(key)) as private:
        try:
            context.load_cert_chain(chain, private, password=_never)
        except ssl.SSLError as error:
            raise _unusable(certificate, key, error) from None
    if now is not None and expires_at <= now:
        raise _wrong("tls_certificate", certificate, f"expired at {_shown(expires_at)}; renew it")
    return ServedCertificate(certificate, key, context, expires_at)


def _expiry(certificate: KeptFile) -> float:
    # Imported here: who does not serve TLS need not wait for it.
    from cryptography import x509

    try:
        own = x509.load_pem_x509_certificates(bytes(certificate))[0]
    except ValueError:
        raise _wrong("tls_certificate", certificate, "holds no certificate (PEM)") from None
    return own.not_valid_after_utc.timestamp()


def _check_key(key: KeptFile) -> None:
    """Refuse what OpenSSL would ask a passphrase for, or say nothing useful about."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        load_pem_private_key(bytes(key), None)
    except TypeError:  # how it says that it needs a passphrase
        raise _wrong(
            "tls_key", key, "is encrypted, and nobody is asked for its passphrase; decrypt it (openssl pkey)"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise _wrong("tls_key", key, "holds no private key that can be used (PEM)") from None


def _unusable(certificate: KeptFile, key: KeptFile, error: ssl.SSLError) -> SettingsInvalid:
    if error.reason == _NO_MATCH:
        return _wrong("tls_key", key, f"is not the key of the first certificate in {certificate.path}")
    return _wrong("tls_certificate", certificate, f"cannot be used: {error.reason or error}")


def _wrong(name: str, file: KeptFile, why: str) -> SettingsInvalid:
    return SettingsInvalid([Problem(name, f"{file.path}: {why}")])


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _never() -> str:
    return ""  # else the terminal would be asked


@contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    """A path under which OpenSSL, which takes nothing else, finds this; it is on no disk."""
    descriptor = os.memfd_create("gateway", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
