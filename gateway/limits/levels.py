"""How much of each limit is in use, as far as the store has said: for a gauge, at next to no cost for an exchange.

What an admission hears of its buckets is noted as it is, and taken up once a second; from then on time refills them
here as it does there. What others take, and what is settled, is heard where somebody looks: `to_look_at` says at what.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from operator import itemgetter

from gateway.limits.arithmetic import bounded, still_taken, tick_of
from gateway.limits.charges import QuotaSet
from gateway.limits.terms import Dimension, Quota, tenant_of

MOST_SHOWN = 100

_MOST_KNOWN = 2_000
"""Buckets that are remembered: each subject may have its own."""

_MOST_AT_ONCE = 2_000
"""Sets of them that are taken up in one turn of the loop."""

_MOST_LOOKED_AT = 500

Used = tuple[str, Dimension]
"""Whose limit, and of what: of several buckets of one tenant the fullest counts."""


class Levels:
    """What is known of buckets from which something is missing."""

    def __init__(self) -> None:
        self.heard: dict[QuotaSet, Sequence[int]] = {}
        """The grains that are missing from each bucket of a set; written by whoever hears it."""

        self.ratios: Mapping[Used, float] = {}
        """The part that is in use of the limits that have least left; more than 1: in debt."""

        self._known: dict[tuple[str, Dimension], tuple[Quota, int, int]] = {}
        """By account: how many grains were missing, and when, in microseconds."""

    def take_up(self, now_microseconds: int) -> None:
        """Take up what has been heard, and say what is in use now."""
        for quotas, missing in islice(self.heard.items(), _MOST_AT_ONCE):
            for quota, taken in zip(quotas, missing, strict=False):
                self._known[quota.key, quota.dimension] = quota, taken, now_microseconds
        self.heard.clear()
        in_use: list[tuple[float, tuple[str, Dimension], Quota]] = []
        for account, (quota, taken, at) in self._known.items():
            left = still_taken(quota, bounded(taken), tick_of(quota, at), now_microseconds)
            if left:
                in_use.append((left / quota.grains, account, quota))
        if len(in_use) > _MOST_KNOWN:
            in_use = nlargest(_MOST_KNOWN, in_use, key=itemgetter(0))
        self._known = {account: self._known[account] for _, account, _ in in_use}
        ratios: dict[Used, float] = {}
        for ratio, _, quota in in_use:
            used = tenant_of(quota), quota.dimension
            ratios[used] = max(ratio, ratios.get(used, 0.0))
        self.ratios = dict(nlargest(MOST_SHOWN, ratios.items(), key=itemgetter(1)))

    def to_look_at(self) -> Iterator[QuotaSet]:
        """The buckets of which something was missing when that was last taken up, those of each tenant together."""
        of_tenants: dict[str, list[Quota]] = {}
        for quota, _, _ in islice(self._known.values(), _MOST_LOOKED_AT):
            of_tenants.setdefault(tenant_of(quota), []).append(quota)
        return (QuotaSet(tuple(quotas)) for quotas in of_tenants.values())

    def forget(self) -> None:
        """Other limits are in force: what was heard may be of none of them."""
        self.heard.clear()
        self._known.clear()
