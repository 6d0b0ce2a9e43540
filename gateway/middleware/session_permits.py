"""What the responses of one session take from its limits, and what the session is told where these have no room.

A response is admitted like an exchange of its own: what it may use is reserved, and what it used takes the place of
that once it is over, whoever waits for whatever meanwhile. Rewrite (i) is here: the `error` events that a session
hears, in the API's shape.
"""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

import orjson

from gateway.errors import Ending, GatewayError, LimitExceeded
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import SessionVoice
from gateway.limits.charges import QuotaSet
from gateway.limits.limiter import Limiter
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Decision, Dimension
from gateway.middleware.admission import Decided
from gateway.middleware.refusals import limits_unavailable, refusal_of, stated_above, used_up
from gateway.operations.table import Operation
from gateway.usage.cost import Cost, StatedAboveLimit, charges_for, settlement, used_of
from gateway.usage.reported import Usage

DEBT_SECONDS = 30.0
"""How long a session may stay open whose limit is used up, if it stays so."""

_NOTHING = Usage()

_SEEN_AGAIN_SECONDS = 1.0
"""How soon a limit that is used up is looked at again, at the earliest."""


class Reservation:
    """What one response is expected to use, and what has become of the wish to have that reserved."""

    __slots__ = ("cost", "decision", "is_settled", "key", "quotas", "reserved", "used")

    def __init__(self, key: str, cost: Cost, quotas: QuotaSet) -> None:
        self.key = key
        """By which the limiter knows it."""

        self.quotas = quotas
        """What it is charged to."""

        self.cost = cost
        self.reserved = 0
        self.decision: asyncio.Future[Decision] | None = None
        self.used: Usage | None = None
        """Once that is known; it may be before anything is decided, or even asked."""

        self.is_settled = False

    @property
    def is_undecided(self) -> bool:
        """Whether the store has been asked and has not answered yet."""
        return self.decision is not None and not self.decision.done()

    @property
    def is_granted(self) -> bool:
        """Whether something is reserved."""
        decision = self.decision
        if decision is None or not decision.done() or decision.cancelled():
            return False
        return decision.exception() is None and decision.result().allowed


