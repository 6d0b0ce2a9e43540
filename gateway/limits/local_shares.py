"""What one worker may grant on its own while the store that counts for all of them is out of reach."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import assert_never

from gateway.limits.arithmetic import RETRY_SECONDS, decide, level
from gateway.limits.charges import Charges
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.store import Census, Step, StoreUnavailable, share
from gateway.limits.terms import Charge, Decision, Level, OnStoreFailure, Quota

_NEVER_EXPIRES_SECONDS = 10 * 365 * 86_400.0
"""These leases die with their worker."""

_Part = tuple[Charge, Charge | None]
"""A charge, and what it charges this worker's share; None if the share is nothing."""


class LocalShares:
    """Decides by each limit's failure policy, and keeps count of what the store has to be told later.

    A `local` limit is divided among the workers that lived when the store was last heard of, so that together
    they grant one limit more than the store knows of, at most. An `open` limit grants everything and counts
    nothing; a `closed` one cannot be decided here.
    """

    def __init__(self, census: Census, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._census = census
        self._buckets = MemoryBuckets(lease_seconds=_NEVER_EXPIRES_SECONDS, clock=clock)
        self._shares: dict[Quota, Quota | None] = {}
        self._unreported: dict[str, dict[Quota, int]] = {}

    @property
    def census(self) -> Census:
        return self._census

    @census.setter
    def census(self, census: Census) -> None:
        if census != self._census:
            self._census = census
            self._shares.clear()

    def admit(
        self, exchange_id: str, charges: Iterable[Charge], outage: StoreUnavailable, *, hold: bool
    ) -> tuple[Decision, list[Charge]]:
        """Decide in the store's place; also what was taken: guesses are cut to fit the share.

        Raises `outage` if a closed limit is charged, or if there never is a store.
        """
        parts = self._parts(charges, outage)
        if any(part is None and charge.permits for charge, part in parts):
            return self._decide(charges, parts), []
        counted = _counted(parts)
        held_id = exchange_id if hold or counted.holds() else ""
        decision = self._decided(Step("take", held_id, counted))
        if not decision.allowed:
            return _worded(charges, parts, decision), []
        taken = [Charge(charge.quota, part.permits, part.known) for charge, part in parts if part]
        if not hold and not outage.sent:
            # What was sent may have been charged: telling the store again could charge it twice.
            self._count(taken)
        return _worded(charges, parts, decision), taken

    def look(self, charges: Iterable[Charge], outage: StoreUnavailable) -> Decision:
        """What admit would say now, taking nothing."""
        return self._decide(charges, self._parts(charges, outage))

    def settle(self, exchange_id: str, used: Iterable[Charge], *, report: bool = True) -> None:
        """Put what was used in place of what was taken. `report=False`: the store knows it already."""
        parts = [Charge(self._share(charge.quota) or charge.quota, charge.permits) for charge in used]
        self._buckets.put(Step("settle", exchange_id, Charges.of(parts)))
        if report:
            self._count(used)

    def debit(self, charges: Iterable[Charge], *, report: bool) -> None:
        """Take this from the shares whatever is left of them; `report=False`: the store may know it already."""
        parts = [Charge(self._share(charge.quota) or charge.quota, charge.permits) for charge in charges]
        self._buckets.put(Step("debit", "", Charges.of(parts)))
        if report:
            self._count(charges)

    def unreported(self) -> Iterator[list[Charge]]:
        """What the store does not know yet, account by account; each is forgotten as it is handed out."""
        for key in list(self._unreported):
            used = self._unreported.pop(key)
            yield [Charge(quota, permits) for quota, permits in used.items()]

    def put_back(self, charges: Iterable[Charge]) -> None:
        """The store was not told after all."""
        self._count(charges)

    def _decide(self, charges: Iterable[Charge], parts: Sequence[_Part]) -> Decision:
        return _worded(charges, parts, self._decided(Step("look", "", _counted(parts))))

    def _decided(self, step: Step) -> Decision:
        granted, missing = self._buckets.carry_out(step)
        return decide(step.charges, missing, granted=granted)

    def _count(self, charges: Iterable[Charge]) -> None:
        for charge in charges:
            quota = charge.quota
            if charge.permits and quota.period_seconds:
                used = self._unreported.setdefault(quota.key, {})
                used[quota] = used.get(quota, 0) + charge.permits

    def _parts(self, charges: Iterable[Charge], outage: StoreUnavailable) -> list[_Part]:
        if outage.for_good:
            raise outage
        parts: list[_Part] = []
        for charge in charges:
            match charge.quota.on_store_failure:
                case OnStoreFailure.LOCAL:
                    parts.append((charge, self._part(charge)))
                case OnStoreFailure.CLOSED:
                    if charge.permits:
                        raise outage
                case OnStoreFailure.OPEN:
                    pass
                case never:
                    assert_never(never)
        return parts

    def _part(self, charge: Charge) -> Charge | None:
        quota = self._share(charge.quota)
        if quota is None:
            return None
        known = charge.permits if charge.known is None else charge.known
        return Charge(quota, max(known, min(charge.permits, quota.permits)), charge.known)

    def _share(self, quota: Quota) -> Quota | None:
        if quota not in self._shares:
            self._shares[quota] = share(quota, self._census)
        return self._shares[quota]


def _counted(parts: Sequence[_Part]) -> Charges:
    return Charges.of([part for _, part in parts if part])


def _worded(charges: Iterable[Charge], parts: Sequence[_Part], local: Decision) -> Decision:
    """Put a decision over shares in the terms of the limits they are shares of."""
    remaining = iter(local.levels)
    known = {
        charge.quota: (next(remaining) if part else _nothing(charge.quota))._replace(
            limit=charge.quota.capacity
        )
        for charge, part in parts
    }
    # Of a limit that nobody counts all is there.
    levels = tuple(known.get(charge.quota) or level(charge.quota, 0) for charge in charges)
    refused_by = next((charge.quota for charge, part in parts if part is None and charge.permits), None)
    retry_after = RETRY_SECONDS
    if local.refused_by is not None:
        refused_by = next(c.quota for c, part in parts if part and part.quota == local.refused_by)
        retry_after = local.retry_after_seconds or RETRY_SECONDS
    if refused_by is None:
        return Decision(True, levels, from_store=False)
    if any(charge.quota == refused_by and charge.permits > refused_by.permits for charge in charges):
        return Decision(False, levels, refused_by, never=True, from_store=False)
    return Decision(False, levels, refused_by, retry_after, from_store=False)


def _nothing(quota: Quota) -> Level:
    """What is left of a limit of which this worker has no share."""
    return Level(quota.dimension, quota.capacity, 0, int(RETRY_SECONDS * 1000))
