"""A stream of events read for its usage; where nobody asked for that, the event that reports it is taken out.

Of the usual piece, whole events that report nothing, nothing but a few words is looked for.
"""

import re
from enum import Enum, auto

from gateway.usage.answers import Report, from_sse_event, report_of
from gateway.usage.deltas import Deltas
from gateway.usage.included import is_added_usage
from gateway.usage.json_reader import BEGINNING_BYTES, MAX_WHOLE_BYTES
from gateway.usage.likeness import Likeness, Takes, ends_something
from gateway.usage.outline import EventOutliner
from gateway.usage.reported import BYTES_PER_LLM_TOKEN, Usage
from gateway.usage.written import SOUND_BYTES_PER_LLM_TOKEN
from gateway.wire.sse import SseEvent, SseSplitter

_REPORT = re.compile(rb'"usage"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}(?=\{)')
_PART = re.compile(rb"\b(?:output_item\.done|image_(?:generation|edit)\.completed)\b")
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")
_FINISHED = re.compile(rb'"finish_reason"[ \t]*:[ \t]*"[^"]')
_SAID_ALL = re.compile(
    rb"response\.(?:(?:output_text|refusal|audio|output_audio|function_call_arguments|custom_tool_call_input"
    rb"|content_part)\.done|completed|incomplete|failed|cancelled)\b"
    rb"|thread\.(?:message\.completed|run\.(?:completed|incomplete|failed|cancelled|expired))\b"
    rb"|transcript\.text\.done|speech\.audio\.done|\"message_(?:delta|stop)\""
)
_TYPE = rb'(?:"type"[ \t]*:[ \t]*"|(?:\A|[\r\n])event: ?)[\w.]+'
_IS_AN_END = re.compile(_TYPE + rb"\.(?:done|completed)\b")
_SAYS_NOTHING = re.compile(
    _TYPE + rb"\.(?:done|completed|created|queued|in_progress|incomplete|failed|cancelled)\b"
)
_IS_SOUND = re.compile(_TYPE + rb"audio\.delta\b")
_GOES_ON = re.compile(rb"\.(?:delta|added)\b|\"content_block_(?:start|delta)\"")
_ALL = 2**31
_LAST = b"[DONE]"
_IS_LAST = re.compile(rb"(?:\A|\n)data: ?\[DONE\]")
_LAST_BYTES = len(_LAST) + 8


class _Says(Enum):
    """What an event is that is too large to hold."""

    TEXT = auto()
    SOUND = auto()
    NOTHING_NEW = auto()
    """What has been asked, or has been said."""


