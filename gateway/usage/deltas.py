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

# As numbers: `in` takes those by a tenth of what it does for bytes.
_QUOTE, _DOT, _BACKSLASH, _LF, _CR = b'".\\\n\r'

_MOST_LOOKS = 8
"""So many pieces of a stream are looked at for one that the others may be like."""


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

    def wrote(self, size_bytes: int) -> None:
        """Take one delta of so many bytes."""
        self._count += 1
        self._size_bytes += size_bytes

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

    def wrote(self, size_bytes: int) -> None:
        pass

    def add_piece(self, piece: bytes) -> None:
        pass


class Likeness:
    """What the pieces of one stream have in common: most differ in nothing but what the model wrote.

    Where one of them says nothing but a delta, so does every other that is like it.
    """

    __slots__ = ("_before", "_before_bytes", "_behind", "_behind_bytes", "_looks")

    def __init__(self) -> None:
        self._before = self._behind = b""
        self._before_bytes = self._behind_bytes = 0
        self._looks = 0

    def written_bytes(self, piece: bytes) -> int:
        """How many bytes were written in a piece that is like the others; 0 for one that is not."""
        begin = self._before_bytes
        end = len(piece) - self._behind_bytes
        if not begin or end <= begin or piece[end:] != self._behind or piece[:begin] != self._before:
            return 0
        written = piece[begin:end]
        if _QUOTE in written or _DOT in written or _BACKSLASH in written or _LF in written or _CR in written:
            return 0
        return end - begin

    def learn(self, piece: bytes) -> None:
        """See whether others may be like this one, in which no sign was seen of anything but deltas."""
        if self._before or self._looks == _MOST_LOOKS:
            return
        self._looks += 1
        first = _DELTA.search(piece)
        if first is None or _DELTA.search(piece, first.end()) is not None:
            return
        begin, end = first.span(1)
        if piece[end : end + 2] in (b'"}', b'",'):
            self._before, self._before_bytes = piece[:begin], begin
            self._behind, self._behind_bytes = piece[end:], len(piece) - end


def _ends_amid_text(seen: bytes, at: int) -> bool:
    """Whether the text that has been followed up to there may go on behind the bytes seen."""
    return at == len(seen) or (at == len(seen) - 1 and seen.endswith(b"\\"))
