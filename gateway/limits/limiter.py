"""Admission over a bucket store: what exchanges hold is kept alive and settled once, whatever the store does."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.limits.arithmetic import decide
from gateway.limits.charges import Charges
from gateway.limits.local_shares import LocalShares
from gateway.limits.store import BucketStore, Census, Mode, Step, StoreUnavailable
from gateway.limits.terms import Charge, Decision, Dimension

_AT_ONCE = 256
"""Steps that are under way together when the store has come back."""

_NOTHING: Mapping[Dimension, int] = {}
_NO_PERMITS = dict.fromkeys(Dimension, 0)


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
        self._open: dict[str, tuple[_Held, ...]] = {}
        self._late: list[_Held] = []
        """Settlements that the store has to be told again."""
        self._lost_touch = False
        """Whether the store failed since leases were renewed last: it may have forgotten them."""
        self._pulse: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._has_left = False

    async def start(self) -> None:
        """Announce this worker and begin to renew leases. Works without the store: it may come later."""
        self._loop = asyncio.get_running_loop()
        await self._announce()
        self._pulse = asyncio.create_task(self._keep_alive())

    def admit(
        self, exchange_id: str, charges: Iterable[Charge], *, hold: bool | None = None
    ) -> asyncio.Future[Decision]:
        """Take every charge or none, within 100 ms. StoreUnavailable if a `closed` limit cannot be checked.

        What is held stays alive until `settle_soon`. `hold=True` also holds an exchange whose charges are all
        final, so that `cancel_soon` can give them back.
        """
        if type(charges) is not Charges:
            charges = Charges.of(charges)
        held = _Held(self, "take", exchange_id if hold or charges.holds() else "", charges, charges.permits)
        held.outcome = decision = self._loop.create_future()
        self._store.put(held)
        return decision

    def _decide_here(self, held: _Held, outage: StoreUnavailable) -> None:
        """Tell who asked what is decided in the store's place; nobody, once they have been cancelled."""
        self._lost_touch = True
        decided = held.outcome
        if decided is None or decided.done():
            return
        try:
            decision = self._admit_here(held, outage)
        except StoreUnavailable as refused:
            # Without its frames, which know the future that is to keep it.
            decided.set_exception(refused.with_traceback(None))
        else:
            decided.set_result(decision)

    def _admit_here(self, held: _Held, outage: StoreUnavailable) -> Decision:
        """Decide in the store's place. Raises `outage` if a closed limit is charged."""
        exchange_id = held.exchange_id
        doubted = held.charges if exchange_id and outage.sent else None
        try:
            decision, taken = self._shares.admit(exchange_id, held.charges, outage, hold=bool(exchange_id))
        except StoreUnavailable:
            self._take_back(exchange_id, doubted)
            raise
        if exchange_id and decision.allowed and taken:
            held.charges, held.local, held.doubted = Charges.of(taken), True, doubted
            self._keep(held)
        else:
            self._take_back(exchange_id, doubted)
        return decision

    def _keep(self, held: _Held) -> None:
        """Keep alive what has been granted, until it is settled."""
        steps = self._open.get(held.exchange_id)
        self._open[held.exchange_id] = (held,) if steps is None else (*steps, held)

    def _take_back(self, exchange_id: str, doubted: Charges | None) -> None:
        """Have the store give back, as soon as it listens, what it may have taken without anybody hearing of it."""
        if doubted is not None:
            settlement = _Held(self, "settle", exchange_id, doubted, [0] * len(doubted))
            settlement.maybe_done = True
            self._late.append(settlement)

    async def look(self, charges: Iterable[Charge]) -> Decision:
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
            amounts = list(map(used.get, charges.quotas.dimensions, charges.permits))
            if held.local:
                self._shares.settle(exchange_id, Charges(charges.quotas, amounts))
                self._take_back(exchange_id, held.doubted)
            else:
                held.mode, held.permits, held.outcome = "settle", amounts, None
                self._store.put(held)

    def cancel_soon(self, exchange_id: str) -> None:
        """Give everything back that the exchange holds: it never went upstream."""
        for held in self._open.get(exchange_id, ()):
            held.hurries = True
        self.settle_soon(exchange_id, _NO_PERMITS)

    def charge_soon(self, charges: Iterable[Charge]) -> None:
        """Take these whatever the levels, into debt no deeper than one capacity; never raises, never waits.

        For what a running exchange used that nobody could reserve, as each answer of a realtime session.
        """
        self._store.put(_Debit(Charges.of(charges), self._debit_failed))

    def state(self) -> LimiterState:
        """How store and limiter stand at this moment; costs nothing to ask."""
        census = self._shares.census
        return LimiterState(self._store.health(), census.workers, len(self._open), len(self._late))

    def leave(self) -> None:
        """Count no more among the workers that share the limits, within a second: others get what comes from now on.

        What exchanges hold is renewed as before. While the store is away, what is admitted here still comes out of the
        share that this worker had.
        """
        self._has_left = True

    async def close(self) -> None:
        """Carry out every settlement that the store will take, then close it."""
        self._closing.set()
        if self._pulse:
            await asyncio.wait({self._pulse})
        await self._store.quiet()
        await self._catch_up()
        await self._store.close()

    def _debit_failed(self, charges: Charges, outage: StoreUnavailable) -> None:
        self._lost_touch = True
        self._shares.debit(charges, report=not outage.sent)

    async def _keep_alive(self) -> None:
        """Once a second: announce, tell the store what it missed, renew leases when it is time."""
        loop = self._loop
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
        if self._has_left:
            await self._store.withdraw()
            return
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

    async def _restore(self, exchange_id: str, held: _Held, charges: Iterable[Charge]) -> bool:
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
        taken = Charges.of(charges)
        await _Held(self, "settle", exchange_id, taken, [0] * len(taken)).again()
        return False


class _Held(Step):
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
        self, limiter: Limiter, mode: Mode, exchange_id: str, charges: Charges, permits: Sequence[int]
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
        self._over = self._limiter._loop.create_future()
        self._limiter._store.put(self)
        await self._over

    def done(self, granted: bool, missing: Sequence[int]) -> bool:
        """Tell who asked; of a settlement whose lease ran out, and with it the reservation, charge what was used."""
        if self.mode == "take":
            decided = self.outcome
            if decided is None or decided.done():
                return False
            if granted and self.exchange_id:
                self._limiter._keep(self)
                for at, few in self.charges.quotas.narrow:
                    if missing[at] > few and self.charges.crowds(at, missing[at]):
                        self.hurries = True
            decided.set_result(decide(self.charges, missing, granted=granted))
        elif granted or self.maybe_done:
            if self._over is not None:
                self._end()
        else:
            lasting = [
                Charge(charge.quota, used)
                for charge, used in zip(self.charges, self.permits, strict=True)
                if charge.quota.period_seconds
            ]
            self._limiter._store.put(
                _Debit(Charges.of(lasting), lambda _, outage: self.failed(outage), self._end)
            )
        return True

    def failed(self, outage: StoreUnavailable) -> None:
        """Decide without the store; of a settlement, wait for it to come back."""
        if self.mode == "take":
            self._limiter._decide_here(self, outage)
        else:
            self.maybe_done |= outage.sent
            self._limiter._late.append(self)
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


async def _together(steps: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Take steps side by side, not too many at once: they share round trips."""
    batch: list[Coroutine[Any, Any, Any]] = []
    for step in steps:
        batch.append(step)
        if len(batch) == _AT_ONCE:
            await asyncio.gather(*batch)
            batch.clear()
    await asyncio.gather(*batch)
