"""What a store of buckets promises, and what workers that share one are to each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from gateway.limits.terms import Charge, Decision, Quota


class StoreUnavailable(Exception):
    """The store did not do what it was asked, or did not say so in time."""

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent
        """Whether the step may have been carried out all the same."""


@dataclass(frozen=True, slots=True)
class Census:
    """How many workers share the store, and which of them (from 0) this one is."""

    place: int
    workers: int


class BucketStore(Protocol):
    """Where buckets live. Every method is one atomic step; all raise StoreUnavailable and nothing else.

    An admission that *holds* something (a slot, or permits that settling may change) is remembered under its
    exchange id until it is settled, or until its lease runs out: then everything it took is given back.
    """

    lease_seconds: float
    """How long a held admission lives after it was taken or last renewed."""

    async def admit(
        self, exchange_id: str, charges: Sequence[Charge], *, hold: bool | None = None
    ) -> Decision:
        """Take every charge, or none.

        `hold=None` remembers the exchange if a charge needs it. A held admission may be repeated: what the
        exchange holds already is not charged again. So a later step of the same exchange charges the
        dimensions and the accounts that are new to it; naming the first ones again costs nothing.
        """

    async def look(self, charges: Sequence[Charge]) -> Decision:
        """What admit would say now, taking nothing."""

    async def settle(self, exchange_id: str, charges: Sequence[Charge]) -> bool:
        """Put what was really used in place of what was taken, and free the slots that are named; once each.

        Charges whose quota was not admitted change nothing, and what is not named stays held; permits above the
        reservation become debt, no deeper than one capacity. False if the exchange holds none of these
        (settled before, expired, never held).
        """

    async def debit(self, exchange_id: str, charges: Sequence[Charge], *, hold: bool = False) -> None:
        """Take every charge whatever the levels, into debt no deeper than one capacity."""

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Let (exchange id, account key) pairs live for another lease; return those that are not open."""

    async def reset(self, keys: Iterable[str]) -> None:
        """Fill every bucket of these accounts and forget their open exchanges."""

    async def announce(self, worker: str) -> Census:
        """Say that this worker lives (once a second); learn how many do."""

    def health(self) -> Mapping[str, bool]:
        """Per server whether it answers; empty where there is none to ask."""

    async def close(self) -> None:
        """Withdraw the worker and let go of connections; nothing else may be called afterwards."""


def holds(charges: Iterable[Charge]) -> bool:
    """Whether admitting these leaves something to be settled."""
    return any(charge.permits and charge.quota.dimension.settles for charge in charges)


def share(quota: Quota, census: Census) -> Quota | None:
    """This worker's part of a limit; None if that is nothing. All workers' parts sum up to the limit."""
    upper, lower = (quota.capacity * n // census.workers for n in (census.place + 1, census.place))
    return replace(quota, capacity=upper - lower) if upper > lower else None
