"""The responses of one session, each from its beginning to its end: reserved, followed, settled.

One begins when a client asks for it, which waits until it has been admitted, or when the upstream says so: then a
voice was heard, or the client asked in words that nobody here could read. What does not fit goes no further: the
client's event is held back, the upstream's response is cancelled, and the client hears why. It ends when the upstream
says that it is done, or with the session. How much it has to read knows the `Conversation`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from gateway.errors import Ending, GatewayError, LimitExceeded
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import SessionGate, SessionVoice, StreamObserver
from gateway.limits.charges import QuotaSet
from gateway.middleware.session_permits import Reservation, SessionPermits, cancel_event
from gateway.middleware.session_references import SessionReferences
from gateway.operations.table import Operation
from gateway.usage import realtime
from gateway.usage.conversation import Conversation
from gateway.usage.cost import Cost
from gateway.usage.guesses import Guesses
from gateway.usage.reader import realtime_usage
from gateway.usage.reported import Usage
from gateway.wire.body_facts import AskedResponse, Reference
from gateway.wire.search import Piece

MOST_OPEN = 32
"""Responses of one session that may be under way together."""

ASKED_SECONDS = 10.0
"""How long the upstream may take to begin what it was asked for, before the permits are given back."""

MOST_FOLLOWED = 256
"""Responses that an upstream has begun and not ended, of which what goes by is counted."""

_MOST_ID = 256
"""Characters of an item's id."""

_ANSWERS_ALREADY = "conversation_already_has_active_response"


class _Response(Reservation):
    """One response, and what of it went by."""

    __slots__ = ("added", "apart", "asked_at", "event_id", "expires", "went_by")

    def __init__(
        self, key: str, cost: Cost, quotas: QuotaSet, *, apart: bool, event_id: str | None = None
    ) -> None:
        super().__init__(key, cost, quotas)
        self.apart = apart
        self.event_id = event_id
        self.asked_at: float | None = None
        """When the upstream had been asked, or had begun by itself; None while it waits to be admitted."""

        self.expires: asyncio.TimerHandle | None = None
        self.went_by = realtime.WentBy()
        self.added = 0
        """LLM tokens that had been added for it to read."""


