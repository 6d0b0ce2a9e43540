"""What models wrote, counted when somebody asks: for answers of which nobody reports what they used."""

import re

from gateway.usage.reported import BYTES_PER_LLM_TOKEN

# What models write, under the names that the API's streams have for it.
_WRITTEN = rb'(?:[^"\\\r\n]|\\[^\r\n])'
_DELTA = re.compile(rb'"(?:content|delta|text|value|refusal|arguments)": ?"(' + _WRITTEN + rb"++)")
_DELTA_BEGINS_BYTES = len(b'"arguments": "\\')
_DELTA_GOES_ON = re.compile(_WRITTEN + rb"*+")

_KEPT_BYTES = 32 * 1024
"""Most streams report in the end: of what is no longer than that nothing is ever counted."""

_PIECE_BYTES = 64
"""What a piece occupies beside its bytes."""


class Deltas:
    """Counts what models wrote. Most streams send one LLM token per delta, some bundle them."""

    __slots__ = ("_carry", "_count", "_goes_on", "_kept", "_kept_bytes", "_size_bytes")

    def __init__(self) -> None:
        self._count = 0
        self._size_bytes = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._carry = b""
        self._goes_on = False

    def add(self, text: bytes) -> None:
        """Take a whole event, or several."""
        self._kept.append(text)
        self._kept_bytes += len(text) + _PIECE_BYTES
        if self._kept_bytes > _KEPT_BYTES:
            self._count_kept()

    def add_piece(self, piece: bytes) -> None:
        """Take the next bytes of a document that comes in pieces."""
        seen = self._carry + piece
        at = 0
        if self._goes_on:
            more = _DELTA_GOES_ON.match(seen)
            at = more.end() if more else 0
            self._size_bytes += at
            self._goes_on = _ends_amid_text(seen, at)
        if not self._goes_on:
            for delta in _DELTA.finditer(seen, at):
                begin, at = delta.span(1)
                self._count += 1
                self._size_bytes += at - begin
            self._goes_on = at > 0 and _ends_amid_text(seen, at)
        self._carry = seen[at if self._goes_on else max(at, len(seen) - _DELTA_BEGINS_BYTES) :]

    def estimate(self) -> int:
        """How many LLM tokens that must have been."""
        self._count_kept()
        return max(self._count, self._size_bytes // BYTES_PER_LLM_TOKEN)

    def _count_kept(self) -> None:
        # No delta goes on behind the end of a line: all can be looked for at once.
        deltas = _DELTA.findall(b"".join(self._kept))
        self._count += len(deltas)
        self._size_bytes += sum(map(len, deltas))
        self._kept.clear()
        self._kept_bytes = 0


class NoDeltas(Deltas):
    """Stands in where nobody wants an estimate."""

    __slots__ = ()

    def add(self, text: bytes) -> None:
        pass

    def add_piece(self, piece: bytes) -> None:
        pass


def _ends_amid_text(seen: bytes, at: int) -> bool:
    """Whether the text that has been followed up to there may go on behind the bytes seen."""
    return at == len(seen) or (at == len(seen) - 1 and seen.endswith(b"\\"))
