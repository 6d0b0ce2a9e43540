"""What one exchange takes from its quotas; what it is told when it gets nothing is worded in `refusals`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from gateway.exchange.exchange import Exchange
from gateway.limits.charges import Charges, QuotaSet
from gateway.limits.limiter import Limiter
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Decision, Dimension
from gateway.middleware.refusals import limits_unavailable, never_fits, refusal_of, stated_above
from gateway.policy.coverage import check_model_covered
from gateway.usage.cost import Cost, StatedAboveLimit, charges_for, settlement
from gateway.usage.guesses import Guesses

Decided = Callable[[str, str, str], None]
"""Counts a decision that grants nothing: tenant, `refused` or `unavailable`, and the limit that refused, or `none`."""

_NO_COST = Cost()


class Admission:
    """The permits of one exchange, until it is settled. Refusals are raised as they are told to the client.

    What it needs is taken in one step or in several; until the last has been granted, nothing of it is spent. Every
    request makes one; what few of them need stands in the class.
    """

    _at_the_door: QuotaSet | None = None
    """What was taken there."""

    _more_id = ""
    """Under which what a form said late is held, beside what the exchange's own id holds; empty: nothing is."""

    _takes = False
    """Whether anything was asked for, so that there may be something to settle."""

    _gives_back = False
    """Something is held, and not yet for good."""

    def __init__(self, exchange: Exchange, limiter: Limiter, decided: Decided, guesses: Guesses) -> None:
        self._exchange = exchange
        self._limiter = limiter
        self._decided = decided
        self._guesses = guesses

    async def enter(self, quotas: QuotaSet) -> None:
        """Take at the door what the exchange needs whatever its body says; once."""
        if self._at_the_door is not None:
            return
        needed = QuotaSet.of(quota for quota in quotas if quota.dimension.by_request)
        if not needed:
            return
        self._at_the_door = needed
        await self._take(charges_for(needed, _NO_COST), hold=True)
        self._gives_back = True

    def admit(self, quotas: QuotaSet, *, hold: bool) -> Awaitable[None]:
        """Take everything that is known to be needed and not yet held; with `hold` it can be given back."""
        exchange, door = self._exchange, self._at_the_door
        if door is not None:
            hold = True
            quotas = QuotaSet.of(quota for quota in quotas if quota not in door.quotas)
        # Even where nothing is known, something will be reported. A session is charged as it goes on.
        reports = exchange.operation.counts_usage and not exchange.is_socket
        try:
            charges = charges_for(quotas, exchange.cost or _NO_COST, reports=reports)
        except StatedAboveLimit as above:
            self._count("refused", above.quota.dimension.value)
            raise stated_above(above, exchange.cost or _NO_COST) from None
        if reports and charges.quotas.is_reported:
            hold = True
        return self._take(charges, hold=hold or None, is_all=True)

    async def admit_form(self, model: str | None, images: int) -> None:
        """Take what the same exchange needs beside for what its form has said late: the model, and how many images."""
        exchange, standing = self._exchange, self._exchange.standing
        assert standing is not None, "who has limits is known"
        limited = standing.quotas_of(model).dimensions
        check_model_covered(exchange.caller, exchange.operation, model, limited, socket=False)
        cost = exchange.cost or _NO_COST
        more = 0
        if cost.images is not None:
            more = images - cost.images
            exchange.cost = cost = cost._replace(images=images)
        self._gives_back = True
        quotas = exchange.caller.tenant.limits.of_model(model)
        if quotas:
            await self._take(charges_for(QuotaSet.of(quotas), cost), hold=True)
        if more:
            await self._take_images(images, more)
        self._gives_back = False

    async def _take_images(self, images: int, more: int) -> None:
        """Take those that were not counted at the door, under an id of their own: one takes once from each account."""
        standing = self._exchange.standing
        assert standing is not None, "who has limits is known"
        quotas = [quota for quota in standing.quotas if quota.dimension is Dimension.IMAGES_PER_MINUTE]
        for quota in quotas:
            if images > quota.permits:
                self._count("refused", quota.dimension.value)
                raise never_fits(quota, images)
        charges = Charges(QuotaSet.of(quotas), [more] * len(quotas))
        self._more_id = f"{self._exchange.id}+"
        await self._take(charges, hold=True, exchange_id=self._more_id)

    def give_back(self) -> None:
        """What was asked for was refused after all: what is held was not used."""
        self._gives_back = True

    def settle(self) -> None:
        """Put what was used in place of what was taken. Never raises and never waits."""
        exchange = self._exchange
        usage = None if exchange.is_socket or exchange.operation.repeats_usage else exchange.usage
        if usage is not None and usage.images and exchange.spent and exchange.operation.counts_usage:
            self._charge_images(usage.images)
        if not self._takes:
            return
        if self._gives_back:
            self._limiter.cancel_soon(exchange.id)
            if self._more_id:
                self._limiter.cancel_soon(self._more_id)
            return
        cost = exchange.cost or _NO_COST
        used = settlement(cost, usage=usage, spent=exchange.spent, sent_bytes=exchange.bytes_in)
        self._limiter.settle_soon(exchange.id, used)
        if self._more_id:  # of what was used nothing is left for these, unless nobody has counted
            self._limiter.settle_soon(self._more_id, dict.fromkeys(used, 0))
        if cost.maximum is None and cost.output and usage is not None and not usage.estimated:
            self._guesses.had(
                exchange.operation, exchange.caller.tenant.id, exchange.model, usage.output // cost.answers
            )

    def _charge_images(self, images: int) -> None:
        """Charge what came though nobody could tell that it would, such as by a tool of a stored prompt."""
        exchange = self._exchange
        if exchange.standing is None or (exchange.cost or _NO_COST).images is not None:
            return
        quotas = exchange.standing.quotas_of(exchange.model)
        self._limiter.charge_soon(
            Charge(quota, images) for quota in quotas if quota.dimension is Dimension.IMAGES_PER_MINUTE
        )

    async def _take(
        self, charges: Charges, *, hold: bool | None, is_all: bool = False, exchange_id: str | None = None
    ) -> None:
        """Take these, and note their levels for the answer; `is_all`: the exchange needs nothing more."""
        exchange = self._exchange
        if charges.permits:
            self._takes = True
            try:
                decision = await self._limiter.admit(exchange_id or exchange.id, charges, hold=hold)
            except StoreUnavailable as outage:
                self._count("unavailable")
                raise limits_unavailable(outage) from outage
            before = exchange.decision
            exchange.decision = decision if before is None else _behind(before, decision)
            if not decision.allowed:
                assert decision.refused_by is not None
                self._count("refused", decision.refused_by.dimension.value)
                raise refusal_of(decision, charges, exchange.cost, exchange.operation)
        if is_all:
            self._gives_back = False
            exchange.reserved = charges.reserved()
            standing = exchange.standing
            assert standing is not None, "who has limits is known"
            tallies = standing.tallies
            (tallies.granted or tallies.was_granted()).value += 1

    def _count(self, decision: str, dimension: str = "none") -> None:
        self._decided(self._exchange.caller.tenant.id, decision, dimension)


def _behind(before: Decision, decision: Decision) -> Decision:
    """The later decision, with the levels of both."""
    return replace(decision, levels=(*before.levels, *decision.levels), units_differ=False)
