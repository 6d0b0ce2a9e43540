"""Whose certificates are believed, wherever the gateway connects to somebody."""

from __future__ import annotations

import re
import ssl
from functools import cache, lru_cache

from gateway.settings.kept_file import KeptFile
from gateway.settings.section import Problem, SettingsInvalid

_BEGIN = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_CERTIFICATE = re.compile(_BEGIN.pattern + rb"[^-]*-----END (?:X509 |TRUSTED )?CERTIFICATE-----")


def trusted_certificates(ca_file: KeptFile | None, *, key: str = "upstream.ca_file") -> ssl.SSLContext:
    """The authorities in a file, or the system's; the same as long as the file holds the same. Raises SettingsInvalid
    for a file that cannot be used, which `key` names. Takes a while: not for the loop.
    """
    if ca_file is None:
        return _of_the_system()
    try:
        return _of_a_file(bytes(ca_file))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = (isinstance(error, OSError) and error.strerror) or error
        raise SettingsInvalid([Problem(key, f"{ca_file.path}: cannot be used: {why}")]) from None


@cache
def _of_the_system() -> ssl.SSLContext:
    return _http(ssl.create_default_context())


@lru_cache(maxsize=32)
def _of_a_file(content: bytes) -> ssl.SSLContext:
    # What stands between certificates may be in any language. OpenSSL takes ASCII alone, and no notice of a last one
    # that is cut off.
    certificates = [found[0] for found in _CERTIFICATE.finditer(content)]
    if not certificates or len(certificates) != len(_BEGIN.findall(content)):
        raise ValueError("it is not one whole certificate after another (PEM)")
    if any(b"BEGIN TRUSTED" in certificate for certificate in certificates):  # which it would pass over
        raise ValueError("it holds a TRUSTED CERTIFICATE; openssl x509 makes a plain one of it")
    return _http(ssl.create_default_context(cadata=b"\n".join(certificates).decode("ascii")))


def _http(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context
