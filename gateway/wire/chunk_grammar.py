"""What may stand where in a chunked body (RFC 9112, section 7.1), byte by byte: as data."""

from __future__ import annotations

import re

# Where in a chunked body the next byte stands. They are no enumeration: looking a member up costs as much as a chunk.
BORDER = 0
"""Between two chunks, or in front of the first."""

SIZE = 1
PADDING = 2
EXTENSION = 3
"""Behind a semicolon."""

NAME = 4
VALUE = 5
QUOTED = 6
ESCAPED = 7
UNQUOTED = 8
SIZE_LF = 9
DATA = 10
DATA_CR = 11
DATA_LF = 12
TRAILER = 13
"""In front of a trailer, or of the line that ends them."""

FIELD = 14
FIELD_VALUE = 15
FIELD_LF = 16
LAST_LF = 17
END = 18

IN_STEP = frozenset({BORDER, DATA, DATA_CR, DATA_LF})
IN_TRAILERS = frozenset({TRAILER, FIELD, FIELD_VALUE, FIELD_LF, LAST_LF})

HEX = b"0123456789abcdefABCDEF"
_LETTERS = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_QUOTABLE = bytes([9, 32, *range(0x21, 0x7F), *range(0x80, 0x100)])


def _each(of: bytes, at: int) -> dict[int, int]:
    return dict.fromkeys(of, at)


GOES_ON = {
    SIZE: re.compile(b"[0-9a-fA-F]*"),
    PADDING: re.compile(b"[ \t]*"),
    NAME: re.compile(b"[%b]*" % re.escape(_LETTERS)),
    VALUE: re.compile(b"[%b]*" % re.escape(_LETTERS)),
    QUOTED: re.compile(rb"[\t !#-\[\]-~\x80-\xff]*"),
    FIELD: re.compile(b"[%b]*" % re.escape(_LETTERS)),
    FIELD_VALUE: re.compile(rb"[\t -~\x80-\xff]*"),
}
"""What may stand at a place in any number."""

THEN: dict[int, dict[int, int]] = {
    SIZE: {ord("\r"): SIZE_LF, ord(";"): EXTENSION},
    PADDING: {ord("\r"): SIZE_LF, ord(";"): EXTENSION},
    EXTENSION: {ord(";"): EXTENSION, ord("="): VALUE, **_each(_LETTERS, NAME)},
    NAME: {ord("\r"): SIZE_LF, ord(";"): EXTENSION, ord("="): VALUE},
    VALUE: {ord("\r"): SIZE_LF, ord(";"): EXTENSION, ord('"'): QUOTED},
    QUOTED: {ord('"'): UNQUOTED, ord("\\"): ESCAPED},
    ESCAPED: _each(_QUOTABLE, QUOTED),
    UNQUOTED: {ord("\r"): SIZE_LF, ord(";"): EXTENSION},
    SIZE_LF: {ord("\n"): DATA},
    DATA_CR: {ord("\r"): DATA_LF},
    DATA_LF: {ord("\n"): BORDER},
    TRAILER: {ord("\r"): LAST_LF, **_each(_LETTERS, FIELD)},
    FIELD: {ord(":"): FIELD_VALUE},
    FIELD_VALUE: {ord("\r"): FIELD_LF},
    FIELD_LF: {ord("\n"): TRAILER},
    LAST_LF: {ord("\n"): END},
}
"""What else may stand at a place, and where that leads."""

PADDED = {ord(" "): PADDING, ord("\t"): PADDING}
