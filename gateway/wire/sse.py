"""Server-sent events split out of a stream of bytes, each with the bytes it was written with.

Lines may end with CR, LF or CRLF, cut anywhere between two pieces. What a reader of the stream gets does not
depend on how it was cut, and the raw bytes of all events together are the stream. An event is handed over as
soon as its blank line is there; only where a CRLF stream shows a CR is its LF awaited.

Source: the HTML standard, "Parsing an event stream".
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

MAX_EVENT_BYTES = 2**20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LINE_ENDS = b"\r\n"
_FIRST_LINE = re.compile(rb"[^\r\n]")
# A CR before an LF ends one line with it; a CR by itself ends one alone, so that CR CR need not wait.
_BLANK_LINE = re.compile(rb"\r\n(?>\r\n|\r|\n)|\n[\r\n]|\r\r")

_BEGINNINGS = (b":", b"data:", b"event:", b"id:", b"retry:")


def begins_like_events(begin: bytes) -> bool | None:
    """Whether what begins so is a stream of events; None: too little of it has come to tell."""
    line = begin.removeprefix(_BYTE_ORDER_MARK)
    if line.startswith(_BEGINNINGS):
        return True
    if _BYTE_ORDER_MARK.startswith(begin) or any(beginning.startswith(line) for beginning in _BEGINNINGS):
        return None
    return False


def _behind(seen: bytes, blank_line: bytes) -> int:
    at = seen.rfind(blank_line)
    return at + len(blank_line) if at >= 0 else 0


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event as it stood in the stream, its blank line included. Comments and blank lines are events too."""

    raw: bytes
    whole: bool = True
    """False for a fragment of an event that was too large to hold, and for one that the stream broke off in a line."""
    prefix_bytes: int = 0
    """The size of a byte order mark."""
    ends: bool = True
    """False for a fragment behind which the event goes on."""

    @property
    def name(self) -> str:
        """The value of the last `event:` line; empty when there is none."""
        names = [value for field, value in self._lines() if field == b"event"]
        return names[-1].decode("utf-8", "replace") if names else ""

    @property
    def data(self) -> bytes:
        """The values of all `data:` lines, joined by LF."""
        return b"\n".join([value for field, value in self._lines() if field == b"data"])

    def _lines(self) -> list[tuple[bytes, bytes]]:
        lines = []
        for line in self.raw[self.prefix_bytes :].splitlines():
            field, _, value = line.partition(b":")
            lines.append((field, value.removeprefix(b" ")))
        return lines


class SseRun(NamedTuple):
    """Whole events in a row, not split: most need not be. All of them fit."""

    raw: bytes
    first: bool
    """Whether the stream begins with it."""

    def events(self) -> list[SseEvent]:
        """Its events, one by one."""
        return SseSplitter(started=not self.first).feed(self.raw)


class SseSplitter:
    """Splits one stream. Holds at most `max_event_bytes` and a piece; an event beyond goes on in fragments."""

    def __init__(self, *, max_event_bytes: int = MAX_EVENT_BYTES, started: bool = False) -> None:
        self._max_event_bytes = max_event_bytes
        self._buffer = bytearray()
        self._searched = 0
        self._in_fragments = False
        self.started = started
        """Whether the stream has begun: a byte order mark stands in front of it alone."""

        self.between_events = True
        """Whether what comes next begins an event, so that what ends with a blank line is nothing but whole ones."""

    def take(self, piece: bytes) -> tuple[SseRun, list[SseEvent]]:
        """Take the next bytes as `feed` does; return what they complete, as much of it as possible unsplit.

        Splitting costs many times what passing on does, and a piece of a fast stream ends amid an event. So the
        last blank line that is seen at a glance ends a run, and only what follows it is looked at.
        """
        buffer = self._buffer
        if piece[-2:] == b"\n\n" and self.between_events and len(piece) <= self._max_event_bytes:
            # The usual piece of a slow stream: an event, or several.
            run = SseRun(piece, not self.started)
            self.started = True
            return run, []
        run = SseRun(b"", first=not self.started)
        if self._in_fragments or len(buffer) + len(piece) > self._max_event_bytes:
            return run, self.feed(piece)
        # A blank line may have begun in what was there before.
        before = bytes(buffer[-3:])
        seen = before + piece
        has_cr = b"\r" in seen
        end = max(_behind(seen, b"\n\n"), _behind(seen, b"\r\n\r\n") if has_cr else 0) - len(before)
        if end > 0:
            run = SseRun(bytes(buffer) + piece[:end], first=not self.started)
            self.started = True
            buffer.clear()
            self._searched = 0
            piece = piece[end:]
        if has_cr or (not buffer and piece.startswith(b"\n")):
            return run, self.feed(piece)
        buffer += piece
        self._searched = max(0, len(buffer) - 3)
        self.between_events = not buffer
        return run, []

    def feed(self, piece: bytes) -> list[SseEvent]:
        """Take the next bytes of the stream; return the events they complete."""
        buffer = self._buffer
        buffer += piece
        events: list[SseEvent] = []
        begin = 0
        while begin < len(buffer) and (end := self._find_end(begin)):
            fits = not self._in_fragments and end - begin <= self._max_event_bytes
            events.append(self._event(bytes(buffer[begin:end]), whole=fits))
            self._in_fragments = False
            begin = end
        if begin:
            del buffer[:begin]
        if self._in_fragments or len(buffer) > self._max_event_bytes:
            kept = buffer[-3:]
            end = len(buffer) - (len(kept) - len(kept.rstrip(_LINE_ENDS)))
            if end:
                events.append(self._event(bytes(buffer[:end]), whole=False, ends=False))
                del buffer[:end]
            self._in_fragments = True
        # The last three bytes may be the beginning of what ends the event.
        self._searched = max(0, len(buffer) - 3)
        self.between_events = not buffer and not self._in_fragments
        return events

    def finish(self) -> SseEvent | None:
        """The stream has ended: return what follows its last blank line, if anything does.

        It is whole if it ends behind a line: some servers do not send the last blank one.
        """
        if not self._buffer:
            return None
        rest = bytes(self._buffer)
        self._buffer.clear()
        return self._event(rest, whole=rest.endswith((b"\n", b"\r")) and not self._in_fragments)

    def _find_end(self, begin: int) -> int:
        """Where the event that begins there ends; 0 while that is not known."""
        buffer = self._buffer
        if not self._in_fragments and buffer[begin] in _LINE_ENDS:
            line = _FIRST_LINE.search(buffer, begin)
            return line.start() if line else len(buffer)
        found = _BLANK_LINE.search(buffer, max(begin, self._searched))
        if found is None or (found.end() == len(buffer) and found[0] == b"\r\n\r"):
            return 0
        return found.end()

    def _event(self, raw: bytes, *, whole: bool, ends: bool = True) -> SseEvent:
        prefix_bytes = 0
        if not self.started:
            self.started = True
            prefix_bytes = 3 if raw.startswith(_BYTE_ORDER_MARK) else 0
        return SseEvent(raw, whole, prefix_bytes, ends)
