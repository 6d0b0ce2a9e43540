"""One direction of an open WebSocket: what aiohttp's protocols feed after the upgrade."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

from gateway.proxy.channel import Channel
from gateway.proxy.examiner import Judged
from gateway.wire.frame_format import FrameRefused, build_text
from gateway.wire.frames import FrameRelay

_KEY_REFUSED = re.compile(rb'"code"\s*:\s*"invalid_api_key"')


class EventExaminer(Protocol):
    """Has the last word on messages of one direction that have to wait for it."""

    async def verdict_on(self, event: bytes, *, whole: bool) -> Judged:
        """What becomes of one, or, unless it is `whole`, of what begins so. Raises nothing."""


class Listener(Protocol):
    """The session that a direction belongs to, which decides what becomes of it."""

    @property
    def has_room(self) -> bool:
        """Whether something is kept that had to be given room."""

    def count(self, direction: Direction) -> None:
        """Have room for what is kept of the client's event. Raises FrameRefused."""

    def closing(self) -> None:
        """A close frame passed."""

    def hold(self, direction: Direction) -> None:
        """Stop reading what comes until what came has been examined, and its receiver has taken it."""

    def refused(self, direction: Direction, refusal: FrameRefused) -> None:
        """A peer broke the rules."""

    def lost(self, direction: Direction) -> None:
        """A connection is gone."""

    def withheld(self) -> None:
        """The upstream said what the client must not be told."""

    def passed(self, direction: Direction, piece: bytes) -> None:
        """These bytes have been passed on."""


def _quotes(data: bytes, hidden: Sequence[bytes]) -> bool:
    """Whether frames of the upstream's say what is hidden, or that the gateway's own key is refused."""
    for secret in hidden:
        if data.find(secret) >= 0:  # `in` takes far longer, for bytes
            return True
    # Within a text of an event the quotation marks would be escaped.
    return data.find(b"invalid_api_key") >= 0 and _KEY_REFUSED.search(data) is not None


class Direction:
    """Judges what its source sends, passes it on, then shows it."""

    def __init__(
        self,
        session: Listener,
        relay: FrameRelay,
        source: Channel,
        sink: Channel,
        *,
        to_upstream: bool,
        hidden: Sequence[bytes] = (),
        examiner: EventExaminer | None = None,
    ) -> None:
        """`examiner`: who is asked about what the relay says has to be examined."""
        self.relay = relay
        self.examiner = examiner
        self._to_upstream = to_upstream
        self._hidden = hidden
        self._mute = False
        self.heard = True
        self.asked = False
        self.is_gone = False
        """Whether the source's connection is."""

        self.session: Listener | None = session
        """None once it is over."""

        self.source = source
        self.sink = sink

    @property
    def paused(self) -> bool:
        """Whether we do not listen because the other side does not read, or an event is being examined."""
        return self.source.held

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes from the source."""
        session = self.session
        if session is None:
            return True, b""
        self.heard = True
        try:
            passed = self.relay.feed(data)
        except FrameRefused as refused:
            self._refuse(session, refused)
            return False, b""
        if passed:
            self._pass(session, passed)
        if not self.relay.calm or session.has_room:
            self._judge(session)
        return False, b""

    def decide(self, refusal: FrameRefused | None, *, instead: bytes | None = None) -> None:
        """The verdict on an event that waits; `instead`: this frame goes on in its place, or, empty, none."""
        session = self.session
        if session is None:
            return
        try:
            self._pass(session, self.relay.decide(refusal, instead=instead))
        except FrameRefused as refused:
            self._refuse(session, refused)
        else:
            self._judge(session)
            self._see_whether_lost(session)

    def overlook(self) -> None:
        """What is kept of the message under way is kept no longer, and passes."""
        if self.session is not None:
            self._pass(self.session, self.relay.overlook())

    def _judge(self, session: Listener) -> None:
        """See what has become of what is kept, and whether the session ends."""
        try:
            session.count(self)
        except FrameRefused as refused:
            self._refuse(session, refused)
            return
        if self.relay.close_code is not None:
            session.closing()
        elif self.relay.examined is not None:
            session.hold(self)

    def _refuse(self, session: Listener, refused: FrameRefused) -> None:
        self._pass(session, refused.passed)
        session.refused(self, refused)

    def end(self) -> None:
        """The session is over, though a connection may know this for a while: let go of it."""
        self.session = None
        del self.relay  # which asks the session

    def feed_eof(self) -> None:
        """The source's connection is gone."""
        self.is_gone = True
        if self.session is not None:
            self._see_whether_lost(self.session)

    def _see_whether_lost(self, session: Listener) -> None:
        """What came before its source went is heard first: an answer that is being recorded, and what is behind it."""
        if self.is_gone and (self._to_upstream or self.relay.examined is None):
            session.lost(self)

    def say(self, frame: bytes) -> None:
        """Send a frame of our own to the sink, when its turn has come."""
        self._send(self.relay.insert(frame))

    def say_text(self, text: bytes) -> None:
        """Send a message of our own to the sink, between those of the source."""
        if self.session is not None:
            self._send(self.relay.insert_message(build_text(text, masked=self._to_upstream)))

    def say_ping(self) -> None:
        """Ask the sink for a sign of life."""
        self._send(self.relay.ping())

    def _pass(self, session: Listener, data: bytes) -> None:
        if not data or self._mute:
            return
        if self._hidden and _quotes(data, self._hidden):
            session.withheld()
            self._mute = True
            return
        self._send(data)
        session.passed(self, data)

    def _send(self, data: bytes) -> None:
        transport = self.sink.transport
        if not data or transport is None or transport.is_closing():
            return
        transport.write(data)
        if self.sink.writing_paused and self.session is not None:
            self.session.hold(self)
