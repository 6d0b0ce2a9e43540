"""Whose certificates are believed, wherever the gateway connects to somebody."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

from gateway.settings.section import Problem, SettingsInvalid


def trusted_certificates(ca_file: Path | None) -> ssl.SSLContext:
    """The authorities in a file, or the system's, which are read once. Raises SettingsInvalid for a file that cannot
    be used. Takes a while: not for the loop.
    """
    if ca_file is None:
        return _of_the_system()
    try:
        return _context(ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsInvalid(
            [Problem("upstream.ca_file", f"{ca_file}: cannot be used: {error.strerror or error}")]
        ) from None


@cache
def _of_the_system() -> ssl.SSLContext:
    return _context(None)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
