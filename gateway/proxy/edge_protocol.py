"""A client's connection: heads are read, bodies fed, and requests answered, one after the other.

Who has asked once mostly asks again, so the task that answers waits for the next request with its connection: a new one
would cost what a request's head does. While a connection waits nothing is kept of what came over it.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic

from gateway.errors import GatewayError, Overloaded, RequestTimeout
from gateway.exchange.kept_errors import forget_cancellation, forget_origin
from gateway.proxy.answer import Answer, refusal
from gateway.proxy.bites import CHUNKED, HEADS, STATED
from gateway.proxy.channel import Held
from gateway.proxy.client_channel import ClientChannel, Frames
from gateway.proxy.client_connections import NoRoom
from gateway.proxy.edge_state import BETWEEN_SECONDS, EdgeState
from gateway.proxy.handler import Handler
from gateway.proxy.incoming_body import IncomingBody
from gateway.proxy.own_failures import failure_of
from gateway.proxy.readable import CLOCK_SECONDS
from gateway.proxy.received_body import NO_BODY, ReceivedBody
from gateway.proxy.request import Request
from gateway.proxy.request_heads import END_OF_HEAD, AskedHead, HeadInParts
from gateway.wire.framing import FramingBroken, decoder_for
from gateway.wire.search import Piece

AHEAD_BYTES = 64 * 1024
"""What a client sends ahead, while another request of its own is being answered, lies here up to so much."""

AHEAD_SECONDS = 1.0
"""For how long more than that may lie here: until then the answer may just be ending."""

REST_SECONDS = 3.0
"""For how long the rest of a body that nobody wanted is waited for, and dropped, before the connection is closed."""


class EdgeProtocol(ClientChannel):
    """A client's connection.

    What never becomes a request is answered here, in the API's error shape, and reported to `unseen`, so that it is
    logged and counted like any other exchange.
    """

    __slots__ = ("_ahead", "_answers", "_body", "_frames", "_head", "_keeps", "_next_request", "_request")

    def __init__(self, state: EdgeState, answers: Handler, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(state, loop)
        self._answers = answers
        self._head: HeadInParts | None = None
        self._request: Request | None = None
        """The one that is being answered."""

        self._body: IncomingBody | None = None
        """The body that is coming: its, or the last one's, whose rest nobody wants."""

        self._keeps = True
        """Whether the connection goes on behind such a rest."""

        self._ahead = b""
        """What stands behind the body."""

        self._frames: Frames | None = None
        self._next_request: asyncio.Future[None] | None = None
        """Is done when there is a next request, or never will be; the task waits for it, and for nothing else."""

    @property
    def is_served(self) -> bool:
        return self._request is not None

    @property
    def idle(self) -> bool:
        """Whether no request is being read or answered."""
        return not (self._request or self._head or self._body or self._ahead or self._surplus)

    @property
    def ends(self) -> bool:
        if not self._state.last_answers or self._closes:
            return self._closes
        # What has been sent ahead is answered first: nobody else will. But who never stops does not keep us.
        return not (self._ahead or self._surplus) or self._loop.time() > self._state.first_until

    @property
    def ahead_bytes(self) -> int:
        """How much lies here of what the client has sent ahead."""
        return len(self._ahead) + self.surplus_bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        state = self._state
        state.came(self)
        address = transport.get_extra_info("peername")
        host = address[0] if isinstance(address, tuple) else ""
        try:
            state.clients.enter(self, host, self._loop.time())
        except NoRoom as full:
            state.events.refused(full.reason)
            self.refuse(
                Overloaded(
                    "This gateway serves as many connections as it can. Try again in a moment.",
                    detail=str(full),
                )
            )
        else:
            self.welcome()

    def lost(self, error: BaseException | None) -> None:
        super().lost(error)
        self._head = None
        body, self._body = self._body, None
        if body is not None:
            body.lost()
        if self._frames is not None:
            self._frames.feed_eof()
        if self.task is None or self._next_request is not None:
            self._state.left(self)
            self._go_on_serving()
        else:
            self.task.add_done_callback(self._left)
            self.task.cancel()

    def _left(self, task: asyncio.Task[None]) -> None:
        forget_cancellation(task)
        self.task = self._request = self._frames = None
        self._state.left(self)

    # What comes

    @property
    def passes_on(self) -> bool:
        return self._body is not None and self._body.is_pushed

    def take(self, data: Piece) -> None:
        """Deal with a bite."""
        if self._closes:
            return
        try:
            if self._body is not None:
                self._take_body(self._body, data)
            elif self._request is None and not self._ahead:
                self._take_head(bytes(data))
            elif self._frames is not None:
                self._frames.feed_data(bytes(data))
            else:
                self._take_ahead(bytes(data))
        except GatewayError as refused:
            self.refuse(refused)
        except Exception as failure:  # noqa: BLE001 (memory lacked, and no request may vanish for that)
            self._cannot_take(failure)

    def _take_head(self, data: bytes) -> None:
        """Read a request's head, or a part of one. Raises the refusal of a bad one."""
        parts, state, since = self._head, self._state, self.taken_at
        looked_at = self._loop.time() + CLOCK_SECONDS
        if self._waits_since or self.task is None or since >= looked_at or since >= self.turns.late_at:
            since, self._waits_since = self._waits_since or self._readable_since(since), 0.0
        if parts is None:
            if data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")  # an empty line in front means nothing (RFC 9112, section 2.2)
                if not data:
                    return
            end = data.find(END_OF_HEAD)
            if end >= 0:
                self._begin(state.heads.whole(data[: end + 4]), data[end + 4 :], since)
                return
            parts = self._head = HeadInParts(since)
            state.clients.waits(self, self._loop.time())
            self.expect(state.deadlines.header_seconds)
        asked, behind = parts.feed(data)
        if asked is not None:
            self._head = None
            self._begin(asked, behind, parts.since, max(0.0, since - parts.since))
        elif parts.size_bytes > state.max_header_bytes:
            raise parts.too_large(state.max_header_bytes)

    def _begin(self, asked: AskedHead, behind: bytes, since: float, head_seconds: float = 0.0) -> None:
        """A request is there; its body, or some of it, may be too."""
        state = self._state
        state.requests += 1
        state.clients.asks(self)
        self._deadline = math.inf
        chunked, stated = asked[0].chunked, asked[2] or 0
        if chunked or stated > len(behind):
            body = self._body = IncomingBody(
                self,
                decoder_for(stated, chunked),
                deadlines=state.deadlines.body,
                wheel=state.wheel,
                loop=self._loop,
            )
            self._request = Request(self, asked, body, since, head_seconds)
            self.take_as(CHUNKED if chunked else STATED)
            if len(behind) > self._bite_bytes:
                self.put_back(behind)
            elif behind:
                self._take_body(body, behind)
        else:
            received = ReceivedBody(behind[:stated]) if stated else NO_BODY
            self._request = Request(self, asked, received, since, head_seconds)
            self._ahead = behind[stated:]
        if self.task is None:
            self.task = self._loop.create_task(self._serve())
        else:
            self._go_on_serving()

    def _take_body(self, body: IncomingBody, data: Piece) -> None:
        try:
            behind = body.take(data)
        except FramingBroken:
            self._body = None
            self._closes = True
            if self._request is None:
                self.force_close()
            return
        if behind is None:
            return
        self._body = None
        self.take_as(HEADS)
        if self._request is None:
            self._rest(self._keeps)
        if behind:
            self.take(behind)

    def _take_ahead(self, data: bytes) -> None:
        self._ahead += data
        if self.ahead_bytes > AHEAD_BYTES and not self._held:
            self.hold(Held.BY_READER)
            self.expect(AHEAD_SECONDS)

    def _take_what_waits(self) -> None:
        """Take what lies here as what it is: the request in it, and its body, are read on."""
        ahead, self._ahead = self._ahead, b""
        self.go_on(Held.BY_READER)  # more may have come in the meantime
        self.take(ahead)

    def _drop_ahead(self) -> None:
        """Too much lies here for too long: drop it, and what still comes; that the client leaves is seen."""
        if self.ahead_bytes > AHEAD_BYTES:
            self._ahead = b""
            self._closes = True
            self.go_on(Held.BY_READER)

    def _cannot_take(self, failure: Exception) -> None:
        """Fail the request whose body is being read, or answer what never became one; nothing more is read."""
        error = failure_of(failure)
        body, self._body = self._body, None
        if self._request is None:
            self.refuse(error)
        elif body is None:
            self.force_close()
        else:
            self._closes = True
            body.fail(error)

    def set_parser(self, frames: Frames) -> None:
        """The request was an upgrade and has been granted: this is fed what comes."""
        self._frames = frames
        self._deadline = math.inf
        ahead, self._ahead = self._ahead, b""
        self.go_on(Held.BY_READER)
        if ahead:
            frames.feed_data(ahead)

    # What is answered

    async def _serve(self) -> None:
        """Have the request that is there answered, and those that come behind it, as long as there is a connection."""
        try:
            while not self._closes or self._request is not None:
                if self._request is None:
                    self._next_request = self._loop.create_future()
                    await self._next_request
                    continue
                if self.writing_paused:
                    await self.drained()
                self._answered(await self._answers(self._request))
                if self._ahead:
                    self._waits_since = monotonic()
                    # Who sends many at once comes after those who ask one by one.
                    await self.turns.share()
                    self._take_what_waits()
                    if self.idle and not self._closes:
                        self._rest(keeps=True)  # it was nothing but an empty line
        except asyncio.CancelledError:
            self.force_close()
            raise
        except Exception as defect:  # noqa: BLE001 (a defect of ours must end as an answer, a line and a metric)
            self._failed(defect)
        finally:
            self.task = None

    def _go_on_serving(self) -> None:
        """Have the task look again, if it waits for a request."""
        waits, self._next_request = self._next_request, None
        if waits is not None and not waits.done():
            waits.set_result(None)

    def _answered(self, answer: Answer) -> None:
        """A request has been answered: the connection waits for the next one, or ends."""
        self._request = self._frames = None
        if self._held:
            self.go_on(Held.BY_SINK | Held.BY_READER)
        if self.transport is None or self._lingers:
            return
        keeps = answer.keep_alive and not self._closes
        if not answer.finished:
            self.force_close()
        elif self._body is None:
            self._rest(keeps)
        else:
            self._body.discard()
            self._keeps = keeps
            self.expect(REST_SECONDS)

    def _failed(self, defect: Exception) -> None:
        request, self._request = self._request, None
        error = failure_of(defect)
        if request is None or request.answer_begun or isinstance(defect, ConnectionError):
            self.force_close()
        else:
            self.refuse(error)

    def _rest(self, keeps: bool) -> None:
        """Nothing is under way on this connection any more."""
        if not keeps:
            self.force_close()
            return
        self.begin_anew(HEADS)
        state, now = self._state, self._loop.time()
        self._deadline = now + state.deadlines.keepalive_seconds
        if self.due_step is None:
            state.wheel.ask(self, self._deadline)
        if not self._ahead:  # what is there already is asked in a moment
            state.clients.waits(self, now)
            if state.draining:
                self.hasten()

    def refuse(self, error: GatewayError) -> None:
        self._head = None
        transport = self.transport
        if transport is not None:
            forget_origin(error)
            transport.write(refusal(error, self._state.events.unseen(error, self.client)))
            self.linger()

    # How it ends

    def hasten(self, later_seconds: float = 0.0) -> None:
        if not self.idle or self._closes:
            return
        state, has_asked = self._state, self.task is not None
        until = max(state.next_until, self.waits_since + BETWEEN_SECONDS) if has_asked else state.first_until
        self._deadline = min(self._deadline, until + later_seconds)
        state.wheel.ask(self, self._deadline)

    def close(self) -> None:
        """Answer what is being answered, and nothing more."""
        if self.idle:
            self.force_close()
        self._closes = True

    def make_way(self) -> None:
        """Close for somebody else's sake; a client that has begun to ask is told so."""
        state, transport = self._state, self.transport
        if self._head is not None:
            state.events.closed("head")
            self.refuse(
                Overloaded(
                    "This gateway serves as many connections as it can, and this request was slow to come. "
                    "Try again in a moment.",
                    detail="made way with half a head",
                )
            )
            return
        state.events.closed("idle")
        if transport is not None and transport.get_write_buffer_size():
            self.linger()  # the rest of an answer is on its way
        else:
            self.force_close()

    def overdue(self) -> None:
        if self._request is not None:
            self._drop_ahead()
        elif self._head is not None:
            seconds = self._state.deadlines.header_seconds
            self.refuse(
                RequestTimeout(
                    f"The request's headers were not complete within {seconds:g} seconds.",
                    detail="edge.header_timeout_seconds",
                )
            )
        elif self.has_unread():
            self.expect(BETWEEN_SECONDS)  # closing now would lose a request that has just come
        else:
            self.force_close()
