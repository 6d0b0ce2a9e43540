"""What models wrote, counted when somebody asks: for answers of which nobody reports what they used.

Of a stream the latest events are kept, and read only if it ends without a report. What is older has been counted
by looking for texts under their usual names; where those are not found it is read as well. So nothing is free that
goes by, and of most streams nothing is ever read.
"""

import re
from collections.abc import Iterator
from itertools import islice

from gateway.usage.reported import BYTES_PER_LLM_TOKEN
from gateway.usage.written import Written, in_answer, in_event, text_bytes
from gateway.wire.sse import SseEvent, SseSplitter

_WRITTEN = rb'(?:[^"\\\r\n]++|\\[^\r\n])'
DELTA = re.compile(
    rb'"(?:content|delta|text|value|refusal|arguments|transcript|reasoning|reasoning_content|reasoning_text|thinking)'
    rb'"[ \t]{0,8}:[ \t]{0,8}"(' + _WRITTEN + rb"++)"
)
"""What models write, under the names that streams mostly have for it."""

_DELTA_BEGINS_BYTES = len(b'"reasoning_content"') + 2 * 8 + len(b':"\\')
_DELTA_GOES_ON = re.compile(_WRITTEN + rb"*+")

_KEPT_BYTES = 32 * 1024
"""Most streams report in the end: of what is no longer than that nothing is ever counted."""

_READ_BYTES = 64 * 1024
"""What is larger is not parsed in one turn of the loop."""

_MOST_READ = 1024
"""Nor are more events."""

_SPLIT_BYTES = 4 * 1024
"""Of many events so much is split at once: most may not be read."""

_NOT_PLAIN = (b"audio", b'"response"')
"""Words of events that have texts which are not what a model writes."""

_HAS_DELTA = re.compile(rb'"(?:delta|choices|content|text)"')
_NOTHING = Written(0, 0)
_PIECE_BYTES = 64
"""What a piece occupies beside its bytes."""


class Deltas:
    """Counts what models wrote. Most streams send one LLM token per delta, some bundle them."""

    __slots__ = (
        "_carry",
        "_count",
        "_document",
        "_goes_on",
        "_kept",
        "_kept_bytes",
        "_size_bytes",
        "_unread_bytes",
    )

    def __init__(self) -> None:
        self._count = 0
        self._size_bytes = 0
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._document: bytes | None = None
        self._carry = b""
        self._goes_on = False
        self._unread_bytes = 0
        """Of a document that came in pieces."""

    def add(self, text: bytes) -> None:
        """Take a whole event, or several."""
        self._kept.append(text)
        self._kept_bytes += len(text) + _PIECE_BYTES
        if self._kept_bytes > _KEPT_BYTES:
            self._count_oldest()

    def add_document(self, document: bytes) -> None:
        """Take a whole answer that is no stream."""
        self._document = document

    def wrote(self, count: int, size_bytes: int) -> None:
        """Take so many deltas, which have so many bytes in all."""
        self._count += count
        self._size_bytes += size_bytes

    def add_piece(self, piece: bytes, *, of_event: bool = False) -> None:
        """Take the next bytes of a document that comes in pieces, or of an event that does."""
        if not of_event:
            self._unread_bytes += len(piece)
        seen = self._carry + piece
        at = 0
        if self._goes_on:
            more = _DELTA_GOES_ON.match(seen)
            at = more.end() if more else 0
            self._size_bytes += at
            self._goes_on = _ends_amid_text(seen, at)
        if not self._goes_on:
            for delta in DELTA.finditer(seen, at):
                begin, at = delta.span(1)
                self._count += 1
                self._size_bytes += at - begin
            self._goes_on = at > 0 and _ends_amid_text(seen, at)
        self._carry = seen[at if self._goes_on else max(at, len(seen) - _DELTA_BEGINS_BYTES) :]

    def estimate(self) -> int:
        """How many LLM tokens that must have been: one for each text at least, and one for four bytes of it."""
        kept, self._kept, self._kept_bytes = b"".join(self._kept), [], 0
        self._read(kept)
        document, self._document = self._document, None
        if document is not None:
            written = in_answer(document)
            self._add(_found(document) if written is None else written)
        if self._unread_bytes and not self._size_bytes:
            self._size_bytes = self._unread_bytes  # it names texts as nobody else does
        return max(self._count, self._size_bytes // BYTES_PER_LLM_TOKEN)

    def _count_oldest(self) -> None:
        """Make room: of the older half only numbers are kept."""
        at = 0
        while self._kept_bytes > _KEPT_BYTES // 2:
            self._kept_bytes -= len(self._kept[at]) + _PIECE_BYTES
            at += 1
        oldest = b"".join(self._kept[:at])
        del self._kept[:at]
        is_plain = all(oldest.rfind(word) < 0 for word in _NOT_PLAIN)
        if is_plain and (found := _found(oldest)).texts * 2 >= oldest.count(b"data:"):
            self._add(found)
        else:
            self._read(oldest)

    def _read(self, events: bytes) -> None:
        """Read them; of many the first, and the others must be like those."""
        texts = size_bytes = read_bytes = 0
        for event in islice(_split(events), _MOST_READ):
            written = in_event(event.data) if len(event.raw) <= _READ_BYTES else None
            if written is None:
                written = _found(event.raw) if _HAS_DELTA.search(event.raw, 0, _READ_BYTES) else _NOTHING
            texts += written.texts
            size_bytes += written.size_bytes
            read_bytes += len(event.raw)
            if read_bytes >= _READ_BYTES:
                break
        if read_bytes:
            times = len(events) / read_bytes
            self._add(Written(round(texts * times), round(size_bytes * times)))

    def _add(self, written: Written) -> None:
        self._count += written.texts
        self._size_bytes += written.size_bytes


def _split(events: bytes) -> Iterator[SseEvent]:
    splitter = SseSplitter(started=True)
    for at in range(0, len(events), _SPLIT_BYTES):
        yield from splitter.feed(events[at : at + _SPLIT_BYTES])


def _found(events: bytes) -> Written:
    """The texts that stand there under their usual names; none goes on behind the end of a line."""
    texts = DELTA.findall(events)
    return Written(len(texts), sum(map(text_bytes, texts)))


class NoDeltas(Deltas):
    """Stands in where nobody wants an estimate."""

    __slots__ = ()

    def add(self, text: bytes) -> None:
        pass

    def add_document(self, document: bytes) -> None:
        pass

    def wrote(self, count: int, size_bytes: int) -> None:
        pass

    def add_piece(self, piece: bytes, *, of_event: bool = False) -> None:
        pass


def _ends_amid_text(seen: bytes, at: int) -> bool:
    """Whether the text that has been followed up to there may go on behind the bytes seen."""
    return at == len(seen) or (at == len(seen) - 1 and seen.endswith(b"\\"))
