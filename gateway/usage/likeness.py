"""What the pieces of one stream have in common: of most only that is new which a model wrote.

Whether a piece is like those before it is seen at a glance, by its length, its beginning and its end: nothing else
of it is looked at.
"""

import re
from itertools import pairwise
from typing import Protocol

import orjson

from gateway.usage.deltas import DELTA
from gateway.usage.written import Written, in_event, text_bytes
from gateway.wire.sse import SseEvent

_OF_CHAT = b'"delta":{"content":"'

# What else changes from one event to the next in streams that say nothing else: it has no quotes, and nothing to hide.
_VARIES = re.compile(rb'"(?:obfuscation": ?"([0-9A-Za-z]++)"|sequence_number": ?([0-9]++)[,}])')
_MOST_GAPS = 4

# As numbers: `in` takes those by a tenth of what it does for bytes.
_QUOTE, _DOT, _BACKSLASH, _LF, _CR = b'".\\\n\r'

_MOST_LOOKS = 8
"""So many pieces of a stream are looked at for one that the others may be like."""


class Takes(Protocol):
    """Takes a piece of the usual kind, of which there is nothing more to be seen or done; False: it is another."""

    def __call__(self, piece: bytes, begin: bytes = b"") -> bool:
        """`begin`: what a chunk begins with of which the piece is the body; it is given as it came, framing and all."""


class Likeness:
    """What the pieces of one stream have in common: most differ in nothing but what the model wrote.

    Where one of them says nothing but a delta, so does every other that is like it. Those are counted here.
    """

    __slots__ = (
        "_before",
        "_behind",
        "_between",
        "_fixed_bytes",
        "_framed_behind",
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

        self._before = self._behind = self._framed_behind = b""
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

    def took(self, piece: bytes, begin: bytes = b"") -> bool:
        """Count a piece that is like the others; False: it is not. As `Takes` says."""
        fixed_bytes = self._fixed_bytes
        if begin:
            # All at once: the length tells whether each of them was there to be taken away.
            written = piece.removeprefix(begin).removeprefix(self._before).removesuffix(self._framed_behind)
            fixed_bytes += len(begin) + 2
        else:
            written = piece.removeprefix(self._before).removesuffix(self._behind)
        if self._between:
            written, others_bytes = self._gaps(written)
            fixed_bytes += others_bytes
        size = len(written)
        if (
            size + fixed_bytes != len(piece)
            or not size
            or _QUOTE in written
            or _LF in written
            or _CR in written
            or (_DOT in written and ends_something(written))
        ):
            return False
        if _BACKSLASH in written:
            if (spelled := _unescaped(written)) is None:
                return False
            size = spelled
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
        first = DELTA.search(piece)
        if first is None or DELTA.search(piece, first.end()) is not None:
            return
        if piece[first.end() : first.end() + 2] not in (b'"}', b'",'):
            return
        if not _is_all(piece, first):
            return
        written = first.span(1)
        gaps = sorted([written, *(one.span(one.lastindex or 0) for one in _VARIES.finditer(piece))])
        if len(gaps) > _MOST_GAPS:
            return
        self._written_at = gaps.index(written)
        fixed = [piece[end:begin] for (_, end), (begin, _) in pairwise(((0, 0), *gaps, (len(piece), 0)))]
        self._before, *self._between, self._behind = fixed
        self._framed_behind = self._behind + b"\r\n"
        self._fixed_bytes = sum(map(len, fixed))


def _is_all(event: bytes, text: re.Match[bytes]) -> bool:
    """Whether nothing else of an event counts, and this text does."""
    begin, end = text.span(1)
    if (
        event.endswith(_OF_CHAT, 0, begin)
        and event.startswith(b'"}', end)
        and event.find(b'"choices":[{') >= 0
    ):
        return True
    return in_event(SseEvent(event).data) == Written(1, text_bytes(text[1]))


def _unescaped(written: bytes) -> int | None:
    """How many bytes a text has that is spelled so; None where it is none."""
    try:
        return len(orjson.loads(b'"' + written + b'"').encode())
    except orjson.JSONDecodeError:
        return None


def ends_something(written: bytes) -> bool:
    """Whether it has a word by which events are told that end something."""
    return written.rfind(b".done") >= 0 or written.rfind(b".completed") >= 0
