"""Finding a secret in a text that quotes it, however a server writes what it was sent. Pure.

Found are the spellings of JSON, URLs, HTML and source code, nested too, and texts in UTF-16. Not looked for is what
no reader would take for the secret: a part of it, a hash, or another alphabet such as base64, in which a server that
meant harm could hide anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_NESTED = 3
"""How often one spelling may stand within another."""

_LONGEST_SPELLING = 16
"""Bytes that one character may take up."""

_HEXED = tuple(
    re.compile(mark + rb"([0-9a-fA-F]{2})" + end)
    for mark, end in ((rb"\\u00", b""), (rb"\\x", b""), (rb"%", b""), (rb"&#[xX]0{0,6}", b";"))
)
_NUMBERED = re.compile(rb"&#0{0,6}([0-9]{2,3});")


def quotes(text: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether one of the secrets stands in a text. Linear; without an escape in the text it costs next to nothing."""
    if _stands(text, secrets):
        return True
    # One byte each: every answer's head is searched, and to find out that it has none of them must cost little.
    if not secrets or not (b"\\" in text or b"%" in text or b"&" in text or b"\0" in text):
        return False
    text = text.replace(b"\0", b"")  # UTF-16
    for _ in range(_NESTED):
        if _stands(text, secrets):
            return True
        text = _unescaped(text)
    return _stands(text, secrets)


def _stands(text: bytes, secrets: Sequence[bytes]) -> bool:
    return any(secret in text for secret in secrets)


def reach(secrets: Sequence[bytes]) -> int:
    """How many bytes the longest spelling of a secret may have: what a search in pieces must look back."""
    return _LONGEST_SPELLING * max(map(len, secrets), default=0)


def _unescaped(text: bytes) -> bytes:
    """The text with a layer of escapes less, and no backslash: a slash may have one, and a nested escape has two."""
    for pattern in _HEXED:
        text = pattern.sub(_from_hex, text)
    return _NUMBERED.sub(_from_number, text).replace(b"\\", b"")


def _from_hex(found: re.Match[bytes]) -> bytes:
    return bytes.fromhex(found[1].decode("ascii"))


def _from_number(found: re.Match[bytes]) -> bytes:
    number = int(found[1])
    return bytes((number,)) if number < 256 else found[0]
