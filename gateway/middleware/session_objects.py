"""Whose the objects are that the requests of one session name, and what its answers say was made.

Each event is a request of its own: what it names is looked up before it goes up, beside its admission, and what is
made because of it is recorded before its client hears of that. What this connection has made it may go on with in any
case, as nobody else can.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import time
from typing import Any

from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import ObjectRecorder
from gateway.middleware.ownership import Look, check_owned
from gateway.middleware.recording import UNLOGGED
from gateway.middleware.session_asked import Asked
from gateway.middleware.session_under_way import SessionUnderWay
from gateway.objects.registry import Registry
from gateway.objects.store import Intent
from gateway.operations.stored_kinds import StoredKinds, purpose_of
from gateway.operations.table import Operation
from gateway.policy.makings import made_in
from gateway.stored_errors import ObjectsUnavailable
from gateway.usage.response_events import ENDS
from gateway.wire.body_facts import Reference, SocketRequest

_MOST_LOGGED = 1000


class SessionObjects(ObjectRecorder):
    """Asks and tells the registry for one session."""

    def __init__(
        self, exchange: Exchange, registry: Registry | None, operation: Operation, under_way: SessionUnderWay
    ) -> None:
        """`operation`: whose requests these are; `under_way` follows them, and is told here what came to nothing."""
        self._exchange = exchange
        self._registry = registry
        self._place = StoredKinds.load().place_of(operation)
        self._asks = exchange.caller.asks_registry(operation)
        self._under_way = under_way

    def begin(self) -> None:
        """The session is open."""
        self._under_way.nothing_made = self._forget

    # Before it goes up

    async def check(self, request: SocketRequest) -> None:
        """Judge what an event names that begins no response. Raises ObjectUnknown or ObjectsUnavailable."""
        if self._asks:
            await check_owned(self._registry, self._exchange.caller, self._named(request))

    async def admit(self, request: SocketRequest, asked: Asked) -> None:
        """Judge what a request names, and reserve what it will use, both at once. Raises a GatewayError."""
        references = self._named(request) if self._asks else ()
        intent = self._intent(asked) if self._asks and asked.is_kept else None
        if not references and intent is None:
            await self._under_way.reserve(asked)
            return
        look = Look(self._registry, self._exchange.caller, references, intent)
        try:
            await self._under_way.reserve(asked)
        except GatewayError:
            with suppress(GatewayError):
                await look.check()
                self._forget(asked)
            raise
        except BaseException:
            look.drop()
            raise
        try:
            await look.check()
        except ObjectsUnavailable:
            if references:
                self._under_way.take_back(asked)
                raise
            if self._registry is not None:
                self._registry.went_unasked()  # an answer is of use also where nobody finds it again
        except GatewayError:
            self._under_way.take_back(asked)
            raise

    def _named(self, request: SocketRequest) -> Sequence[Reference]:
        """What a request names that this connection has not made."""
        own = self._under_way.made
        return [
            reference
            for reference in request.references
            if not (reference.kind == "response" and reference.id in own)
        ]

    def _intent(self, asked: Asked) -> Intent | None:
        creates = purpose_of(self._place.makes)
        if creates is None:
            return None
        return Intent(asked.key, creates.kind.name, self._exchange.caller.principal.subject, time())

    def _forget(self, asked: Asked) -> None:
        """Nothing was made because of a request."""
        scope = self._exchange.caller.tenant.scope
        if self._asks and asked.is_kept and self._registry is not None and scope is not None:
            self._registry.forget_intent_soon(scope, asked.key)

    # What was made

    async def event(self, document: object) -> None:
        """An event that says what was made; returns when it is recorded."""
        registry, scope = self._registry, self._exchange.caller.tenant.scope
        if registry is None or scope is None or not isinstance(document, dict):
            return
        response: dict[str, Any] = document["response"]
        asked = self._under_way.answered(
            response["id"], lane=document["stream_id"], continues=response["previous_response_id"]
        )
        is_kept = asked is None or asked.is_kept
        makes = [
            making
            for making in self._place.makes
            if (is_kept or making.condition is None) and (not making.is_last or document["type"] in ENDS)
        ]
        made = list(made_in(makes, document, now=time(), in_event=True))
        told = dict.fromkeys((one.kind, one.id) for one in made if one.kind not in UNLOGGED)
        self.created += tuple(one for one in told if one not in self.created)
        self.created = self.created[:_MOST_LOGGED]
        if made:
            await registry.record(scope, made, None if asked is None else asked.key)
