"""What a store of buckets promises, and what workers that share one are to each other."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gateway.limits.arithmetic import decide
from gateway.limits.charges import Charges, QuotaSet
from gateway.limits.terms import Charge, Decision, Quota


class StoreUnavailable(Exception):
    """The store did not do what it was asked, or did not say so in time."""

    def __init__(self, reason: str, *, sent: bool = True, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good
        """Whether there is no store, and will be none: then nobody has a share of anything."""

        self.sent = sent
        """Whether the step may have been carried out all the same. One that takes for good never has been: what it took
        is undone as soon as the store answers."""


@dataclass(frozen=True, slots=True)
class Census:
    """How many workers share the store, and which of them (from 0) this one is."""

    place: int
    workers: int


Mode = Literal["take", "debit", "look", "settle", "give back"]


class Step:
    """What a store is asked to do in one go, all of it or nothing; and who hears what came of it, once.

    take: take every charge, or none. debit: take every charge whatever the levels, into debt. look: say what `take`
    would say now. settle: put what was really used in place of what was taken. give back: settle what nobody used, of a
    step that may not have been carried out yet: then it never is.

    The outcome wakes who awaits it; a subclass may do otherwise.
    """

    __slots__ = ("charges", "exchange_id", "holder", "mode", "outcome", "permits")

    hurries = False
    """Whether others may be refused until it is carried out."""

    def __init__(
        self, mode: Mode, exchange_id: str, charges: Charges, permits: Sequence[int] | None = None
    ) -> None:
        self.mode = mode
        self.exchange_id = exchange_id
        """Who holds what is taken; empty: nobody, it is taken for good."""
        self.holder = b""
        """The same, as a script is told; empty until somebody has asked `named`."""
        self.charges = charges
        self.permits = charges.permits if permits is None else permits
        """What is taken, or was used, per charge."""
        self.outcome: asyncio.Future[Any] | None = None
        """What somebody awaits, if anybody does: a step whose asker has been cancelled is not carried out."""

    def named(self) -> bytes:
        """Say who holds what is taken as a script is told: its length, '@' and the id, or that it has none.

        Ids are the gateway's own, ASCII and shorter than 127 characters.
        """
        exchange_id = self.exchange_id
        self.holder = f"{chr(len(exchange_id) + 1)}@{exchange_id}".encode() if exchange_id else b"\0"
        return self.holder

    def done(self, granted: bool, missing: Sequence[int]) -> bool:
        """Hear the decision, and the grains that are missing per charge after it; of `settle` whether the exchange
        held any of it. False if who asked does not wait any more."""
        if self.outcome is None:
            return True
        if self.outcome.done():
            return False
        self.outcome.set_result((granted, missing))
        return True

    def failed(self, outage: StoreUnavailable) -> None:
        """Hear that the store did not do it, or did not say so in time."""
        if self.outcome is not None and not self.outcome.done():
            self.outcome.set_exception(outage)


class _GivenBack(Step):
    """What was taken for nothing."""

    __slots__ = ()

    hurries = True


class BucketStore(ABC):
    """Where buckets live. Every step is atomic, and what fails is StoreUnavailable.

    An admission that *holds* something (a slot, or permits that settling may change) is remembered under its
    exchange id until it is settled, or until its lease runs out: then it is given back, but for the requests, which
    were made.
    """

    lease_seconds: float
    """How long a held admission lives after it was taken or last renewed."""

    @abstractmethod
    def put(self, step: Step) -> None:
        """Carry out a step, at the end of this turn of the loop at the latest. Never raises and never waits.

        A held admission may be repeated: what the exchange holds already is not charged again. So a later step of
        the same exchange charges the dimensions and the accounts that are new to it; naming the first ones again
        costs nothing. Of charges that are settled, those whose quota was not admitted change nothing, and what is
        not named stays held; permits above the reservation become debt.
        """

    async def admit(
        self, exchange_id: str, charges: Iterable[Charge], *, hold: bool | None = None
    ) -> Decision:
        """Take every charge, or none. `hold=None` remembers the exchange if a charge needs it.

        What was granted to one who is cancelled meanwhile is given back.
        """
        charges = Charges.of(charges)
        held = hold or charges.holds()
        step = Step("take", exchange_id if held else "", charges)
        outcome = self._outcome(step)
        try:
            granted, missing = await outcome
        except asyncio.CancelledError:
            # The outcome may have come in the very turn in which the caller was cancelled.
            if not outcome.cancelled() and outcome.exception() is None and outcome.result()[0]:
                self.give_back(step)
            raise
        return decide(charges, missing, granted=granted)

    async def look(self, charges: Iterable[Charge]) -> Decision:
        """What admit would say now, taking nothing."""
        charges = Charges.of(charges)
        granted, missing = await self._outcome(Step("look", "", charges))
        return decide(charges, missing, granted=granted)

    async def settle(self, exchange_id: str, charges: Iterable[Charge]) -> bool:
        """Settle, once each. False if the exchange holds none of these (settled before, expired, never held)."""
        return (await self._outcome(Step("settle", exchange_id, Charges.of(charges))))[0]

    async def debit(self, exchange_id: str, charges: Iterable[Charge], *, hold: bool = False) -> None:
        """Take every charge whatever the levels, into debt."""
        await self._outcome(Step("debit", exchange_id if hold else "", Charges.of(charges)))

    def _outcome(self, step: Step) -> asyncio.Future[tuple[bool, Sequence[int]]]:
        """Put a step whose outcome is awaited."""
        step.outcome = outcome = asyncio.get_running_loop().create_future()
        self.put(step)
        return outcome

    def give_back(self, step: Step) -> None:
        """Undo an admission that nobody heard of, if it was one. Should that fail, its lease runs out by itself."""
        if step.mode == "take" and step.exchange_id:
            self.put(_GivenBack("settle", step.exchange_id, step.charges, [0] * len(step.charges)))

    @abstractmethod
    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Let (exchange id, account key) pairs live for another lease; return those that are not open."""

    @abstractmethod
    async def reset(self, keys: Iterable[str]) -> None:
        """Fill every bucket of these accounts and forget their open exchanges."""

    @abstractmethod
    async def announce(self, worker: str) -> Census:
        """Say that this worker lives (once a second); learn how many do."""

    async def withdraw(self) -> None:  # noqa: B027 - nobody has heard of it in a store without I/O
        """Say (once a second) that this worker counts no more among those that live, though it finishes what it has.

        Never raises: its silence says the same later.
        """

    @abstractmethod
    def health(self) -> Mapping[str, bool]:
        """Per server whether it answers; empty where there is none to ask."""

    def doubts(self) -> int:
        """Turns of which nobody knows whether they were carried out, and which are undone when that is known."""
        return 0

    async def missing(self, quotas: Iterable[Quota]) -> Sequence[int]:
        """Grains that are missing from each bucket."""
        if not isinstance(quotas, QuotaSet):
            quotas = QuotaSet.of(quotas)
        _, missing = await self._outcome(Step("look", "", Charges(quotas, [0] * len(quotas))))
        return missing

    async def quiet(self) -> None:  # noqa: B027 - nothing is ever under way in a store without I/O
        """Return once the outcome of every step is known."""

    @abstractmethod
    async def close(self) -> None:
        """Withdraw the worker and let go of connections; nothing else may be called afterwards."""


def share(quota: Quota, census: Census) -> Quota | None:
    """This worker's part of a limit; None if that is nothing. All workers' parts sum up to the limit."""
    upper, lower = (quota.capacity * n // census.workers for n in (census.place + 1, census.place))
    return replace(quota, capacity=upper - lower) if upper > lower else None
