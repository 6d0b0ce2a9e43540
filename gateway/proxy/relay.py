"""How an answer goes down, whoever asked for it: piece by piece, unchanged but by a change that was chosen."""

from __future__ import annotations

import asyncio
from time import monotonic

from aiohttp.helpers import rfc822_formatted_time

from gateway.errors import Ending, UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.exchange.fault_metrics import UPSTREAM_UNREAD
from gateway.exchange.observers import HELD, READABLE, AnswerChange, AnswerRecorder, BodyChange, EventFilter
from gateway.proxy.answer import Answer, own_lines, status_line
from gateway.proxy.answer_sink import AnswerSink
from gateway.proxy.bites import EVENTS, PACKED
from gateway.proxy.by_sight import (
    Unpacked,
    codings_of,
    in_question,
    seen_as_it_begins,
    seen_whole,
    unreadable,
)
from gateway.proxy.call import Call
from gateway.proxy.piece_gaps import PieceGaps
from gateway.proxy.reading import Reading
from gateway.proxy.recorded_answers import (
    is_plain_document,
    is_the_apis_own,
    record_document,
    record_whole,
)
from gateway.proxy.recording_sink import RecordingSink
from gateway.proxy.reply import Reply
from gateway.proxy.report_sink import hear_report
from gateway.proxy.request import Request
from gateway.proxy.silence import Comments
from gateway.proxy.upstream_errors import Unread, read_error
from gateway.proxy.wheel import Wheel
from gateway.usage.inflating import knows
from gateway.wire.answer_head import Head, is_event_stream, plainly
from gateway.wire.codings import decoded
from gateway.wire.cors import said_by_upstream
from gateway.wire.headers import NOTHING_LISTED
from gateway.wire.passing import for_client
from gateway.wire.quoting import quotes

_COMPLETE = (
    Ending.COMPLETE
)  # named once: to name a member of an Enum takes as long as calling many a function
_CHANGED_BYTES = 8 * 2**20
LENGTH = frozenset({b"content-length"})
"""What does not pass of a head whose answer has another length, or none."""

_OF_ITS_CODING = LENGTH | {b"content-encoding"}
"""The same, where what is changed goes down plainly."""

_EVENTS_BEGIN = frozenset(b":deir\xef")
"""What the first byte of a stream of events is."""

_OF_THE_CONTENT = _OF_ITS_CODING | {
    b"accept-ranges",
    b"content-digest",
    b"content-md5",
    b"etag",
    b"last-modified",
    b"repr-digest",
}
"""What speaks of the very bytes of a body that another one takes the place of."""

_OF_ITS_PLACE = frozenset({b"content-range", b"link"})
"""What says where else there is more of it."""

_OF_THE_BODY = _OF_THE_CONTENT | {b"content-type", b"content-language"}