class SessionPermits:
    """Asks the limiter for the responses of one session, and watches whether a limit is used up."""

    def __init__(
        self,
        exchange: Exchange,
        limiter: Limiter,
        decided: Decided,
        watched: QuotaSet,
        operation: Operation | None = None,
    ) -> None:
        """`watched`: a session whose limit of these stays used up is told so, and ends.

        `operation`: what its requests are, where they are another's.
        """
        standing = exchange.standing
        assert standing is not None, "who calls is known"
        self._watched = watched
        self._operation = operation or exchange.operation
        self._standing = standing
        self._limiter = limiter
        self._decided = decided
        self._voice: SessionVoice | None = None
        self._closes_at: float | None = None
        """When the session ends whose limit is used up, if it stays so; None while it has room, as far as is known."""

        self._looks: asyncio.TimerHandle | None = None
        """Sees whether it has room again."""

    def begin(self, voice: SessionVoice) -> None:
        """The session is open."""
        self._voice = voice

    def end(self) -> None:
        """The session is no longer open; what is reserved stays so until it is settled."""
        self._voice = None
        if self._looks is not None:
            self._looks.cancel()
            self._looks = None

    async def refusal_of(self, reservation: Reservation) -> GatewayError | None:
        """Why a response does not fit, or cannot be known to; None once it is reserved. Cancelling undoes nothing."""
        if not reservation.quotas or reservation.is_settled:
            return None
        cost = reservation.cost
        try:
            charges = charges_for(reservation.quotas, cost, reports=True)
        except StatedAboveLimit as above:
            self._count("refused", above.quota.dimension.value)
            return stated_above(above, cost)
        reservation.reserved = charges.reserved() or 0
        reservation.decision = asked = self._limiter.admit(reservation.key, charges, hold=True)
        asked.add_done_callback(partial(self._was_decided, reservation))
        try:
            decision = await asyncio.shield(asked)
        except StoreUnavailable as outage:
            self._count("unavailable")
            return limits_unavailable(outage)
        if decision.allowed:
            tallies = self._standing.tallies
            (tallies.granted or tallies.was_granted()).value += 1
            return None
        assert decision.refused_by is not None
        self._count("refused", decision.refused_by.dimension.value)
        self._watch(told=True)
        return refusal_of(decision, charges, cost, self._operation)

    def error_event(self, refusal: GatewayError, event_id: str | None = None) -> bytes:
        """An `error` event of a session, in the API's shape, counted as told.

        `event_id` is that of the client's event, if it has one.
        """
        self.told(refusal)
        return orjson.dumps(
            {
                "type": "error",
                "event_id": f"event_{secrets.token_hex(12)}",
                "error": {**refusal.document(), "event_id": event_id},
            }
        )

    def told(self, refusal: GatewayError) -> None:
        """Count an error that the client is told."""
        self._standing.tallies.erred(refusal.code)

    def settle(self, reservation: Reservation, used: Usage) -> None:
        """Put what was used in place of what was reserved, now or as soon as that is decided. Never waits."""
        reservation.used = used
        if not reservation.is_undecided:
            self._settle(reservation)

    def give_back(self, reservation: Reservation) -> None:
        """What was reserved goes no further: nothing is charged for it."""
        reservation.is_settled = True
        if reservation.decision is not None:
            self._limiter.cancel_soon(reservation.key)

    def charge(self, used: Usage, quotas: QuotaSet) -> None:
        """Charge what nothing was reserved for."""
        amounts = used_of(used) | {Dimension.IMAGES_PER_MINUTE: used.images}
        charges = [Charge(quota, most) for quota in quotas if (most := amounts.get(quota.dimension))]
        if charges:
            self._limiter.charge_soon(charges)
            self._watch(told=False)

    def _was_decided(self, reservation: Reservation, asked: asyncio.Future[Decision]) -> None:
        if not asked.cancelled():
            asked.exception()  # whoever waited for it may be gone
        if reservation.used is not None:
            self._settle(reservation)

    def _settle(self, reservation: Reservation) -> None:
        if reservation.is_settled:
            return  # a decision is heard of a moment after it was made
        reservation.is_settled = True
        used = reservation.used or Usage()
        if not reservation.is_granted:
            self.charge(used, reservation.quotas)
            return
        cost = reservation.cost
        self._limiter.settle_soon(
            reservation.key, settlement(cost, usage=used, spent=used != _NOTHING, sent_bytes=0)
        )
        if used.images and cost.images is None:  # such as by a tool of a stored prompt
            self.charge(Usage(images=used.images), reservation.quotas)
        if used != _NOTHING:
            tallies = self._standing.tallies
            limited = tallies.limited or tallies.limited_began()
            limited[0] += reservation.reserved
            limited[1] += used.total
        if used.total:
            self._watch(told=False)

    def _count(self, decision: str, dimension: str = "none") -> None:
        self._decided(self._standing.caller.tenant.id, decision, dimension)

    def _watch(self, *, told: bool) -> None:
        """See whether the limit is used up; `told`: the client has been told that it has no room."""
        if self._watched and self._voice is not None and self._closes_at is None:
            self._voice.spawn(self._see(told=told))

    async def _see(self, *, told: bool) -> None:
        refusal = await self._used_up()
        voice = self._voice
        if refusal is None or voice is None or self._closes_at is not None:
            return
        if not told:
            voice.tell_client(self.error_event(refusal))
        self._closes_at = asyncio.get_running_loop().time() + DEBT_SECONDS
        self._look_again_after(refusal, self._closes_at)

    def _look_again_after(self, refusal: GatewayError, closes_at: float) -> None:
        """When there may be room again, so that two short debts are not taken for a long one; else at the end."""
        loop = asyncio.get_running_loop()
        wait = closes_at - loop.time()
        if isinstance(refusal, LimitExceeded) and refusal.retry_after_seconds is not None:
            wait = min(wait, max(refusal.retry_after_seconds, _SEEN_AGAIN_SECONDS))
        self._looks = loop.call_later(max(0.0, wait), self._look_again, closes_at)

    def _look_again(self, closes_at: float) -> None:
        if self._voice is not None:
            self._voice.spawn(self._end_in_debt(closes_at))

    async def _end_in_debt(self, closes_at: float) -> None:
        refusal = await self._used_up()
        voice = self._voice
        if voice is None:
            return
        if refusal is None:
            self._closes_at = None
        elif asyncio.get_running_loop().time() < closes_at:
            self._look_again_after(refusal, closes_at)
        else:
            self.told(refusal)
            voice.end_politely(1008, f"{refusal.code}: {refusal.detail}", Ending.REFUSED)

    async def _used_up(self) -> GatewayError | None:
        """What is said of a limit of which nothing is left; None where something is, or nobody can tell."""
        try:
            decision = await self._limiter.look([Charge(quota) for quota in self._watched])
        except StoreUnavailable:
            return None
        return None if decision.refused_by is None else used_up(decision)


def cancel_event(response_id: str) -> bytes:
    """A `response.cancel` event, which ends a response upstream."""
    return orjson.dumps(
        {"type": "response.cancel", "event_id": f"event_{secrets.token_hex(12)}", "response_id": response_id}
    )