class EventReader:
    """Reads a stream of events: the latest report of the answer counts, those of its parts add up.

    `without_added`: leaves out what `include_usage` adds, for a client that did not ask for it (rewrite (a)).
    """

    def __init__(self, deltas: type[Deltas], *, without_added: bool = False) -> None:
        self.deltas = deltas()
        self._without_added = without_added
        # What is larger is read as it comes, for all of it is too much for one turn of the loop.
        self._splitter = SseSplitter(max_event_bytes=MAX_WHOLE_BYTES)
        self._likeness = Likeness()
        self._fragments: EventOutliner | None = None
        self._fragments_are = _Says.NOTHING_NEW
        self._whole: Usage | None = None
        """What has been reported of the answer."""

        self._parts: Usage | None = None
        """What has been reported of its images, and of its calls of tools, one by one."""

        self.answers = 1
        """How many were asked for, each of which says that it has finished; told by whoever asks whether all have."""

        self._finished = 0
        self._said_all_at: int | None = None
        """How many pieces were alike when the last event said that all has been said; None: it did not."""

    @property
    def is_over(self) -> bool:
        """Whether the answer has said that its generation is over; what follows can only be its usage.

        Answers of chat and completions say so one by one. An event that ends what was being said counts until more
        is said.
        """
        return self._finished >= self.answers or self._said_all_at == self._likeness.count

    @property
    def has_report(self) -> bool:
        """Whether usage has been reported so far."""
        return self._whole is not None

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes of the stream; return what of it may pass now: whole events."""
        splitter = self._splitter
        if splitter.between_events and self._fragments is None:
            if self._likeness.took(piece):
                return piece
            if not _shows_a_sign(piece) and piece.endswith(_BLANK_LINES) and len(piece) <= MAX_WHOLE_BYTES:
                # The usual piece.
                splitter.started = True
                self._said_all_at = None
                self._note_finished(piece)
                self._likeness.learn(piece)
                self.deltas.add(piece)
                return piece
        run, events = splitter.take(piece)
        passing = run.raw
        if passing:
            if _shows_a_sign(passing):
                passing = self._take_whole(run.events())
            else:
                self._said_all_at = None
                self._note_finished(passing)
                self.deltas.add(passing)
        return passing + b"".join([self._take(event) for event in events]) if events else passing

    def usual(self) -> Takes | None:
        """What takes, from now on, the pieces of which nothing can be held back or reported, and leaves others."""
        if self._likeness.is_known and self._splitter.between_events and self._fragments is None:
            return self._likeness.took
        return None

    def end(self) -> bytes:
        """The stream has ended, well or not: return what may pass of what follows its last blank line."""
        alike = self._likeness
        self.deltas.wrote(alike.count, alike.size_bytes)
        self._said_all_at = 0 if self._said_all_at == alike.count else None
        alike.count = alike.size_bytes = 0
        last = self._splitter.finish()
        passing = b"" if last is None else self._take(last)
        self._end_fragments()
        return passing

    def finish(self) -> Usage | None:
        """The stream has ended: return what it reported."""
        self.end()
        return _joined(self._parts, self._whole)

    def _take(self, event: SseEvent) -> bytes:
        if event.whole:
            return self._take_whole([event])
        if self._fragments is None:
            self._fragments = EventOutliner()
            self._fragments_are = _says(event.raw)
            self._note_end(event.raw)
        else:
            self._note_finished(event.raw)
        if self._fragments_are is _Says.TEXT:
            self.deltas.add_piece(event.raw, of_event=True)
        elif self._fragments_are is _Says.SOUND:
            self.deltas.wrote(1, len(event.raw) * BYTES_PER_LLM_TOKEN // SOUND_BYTES_PER_LLM_TOKEN)
        self._fragments.feed(event.raw[event.prefix_bytes :])
        if event.ends:
            self._end_fragments()
        return event.raw

    def _take_whole(self, events: list[SseEvent]) -> bytes:
        """Take events that stand in a row; of those that report on the whole answer, the latest full one is read."""
        for event in events:
            self._note_end(event.raw)
            if not _is_an_end(event.raw):
                self.deltas.add(event.raw)
        reports: list[Report] = []
        is_known = False
        for event in reversed(events):
            if not _may_report(event.raw) or (is_known and not _PART.search(event.raw, 0, BEGINNING_BYTES)):
                continue
            report = from_sse_event(event)
            if report is not None and (report.is_part or not is_known):
                reports.append(report)
                is_known |= not report.is_part and _is_full(report.usage)
        for report in reversed(reports):
            self._keep(report)
        return b"".join(
            [event.raw for event in events if not (self._without_added and is_added_usage(event))]
        )

    def _note_end(self, event: bytes) -> None:
        """See whether an event says that all has been said, or more."""
        self._note_finished(event)
        if event.find(b'"choices"') >= 0:
            return
        if _SAID_ALL.search(event, 0, BEGINNING_BYTES):
            self._said_all_at = self._likeness.count
        elif self._said_all_at is not None and _GOES_ON.search(event, 0, BEGINNING_BYTES):
            self._said_all_at = None

    def _note_finished(self, events: bytes) -> None:
        """See which of the answers that were asked for have finished."""
        if not _is_null(events, b'"finish_reason"'):
            self._finished += len(_FINISHED.findall(events))
        elif events.rfind(_LAST, -_LAST_BYTES) >= 0 and _IS_LAST.search(events):
            self._finished = _ALL

    def _end_fragments(self) -> None:
        if self._fragments is not None:
            self._keep(report_of(self._fragments.finish()))
            self._fragments = None

    def _keep(self, report: Report | None) -> None:
        if report is None:
            return
        if report.is_part:
            self._parts = report.usage if self._parts is None else self._parts + report.usage
        else:
            self._whole = report.usage if _is_full(report.usage) else _joined(self._whole, report.usage)


def _is_full(usage: Usage) -> bool:
    return usage.input > 0 and usage.output > 0


def _joined(earlier: Usage | None, later: Usage | None) -> Usage | None:
    """What the later report says, and the earlier one where that says nothing, or 0."""
    if earlier is None or later is None:
        return later or earlier
    joined = Usage._make(new or old for old, new in zip(earlier, later, strict=True))
    return joined._replace(total=max(joined.total, joined.input + joined.output))


def _is_an_end(event: bytes) -> bool:
    """Whether it says once more what has been said."""
    return ends_something(event) and _IS_AN_END.search(event, 0, BEGINNING_BYTES) is not None


def _says(beginning: bytes) -> _Says:
    if _SAYS_NOTHING.search(beginning, 0, BEGINNING_BYTES):
        return _Says.NOTHING_NEW
    return _Says.SOUND if _IS_SOUND.search(beginning, 0, BEGINNING_BYTES) else _Says.TEXT


def _shows_a_sign(events: bytes) -> bool:
    """Whether one of the events may be more than a delta: streams that include usage have `"usage":null` in these."""
    return not _is_null(events, b'"usage"') or ends_something(events)


def _is_null(events: bytes, name: bytes) -> bool:
    """Whether a member is null wherever it stands; none of these events may have it."""
    # `rfind` leaps over most bytes: `find`, `count` and above all `in` take several times as long.
    at = events.rfind(name)
    while at >= 0 and events.startswith(b":null", at + len(name)):
        at = events.rfind(name, 0, at)
    return at < 0


def _may_report(event: bytes) -> bool:
    """Whether usage may stand in there: an object of that name, or an event that ends something."""
    if ends_something(event):
        return True
    at = event.find(b'"usage"')
    return at >= 0 and _REPORT.search(event, at) is not None
