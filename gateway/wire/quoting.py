"""Finding a secret in a text that quotes it, however a server writes what it was sent. Pure.

Found are the spellings of JSON, URLs, HTML and source code, nested too, and texts in UTF-16. Not looked for is what
no reader would take for the secret: a part of it, a hash, or another alphabet such as base64, in which a server that
meant harm could hide anything.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from urllib.parse import unquote_to_bytes

_NESTED = 3
"""How often one spelling may stand within another."""

_LONGEST_SPELLING = 16
"""Bytes that one character may take up."""

_BY_HEX = (b"\\u00", b"\\x", b"%")
_IN_HTML = (
    (re.compile(rb"&#[xX]0{0,6}([0-9a-fA-F]{2});"), 16),
    (re.compile(rb"&#0{0,6}([0-9]{2,3});"), 10),
)


def quotes(text: bytes, secrets: Sequence[bytes]) -> bool:
    """Whether one of the secrets stands in a text. Linear; without an escape in the text it costs next to nothing."""
    if not secrets:
        return False
    if _stands(text, secrets):
        return True
    # By `find`: for bytes `in` first tries whether they are a number, and costs four times as much.
    if text.find(b"\0") >= 0:
        text = text.replace(b"\0", b"")  # UTF-16
        if _stands(text, secrets):
            return True
    for _ in range(_NESTED):
        # One byte each: every answer's head is searched, and to find out that it has none of them must cost little.
        if text.find(b"\\") < 0 and text.find(b"%") < 0 and text.find(b"&") < 0:
            return False
        text = _unescaped(text)
        if _stands(text, secrets):
            return True
    return False


def _stands(text: bytes, secrets: Sequence[bytes]) -> bool:
    for secret in secrets:  # noqa: SIM110 (every answer's head is searched, and a generator costs more)
        if text.find(secret) >= 0:
            return True
    return False


def reach(secrets: Sequence[bytes]) -> int:
    """How many bytes the longest spelling of a secret may have: what a search in pieces must look back."""
    return _LONGEST_SPELLING * max(map(len, secrets), default=0)


def _unescaped(text: bytes) -> bytes:
    """The text with a layer of escapes less, and no backslash: a slash may have one, and a nested escape has two."""
    if any(mark in text for mark in _BY_HEX):
        for mark in _BY_HEX[:-1]:
            text = text.replace(mark, b"%")
        text = unquote_to_bytes(text)
    if b"&#" in text:
        for pattern, base in _IN_HTML:
            text = pattern.sub(partial(_character, base), text)
    return text.replace(b"\\", b"")


def _character(base: int, found: re.Match[bytes]) -> bytes:
    number = int(found[1], base)
    return bytes((number,)) if number < 256 else found[0]
