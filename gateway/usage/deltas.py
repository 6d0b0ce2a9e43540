"""What models wrote, counted when somebody asks: for answers of which nobody reports what they used."""

import re
from itertools import pairwise

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

# What else changes from one event to the next in streams that say nothing else: it has no quotes, and nothing to hide.
_VARIES = re.compile(rb'"(?:obfuscation": ?"([0-9A-Za-z]++)"|sequence_number": ?([0-9]++)[,}])')
_MOST_GAPS = 4

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

    def wrote(self, count: int, size_bytes: int) -> None:
        """Take so many deltas, which have so many bytes in all."""
        self._count += count
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

    def wrote(self, count: int, size_bytes: int) -> None:
        pass

    def add_piece(self, piece: bytes) -> None:
        pass


class Likeness:
    """What the pieces of one stream have in common: most differ in nothing but what the model wrote.

    Where one of them says nothing but a delta, so does every other that is like it. Those are counted here.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_between",
        "_fixed_bytes",
        "_looks",
        "_written_at",
        "count",
        "size_bytes",
    )

    def __init__(self) -> None:
        self.count = 0
        """How many pieces were like the others."""

        self.size_bytes = 0
        """How many bytes were written in those."""

        self._before = self._behind = b""
        self._between: list[bytes] = []
        """What stands between the gaps, of which there is one more."""

        self._written_at = 0
        """In which of the gaps that is which was written; in the others stand letters and digits."""

        self._fixed_bytes = -1  # nothing is like nothing
        self._looks = 0

    @property
    def is_known(self) -> bool:
        """Whether there is anything that others may be like."""
        return self._fixed_bytes > 0

    def took(self, piece: bytes) -> bool:
        """Count a piece that is like the others; False: it is not."""
        written = piece.removeprefix(self._before).removesuffix(self._behind)
        others_bytes = 0
        if self._between:
            written, others_bytes = self._gaps(written)
        size = len(written)
        if (
            size + others_bytes + self._fixed_bytes != len(piece)
            or not size
            or _QUOTE in written
            or _LF in written
            or _CR in written
            or written[-1] == _BACKSLASH
            or (_DOT in written and _shows_an_end(written))
        ):
            return False
        self.count += 1
        self.size_bytes += size
        return True

    def _gaps(self, rest: bytes) -> tuple[bytes, int]:
        """What was written, and how many bytes the other gaps have."""
        gaps = []
        for fixed in self._between:
            gap, _, rest = rest.partition(fixed)
            gaps.append(gap)
        gaps.append(rest)
        written = gaps.pop(self._written_at)
        others = b"".join(gaps)
        return (written, len(others)) if not others or others.isalnum() else (b"", 0)

    def learn(self, piece: bytes) -> None:
        """See whether others may be like the last event of this one, which shows no sign of anything but deltas."""
        if self._looks == _MOST_LOOKS:
            return
        self._looks += 1
        border = piece.rfind(b"\n\n", 0, -2)
        if border >= 0:
            piece = piece[border + 2 :]
        first = _DELTA.search(piece)
        if first is None or _DELTA.search(piece, first.end()) is not None:
            return
        if piece[first.end() : first.end() + 2] not in (b'"}', b'",'):
            return
        written = first.span(1)
        gaps = sorted([written, *(one.span(one.lastindex or 0) for one in _VARIES.finditer(piece))])
        if len(gaps) > _MOST_GAPS:
            return
        self._written_at = gaps.index(written)
        fixed = [piece[end:begin] for (_, end), (begin, _) in pairwise(((0, 0), *gaps, (len(piece), 0)))]
        self._before, *self._between, self._behind = fixed
        self._fixed_bytes = sum(map(len, fixed))


def _shows_an_end(written: bytes) -> bool:
    """Whether it has a word by which events are told that end something."""
    return written.find(b".done") >= 0 or written.find(b".completed") >= 0


def _ends_amid_text(seen: bytes, at: int) -> bool:
    """Whether the text that has been followed up to there may go on behind the bytes seen."""
    return at == len(seen) or (at == len(seen) - 1 and seen.endswith(b"\\"))
