"""What clients say in the events of a session, examined before any of it goes up, where it matters."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from gateway.errors import JsonTooComplex, Overloaded
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import SessionGate
from gateway.policy.events import question_of, refuse_event
from gateway.policy.reading import may_name_in_event, read_event, says_nothing
from gateway.proxy.reading import Reading, is_read_at_once
from gateway.usage.realtime import is_sound
from gateway.wire.body_facts import EventFacts
from gateway.wire.frame_format import FrameRefused, Later, Verdict

SEARCHED_AT_ONCE_BYTES = 2**17


class Told(NamedTuple):
    """An event goes no further: the client is told this, and the session goes on."""

    event: bytes


class Instead(NamedTuple):
    """This text goes up in place of an event."""

    event: bytes


Judged = FrameRefused | Told | Instead | None
"""What becomes of an event that had to wait: None: it passes as it came."""


class Examiner:
    """Judges the events of one session's client: at once, or, large ones and those that ask for a response, later."""

    def __init__(self, exchange: Exchange, reading: Reading, gate: SessionGate | None) -> None:
        self._caller = exchange.caller
        self._reading = reading
        self._gate = gate
        self._question = question_of(
            exchange.caller, exchange.operation, responses=gate is not None and gate.admits
        )
        self._names = self._question.models or self._question.stored

    @property
    def asks(self) -> bool:
        """Whether it matters what the client says."""
        return self._question.asks

    def examine(self, event: bytes) -> Verdict:
        """Judge a whole event. It may be asked twice of one that does not pass at once."""
        if says_nothing(event, self._question):
            return None
        if not is_read_at_once((event,)):
            return Later.LATER
        facts = read_event(event, self._question)
        reason = refuse_event(self._caller, facts.named)
        if reason is None and (facts.response is not None or facts.named.references):
            return Later.LATER
        if reason is None:
            self._note(facts)
        return reason

    def suspicious(self, part: bytes) -> bool | Later:
        """Whether a part of an event that is too large to be examined may name what it must not."""
        if not self._names:
            return False
        if len(part) > SEARCHED_AT_ONCE_BYTES:
            return Later.LATER  # all that was kept of the event; what follows comes in bites
        return may_name_in_event(part, self._question)

    def plain(self, payload: bytes, mask: bytes) -> bool:
        """Whether an event, masked so, names nothing and asks for nothing, whoever reads it."""
        return is_sound(payload, mask)

    async def verdict_on(self, event: bytes, *, whole: bool) -> Judged:
        """Why an event that had to wait, or one that begins so, may not pass; None when it may."""
        tenant = self._caller.tenant.id
        try:
            if not whole:
                if await self._reading.may_name_in_event(tenant, event, self._question):
                    return FrameRefused(1008, "a message of this kind is too large to be examined")
                return None
            facts = await self._reading.event(tenant, event, self._question)
            reason = refuse_event(self._caller, facts.named)
            if reason is not None:
                return FrameRefused(1008, reason)
            if facts.named.references:
                assert self._gate is not None, "whoever has to ask the registry has a gate"
                told = await self._gate.look_up(facts.named.references, facts.event_id)
                if told is not None:
                    return Told(told)
            if facts.response is not None and self._gate is not None:
                refusal = await self._gate.admit(facts.response)
                return None if refusal is None else Told(refusal)
        except Overloaded as overloaded:
            return FrameRefused(1013, overloaded.message)
        except JsonTooComplex:
            return FrameRefused(1009, "a message has more structure than can be examined")
        except Exception as defect:  # noqa: BLE001 (whatever it is, the event does not pass, nor wait for ever)
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an event was not examined", "exception": defect}
            )
            return FrameRefused(1011, "a message could not be examined")
        self._note(facts)
        return None

    def _note(self, facts: EventFacts) -> None:
        if facts.prompt and self._gate is not None:
            self._gate.added(facts.prompt)