class Relay:
    """Sends the upstream's answers to clients."""

    def __init__(
        self, *, reading: Reading, wheel: Wheel, gaps: PieceGaps, sse_comment_seconds: float
    ) -> None:
        """`sse_comment_seconds`: after so much silence a stream of events gets a comment; 0: never."""
        self._reading = reading
        self._wheel = wheel
        self._gaps = gaps
        self._comment_seconds = sse_comment_seconds

    def begin(
        self,
        request: Request,
        call: Call,
        head: Head,
        *,
        without: frozenset[bytes] = NOTHING_LISTED,
        more: bytes = b"",
    ) -> Answer:
        """An answer with what passes of the upstream's head, and what the gateway adds to it.

        `without` names in lower case what does not pass of this one; `more` are lines in its place, which say how long
        the body is.
        """
        exchange, to = call.exchange, call.to
        secrets = to.secrets
        added, cors = exchange.added or own_lines(exchange), exchange.head.cors
        if cors is not None:
            without |= said_by_upstream(head.names)
            added += cors
        lines = for_client(
            head, limits=to.alone, origin=to.pool.origin, target=exchange.target, without=without
        )
        if b"date" not in head.names.first:
            lines += b"Date: %b\r\n" % rfc822_formatted_time().encode()
        states_length = bool(more) or (head.length is not None and b"content-length" not in without)
        start = status_line(head.status, head.reason) + lines
        if quotes(start, secrets):
            passing = lines.split(b"\r\n")
            kept = [line for line in passing if not quotes(line.partition(b": ")[2], secrets)]
            start = status_line(head.status, "") + b"\r\n".join(kept)
            states_length &= b"\r\ncontent-length: " in (start + more).lower()
        answer = Answer(head.status, start + more + added, states_length=states_length)
        answer.begin(request, exchange)
        return answer

    async def answer(self, request: Request, call: Call, head: Head) -> Answer:
        """Send the upstream's answer to the client, piece by piece, or in one where all of it is there."""
        exchange, change = call.exchange, call.exchange.change
        body = None
        if change is None or change is READABLE:
            body = call.reply.whole() if 200 <= head.status < 300 else None
        elif change is HELD and (recorder := _recorder_of(exchange)) is not None:
            body = call.reply.whole() if is_plain_document(exchange, head) else None
            if body is not None:
                await record_whole(exchange.caller.tenant.id, body, recorder, self._reading)
        if body is None:
            return await self._answer_in_pieces(request, call, head)
        answer = self.begin(request, call, head)
        exchange.body_begins(call.ended())
        answer.finish(body)
        seen = head
        if body[0] in _EVENTS_BEGIN:
            seen = seen_whole(head, body) if in_question(exchange, head) else head
            exchange.last_piece_at = exchange.first_byte_at if is_event_stream(seen) else None
        exchange.opened(seen)
        exchange.answer_piece(body, len(body))
        if answer.waits():
            await answer.taken()
        exchange.end(_COMPLETE)
        return answer

    async def _answer_in_pieces(self, request: Request, call: Call, head: Head) -> Answer:
        exchange = call.exchange
        if head.status == 101:
            raise UpstreamBroken("The upstream switched protocols although nobody asked it to.")
        withheld = None if 200 <= head.status < 300 else await read_error(call, head)
        if isinstance(withheld, Unread):
            return await self._answer_unread(request, call, head, withheld)
        recorder = None if exchange.recorder is None else _recorder_of(exchange)
        change = exchange.change if 200 <= head.status < 300 else None
        may_be_unknown = head.status == 404 and withheld is None and not codings_of(head)
        if recorder is not None and may_be_unknown and await is_the_apis_own(call.reply):
            recorder.unknown()
        if change is not None and change.body is not None and request.method != "HEAD":
            return await self._answer_changed(request, call, head, change.body)
        without = LENGTH if head.status == 204 else NOTHING_LISTED
        answer: Answer | None = None
        seen = head
        if recorder is not None and recorder.holds and recorder.makes and head.status < 300:
            seen = await self._recorded(call, head, recorder)
        elif in_question(exchange, head):
            if change is None or change.events is None or _OF_ITS_CODING.isdisjoint(head.names.first):
                answer = self._begin_in_pieces(request, call, head, without)
            seen = await seen_as_it_begins(call.reply, head)
        filtering: EventFilter | None = withheld
        if change is not None and (filtering := _filter_for(change, seen)) is not None:
            without = _OF_ITS_CODING
        if answer is None:
            answer = self._begin_in_pieces(request, call, head, without)
        exchange.opened(seen)
        await self._follow(request, call, seen, answer, filtering)
        if answer.waits():
            await answer.taken()
        return _complete(call, answer)

    async def _recorded(self, call: Call, head: Head, recorder: AnswerRecorder) -> Head:
        """The head, as it ought to be, of an answer that is held; what a document says has been recorded."""
        seen = await seen_as_it_begins(call.reply, head) if in_question(call.exchange, head) else head
        if not is_event_stream(seen):
            await record_document(call, head, recorder, self._reading)
        return seen

    def _begin_in_pieces(self, request: Request, call: Call, head: Head, without: frozenset[bytes]) -> Answer:
        answer = self.begin(request, call, head, without=without)
        if not call.reply.buffered and head.status < 400:
            answer.flush_head()  # an error's head waits for its first bytes: they may yet be withheld
        return answer

    async def _follow(
        self, request: Request, call: Call, head: Head, answer: Answer, filtering: EventFilter | None
    ) -> None:
        """Send what has come of the body, the rest as it comes, and its end."""
        exchange, reply, events = call.exchange, call.reply, is_event_stream(head)
        applied = codings_of(head)
        if applied:
            reply.take_as(PACKED)
        elif events:
            reply.take_as(EVENTS)
        unframed_events = events and not applied and _ends_with_connection(head, reply)
        client = request.connection
        takes_comments = events and not applied and head.status < 300 and answer.is_open_ended
        seconds = self._comment_seconds if takes_comments else 0.0
        paced = events and head.status < 300 and exchange.operation.counts_usage
        pace = self._gaps.watch(reply) if paced else None
        going = AnswerSink(
            *(answer, client, exchange, filtering),
            unframed_events=unframed_events,
            tells_events=seconds > 0.0,
            pace=pace,
        )
        comments: Comments | None = None
        if seconds:
            comments = Comments(going, reply=reply, client=client, seconds=seconds)
            self._wheel.ask(comments, comments.due_at)
        recorder = None if exchange.recorder is None else _recorder_of(exchange)
        records = recorder is not None and recorder.makes and events and head.status < 300 and knows(applied)
        client.fed_by(reply)
        try:
            if recorder is not None and records:
                reply.relay_to(RecordingSink(going, reply=reply, recorder=recorder, applied=applied))
            else:
                reply.relay_to(going)
            await going.ended()
        except asyncio.CancelledError:
            going.stop()
            client.fed_by(None)
            if exchange.awaits_report:
                await hear_report(request, reply, filtering)
            raise
        finally:
            client.fed_by(None)
            if comments is not None:
                self._wheel.forget(comments)
            if pace is not None:
                self._gaps.ended(pace)
            if events:
                exchange.last_piece_at = reply.taken_at

    async def _answer_changed(self, request: Request, call: Call, head: Head, change: BodyChange) -> Answer:
        """Send a changed body in place of the upstream's. Raises UpstreamBroken for one that cannot be read."""
        body = await call.reply.peek(_CHANGED_BYTES)
        text, applied = body, codings_of(head)
        if body is not None and applied:
            text = await asyncio.to_thread(decoded, body, applied, most_bytes=_CHANGED_BYTES)
        if body is None or text is None:
            raise unreadable()
        tenant = call.exchange.caller.tenant.id
        changed = change.write(text, await self._reading.answer(tenant, text, change.read, change.arguments))
        length = b"Content-Length: %d\r\n" % len(changed)
        answer = self.begin(request, call, head, without=_OF_ITS_CODING, more=length)
        call.exchange.opened(head)
        if changed:
            call.exchange.body_begins(monotonic())
        await answer.write_eof(changed)
        call.exchange.answer_piece(body, len(changed))
        return _complete(call, answer)

    async def answer_other(self, request: Request, call: Call, head: Head, body: bytes) -> Answer:
        """Send a body in place of what the upstream has answered, under the head that it has answered it with.

        What watches the answer sees that body.
        """
        length = b"Content-Length: %d\r\n" % len(body)
        answer = self.begin(request, call, head, without=_OF_THE_CONTENT | _OF_ITS_PLACE, more=length)
        exchange = call.exchange
        exchange.opened(plainly(head))
        exchange.body_begins(monotonic())
        await answer.write_eof(body)
        exchange.answer_piece(body, 0 if request.method == "HEAD" else len(body))
        return _complete(call, answer)

    async def _answer_unread(self, request: Request, call: Call, head: Head, withheld: Unread) -> Answer:
        """Send an error's head with a body of our own."""
        body, standing = withheld.body, call.exchange.standing
        if standing is not None:
            standing.tallies.erred(UPSTREAM_UNREAD)
        own = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
        if b"x-request-id" not in head.names.first:
            own += b"x-request-id: %b\r\n" % call.exchange.id.encode()
        answer = self.begin(request, call, head, without=_OF_THE_BODY, more=own)
        call.exchange.opened(head)
        call.exchange.body_begins(monotonic())
        await answer.write_eof(body)
        call.exchange.sent(len(body))
        return _complete(call, answer)


def _recorder_of(exchange: Exchange) -> AnswerRecorder | None:
    recorder = exchange.recorder
    return recorder if isinstance(recorder, AnswerRecorder) else None


def _complete(call: Call, answer: Answer) -> Answer:
    exchange, now = call.exchange, call.ended()
    if exchange.first_byte_at is None:
        exchange.body_begins(now)
    exchange.end(_COMPLETE)
    return answer


def _filter_for(change: AnswerChange | None, head: Head) -> EventFilter | None:
    """What stands between this success and the client: only for a stream of events that can be read."""
    if change is None or change.events is None:
        return None
    applied = codings_of(head)
    if not is_event_stream(head) or not knows(applied):
        return None
    return Unpacked(applied, change.events()) if applied else change.events()


def _ends_with_connection(head: Head, reply: Reply) -> bool:
    """Whether nothing but the end of the connection delimits the body."""
    return (
        not reply.finished and head.get(b"content-length") is None and head.get(b"transfer-encoding") is None
    )
