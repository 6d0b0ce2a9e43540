"""Has what an exchange makes recorded, from what the upstream answers and from nothing else.

Of tenants who share an account the answer is held meanwhile (`proxy/recorded_answers.py`), so that a client never knows
of an object before the registry does; of one that is alone it passes, and is looked at as it goes by.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import time

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import AnswerRecorder
from gateway.objects.registry import Registry
from gateway.objects.store import Intent, Made, Named, Scope
from gateway.operations.stored_kinds import StoredPlace, purpose_of
from gateway.policy.makings import applying, made_in
from gateway.wire.body_facts import BodyFacts, Reference

_LOGGED_BYTES = 2048
"""Of ids in one line, which has to arrive whole; it has room for thirty."""

_UNHEARD = frozenset({None, 502, 504})
"""What is said by whoever stands before an upstream that has not been heard."""

UNLOGGED = frozenset({"item"})
"""Kinds of which an answer may have hundreds; each comes with an answer that is logged."""


class Recorder(AnswerRecorder):
    """Records what one exchange has made, each object once."""

    def __init__(
        self,
        registry: Registry,
        scope: Scope,
        place: StoredPlace,
        facts: BodyFacts,
        *,
        holds: bool,
        references: Sequence[Reference] = (),
        itself: Named | None = None,
    ) -> None:
        """`facts` of its request, which names `references`; `holds`: nobody knows of an object before the registry.

        `itself`: what is gone where the upstream says that it is.
        """
        super().__init__(makes=applying(place, facts), holds=holds)
        self._registry = registry
        self._scope = scope
        self._seen: set[tuple[str, str]] = {(reference.kind, reference.id) for reference in references}
        """What needs not be recorded: what has been, and what the request named or brought along."""

        self._seen.update(("item", given) for given in facts.named.given)
        self._room_bytes = _LOGGED_BYTES
        self._intent_id: str | None = None
        self._creates = purpose_of(self.makes)
        self._kind = None if self._creates is None else self._creates.kind.name
        self._itself = itself

    def intend(self, exchange: Exchange) -> Intent | None:
        """What is noted before the upstream is asked; None where nothing is to be made, or nobody waits for it."""
        if self._kind is None or not self.holds:
            return None
        self._intent_id = exchange.id
        return Intent(exchange.id, self._kind, exchange.caller.principal.subject, time())

    def not_intended(self) -> None:
        """The intent was not noted."""
        self._intent_id = None

    @property
    def makes_answers(self) -> bool:
        """Whether it makes the answer itself, which is of use also where it cannot be found again."""
        return self._creates is not None and self._creates.kind.is_answer

    async def answered(self, document: object) -> None:
        await self._record(self._new_in(document))

    async def event(self, document: object) -> None:
        await self._record(self._new_in(document, in_event=True))

    def passed(self, document: object, *, in_event: bool = False) -> None:
        made = self._new_in(document, in_event=in_event)
        if made:
            self._registry.record_soon(self._scope, made)

    def says_more(self, document: object) -> bool:
        made = made_in(self.makes, document, now=0.0, in_event=True)
        return any((one.kind, one.id) not in self._seen for one in made)

    def unknown(self) -> None:
        if self._itself is not None:
            self._registry.unseen_soon(self._scope, [self._itself])

    def ended(self, exchange: Exchange) -> None:
        """The exchange has ended: what became of its intent, and of what it deleted. Never raises and never waits."""
        status = exchange.upstream_status if exchange.head_at is not None else None
        made = status is not None and 200 <= status < 300
        if made and exchange.method == "DELETE" and self._itself is not None:
            self._registry.free_soon(self._scope, [self._itself])
        if self._intent_id is None:
            return
        # Where nobody has heard all that the upstream had to say, something may have been made: `orphans` compares.
        if made and self.heard and not self.refused:
            self._registry.made_unseen(self._scope, self._kind)
        elif not exchange.attempts or (made and self.heard) or not (made or status in _UNHEARD):
            self._registry.forget_intent_soon(self._scope, self._intent_id)

    async def _record(self, made: Sequence[Made]) -> None:
        if not made:
            return
        intent_id = None
        if self.is_found:  # else what was to be made may have been all the same, without being named
            intent_id, self._intent_id = self._intent_id, None
        await self._registry.record(self._scope, made, intent_id)

    def _new_in(self, document: object, *, in_event: bool = False) -> list[Made]:
        """What a document says was made, each object once in an exchange."""
        made: list[Made] = []
        for one in made_in(self.makes, document, now=time(), in_event=in_event):
            kind, object_id, *_ = one
            if (kind, object_id) in self._seen:
                continue
            self._seen.add((kind, object_id))
            made.append(one)
            if kind == self._kind:
                self.is_found = True
            if kind not in UNLOGGED:
                self._log(kind, object_id)
        return made

    def _log(self, kind: str, object_id: str) -> None:
        size = len(object_id.encode("utf-8", "replace"))
        if size <= self._room_bytes:
            self._room_bytes -= size
            self.created += ((kind, object_id),)
