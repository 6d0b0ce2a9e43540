"""Whose the stored objects are that a request names: asked of the registry before the upstream is.

What is another's and what nobody has get one and the same answer, which the upstream is not asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import HELD, READABLE
from gateway.limits.charges import QuotaSet
from gateway.limits.store import StoreUnavailable
from gateway.middleware.admission import Admission
from gateway.middleware.answer_meter import is_readable
from gateway.middleware.batch_input import BatchInput
from gateway.middleware.recording import Recorder
from gateway.objects.registry import Registry
from gateway.objects.store import Intent, Named
from gateway.operations.stored_kinds import StoredPlace
from gateway.policy.caller import Caller
from gateway.policy.ownership import references_in_head
from gateway.policy.references import is_id
from gateway.policy.unknown_objects import unavailable, unknown
from gateway.proxy.recorded_answers import PassingDocument
from gateway.stored_errors import ObjectsUnavailable, ObjectUnknown
from gateway.wire.body_facts import Reference

_FREEING = frozenset({"GET", "DELETE"})
"""Methods whose 404 can be about nothing but the object in the path; others say so of a model too."""


def says_stored(exchange: Exchange) -> bool:
    """Whether a request says more of what is stored than that nothing is to be."""
    facts = exchange.facts
    return facts.store is True or bool(facts.named.references) or "?" in exchange.target


class Ownership:
    """What one exchange has to do with what the upstream stores: what it names, and what it makes."""

    def __init__(
        self,
        registry: Registry | None,
        exchange: Exchange,
        place: StoredPlace,
        batch_input: BatchInput,
    ) -> None:
        self._registry = registry
        self._exchange = exchange
        self._place = place
        self._batch_input = batch_input
        self._checks = exchange.caller.asks_registry(exchange.operation)
        self._in_head: tuple[Reference, ...] = ()
        if self._checks or place.is_itself:
            target = exchange.target if self._checks else ""
            self._in_head = references_in_head(exchange.caller, place, exchange.params, target)
        self._entered = False
        self._recorder: Recorder | None = None
        self._passing: PassingDocument | None = None

    async def enter(self, admission: Admission, quotas: QuotaSet) -> None:
        """Take at the door what does not depend on the body, and see whether what the head names may be used."""
        if not self._checks or not self._in_head or self._entered:
            await admission.enter(quotas)
            return
        self._entered = True
        look = Look(self._registry, self._exchange.caller, self._in_head)
        await look.beside(admission.enter(quotas))

    async def check_body(self) -> None:
        """See whether the exchange may use what its body names, before somebody looks there."""
        if self._checks:
            await check_owned(self._registry, self._exchange.caller, self._named_in_body())

    async def admit(self, admission: Admission, quotas: QuotaSet, *, hold: bool) -> None:
        """Take what the exchange needs, and see whether it may use what it names: one round trip. Then it is recorded
        what it makes."""
        exchange, registry = self._exchange, self._registry
        references = (*self._in_head, *self._named_in_body())
        recorder = self._recording(references)
        intent = None if recorder is None else recorder.intend(exchange)
        if not self._checks or (not references and intent is None):
            if quotas.quotas:
                await admission.admit(quotas, hold=hold)
            return
        look = Look(registry, exchange.caller, references, intent)
        try:
            if quotas.quotas:
                await look.beside(admission.admit(quotas, hold=True))
            else:
                await look.check()
        except ObjectUnknown:
            if recorder is not None:
                recorder.not_intended()
            raise
        except ObjectsUnavailable:
            if registry is None or recorder is None or references or not recorder.makes_answers:
                raise
            if exchange.facts.background:
                raise  # it is of no use to who cannot find it again
            registry.went_unasked()
        if exchange.operation.is_batch:
            await self._batch_input.check(exchange)

    @property
    def of_form(self) -> Callable[[Sequence[Reference]], Awaitable[None]] | None:
        """What a form asks whose the objects are that it names; None where nobody has to."""
        return partial(check_owned, self._registry, self._exchange.caller) if self._checks else None

    def ended(self) -> None:
        """The exchange has ended. Never raises and never waits."""
        if self._passing is not None:
            self._passing.ended()
        if self._recorder is not None:
            self._recorder.ended(self._exchange)

    def _named_in_body(self) -> tuple[Reference, ...]:
        facts = self._exchange.facts
        references = facts.named.references
        if facts.input_file is None:
            return references
        return tuple(dict.fromkeys((*references, Reference("file", facts.input_file, "input_file_id"))))

    def _recording(self, references: Sequence[Reference]) -> Recorder | None:
        """Have recorded what the exchange makes, if it may make something, or free what it names."""
        exchange, place, scope = self._exchange, self._place, self._exchange.caller.tenant.scope
        frees = place.is_itself and exchange.method in _FREEING
        if self._registry is None or scope is None or not (place.makes or frees):
            return None
        recorder = Recorder(
            self._registry,
            scope,
            place,
            exchange.facts,
            holds=self._checks,
            references=references,
            itself=Named(*self._in_head[0][:2]) if frees else None,
        )
        if not recorder.makes and not frees:
            return None
        exchange.recorder = self._recorder = recorder
        if not recorder.makes:
            pass
        elif recorder.holds:
            exchange.choose(HELD)
        else:
            self._passing = PassingDocument(recorder)
            exchange.observers.append(self._passing)
            exchange.choose(None if is_readable(exchange.head) else READABLE)
        return recorder


class Look:
    """Whether a caller's tenant has what somebody names: asked in the turn of the loop in which this is made."""

    __slots__ = ("_asked", "_references")

    def __init__(
        self,
        registry: Registry | None,
        caller: Caller,
        references: Sequence[Reference],
        intent: Intent | None = None,
    ) -> None:
        """`intent` is noted if the tenant has all of these. A reference whose member is empty is what the path begins
        with."""
        self._references = references
        self._asked: asyncio.Future[list[bool]] | None = None
        scope = caller.tenant.scope
        if registry is not None and scope is not None and all(is_id(one.id) for one in references):
            named = [Named(reference.kind, reference.id) for reference in references]
            self._asked = registry.look(scope, named, intent)

    async def beside(self, permits: Awaitable[None]) -> None:
        """Wait for permits too; what limits say comes first. Raises what `check` does."""
        try:
            await permits
        except BaseException:
            self.drop()
            raise
        await self.check()

    async def check(self) -> None:
        """Raise ObjectUnknown unless the tenant has all; ObjectsUnavailable where nobody can say."""
        asked = self._asked
        if asked is None:
            for reference in self._references:
                if not is_id(reference.id):
                    raise unknown(reference)
            raise unavailable()
        try:
            owned = await asked
        except StoreUnavailable as outage:
            # Without its frames, which know the future that keeps it.
            raise unavailable(outage) from outage.with_traceback(None)
        for reference, may in zip(self._references, owned, strict=True):
            if not may:
                raise unknown(reference)

    def drop(self) -> None:
        """Nobody wants to know any more; the intent may have been noted all the same."""
        if self._asked is not None:
            self._asked.cancel()


async def check_owned(registry: Registry | None, caller: Caller, references: Sequence[Reference]) -> None:
    """Raise ObjectUnknown unless the caller's tenant has all of these; ObjectsUnavailable where nobody can say."""
    if references:
        await Look(registry, caller, references).check()
