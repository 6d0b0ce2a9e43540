"""What exchanges hold, from the admission until the store knows what was used of it; and what they used beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from gateway.limits.arithmetic import decide
from gateway.limits.charges import Charges
from gateway.limits.levels import Levels
from gateway.limits.store import BucketStore, Mode, Step, StoreUnavailable
from gateway.limits.terms import Charge


class Keeper(Protocol):
    """The limiter, to what is held."""

    store: BucketStore
    levels: Levels
    late: list[Held]
    """Settlements that the store has to be told again."""

    def keep(self, held: Held) -> None:
        """Keep alive what has been granted, until it is settled."""

    def decide_here(self, held: Held, outage: StoreUnavailable) -> None:
        """Tell who asked what is decided in the store's place."""


class Held(Step):
    """What one admission takes, and from then on what it is settled by, until the store knows.

    Every request makes one, and mostly one; what few of them need stands in the class.
    """

    local = False
    """Whether this worker's shares count it, and not the store."""

    doubted: Charges | None = None
    """What the store may have taken as well: it was asked, and nobody heard what it said."""

    maybe_done = False
    """Whether an earlier attempt to settle it may have reached the store."""

    _over: asyncio.Future[None] | None = None

    def __init__(
        self, limiter: Keeper, mode: Mode, exchange_id: str, charges: Charges, permits: Sequence[int]
    ) -> None:
        # As Step does, without a second frame.
        self.mode = mode
        self.exchange_id = exchange_id
        self.holder = b""
        self.charges = charges
        self.permits = permits
        self.outcome = None
        self._limiter = limiter

    async def again(self) -> None:
        """Tell the store of the settlement, and return when it knows, or does not."""
        self._over = asyncio.get_running_loop().create_future()
        self._limiter.store.put(self)
        await self._over

    def done(self, granted: bool, missing: Sequence[int]) -> bool:
        """Tell who asked; of a settlement whose lease ran out, and with it the reservation, charge what was used."""
        if self.mode == "take":
            decided, quotas = self.outcome, self.charges.quotas
            if decided is None or decided.done():
                return self._give_back() if granted and self.exchange_id else not granted
            if granted and self.exchange_id:
                self._limiter.keep(self)
                for at, few in quotas.narrow:
                    if missing[at] > few and self.charges.crowds(at, missing[at]):
                        self.hurries = True
            self._limiter.levels.heard[quotas] = missing
            decided.set_result(decide(self.charges, missing, granted=granted))
        elif granted or self.maybe_done:
            if self._over is not None:
                self._end()
        else:
            lasting = [
                Charge(charge.quota, used)
                for charge, used in zip(self.charges, self.permits, strict=True)
                if charge.quota.period_seconds and charge.quota.dimension.settles
            ]
            self._limiter.store.put(
                Debit(Charges.of(lasting), lambda _, outage: self.failed(outage), self._end)
            )
        return True

    def failed(self, outage: StoreUnavailable) -> None:
        """Decide without the store; of a settlement, wait for it to come back."""
        if self.mode == "take":
            self._limiter.decide_here(self, outage)
        else:
            self.maybe_done |= outage.sent
            self._limiter.late.append(self)
            self._end()

    def _give_back(self) -> bool:
        """Let go of what was granted to one who has left."""
        self.mode, self.permits, self.outcome = "settle", [0] * len(self.charges), None
        self.hurries = self.maybe_done = True
        self._limiter.store.put(self)
        return True

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None and not over.done():
            over.set_result(None)


class Debit(Step):
    """What was used beside all reservations."""

    __slots__ = ("_failed", "_taken")

    def __init__(
        self,
        charges: Charges,
        failed: Callable[[Charges, StoreUnavailable], None],
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__("debit", "", charges)
        self._failed = failed
        self._taken = taken

    def done(self, granted: bool, missing: Sequence[int]) -> bool:  # noqa: ARG002
        """It is charged."""
        self._taken()
        return True

    def failed(self, outage: StoreUnavailable) -> None:
        """Say so."""
        self._failed(self.charges, outage)
