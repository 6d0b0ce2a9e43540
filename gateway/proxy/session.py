"""One open WebSocket, as bytes both ways: judged frame by frame, passed on unchanged, shown to whoever watches.

The gateway's own pings and their answers never show on the other side.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Coroutine, Sequence
from time import monotonic
from typing import Any

from gateway.errors import BadRequest, Ending, UpstreamBroken, UpstreamRefusedKey, UpstreamTimeout
from gateway.exchange.exchange import Exchange
from gateway.exchange.fault_metrics import FRAME_CODES
from gateway.exchange.observers import RequestGate
from gateway.proxy.bites import FRAMES
from gateway.proxy.body_memory import BodyRoom
from gateway.proxy.channel import Channel, Held
from gateway.proxy.client_channel import ClientChannel
from gateway.proxy.direction import Direction
from gateway.proxy.examiner import Examiner, Instead, Told
from gateway.proxy.made_examiner import MadeExaminer
from gateway.proxy.reading import Reading
from gateway.proxy.reply import Reply
from gateway.proxy.request_examiner import RequestExaminer
from gateway.settings.edge import Edge
from gateway.wire.frame_format import FrameRefused, build_close, build_text
from gateway.wire.frames import FrameRelay

# How long the other side may take to answer a close frame, and the upstream to hang up after it.
CLOSING_SECONDS = 5.0
HANGING_UP_SECONDS = 1.0
# How long both sides may take to answer a close frame of our own before the connections go.
GOODBYE_SECONDS = 0.5
KEPT_FREELY_BYTES = 64 * 1024
# Events of our own that wait for an upstream which does not read.
MOST_UNHEARD = 64
# What is looked for stands in short events; longer ones are not kept.
WATCHED_BYTES = 2**20
# What the client says is kept until it has been examined, up to so much; more is searched as it passes.
EXAMINED_BYTES = 2**20


class Session:
    """One open WebSocket: two directions, their heartbeat, and the reasons for which it may end."""

    def __init__(
        self,
        exchange: Exchange,
        client: ClientChannel,
        upstream: Reply,
        *,
        edge: Edge,
        reading: Reading,
        room: BodyRoom,
        answers_room: BodyRoom,
        most_seconds: float,
        hidden: Sequence[bytes],
    ) -> None:
        """`most_seconds`: how long it may last; `room` is for events that are kept until they have been examined,
        `answers_room` for those of the upstream that are kept until somebody has seen them whole.

        `hidden` is what the client must not be told.
        """
        prefix = secrets.token_bytes(8)
        caller = exchange.caller
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._room = room
        self._answers_room = answers_room
        self._gate = gate = exchange.session_gate
        self._examiner: Examiner | RequestExaminer
        if isinstance(gate, RequestGate):
            # A request may be as large as over HTTP, and what an answer used stands at the end of its last event.
            self._examiner = RequestExaminer(exchange, reading, gate)
            examined_bytes, watched_bytes = edge.max_json_body_bytes, edge.max_websocket_message_bytes
        else:
            self._examiner = Examiner(exchange, reading, gate)
            examined_bytes, watched_bytes = EXAMINED_BYTES, WATCHED_BYTES
        self._heartbeat_seconds = edge.websocket_heartbeat_seconds
        self._write_idle_seconds = edge.write_idle_timeout_seconds
        self._client = client
        self._upstream = upstream
        self._over = asyncio.Event()
        self._says_goodbye = False
        self._unheard = 0
        """Events of our own that the upstream was told while it did not read."""

        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._up = Direction(
            self,
            FrameRelay(
                from_client=True,
                max_message_bytes=edge.max_websocket_message_bytes,
                own_prefix=prefix,
                examine=self._examiner.examine if self._examiner.asks else None,
                examine_bytes=examined_bytes,
                plain=self._examiner.plain,
                suspicious=self._examiner.suspicious,
            ),
            self._client,
            self._upstream,
            to_upstream=True,
            examiner=self._examiner,
        )
        recording = None
        if exchange.recorder is not None:
            recording = MadeExaminer(
                exchange, reading, exchange.recorder, holds=exchange.caller.tenant.registered
            )
        self._down = Direction(
            self,
            FrameRelay(
                from_client=False,
                max_message_bytes=edge.max_websocket_message_bytes,
                own_prefix=prefix,
                watch_bytes=watched_bytes,
                examine=None if recording is None else recording.examine,
                examine_bytes=watched_bytes,
                suspicious=lambda _part: False,
            ),
            self._upstream,
            self._client,
            to_upstream=False,
            hidden=hidden,
            examiner=recording,
        )
        principal = caller.principal
        self._deadlines = (
            (most_seconds, "session time limit reached"),
            (max(principal.expires_at - time.time(), principal.session_seconds), "credential expired"),
        )

    async def run(self) -> None:
        """Relay until either side has ended it; `exchange.ending` says how it ended."""
        seconds, reason = min(self._deadlines)
        self._timers["deadline"] = self._loop.call_later(
            max(0.0, seconds), self.end_politely, 1008, reason, Ending.TIMED_OUT
        )
        self._beat()
        self._client.take_as(FRAMES)
        self._upstream.take_as(FRAMES)
        self._upstream.take_over(self._down)
        self._client.set_parser(self._up)
        if self._gate is not None:
            self._gate.begin(self)
        await self._over.wait()

    def stop(self) -> None:
        """Let go of timers and tasks."""
        if self._gate is not None:
            self._gate.end()
            self._gate = None
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        self._timers.clear()
        self._up.end()
        self._down.end()
        self._room.release()
        self._answers_room.release()

    def end_politely(self, code: int, reason: str, ending: Ending) -> None:
        """Say goodbye to both sides for a reason of our own, and end when they have heard it."""
        self._up.say(build_close(code, reason, masked=True))
        self._down.say(build_close(code, reason, masked=False))
        if not self._settled:
            self._exchange.detail = reason
        self._says_goodbye = True
        self._conclude(ending, GOODBYE_SECONDS)

    def _heard_out(self) -> None:
        """It is over when both sides have answered our goodbye, or are gone."""
        if all(side.is_gone or side.relay.close_code is not None for side in (self._up, self._down)):
            self._over.set()

    def withheld(self) -> None:
        """The upstream refuses the gateway's own key in an event, or quotes it: the client must not be told so."""
        self._erred(UpstreamRefusedKey.code)
        self.end_politely(1011, "the upstream refused the gateway's own key", Ending.UPSTREAM_LOST)

    def refused(self, direction: Direction, refusal: FrameRefused) -> None:
        """A peer broke the rules: tell it so, and tell the other that it is over."""
        from_client = direction is self._up
        code = FRAME_CODES.get(refusal.close_code, BadRequest.code)
        self._erred(code if from_client else UpstreamBroken.code)
        self._exchange.detail = f"{'client' if from_client else 'upstream'}: {refusal.reason}"
        if from_client:
            self._down.say(build_close(refusal.close_code, refusal.reason, masked=False))
            self._up.say(build_close(1001, "", masked=True))
        else:
            self._up.say(build_close(refusal.close_code, refusal.reason, masked=True))
            self._down.say(build_close(1011, "the upstream broke the protocol", masked=False))
        self._conclude(Ending.REFUSED if from_client else Ending.UPSTREAM_LOST, GOODBYE_SECONDS)

    def closing(self) -> None:
        """A close frame passed: the other side answers it and the upstream hangs up, or time does."""
        if self._says_goodbye:
            self._heard_out()
            return
        answered = self._up.relay.close_code is not None and self._down.relay.close_code is not None
        self._conclude(Ending.COMPLETE, HANGING_UP_SECONDS if answered else CLOSING_SECONDS)

    @property
    def _settled(self) -> bool:
        """Whether it is known how the session ends, and only to be seen when."""
        return "closing" in self._timers

    def lost(self, direction: Direction) -> None:
        """A connection is gone."""
        if self._says_goodbye:
            self._heard_out()
        elif self._settled:
            self._over.set()
        elif direction is self._down:
            self._erred(UpstreamBroken.code)
            self._down.say(build_close(1011, "the upstream broke off", masked=False))
            self._end(Ending.UPSTREAM_LOST)
        else:
            self._end(Ending.CLIENT_LEFT)

    @property
    def has_room(self) -> bool:
        """Whether something is kept that had to be given room."""
        return self._room.held_bytes > 0 or self._answers_room.held_bytes > 0

    def count(self, direction: Direction) -> None:
        """Have room for what is kept of an event. Raises FrameRefused; the upstream's is looked at no more instead."""
        kept_bytes = direction.relay.kept_bytes
        room = self._room if direction is self._up else self._answers_room
        if kept_bytes <= KEPT_FREELY_BYTES:
            if room.held_bytes:
                room.release()
        elif not room.take_now(kept_bytes):
            if direction is self._down:
                direction.overlook()
                return
            direction.relay.give_up()
            raise FrameRefused(1013, room.refuse(kept_bytes).message)

    def hold(self, direction: Direction) -> None:
        """Stop reading what comes until what came has been examined, and its receiver has taken it."""
        if direction.source.transport is None or direction.source.held:
            return
        direction.source.hold(Held.BY_READER)
        self.spawn(self._resume(direction))

    async def _resume(self, direction: Direction) -> None:
        relay, sink = direction.relay, direction.sink
        try:
            while relay.examined is not None or sink.writing_paused:
                if (event := relay.examined) is not None:
                    assert direction.examiner is not None, "it is what had the event wait"
                    verdict = await direction.examiner.verdict_on(event, whole=relay.examined_whole)
                    match verdict:
                        case Told():
                            self.tell_client(verdict.event)
                            await self._taken_by(self._client)  # who does not read is not told more and more
                            direction.decide(None, instead=b"")
                        case Instead():
                            direction.decide(None, instead=build_text(verdict.event, masked=True))
                        case refusal:
                            direction.decide(refusal)
                await self._taken_by(sink)
        except TimeoutError:
            return  # it has been ended
        except ConnectionError:
            return  # whoever lost it has been told
        direction.source.go_on(Held.BY_READER)

    async def _taken_by(self, sink: Channel) -> None:
        """Wait until a peer has taken what was sent. Raises ConnectionError, or ends the session by TimeoutError."""
        try:
            async with asyncio.timeout(self._write_idle_seconds):
                await sink.drained()
        except TimeoutError:
            if sink is self._client:
                self._end(Ending.CLIENT_LEFT)
                self._client.abort()
            else:
                self._erred(UpstreamTimeout.code)
                self._end(Ending.TIMED_OUT)
            raise

    def tell_client(self, event: bytes) -> None:
        """Send the client an event of the gateway's own."""
        self._down.say_text(event)

    def tell_upstream(self, event: bytes) -> None:
        """Send the upstream one, unless it has not taken what it was told before."""
        self._unheard = self._unheard + 1 if self._upstream.writing_paused else 0
        if self._unheard <= MOST_UNHEARD:
            self._up.say_text(event)

    def _beat(self) -> None:
        """Ask a silent side for a sign of life; end the session of one that gave none."""
        if self._settled:
            return
        for direction, towards in ((self._up, self._down), (self._down, self._up)):
            if direction.heard or direction.paused:
                direction.asked = False
            elif direction.asked:
                self._exchange.detail = "no sign of life"
                self.lost(direction)
                return
            else:
                direction.asked = True
                towards.say_ping()
            direction.heard = False
        self._timers["beat"] = self._loop.call_later(self._heartbeat_seconds, self._beat)

    def passed(self, direction: Direction, piece: bytes) -> None:
        """These bytes have been passed on: show them to whoever watches."""
        if direction is self._up:
            self._exchange.request_piece(piece)
            return
        if self._exchange.first_byte_at is None:
            self._exchange.body_begins(monotonic())
        self._exchange.sent(len(piece))
        for text in self._down.relay.take_texts():
            self._exchange.answer_message(text)

    def _erred(self, code: str) -> None:
        """Count an error that ends the session, unless it is ending anyway."""
        standing = self._exchange.standing
        if standing is not None and not self._settled:
            standing.tallies.erred(code)

    def _conclude(self, ending: Ending, within_seconds: float) -> None:
        """How it ends is settled; when it does is up to the peers, for a while."""
        if self._exchange.ending is None:
            self._exchange.end(ending)
        if "closing" in self._timers:
            self._timers["closing"].cancel()
        self._timers["closing"] = self._loop.call_later(within_seconds, self._over.set)

    def _end(self, ending: Ending) -> None:
        """It is over now."""
        if not self._over.is_set():
            self._exchange.end(ending)
            self._over.set()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for as long as the session is open."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
