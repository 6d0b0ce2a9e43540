"""An answer watched for its usage while it goes by: cheap per piece, bounded in memory, never in the way.

What the answer is, its head tells. Of a stream of events only those are parsed that may report usage. JSON is
kept up to `MAX_WHOLE_BYTES` and read at its end; of what is larger, answers and events (images travel in both),
only what counts is kept, as it goes by. Encoded answers are inflated for reading, but for what unpacks to more than
any answer would: its usage stays unknown.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from gateway.usage.answers import from_realtime_event, of_realtime_event
from gateway.usage.deltas import Deltas, NoDeltas
from gateway.usage.event_reader import EventReader
from gateway.usage.inflating import Inflater, Unreadable, knows
from gateway.usage.json_reader import MAX_WHOLE_BYTES, JsonReader
from gateway.usage.likeness import Takes
from gateway.usage.outline import Outliner
from gateway.usage.reported import Usage
from gateway.wire.codings import codings
from gateway.wire.headers import is_json, media_type


class UsageReader:
    """Reads the usage of one answer. What it finds does not depend on how the answer was cut into pieces.

    Without `estimates` what models wrote is not looked at: cheaper, and nothing `went_by` then.
    """

    __slots__ = ("_inflater", "_reader", "readable")

    def __init__(
        self, content_type: bytes | None, content_encoding: bytes | None, *, estimates: bool = True
    ) -> None:
        kind, encodings, readable = _means(content_type, content_encoding)
        self._reader: _Reader | None = None
        self._inflater: Inflater | None = None
        if kind is not None:
            self._reader = reader = kind(Deltas if estimates else NoDeltas)
            if encodings and readable:
                self._inflater = Inflater(encodings, reader.feed)
        self.readable = readable
        """False when usage may stay unknown: neither JSON nor events, unknown encoding, broken compression."""

    @classmethod
    def without_added(cls) -> "tuple[UsageReader, EventReader]":
        """Reads a stream of events, by the reader that leaves out the one that nobody asked for: rewrite (a)."""
        reader = cls(b"text/event-stream", None)
        reader._reader = leaving_out = EventReader(Deltas, without_added=True)
        return reader, leaving_out

    @property
    def unread(self) -> bool:
        """Whether it would say what it used, but is encoded as nobody here can read."""
        return self._reader is not None and not self.readable

    def is_over(self, answers: int) -> bool:
        """Whether an answer that can be read, of so many asked for at once, has said that its generation is over."""
        reader = self._reader
        if isinstance(reader, EventReader):
            reader.answers = answers
        return self.readable and reader is not None and reader.is_over

    @property
    def has_report(self) -> bool:
        """Whether a stream has said so far what it used."""
        return isinstance(self._reader, EventReader) and self._reader.has_report

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream of events."""
        return isinstance(self._reader, EventReader)

    @property
    def watcher(self) -> Callable[[bytes], object] | None:
        """What is to be shown every piece of the answer's body; it never raises. None where nothing can be read."""
        if self._reader is None or not self.readable:
            return None
        return self._reader.feed if self._inflater is None else self._unpack

    def usual(self) -> Takes | None:
        """What takes, from now on, pieces that report nothing and are no more than that, and leaves others."""
        reader = self._reader
        return reader.usual() if self._inflater is None and isinstance(reader, EventReader) else None

    def _unpack(self, piece: bytes) -> None:
        if not self.readable:
            return
        assert self._inflater is not None
        try:
            self._inflater.feed(piece)
        except Unreadable:
            self.readable = False

    def finish(self) -> Usage | None:
        """The answer has ended, well or not: return the usage that it reported, None when it reported none."""
        return self._reader.finish() if self._reader is not None else None

    def went_by(self) -> int:
        """About how many LLM tokens models wrote in what went by.

        For answers that reported nothing when they were finished: abandoned, broken off, or from an upstream
        that never reports.
        """
        return 0 if self._reader is None else self._reader.deltas.estimate()


@lru_cache(maxsize=64)
def _means(
    content_type: bytes | None, content_encoding: bytes | None
) -> tuple[type[JsonReader] | type[EventReader] | None, tuple[bytes, ...], bool]:
    """What two header fields of an answer mean: its reader, its encodings, and whether it can be read."""
    content_type = content_type or b""
    encodings = codings((content_encoding or b"",))
    reader: type[JsonReader] | type[EventReader] | None = None
    if media_type(content_type) == b"text/event-stream":
        reader = EventReader
    elif is_json(content_type):
        reader = JsonReader
    return reader, encodings, reader is not None and knows(encodings)


class _Reader(Protocol):
    @property
    def is_over(self) -> bool: ...

    @property
    def deltas(self) -> Deltas: ...

    def feed(self, piece: bytes) -> bytes: ...

    def finish(self) -> Usage | None: ...


def realtime_usage(text: bytes) -> Usage | None:
    """The usage that one server event of a realtime session adds; None when it adds none."""
    if len(text) <= MAX_WHOLE_BYTES:
        return from_realtime_event(text)
    if text.find(b'"usage"') < 0:
        return None
    outliner = Outliner()
    outliner.feed(text)
    return of_realtime_event(outliner.finish())
