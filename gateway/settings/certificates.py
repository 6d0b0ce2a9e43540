"""Whose certificates are believed, wherever the gateway connects to somebody."""

from __future__ import annotations

import re
import ssl
from functools import cache, lru_cache

from gateway.settings.kept_file import KeptFile
from gateway.settings.section import Problem, SettingsInvalid

_CERTIFICATE = re.compile(rb"-----BEGIN ((?:X509 |TRUSTED )?CERTIFICATE)-----.*?-----END \1-----", re.DOTALL)


def trusted_certificates(ca_file: KeptFile | None) -> ssl.SSLContext:
    """The authorities in a file, or the system's; the same as long as the file holds the same. Raises SettingsInvalid
    for a file that cannot be used. Takes a while: not for the loop.
    """
    if ca_file is None:
        return _of_the_system()
    # What stands between certificates may be in any language.
    certificates = b"\n".join(found[0] for found in _CERTIFICATE.finditer(bytes(ca_file)))
    try:
        return _of_a_file(certificates)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = (isinstance(error, OSError) and error.strerror) or error
        raise SettingsInvalid(
            [Problem("upstream.ca_file", f"{ca_file.path}: cannot be used: {why}")]
        ) from None


@cache
def _of_the_system() -> ssl.SSLContext:
    return _http(ssl.create_default_context())


@lru_cache(maxsize=4)
def _of_a_file(certificates: bytes) -> ssl.SSLContext:
    if not certificates:
        raise ValueError("it holds no certificate (PEM)")
    return _http(ssl.create_default_context(cadata=certificates.decode("ascii")))


def _http(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])
    return context
