"""Admission over a bucket store: what exchanges hold is kept alive and settled once, whatever the store does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from gateway.limits.local_shares import LocalShares
from gateway.limits.store import BucketStore, Census, Step, StoreUnavailable, holds
from gateway.limits.terms import Charge, Decision, Dimension, charged

_AT_ONCE = 256
"""Steps that are under way together when the store has come back."""

_DIMENSION = attrgetter("quota.dimension")
_PERMITS = attrgetter("permits")
_NOTHING: Mapping[Dimension, int] = {}
_NO_PERMITS = dict.fromkeys(Dimension, 0)


@dataclass(slots=True, eq=False)
class _Held:
    """What one admission took, and who counts it: the store, or this worker's shares."""

    charges: Sequence[Charge]
    local: bool
    doubted: Sequence[Charge] = ()
    """What the store may have taken as well: it was asked, and nobody heard what it said."""


@dataclass(frozen=True, slots=True)
class LimiterState:
    """What metrics show of a limiter."""

    servers: Mapping[str, bool]
    """Per server of the store, whether it answers; empty for a store in memory."""
    workers: int
    """Workers that share the store, as last heard."""
    open_exchanges: int
    late_settlements: int
    """Settlements that wait for the store."""


class Limiter:
    """What the gateway asks. Needs a running event loop from `start` to `close`.

    Until the store was reached once, this worker counts as number `worker_index` of `own_workers` in each of
    `expected_replicas` gateways.
    """

    def __init__(
        self,
        store: BucketStore,
        *,
        own_workers: int = 1,
        worker_index: int = 0,
        expected_replicas: int = 1,
        announce_seconds: float = 1.0,
    ) -> None:
        self._store = store
        self._worker = secrets.token_hex(8)
        self._announce_seconds = announce_seconds
        census = Census(worker_index * expected_replicas, own_workers * expected_replicas)
        self._shares = LocalShares(census)
        self._open: dict[str, list[_Held]] = {}
        self._late: list[_Settlement] = []
        """Settlements that the store has to be told again."""
        self._lost_touch = False
        """Whether the store failed since leases were renewed last: it may have forgotten them."""
        self._pulse: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Announce this worker and begin to renew leases. Works without the store: it may come later."""
        await self._announce()
        self._pulse = asyncio.create_task(self._keep_alive())

    async def admit(
        self, exchange_id: str, charges: Sequence[Charge], *, hold: bool | None = None
    ) -> Decision:
        """Take every charge or none, within 100 ms. StoreUnavailable if a `closed` limit cannot be checked.

        What is held stays alive until `settle_soon`. `hold=True` also holds an exchange whose charges are all
        final, so that `cancel_soon` can give them back.
        """
        held = hold or holds(charges)
        try:
            decision = await self._store.admit(exchange_id, charges, hold=held)
        except StoreUnavailable as outage:
            self._lost_touch = True
            return self._admit_here(exchange_id, charges, outage, held=held)
        if held and decision.allowed and charges:
            self._open.setdefault(exchange_id, []).append(_Held(charges, local=False))
        return decision

    def _admit_here(
        self, exchange_id: str, charges: Sequence[Charge], outage: StoreUnavailable, *, held: bool
    ) -> Decision:
        doubted = charges if held and outage.sent else ()
        try:
            decision, taken = self._shares.admit(exchange_id, charges, outage, hold=held)
        except StoreUnavailable:
            self._take_back(exchange_id, doubted)
            raise
        if held and decision.allowed and taken:
            self._open.setdefault(exchange_id, []).append(_Held(taken, local=True, doubted=doubted))
        else:
            self._take_back(exchange_id, doubted)
        return decision

    def _take_back(self, exchange_id: str, doubted: Sequence[Charge]) -> None:
        """Have the store give back, as soon as it listens, what it may have taken without anybody hearing of it."""
        if doubted:
            unused = [0] * len(doubted)
            self._late.append(
                _Settlement(self._store, exchange_id, doubted, unused, self._late.append, maybe_done=True)
            )

    async def look(self, charges: Sequence[Charge]) -> Decision:
        """What admit would say now, taking nothing."""
        try:
            return await self._store.look(charges)
        except StoreUnavailable as outage:
            return self._shares.look(charges, outage)

    def settle_soon(self, exchange_id: str, used: Mapping[Dimension, int] = _NOTHING) -> None:
        """Free the exchange's slots, put what was used in place of what was reserved; the first call counts.

        Dimensions that are not named keep their reservation. Never raises and never waits: fit for `finally:`. It
        goes up with the admissions of the same turn of the loop.
        """
        for held in self._open.pop(exchange_id, ()):
            charges = held.charges
            # Of slots nothing is ever used up, whatever is said of them.
            amounts = list(map(used.get, map(_DIMENSION, charges), map(_PERMITS, charges)))
            if held.local:
                self._shares.settle(exchange_id, charged(charges, amounts))
                self._take_back(exchange_id, held.doubted)
            else:
                self._store.put(_Settlement(self._store, exchange_id, charges, amounts, self._late.append))

    def cancel_soon(self, exchange_id: str) -> None:
        """Give everything back that the exchange holds: it never went upstream."""
        self.settle_soon(exchange_id, _NO_PERMITS)

    def charge_soon(self, charges: Sequence[Charge]) -> None:
        """Take these whatever the levels, into debt no deeper than one capacity; never raises, never waits.

        For what a running exchange used that nobody could reserve, as each answer of a realtime session.
        """
        self._store.put(_Debit(charges, self._debit_failed))

    def state(self) -> LimiterState:
        """How store and limiter stand at this moment; costs nothing to ask."""
        census = self._shares.census
        return LimiterState(self._store.health(), census.workers, len(self._open), len(self._late))

    async def close(self) -> None:
        """Carry out every settlement that the store will take, then close it."""
        self._closing.set()
        if self._pulse:
            await asyncio.wait({self._pulse})
        await self._store.quiet()
        await self._catch_up()
        await self._store.close()

    def _debit_failed(self, charges: Sequence[Charge], outage: StoreUnavailable) -> None:
        self._lost_touch = True
        self._shares.debit(charges, report=not outage.sent)

    async def _keep_alive(self) -> None:
        """Once a second: announce, tell the store what it missed, renew leases when it is time."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while not await self._closing_within(self._announce_seconds):
            await self._announce()
            if self._lost_touch or loop.time() - renewed >= self._store.lease_seconds / 3:
                renewed = loop.time()
                await self._renew()
            await self._catch_up()

    async def _closing_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        except TimeoutError:
            return False

    async def _announce(self) -> None:
        try:
            self._shares.census = await self._store.announce(self._worker)
        except StoreUnavailable:
            self._lost_touch = True  # the workers that were seen last still share the limits

    async def _renew(self) -> None:
        """Renew what the store holds for open exchanges, and take again what it forgot."""
        # Several steps of one exchange may have charged the same account.
        steps: dict[tuple[str, str], dict[_Held, list[Charge]]] = {}
        for exchange_id, admissions in self._open.items():
            for held in admissions:
                if not held.local:
                    for charge in held.charges:
                        lease = steps.setdefault((exchange_id, charge.quota.key), {})
                        lease.setdefault(held, []).append(charge)
        lost_touch, self._lost_touch = self._lost_touch, False
        try:
            missing = set(await self._store.renew(steps))
        except StoreUnavailable:
            self._lost_touch = True
            return
        if lost_touch:
            # The store may have forgotten an earlier step, and been told of a later one since.
            missing.update(lease for lease in steps if len(self._open.get(lease[0], ())) > 1)
        await _together(
            self._restore(lease[0], held, charges)
            for lease in missing
            for held, charges in steps[lease].items()
        )

    async def _catch_up(self) -> None:
        """Tell the store what it missed: late settlements, finished usage, exchanges that began without it."""
        late = self._late.copy()
        self._late.clear()  # the list itself is known to the settlements
        await _together(settlement.again() for settlement in late)
        await _together(self._report(used) for used in self._shares.unreported())
        local = [(i, held) for i, admissions in self._open.items() for held in admissions if held.local]
        await _together(self._hand_over(exchange_id, held) for exchange_id, held in local)

    async def _report(self, used: Sequence[Charge]) -> None:
        try:
            await self._store.debit("", used)
        except StoreUnavailable as outage:
            if not outage.sent:
                self._shares.put_back(used)

    async def _hand_over(self, exchange_id: str, held: _Held) -> None:
        """Let the store hold what began in this worker's shares."""
        if await self._restore(exchange_id, held, held.charges) and held.local:
            held.local = False
            self._shares.settle(exchange_id, held.charges, report=False)

    async def _restore(self, exchange_id: str, held: _Held, charges: Sequence[Charge]) -> bool:
        """Take again what the store does not hold for an exchange; whether it does now."""
        done = True
        try:
            await self._store.debit(exchange_id, charges, hold=True)
        except StoreUnavailable as outage:
            if not outage.sent:
                return False
            done = False
        if held in self._open.get(exchange_id, ()):
            return done
        # It ended meanwhile and was settled without this.
        nothing = [0] * len(charges)
        await _Settlement(self._store, exchange_id, charges, nothing, self._late.append).again()
        return False


