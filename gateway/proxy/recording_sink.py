"""Stands between a stream of events and the sink that sends it down, and has recorded what the events say was made.

Nothing goes down before the event has been recorded that says what the exchange was there to make, but for what has no
data. From then on everything passes as it comes, without being read, up to the event that ends the answer: that says
what was made beside. Where nobody holds the stream, it is read behind what passes.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any

import orjson

from gateway.errors import GatewayError, Internal
from gateway.exchange.observers import AnswerRecorder
from gateway.policy.makings import outline_of, reduced, says_error
from gateway.proxy.answer_sink import AnswerSink
from gateway.proxy.channel import Held
from gateway.proxy.reply import Reply
from gateway.proxy.sink import Passes
from gateway.usage.inflating import Inflater, Unreadable
from gateway.usage.outline import EventOutliner
from gateway.wire.search import Piece
from gateway.wire.sse import SseEvent, SseSplitter

_PARSED_BYTES = 64 * 1024
_MOST_HELD_BYTES = 8 * 2**20
"""Of a stream that does not say what was made; it passes then."""

_MOST_LOOKED_AT = 64
"""Events with data that do not say what was made: in that stream none will."""

_QUEUED_BYTES = 64 * 1024
"""So much may wait here for the registry before the upstream is held."""

_ENDS = re.compile(rb"response\.(?:completed|incomplete|failed|cancelled)\b")
_BEGINNING_BYTES = 256
_DATA = re.compile(rb"(?:\A|[\r\n])data:")


class MakingEvents:
    """Reads a stream for the events that may say what was made: the first that does, and those that end an answer."""

    __slots__ = (
        "_fragments",
        "_ignored",
        "_looked_at",
        "_makes",
        "_splitter",
        "awaits_first",
        "reads_ends",
        "saw_data",
    )

    def __init__(self, recorder: AnswerRecorder) -> None:
        self.awaits_first = any(making.in_events and not making.is_last for making in recorder.makes)
        """Whether what the exchange is there to make has still to be said."""

        self.reads_ends = any(making.in_events and making.is_last for making in recorder.makes)
        self.saw_data = False
        """Whether an event, or some of one, has come that has data."""

        self._looked_at = 0
        self._makes = recorder.makes
        self._splitter = SseSplitter(max_event_bytes=_PARSED_BYTES)
        self._fragments: EventOutliner | None = None
        """Of an event that is too large to be kept."""

        self._ignored = False
        """Whether the fragments that come are of an event that says nothing here."""

    @property
    def between_events(self) -> bool:
        """Whether what comes next begins an event."""
        return self._splitter.between_events

    def feed(self, piece: bytes) -> list[Any]:
        """Take the next bytes; return the documents of events that they complete and that may say something."""
        if self.awaits_first:
            return list(filter(None, map(self._take, self._splitter.feed(piece))))
        if not self.reads_ends:
            return []
        run, events = self._splitter.take(piece)
        if run.raw and _ENDS.search(run.raw):
            events = [*run.events(), *events]
        return list(filter(None, map(self._take, events)))

    def finish(self) -> list[Any]:
        """The stream has ended, well or not: the same of what follows its last blank line."""
        rest = self._splitter.finish()
        return list(filter(None, (self._take(rest), self._end_fragments()))) if rest is not None else []

    def _take(self, event: SseEvent) -> object:
        raw = event.raw
        if not event.whole:
            return self._take_fragment(event)
        if self.awaits_first:
            if not _DATA.search(raw):
                return None
            self.saw_data = True
            self._looked_at += 1
            if self._looked_at > _MOST_LOOKED_AT:
                self.awaits_first = False
                return None
        elif not _ENDS.search(raw, 0, _BEGINNING_BYTES):
            return None
        try:
            return orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return reduced(event.data, outline_of(self._makes, in_events=True))

    def _take_fragment(self, event: SseEvent) -> object:
        if self._fragments is None and not self._ignored:
            self.saw_data = True
            if self.awaits_first or _ENDS.search(event.raw, 0, _BEGINNING_BYTES):
                self._fragments = EventOutliner(outline_of(self._makes, in_events=True))
            else:
                self._ignored = True
        if self._fragments is not None:
            self._fragments.feed(event.raw[event.prefix_bytes :])
        if not event.ends:
            return None
        self._ignored = False
        return self._end_fragments()

    def _end_fragments(self) -> object:
        fragments, self._fragments = self._fragments, None
        return None if fragments is None else fragments.finish()


class RecordingSink:
    """Gets a stream of events, and gives it to the sink that sends it down once it may pass."""

    takes_raw = False

    def __init__(
        self, going: AnswerSink, *, reply: Reply, recorder: AnswerRecorder, applied: tuple[bytes, ...]
    ) -> None:
        """`applied`: the encodings of the stream, known ones."""
        self._going = going
        self._reply = reply
        self._recorder = recorder
        self._events = MakingEvents(recorder)
        self._text: list[bytes] = []
        self._inflater = Inflater(applied, self._text.append) if applied else None
        self._queue: deque[tuple[Piece, Piece | None]] = deque()
        """What has come while something was recorded, and has not been read."""

        self._held: list[tuple[Piece, Piece | None]] = []
        """What has been read, and may not pass yet."""

        self._held_bytes = 0
        self._recording: asyncio.Task[None] | None = None
        self._ended = False
        self._failed: GatewayError | None = None

    def piece(self, body: Piece, chunks: Piece | None) -> None:
        recorder = self._recorder
        if not recorder.holds:
            self._going.piece(body, chunks)
            for document in self._read(bytes(body)):
                self._note(document)
            return
        # What waits does not depend on a buffer that is used again.
        self._queue.append((bytes(body), None if chunks is None else bytes(chunks)))
        if self._recording is None:
            self._go_on()
        else:
            self._held_bytes += len(body)
            if self._held_bytes > _QUEUED_BYTES:
                self._reply.hold(Held.BY_READER)

    def end(self, body: Piece = b"", chunks: Piece | None = None) -> None:
        recorder = self._recorder
        recorder.heard = True
        if not recorder.holds:
            self._going.end(body, chunks)
            for document in (*self._read(bytes(body)), *self._events.finish()):
                self._note(document)
            return
        if body:
            self._queue.append((bytes(body), None if chunks is None else bytes(chunks)))
        self._ended = True
        if self._recording is None:
            self._go_on()

    def fail(self, error: GatewayError) -> None:
        if not self._recorder.holds:
            self._going.fail(error)
            return
        self._failed = error
        if self._recording is None:
            self._go_on()

    def usual(self) -> Passes | None:
        events = self._events
        if self._recording is not None or self._held or events.awaits_first:
            return None
        return self._going.usual() if events.between_events or not events.reads_ends else None

    def raw(self, data: Piece, body_bytes: int) -> None:
        raise NotImplementedError("a stream that is recorded is not passed raw")

    def _go_on(self) -> None:
        """Read what has come; pass what may pass, up to what has to be recorded first."""
        events, queue = self._events, self._queue
        while queue:
            body, chunks = queue.popleft()
            documents = self._read(bytes(body))
            if not self._held and not documents and not events.awaits_first:
                self._going.piece(body, chunks)
                continue
            self._held.append((body, chunks))
            self._held_bytes += len(body)
            if self._begin_to_record(documents):
                return
            may_still_say = events.awaits_first and (events.saw_data or not events.between_events)
            if not may_still_say or self._held_bytes > _MOST_HELD_BYTES:
                self._release()
        if not self._ended and self._failed is None:
            return
        if self._begin_to_record(events.finish()):
            return
        self._release()
        if self._failed is not None:
            self._going.fail(self._failed)
        else:
            self._going.end()

    def _begin_to_record(self, documents: list[Any]) -> bool:
        """Begin to record what events say that has not been recorded, if they say any."""
        recorder = self._recorder
        saying = [document for document in documents if recorder.says_more(document)]
        if not saying:
            if any(map(says_error, documents)):
                self._events.saw_data = False  # nothing will be made
                recorder.refused = True
            return False
        self._recording = asyncio.get_running_loop().create_task(self._record(saying))
        self._recording.add_done_callback(self._recorded)
        return True

    async def _record(self, documents: list[Any]) -> None:
        for document in documents:
            await self._recorder.event(document)

    def _recorded(self, recording: asyncio.Task[None]) -> None:
        self._recording = None
        if recording.cancelled():
            return
        defect = recording.exception()
        if defect is not None:
            self._going.fail(Internal("The gateway failed.", detail=repr(defect)))
            return
        self._seen()
        if self._going.is_over:
            return  # the connection may serve somebody else
        self._release()
        self._reply.go_on(Held.BY_READER)
        self._go_on()

    def _release(self) -> None:
        held, self._held = self._held, []
        self._held_bytes = 0
        for body, chunks in held:
            self._going.piece(body, chunks)

    def _read(self, body: bytes) -> list[Any]:
        if self._inflater is None:
            return self._events.feed(body)
        try:
            self._inflater.feed(body)
        except Unreadable:
            self._events.awaits_first = False
            return []
        text, self._text[:] = b"".join(self._text), []
        return self._events.feed(text)

    def _note(self, document: object) -> None:
        self._recorder.passed(document, in_event=True)
        self._seen()

    def _seen(self) -> None:
        if self._recorder.is_found:
            self._events.awaits_first = False