class SessionResponses(StreamObserver, SessionGate):
    """Follows what goes by in one session, and admits what begins in it."""

    def __init__(
        self,
        exchange: Exchange,
        permits: SessionPermits,
        quotas: QuotaSet,
        *,
        guesses: Guesses,
        references: SessionReferences,
        unseen_per_second: float,
        count: Callable[[Usage], None],
    ) -> None:
        """`quotas`: what each is charged to; `references` knows whose objects are.

        `unseen_per_second`: LLM tokens that an upstream may make unseen; `count` is told what was used.
        """
        self.admits = bool(quotas)
        self._quotas = quotas
        self._exchange = exchange
        self._permits = permits
        self._guesses = guesses
        self._references = references
        self._unseen_per_second = unseen_per_second
        self._count = count
        self._voice: SessionVoice | None = None
        transcribes = "intent=transcription" in exchange.target
        self._conversation = Conversation(realtime.Settings(transcribes=transcribes))
        self._made = 0
        self._asked: list[_Response] = []
        """Those that the upstream was or will be asked for, and that it has not begun."""

        self._open: dict[bytes, _Response] = {}
        """Those that have begun, by the upstream's ids."""

    def begin(self, voice: SessionVoice) -> None:
        """The session is open."""
        self._voice = voice
        self._permits.begin(voice)

    def end(self) -> None:
        """The session is no longer open."""
        self._voice = None
        self._permits.end()
        for response in self._asked:
            _let_rest(response)

    def finish(self) -> None:
        """The session has ended: settle what is open by what went by, and by what may have been made unseen."""
        self.end()
        for response in self._asked:
            if response.asked_at is None:
                self._permits.settle(response, Usage())
            else:
                self._over(response, self._left(response))
        for response in self._open.values():
            self._over(response, self._left(response))
        self._asked.clear()
        self._open.clear()
        self._estimate_transcribed(self._conversation.seconds_of_all())

    # What the client says

    def added(self, prompt: int) -> None:
        """A client adds so much to the conversation."""
        self._conversation.add(prompt)

    async def admit(self, asked: AskedResponse) -> bytes | None:
        """Reserve a response before the upstream is asked for it; or what the client is told instead."""
        response = self._new(asked)
        if self._full:
            return self._permits.error_event(_too_many(), asked.event_id)
        self._asked.append(response)
        refusal = await self._permits.refusal_of(response)
        if refusal is not None:
            self._asked.remove(response)
            return self._permits.error_event(refusal, asked.event_id)
        response.asked_at = monotonic()
        loop = asyncio.get_running_loop()
        response.expires = loop.call_later(ASKED_SECONDS, self._came_to_nothing, response)
        return None

    async def look_up(self, references: Sequence[Reference], event_id: str | None) -> bytes | None:
        """Wait until it is known whose these are; or what the client is told in place of its event."""
        return await self._references.look_up(references, event_id)

    def request_piece(self, piece: Piece) -> None:
        """Most pieces are one event each."""
        self._conversation.sent(len(piece))

    # What the upstream says

    def answer_message(self, text: bytes) -> None:
        """Most events hold a piece of a response, and are only measured."""
        kind = realtime.kind_in_front(text)
        if not realtime.tells(text, kind):
            if kind is None or kind.endswith(b".delta"):
                self._went_by(kind, text)
            return
        event, conversation = realtime.parsed(text), self._conversation
        match event.get("type"):
            case "response.created":
                self._began(event)
            case "response.done":
                self._done(event, realtime_usage(text))
            case "conversation.item.input_audio_transcription.completed":
                self._was_transcribed(event, realtime_usage(text))
            case "conversation.item.input_audio_transcription.failed":
                conversation.seconds_of(_item_of(event))
            case "input_audio_buffer.committed":
                conversation.take_sound(_item_of(event))
            case "input_audio_buffer.cleared":
                conversation.drop_sound()
            case "input_audio_buffer.speech_started":
                conversation.speech_began()
            case "error":
                self._refused(event)
            case _:
                conversation.settings = realtime.Settings.of(event) or conversation.settings

    def _went_by(self, kind: bytes | None, text: bytes) -> None:
        if self._open and (response_id := realtime.response_of(text)) is not None:
            response = self._open.get(response_id)
            if response is not None:
                response.went_by.add(kind, text)

    def _began(self, event: dict[str, Any]) -> None:
        """A response begins: the one that was asked for, or one that nobody has asked for here."""
        told = _response_in(event)
        response_id = realtime.id_of(told)
        if not response_id or response_id in self._open:
            return
        full = self._full
        response = self._awaited(told)
        if response is not None:
            response.added = self._conversation.added
            self._open[response_id] = response
            return
        if len(self._open) >= MOST_FOLLOWED:
            eldest = self._open.pop(next(iter(self._open)))
            self._over(eldest, self._left(eldest))
        self._open[response_id] = response = self._new(AskedResponse(apart=_is_apart(told)))
        response.asked_at = monotonic()
        if self.admits and self._voice is not None:
            self._voice.spawn(self._admit_begun(response_id, response, full=full))

    def _awaited(self, told: dict[str, Any]) -> _Response | None:
        """The response that this is, of those that were asked for; it is waited for no more."""
        apart, found = _is_apart(told), None
        for response in self._asked:
            if response.asked_at is None:
                continue
            if response.apart == apart or "conversation_id" not in told:
                found = response
                break
            if apart and found is None:
                found = response  # no server begins one apart by itself: it names the conversation of none
        if found is not None:
            self._asked.remove(found)
            _let_rest(found)
        return found

    async def _admit_begun(self, response_id: bytes, response: _Response, *, full: bool) -> None:
        refusal = _too_many() if full else await self._permits.refusal_of(response)
        if refusal is None or self._voice is None:
            return
        if response_id in self._open:
            self._voice.tell_upstream(cancel_event(response_id.decode("utf-8", "replace")))
        self._voice.tell_client(self._permits.error_event(refusal))

    def _done(self, event: dict[str, Any], used: Usage | None) -> None:
        told = _response_in(event)
        response = self._open.pop(realtime.id_of(told), None) or self._awaited(told)
        if response is None:
            if used is not None:
                self._count(used)
                self._permits.charge(used, self._quotas)
            return
        went_by = self._output(response)
        if used is None or (not used.total and went_by):
            match told.get("status"):
                case "failed" if not went_by:
                    self._permits.settle(response, Usage())
                    return
                case "completed" | "failed":
                    used = realtime.estimated(response.cost.input or 0, went_by)
                case _:
                    used = self._left(response)
        self._over(response, used)

    def _refused(self, event: dict[str, Any]) -> None:
        """The upstream does not do what it was asked for."""
        error = event.get("error")
        if type(error) is not dict:
            return
        event_id = error.get("event_id")
        if event_id is None and error.get("code") != _ANSWERS_ALREADY:
            return
        for response in reversed(self._asked):
            if response.event_id == event_id and response.asked_at is not None:
                self._came_to_nothing(response)
                return

    def _came_to_nothing(self, response: _Response) -> None:
        _let_rest(response)
        self._asked.remove(response)
        self._permits.settle(response, Usage())

    # What it cost

    @property
    def _full(self) -> bool:
        return len(self._asked) + len(self._open) >= MOST_OPEN

    def _new(self, asked: AskedResponse) -> _Response:
        self._made += 1
        conversation = self._conversation
        prompt = conversation.prompt_of(asked)
        output, maximum = asked.most_output, "max_output_tokens"
        if output is None and not asked.any_length:
            output = conversation.settings.most_output
        cost = (
            Cost(input=prompt, output=self._guesses.output(*self._kind))
            if output is None
            else Cost(input=prompt, output=output, maximum=maximum)
        )
        response = _Response(
            f"{self._exchange.id}.{self._made}",
            cost,
            self._quotas,
            apart=asked.apart,
            event_id=asked.event_id,
        )
        response.added = conversation.added
        return response

    @property
    def _kind(self) -> tuple[Operation, str, str | None]:
        """By what answers are guessed."""
        exchange = self._exchange
        return exchange.operation, exchange.caller.tenant.id, exchange.model

    def _output(self, response: _Response) -> int:
        return response.went_by.output(self._conversation.settings.spoken_bytes_per_second)

    def _left(self, response: _Response) -> Usage:
        """What a response is taken to have used whose end nobody waited for."""
        unseen = 0
        if self._exchange.ending is not Ending.UPSTREAM_LOST and response.asked_at is not None:
            seconds = monotonic() - response.asked_at
            unseen = min(response.cost.output, int(seconds * self._unseen_per_second))
        return realtime.estimated(response.cost.input or 0, max(self._output(response), unseen))

    def _over(self, response: _Response, used: Usage) -> None:
        self._count(used)
        if response.cost.maximum is None and not used.estimated:
            self._guesses.had(*self._kind, used.output)
        self._permits.settle(response, used)
        if not response.apart:
            self._conversation.add_answer(used, response.added)

    def _was_transcribed(self, event: dict[str, Any], used: Usage | None) -> None:
        seconds = self._conversation.seconds_of(_item_of(event))
        if used is None:
            self._estimate_transcribed(seconds)
        else:
            self._count(used)
            self._permits.charge(used, self._quotas)

    def _estimate_transcribed(self, seconds: float) -> None:
        """Count what was written down of which nobody says how long it was."""
        if seconds:
            self._count(Usage(audio_seconds=seconds, estimated=True))


def _too_many() -> GatewayError:
    return LimitExceeded(
        f"This session has {MOST_OPEN} responses under way, which is as many as there may be. "
        "Go on when one of them has ended.",
        type="requests",
        retry_after_seconds=None,
        detail=f"{MOST_OPEN} responses under way in one session",
    )


def _response_in(event: dict[str, Any]) -> dict[str, Any]:
    told = event.get("response")
    return told if type(told) is dict else {}


def _is_apart(told: dict[str, Any]) -> bool:
    return "conversation_id" in told and told["conversation_id"] is None


def _item_of(event: dict[str, Any]) -> str:
    return str(event.get("item_id"))[:_MOST_ID]


def _let_rest(response: _Response) -> None:
    if response.expires is not None:
        response.expires.cancel()
        response.expires = None
