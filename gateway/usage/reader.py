"""An answer watched for its usage while it goes by: cheap per piece, bounded in memory, never in the way.

What the answer is, its head tells. Of a stream of events only those are parsed that may report usage. JSON is
kept up to `MAX_WHOLE_BYTES` and read at its end; of what is larger, answers and events (images travel in both),
only the `usage` objects are parsed, and looked for as they go by. Encoded answers are inflated for reading,
except br and zstd, and what unpacks to more than any answer would: their usage stays unknown.
"""

import re
import zlib
from dataclasses import replace
from typing import Protocol

from gateway.usage.deltas import Deltas, NoDeltas
from gateway.usage.inflating import Inflater
from gateway.usage.reported import (
    Usage,
    from_json,
    from_realtime_event,
    from_sse_event,
    seconds_of,
)
from gateway.wire.sse import SseEvent, SseSplitter

MAX_WHOLE_BYTES = 64 * 1024
MAX_REPORT_BYTES = 4 * 1024
# Where a document says what it is.
_BEGINNING_BYTES = 1024

_REPORT = re.compile(rb'"usage"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}(?=\{)')
_MAX_REPORT_NAME_BYTES = len(b'"usage":{') + 2 * 8
_BRACES = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}"]')
_IMAGE_EVENT = re.compile(rb"\bimage_(?:generation|edit)\.completed\b")
_IMAGE = b'"b64_json"'
_PART_OF_A_RUN = re.compile(rb'"object"[ \t]*:[ \t]*"thread\.run\.step"')
_REALTIME = re.compile(
    rb'"type"[ \t]*:[ \t]*"(?:response\.done|conversation\.item\.input_audio_transcription\.completed)"'
)
_DURATION = re.compile(rb'"duration"[ \t\r\n]*:[ \t\r\n]*"?([0-9.eE+-]{1,32})')


class UsageReader:
    """Reads the usage of one answer. What it finds does not depend on how the answer was cut into pieces.

    Without `estimates` what models wrote is not looked at: cheaper, and `estimate` then knows the prompt only.
    """

    def __init__(
        self, content_type: bytes | None, content_encoding: bytes | None, *, estimates: bool = True
    ) -> None:
        media_type = (content_type or b"").partition(b";")[0].strip().lower()
        encoding = (content_encoding or b"identity").strip().lower()
        self._reader: _Reader | None = None
        if media_type == b"text/event-stream":
            self._reader = _EventReader()
        elif media_type == b"application/json" or media_type.endswith(b"+json"):
            self._reader = _JsonReader()
        if self._reader is not None and not estimates:
            self._reader.deltas = NoDeltas()
        self._inflater = Inflater(encoding) if encoding in Inflater.ENCODINGS else None
        self.readable = self._reader is not None and encoding in (b"identity", *Inflater.ENCODINGS)
        """False when usage may stay unknown: neither JSON nor events, unknown encoding, broken compression."""

    def feed(self, piece: bytes) -> None:
        """Watch a piece of the answer's body go by. Never raises."""
        if self._reader is None or not self.readable:
            return
        if self._inflater is None:
            self._reader.feed(piece)
            return
        try:
            for inflated in self._inflater.feed(piece):
                self._reader.feed(inflated)
        except zlib.error:
            self.readable = False

    def finish(self) -> Usage | None:
        """The answer has ended, well or not: return the usage that it reported, None when it reported none."""
        return self._reader.finish() if self._reader is not None else None

    def estimate(self, prompt: int = 0) -> Usage:
        """What must have been used, judged by what went by and an estimate of the prompt, in LLM tokens.

        For answers that reported nothing when they were finished: abandoned, broken off, or from an upstream
        that never reports.
        """
        output = self._reader.deltas.estimate() if self._reader is not None else 0
        return Usage(input=prompt, output=output, total=prompt + output, estimated=True)


class _Reader(Protocol):
    deltas: Deltas

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> Usage | None: ...


def realtime_usage(text: bytes) -> Usage | None:
    """The usage that one server event of a realtime session adds; None when it adds none."""
    if len(text) <= MAX_WHOLE_BYTES:
        return from_realtime_event(text)
    if not _REALTIME.search(text, 0, _BEGINNING_BYTES):
        return None
    search = _ReportSearch(images=False)
    search.feed(text)
    return search.finish()


