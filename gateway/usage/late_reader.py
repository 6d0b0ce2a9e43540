"""Answers read for the objects that they show, as they go by; no more than a small one is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from gateway.usage.deltas import Deltas
from gateway.usage.late_objects import OBJECTS, OUTLINE, id_of, objects_in
from gateway.usage.outline import EventOutliner, Outliner
from gateway.wire.sse import SseEvent, SseSplitter

_MOST_KEPT_BYTES = 64 * 1024


class ObjectDocument:
    """A JSON answer: kept whole while it is small, scanned from then on."""

    __slots__ = ("_kept", "_outliner")

    def __init__(self) -> None:
        self._kept = bytearray()
        self._outliner: Outliner | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the answer."""
        if self._outliner is not None:
            self._outliner.feed(piece)
            return
        self._kept += piece
        if len(self._kept) > _MOST_KEPT_BYTES:
            self._outliner = Outliner(OUTLINE)
            self._outliner.feed(bytes(self._kept))
            self._kept.clear()

    def objects(self) -> list[dict[str, Any]]:
        """The answer has ended, well or not: all that it may show."""
        if self._outliner is not None:
            return objects_in(self._outliner.finish())
        return _objects_of(bytes(self._kept))


class ObjectEvents:
    """A stream of events, of which those are read that are about an object of the kind: the last of them says most."""

    __slots__ = ("_fragments", "_kind", "_last", "_splitter", "_wanted", "deltas")

    def __init__(self, kind: str, deltas: Deltas | None) -> None:
        self._kind = kind
        self.deltas = deltas
        """What goes by in it, where somebody wants to know."""

        self._wanted = b'"%b"' % OBJECTS[kind].encode()
        self._splitter = SseSplitter(max_event_bytes=_MOST_KEPT_BYTES)
        self._fragments: EventOutliner | None = None
        """Of an event that is too large to be kept."""

        self._last: list[dict[str, Any]] = []

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the answer."""
        for event in self._splitter.feed(piece):
            self._take(event)

    def objects(self) -> list[dict[str, Any]]:
        """The answer has ended, well or not: what the last event about one has of it."""
        if (rest := self._splitter.finish()) is not None:
            self._take(rest)
        self._end_fragments()
        return self._last

    def _take(self, event: SseEvent) -> None:
        if not event.whole:
            if self._fragments is None:
                self._fragments = EventOutliner(OUTLINE)
            self._fragments.feed(event.raw[event.prefix_bytes :])
            if event.ends:
                self._end_fragments()
            return
        if self.deltas is not None:
            self.deltas.add(event.raw)
        if self._wanted in event.raw:
            self._note(_objects_of(event.data))

    def _end_fragments(self) -> None:
        if self._fragments is not None:
            self._note(objects_in(self._fragments.finish()))
            self._fragments = None

    def _note(self, objects: Iterable[dict[str, Any]]) -> None:
        self._last = [one for one in objects if id_of(one, self._kind) is not None] or self._last


def _objects_of(document: bytes) -> list[dict[str, Any]]:
    try:
        return objects_in(orjson.loads(document))
    except orjson.JSONDecodeError:
        return []
