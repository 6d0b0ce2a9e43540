"""How much structure a JSON document has, told before it is parsed: what parsing and judging cost follows from it.

What stands inside strings is no structure: a table of a million commas may be one text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_BITE_BYTES = 256 * 1024


class Bounds(NamedTuple):
    """The most that a document may have outside of strings."""

    structures: int
    """Of `{`, `[` and `:` together."""

    commas: int


def exceeds(document: bytes, bounds: Bounds) -> bool:
    """Whether a document has more structure than that. Linear, and in bounded memory, whatever it holds."""
    # Most have less even with what stands in strings.
    if _structures(document) <= bounds.structures and document.count(b",") <= bounds.commas:
        return False
    structures, commas = 0, 0
    for outside in _outside_of_strings(document):
        structures += _structures(outside)
        commas += outside.count(b",")
        if structures > bounds.structures or commas > bounds.commas:
            return True
    return False


def colons(document: bytes) -> int:
    """How many names a document has: outside of strings a colon occurs once per member."""
    return sum(outside.count(b":") for outside in _outside_of_strings(document))


def _outside_of_strings(document: bytes) -> Iterator[bytes]:
    in_string, carry = False, b""
    for at in range(0, len(document), _BITE_BYTES):
        bite = carry + document[at : at + _BITE_BYTES]
        carry = b""
        if b"\\" in bite:
            if (len(bite) - len(bite.rstrip(b"\\"))) % 2:
                carry, bite = b"\\", bite[:-1]  # what it escapes stands in the next bite
            bite = bite.replace(b"\\\\", b"").replace(b'\\"', b"")
        parts = bite.split(b'"')
        yield b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0


def _structures(text: bytes) -> int:
    return text.count(b"{") + text.count(b"[") + text.count(b":")