class _EventReader:
    """Reads a stream of events: the latest report counts, but images come one by one."""

    def __init__(self) -> None:
        self.deltas: Deltas = Deltas()
        self._splitter = SseSplitter()
        self._fragments: _ReportSearch | None = None
        self._usage: Usage | None = None

    def feed(self, piece: bytes) -> None:
        run, events = self._splitter.take(piece)
        if run.raw:
            # The usual piece: none of its events reports anything.
            if self._fragments is not None:
                self._end_fragments()
            if _may_report(run.raw):
                self._take_whole(run.events())
            else:
                self.deltas.add(run.raw)
        for event in events:
            self._take(event)

    def finish(self) -> Usage | None:
        last = self._splitter.finish()
        if last is not None:
            self._take(last)
        self._end_fragments()
        return self._usage

    def _take(self, event: SseEvent) -> None:
        if not event.whole:
            if self._fragments is None:
                self._fragments = _ReportSearch(
                    images=_IMAGE_EVENT.search(event.raw, 0, _BEGINNING_BYTES) is not None
                )
            self._fragments.feed(event.raw)
            return
        self._end_fragments()
        self._take_whole([event])

    def _take_whole(self, events: list[SseEvent]) -> None:
        """Take events that stand in a row; of those that report, the latest alone is read, and images behind it."""
        reports: list[Usage] = []
        for event in reversed(events):
            if not _may_report(event.raw):
                self.deltas.add(event.raw)
            elif (not reports or reports[-1].images) and (report := _report_of(event)) is not None:
                reports.append(report)
        for report in reversed(reports):
            self._keep(report)

    def _end_fragments(self) -> None:
        if self._fragments is not None:
            self._keep(self._fragments.finish())
            self._fragments = None

    def _keep(self, usage: Usage | None) -> None:
        if usage is not None and usage.images and self._usage is not None:
            self._usage += usage
        elif usage is not None:
            self._usage = usage


def _report_of(event: SseEvent) -> Usage | None:
    if len(event.raw) <= MAX_WHOLE_BYTES:
        return from_sse_event(event)
    if _PART_OF_A_RUN.search(event.raw, 0, _BEGINNING_BYTES):
        return None
    search = _ReportSearch(images=_IMAGE_EVENT.search(event.raw, 0, _BEGINNING_BYTES) is not None)
    search.feed(event.raw)
    return search.finish()


class _JsonReader:
    """Reads one JSON document, whole when it is small."""

    def __init__(self) -> None:
        self.deltas: Deltas = Deltas()
        self._kept = bytearray()
        self._search: _ReportSearch | None = None
        self._audio_seconds = 0.0

    def feed(self, piece: bytes) -> None:
        if self._search is None:
            self._kept += piece
            if len(self._kept) <= MAX_WHOLE_BYTES:
                return
            self._search = _ReportSearch(images=True)
            piece = bytes(self._kept)
            self._kept.clear()
            self._audio_seconds = _duration(piece[:MAX_WHOLE_BYTES])
        self._search.feed(piece)
        self.deltas.add_piece(piece)

    def finish(self) -> Usage | None:
        if self._search is not None:
            usage = self._search.finish()
            if self._audio_seconds and not (usage and usage.audio_seconds):
                usage = replace(usage or Usage(), audio_seconds=self._audio_seconds)
            return usage
        document = bytes(self._kept)
        usage = from_json(document)
        if usage is None:
            self.deltas = type(self.deltas)()
            self.deltas.add(document)
        return usage


def _duration(beginning: bytes) -> float:
    """The seconds of audio that a transcription says it is of, in front of its text."""
    said = _DURATION.search(beginning, 0, _BEGINNING_BYTES) if b'"text"' in beginning else None
    return seconds_of(said[1].decode("ascii")) if said else 0.0


class _ReportSearch:
    """Finds the last `usage` object in a document too large to keep, and counts the images in it."""

    def __init__(self, *, images: bool) -> None:
        self._count_images = images
        self._images = 0
        self._usage: Usage | None = None
        # The last bytes seen: they may be the beginning of a report.
        self._carry = b""

    def feed(self, piece: bytes) -> None:
        seen = self._carry + piece
        if self._count_images:
            self._images += seen.count(_IMAGE) - self._carry.count(_IMAGE)
        at = 0
        while (begin := seen.find(b'"usage"', at)) >= 0:
            named = _REPORT.match(seen, begin)
            if named is None and len(seen) - begin < _MAX_REPORT_NAME_BYTES:
                self._carry = seen[begin:]
                return
            at = begin + len(b'"usage"')
            if named is None:
                continue
            end = _object_end(seen, named.end())
            if (len(seen) if end is None else end) - begin > MAX_REPORT_BYTES:
                at = begin + MAX_REPORT_BYTES
                continue
            if end is None:
                self._carry = seen[begin:]
                return
            report = from_json(b'{"usage":' + seen[named.end() : end] + b"}")
            self._usage = report or self._usage
            at = end
        self._carry = seen[max(at, len(seen) - _MAX_REPORT_NAME_BYTES) :]

    def finish(self) -> Usage | None:
        if not self._images:
            return self._usage
        return replace(self._usage or Usage(), images=self._images)


def _may_report(events: bytes) -> bool:
    """Whether usage may stand in there: an object of that name, or an event that ends something."""
    if b".done" in events or b".completed" in events:
        return True
    # Streams that include usage carry `"usage":null` in every other event.
    if events.count(b'"usage"') == events.count(b'"usage":null'):
        return False
    at = events.find(b'"usage"')
    while at >= 0:
        if _REPORT.match(events, at):
            return True
        at = events.find(b'"usage"', at + 1)
    return False


def _object_end(document: bytes, at: int) -> int | None:
    """Where the JSON object that begins there ends; None when that is not in sight."""
    depth = 0
    for lexeme in _BRACES.finditer(document, at, at + MAX_REPORT_BYTES):
        match lexeme[0]:
            case b"{":
                depth += 1
            case b"}":
                depth -= 1
            case b'"':
                return None
        if not depth:
            return lexeme.end()
    return None
