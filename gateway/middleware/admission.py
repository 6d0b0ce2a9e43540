"""What one exchange takes from its quotas, and what it is told when it gets nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from gateway.errors import LimitExceeded, LimitsUnavailable, NeverFits
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_reset
from gateway.limits.limiter import Limiter
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Decision, Quota, binds
from gateway.usage.cost import Cost, charges_for, settlement

Decided = Callable[[str, str, str], None]
"""Counts a decision: tenant, `granted`, `refused` or `unavailable`, and the limit that refused, or `none`."""

_NO_COST = Cost()


class Admission:
    """The permits of one exchange, until it is settled. Refusals are raised as they are told to the client."""

    def __init__(self, exchange: Exchange, limiter: Limiter, decided: Decided) -> None:
        self._exchange = exchange
        self._limiter = limiter
        self._decided = decided
        self._gives_back = False
        """A later step was not granted: everything goes back."""

    async def look(self, quotas: Iterable[Quota]) -> None:
        """Refuse what could not be admitted even if it used nothing. Takes nothing, and tells no levels."""
        self._heed(await self._asked(self._limiter.look(charges_for(quotas, _NO_COST))))
        self._exchange.decision = None

    async def admit(self, quotas: Iterable[Quota], *, hold: bool) -> None:
        """Take everything that is known to be needed; with `hold` it can be settled or given back."""
        exchange = self._exchange
        charges = charges_for(quotas, exchange.cost or _NO_COST)
        if exchange.operation.counts_usage and not exchange.is_socket:
            # Even where nothing is reserved, something will be reported. A session is charged as it goes on.
            hold = hold or any(charge.quota.dimension.is_reported for charge in charges)
        self._heed(await self._asked(self._limiter.admit(exchange.id, charges, hold=hold or None)))
        self._count("granted")

    async def admit_model(self, model: str | None) -> None:
        """Take what the same exchange needs for a model that it has named late."""
        exchange = self._exchange
        quotas = exchange.caller.tenant.limits.of_model(model)
        if not quotas:
            return
        self._gives_back = True
        charges = charges_for(quotas, exchange.cost or _NO_COST)
        self._heed(await self._asked(self._limiter.admit(exchange.id, charges, hold=True)))
        self._gives_back = False

    def settle(self) -> None:
        """Put what was used in place of what was taken. Never raises and never waits."""
        exchange = self._exchange
        if self._gives_back:
            self._limiter.cancel_soon(exchange.id)
            return
        usage = None if exchange.is_socket else exchange.usage
        used = settlement(
            exchange.cost or _NO_COST, usage=usage, spent=exchange.spent, sent_bytes=exchange.bytes_in
        )
        self._limiter.settle_soon(exchange.id, used)

    async def _asked(self, asking: Awaitable[Decision]) -> Decision:
        try:
            return await asking
        except StoreUnavailable as outage:
            self._count("unavailable")
            raise LimitsUnavailable(
                "The limits cannot be checked at the moment. Try again shortly.", detail=str(outage)
            ) from outage

    def _heed(self, decision: Decision) -> None:
        """Note the levels for the answer; raise what the decision says."""
        exchange, before = self._exchange, self._exchange.decision
        exchange.decision = (
            decision if before is None else replace(decision, levels=(*before.levels, *decision.levels))
        )
        if decision.allowed:
            return
        refused_by = decision.refused_by
        assert refused_by is not None
        self._count("refused", refused_by.dimension.value)
        raise _refusal(decision, refused_by)

    def _count(self, decision: str, dimension: str = "none") -> None:
        self._decided(self._exchange.caller.tenant.id, decision, dimension)


def _refusal(decision: Decision, quota: Quota) -> NeverFits | LimitExceeded:
    limit = f"{quota.dimension.value} = {quota.capacity}"
    whose = "".join(f" for {what} {name[:128]!r}" for what, name in binds(quota).items())
    if decision.never:
        return NeverFits(
            f"This request alone costs more than the whole limit {limit}{whose}. "
            "Make it smaller; waiting cannot help.",
            detail=limit,
        )
    seconds = decision.retry_after_seconds
    return LimitExceeded(
        f"Rate limit reached: {limit}{whose}. Try again in {format_reset(seconds or 0)}.",
        type=quota.dimension.unit,
        retry_after_seconds=seconds,
        detail=limit,  # whose it is stays out of the log, which may be a minimal one
    )
