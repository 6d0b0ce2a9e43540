r"""Halves of characters in JSON: `\ud83d` with no `\ude00` behind it, as in a text that JavaScript has cut. Pure.

RFC 8259 (section 8.2) allows it, our parser does not. What becomes of a half is each reader's own: most put another
character in its place, some drop it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HALF_OR_WHOLE = re.compile(
    rb"(?<!\\)((?:\\\\)*)"  # escaped backslashes, behind which a backslash begins an escape
    rb"(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_HALF_BYTES = 6


class Readings(NamedTuple):
    """A document as readers of either kind have it."""

    replaced: bytes
    """With another character in the place of each half; what else there is stands where it stood."""

    dropped: bytes


def readings(document: bytes) -> Readings | None:
    """What a document with halves of characters may be read as; None: it has none, or is no JSON. Linear."""
    if _HALF_OR_WHOLE.search(document) is None:
        return None
    replaced = _HALF_OR_WHOLE.sub(_replaced, document)
    if replaced == document:
        return None
    dropped = _HALF_OR_WHOLE.sub(_dropped, document)
    # Where others come together once these are gone an escape was broken; reading on would take them one by one.
    return Readings(replaced, dropped) if _HALF_OR_WHOLE.sub(_replaced, dropped) == dropped else None


def _replaced(found: re.Match[bytes]) -> bytes:
    return found[1] + b"\\ufffd" if len(found[2]) == _HALF_BYTES else found[0]


def _dropped(found: re.Match[bytes]) -> bytes:
    return found[1] if len(found[2]) == _HALF_BYTES else found[0]