class _Settlement(Step):
    """What an exchange used, to be told to the store until it knows."""

    __slots__ = ("_late", "_maybe_done", "_over", "_store")

    def __init__(
        self,
        store: BucketStore,
        exchange_id: str,
        charges: Sequence[Charge],
        used: Sequence[int],
        late: Callable[[_Settlement], None],
        *,
        maybe_done: bool = False,
    ) -> None:
        # As Step does, without a second frame: every request makes one.
        self.mode = "settle"
        self.exchange_id = exchange_id
        self.charges = charges
        self.permits = used
        self.outcome = None
        self._store = store
        self._late = late
        """Told when the store has to be told again."""
        self._maybe_done = maybe_done
        """Whether an earlier attempt may have reached the store."""
        self._over: asyncio.Future[None] | None = None

    async def again(self) -> None:
        """Tell the store, and return when it knows, or does not."""
        self._over = asyncio.get_running_loop().create_future()
        self._store.put(self)
        await self._over

    def done(self, granted: bool, missing: Sequence[int]) -> bool:  # noqa: ARG002
        """If its lease ran out, and with it the reservation, charge what was used after all."""
        if granted or self._maybe_done:
            if self._over is not None:
                self._end()
        else:
            used = charged(self.charges, self.permits or ())
            lasting = [charge for charge in used if charge.quota.period_seconds]
            self._store.put(_Debit(lasting, lambda _, outage: self.failed(outage), self._end))
        return True

    def failed(self, outage: StoreUnavailable) -> None:
        """Wait for the store to come back."""
        self._maybe_done |= outage.sent
        self._late(self)
        self._end()

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None and not over.done():
            over.set_result(None)


class _Debit(Step):
    """What was used beside all reservations."""

    __slots__ = ("_failed", "_taken")

    def __init__(
        self,
        charges: Sequence[Charge],
        failed: Callable[[Sequence[Charge], StoreUnavailable], None],
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


async def _together(steps: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Take steps side by side, not too many at once: they share round trips."""
    batch: list[Coroutine[Any, Any, Any]] = []
    for step in steps:
        batch.append(step)
        if len(batch) == _AT_ONCE:
            await asyncio.gather(*batch)
            batch.clear()
    await asyncio.gather(*batch)
