"""What one step takes: permits from quotas that are charged together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import gt, itemgetter
from typing import Any

from gateway.limits.terms import LLM_TOKENS, TICKS_PER_PERIOD, Charge, Dimension, Quota

_REMEMBERED = 4096
"""Sets that are one object however often they are asked for; others work as well, and cost more to send."""

_FOLLOWING = 16
"""Where a limit has room for so many more like the last one, what that gives back may come a moment later."""


class QuotaSet:
    """Quotas that are charged together, in their order, and what is the same whenever they are."""

    __slots__ = (
        *("by_request", "dimensions", "has_optional", "has_slots", "is_reported", "measured", "plans"),
        *("most_reported", "narrow", "quotas", "reserves", "settling", "units_differ", "_without"),
    )

    def __init__(self, quotas: tuple[Quota, ...]) -> None:
        self.quotas = quotas
        self.dimensions = dimensions = tuple(quota.dimension for quota in quotas)
        self.by_request = [int(dimension.by_request) for dimension in dimensions]
        """What a request takes of each, whatever it asks."""

        self.measured = tuple(
            (at, quota) for at, quota in enumerate(quotas) if not quota.dimension.by_request
        )
        """Those of which it takes what it asks for, and their positions."""

        self.settling = tuple(at for at, dimension in enumerate(dimensions) if dimension.settles)
        """The positions of what is settled."""

        self.narrow = tuple(
            (at, quotas[at].grains // (_FOLLOWING + 1)) for at in self.settling if quotas[at].period_seconds
        )
        """Those of which there is room for as many whatever the last one took, while no more grains are missing."""

        self.most_reported = tuple(quota.most_reported for quota in quotas)
        """What one report takes of each at most."""

        self.reserves = _largest(
            [at for at, dimension in enumerate(dimensions) if dimension.counts == LLM_TOKENS]
        )
        """The most LLM tokens that are taken of any, by what is taken of each; None where none counts them."""

        self.is_reported = any(dimension.is_reported for dimension in dimensions)
        """Whether answers report something that counts here."""

        self.has_optional = any(not quota.dimension.is_reported for _, quota in self.measured)
        """Whether there are some of which many requests take nothing, and hear nothing."""

        self.has_slots = any(not dimension.period_seconds for dimension in dimensions)
        self.units_differ = len({dimension.unit for dimension in dimensions}) == len(dimensions)
        self.plans: dict[str, Any] = {}
        """How a store sends what is charged to these, by the prefix of its keys."""

        self._without: dict[frozenset[Dimension], QuotaSet] = {}

    @classmethod
    def of(cls, quotas: Iterable[Quota]) -> QuotaSet:
        """The set of these."""
        return _made(tuple(quotas))

    def __iter__(self) -> Iterator[Quota]:
        return iter(self.quotas)

    def __len__(self) -> int:
        return len(self.quotas)

    def without(self, dimensions: frozenset[Dimension]) -> QuotaSet:
        """Those that count something else."""
        others = self._without.get(dimensions)
        if others is None:
            kept = [quota for quota in self.quotas if quota.dimension not in dimensions]
            others = self._without[dimensions] = QuotaSet.of(kept)
        return others


def _largest(positions: Sequence[int]) -> Callable[[Sequence[int]], int] | None:
    """Finds the largest number at some positions."""
    if not positions:
        return None
    at_these: Callable[[Sequence[int]], Any] = itemgetter(*positions)
    return at_these if len(positions) == 1 else lambda numbers: max(at_these(numbers))


@lru_cache(maxsize=_REMEMBERED)
def _made(quotas: tuple[Quota, ...]) -> QuotaSet:
    return QuotaSet(quotas)


class Charges:
    """Permits to take, one number for each quota of a set; iterated, a Charge for each. Nobody changes one."""

    __slots__ = ("known", "permits", "quotas")

    def __init__(self, quotas: QuotaSet, permits: Sequence[int], known: Sequence[int] | None = None) -> None:
        self.quotas = quotas
        self.permits = permits
        self.known = known
        """The part of them that is no guess; None: all of it."""

    @classmethod
    def of(cls, charges: Iterable[Charge]) -> Charges:
        """What these take together."""
        if isinstance(charges, Charges):
            return charges
        charges = tuple(charges)
        permits = [charge.permits for charge in charges]
        known = [charge.permits if charge.known is None else charge.known for charge in charges]
        return cls(QuotaSet.of(charge.quota for charge in charges), permits, known)

    def __iter__(self) -> Iterator[Charge]:
        return map(Charge, self.quotas.quotas, self.permits, self.known or self.permits)

    def __len__(self) -> int:
        return len(self.permits)

    def exceeds(self, permits: Sequence[int]) -> bool:
        """Whether a report of so many says more of any than can be."""
        return any(map(gt, permits, self.quotas.most_reported))

    def holds(self) -> bool:
        """Whether admitting these leaves something to be settled."""
        permits = self.permits
        for at in self.quotas.settling:  # noqa: SIM110 - a generator costs more than the answer
            if permits[at]:
                return True
        return False

    def reserved(self) -> int | None:
        """The most LLM tokens that are taken of any; None where none counts them."""
        reserves = self.quotas.reserves
        return None if reserves is None else reserves(self.permits)

    def crowds(self, at: int, missing: int) -> bool:
        """Whether there is room for few more that take as much, where so many grains are missing now."""
        following = _FOLLOWING * TICKS_PER_PERIOD * self.permits[at]
        return missing + following > self.quotas.quotas[at].grains
