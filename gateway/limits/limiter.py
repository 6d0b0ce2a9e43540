"""Admission over a bucket store: what exchanges hold is kept alive and settled once, whatever the store does."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.limits.charges import Charges, QuotaSet
from gateway.limits.held import Debit, Held
from gateway.limits.levels import Levels, Used
from gateway.limits.local_shares import LocalShares
from gateway.limits.store import BucketStore, Census, StoreUnavailable
from gateway.limits.terms import MOST_REPORTED, Charge, Decision, Dimension, OnStoreFailure, Quota, tenant_of

_log = logging.getLogger(__name__)

_AT_ONCE = 256
"""Steps that are under way together when the store has come back."""

_QUICK_SECONDS = 0.1
"""How soon the store is asked again where something waits for it."""

_LOOK_SECONDS = 5.0
"""How often the store is asked for the levels that are known: others take permits too, and settle."""

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
    """Settlements that wait for the store, and what it has to undo."""


class Limiter:
    """What the gateway asks. Needs a running event loop from `start` to `close`.

    Until the store was reached once, this worker counts as number `worker_index` of `own_workers` in each of
    `expected_replicas` gateways. `capped` hears of each report that took a hundred times a limit and said more;
    `decided` of each step that was decided in the store's place: of whom, by what, and whether it was granted;
    `levelled`, once a second, how much of the limits is in use that have least left.
    """

    def __init__(
        self,
        store: BucketStore,
        *,
        own_workers: int = 1,
        worker_index: int = 0,
        expected_replicas: int = 1,
        announce_seconds: float = 1.0,
        capped: Callable[[Quota], None] = lambda _: None,
        decided: Callable[[Quota, OnStoreFailure, bool], None] = lambda *_: None,
        levelled: Callable[[Mapping[Used, float]], None] = lambda _: None,
    ) -> None:
        self.store = store
        self._capped = capped
        self._decided = decided
        self._levelled = levelled
        self._worker = secrets.token_hex(8)
        self._announce_seconds = announce_seconds
        census = Census(worker_index * expected_replicas, own_workers * expected_replicas)
        self._shares = LocalShares(census)
        self._open: dict[str, tuple[Held, ...]] = {}
        self.levels = Levels()
        """How much of the limits is in use; taken up once a second."""

        self.late: list[Held] = []
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
        held = Held(self, "take", exchange_id if hold or charges.holds() else "", charges, charges.permits)
        held.outcome = decision = self._loop.create_future()
        self.store.put(held)
        return decision

    def decide_here(self, held: Held, outage: StoreUnavailable) -> None:
        """Tell who asked what is decided in the store's place; nobody, once they have been cancelled."""
        self._lost_touch = True
        decided = held.outcome
        if decided is None or decided.done():
            self._take_back(held.exchange_id, held.charges if held.exchange_id and outage.sent else None)
            return
        quotas = held.charges.quotas.quotas
        try:
            decision = self._admit_here(held, outage)
        except StoreUnavailable as refused:
            if not outage.for_good:
                self._decided(quotas[0], OnStoreFailure.CLOSED, False)
            # Without its frames, which know the future that is to keep it.
            decided.set_exception(refused.with_traceback(None))
        else:
            counted = any(quota.on_store_failure is OnStoreFailure.LOCAL for quota in quotas)
            by = OnStoreFailure.LOCAL if counted else OnStoreFailure.OPEN
            self._decided(quotas[0], by, decision.allowed)
            decided.set_result(decision)

    def _admit_here(self, held: Held, outage: StoreUnavailable) -> Decision:
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
            self.keep(held)
        else:
            self._take_back(exchange_id, doubted)
        return decision

    def keep(self, held: Held) -> None:
        """Keep alive what has been granted, until it is settled."""
        steps = self._open.get(held.exchange_id)
        self._open[held.exchange_id] = (held,) if steps is None else (*steps, held)

    def _take_back(self, exchange_id: str, doubted: Charges | None) -> None:
        """Have the store give back, as soon as it listens, what it may have taken without anybody hearing of it."""
        if doubted is not None:
            settlement = Held(self, "give back", exchange_id, doubted, [0] * len(doubted))
            settlement.maybe_done = True
            self.late.append(settlement)

    async def look(self, charges: Iterable[Charge]) -> Decision:
        """What admit would say now, taking nothing."""
        try:
            return await self.store.look(charges)
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
            if charges.exceeds(amounts):
                amounts = self._cap(charges.quotas, amounts)
            if held.local:
                self._shares.settle(exchange_id, Charges(charges.quotas, amounts))
                self._take_back(exchange_id, held.doubted)
            else:
                held.mode, held.permits, held.outcome = "settle", amounts, None
                self.store.put(held)

    def cancel_soon(self, exchange_id: str) -> None:
        """Give everything back that the exchange holds: it never went upstream."""
        for held in self._open.get(exchange_id, ()):
            held.hurries = True
        self.settle_soon(exchange_id, _NO_PERMITS)

    def charge_soon(self, charges: Iterable[Charge]) -> None:
        """Take these whatever the levels, into debt; never raises, never waits.

        For what a running exchange used that nobody could reserve, as each answer of a realtime session.
        """
        charges = Charges.of(charges)
        if charges.exceeds(charges.permits):
            charges = Charges(charges.quotas, self._cap(charges.quotas, charges.permits))
        self.store.put(Debit(charges, self._debit_failed))

    def _cap(self, quotas: Iterable[Quota], permits: Sequence[int]) -> list[int]:
        """Take no report at its word that takes more than a hundred times a limit, and say whose it was."""
        capped = []
        for quota, reported in zip(quotas, permits, strict=True):
            if reported > quota.most_reported:
                self._capped(quota)
                _log.warning(
                    "one exchange of tenant %s is said to have used %d of %s = %d, more than %d times the limit: "
                    "%d are charged",
                    *(tenant_of(quota), reported, quota.dimension.value, quota.permits, MOST_REPORTED),
                    quota.most_reported,
                )
            capped.append(min(reported, quota.most_reported))
        return capped

    def state(self) -> LimiterState:
        """How store and limiter stand at this moment; costs nothing to ask."""
        census = self._shares.census
        return LimiterState(
            self.store.health(), census.workers, len(self._open), len(self.late) + self.store.doubts()
        )

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
        await self.store.quiet()
        await self._catch_up()
        await self.store.close()

    def _debit_failed(self, charges: Charges, outage: StoreUnavailable) -> None:
        self._lost_touch = True
        self._shares.debit(charges, report=not outage.sent)

    async def _keep_alive(self) -> None:
        """Once a second: announce, tell the store what it missed, renew leases when it is time."""
        loop = self._loop
        renewed = told = looked = loop.time()
        while not await self._closing_within(self._pause_seconds()):
            await self._announce()
            now = loop.time()
            self._show_levels()
            if now - looked >= _LOOK_SECONDS:
                looked = now
                await self._look_at_levels()
            if now - told < self._announce_seconds and not all(self.store.health().values()):
                continue  # much may wait, and would do so in vain
            told = now
            if self._lost_touch or now - renewed >= self.store.lease_seconds / 3:
                renewed = now
                await self._renew()
            await self._catch_up()

    def _pause_seconds(self) -> float:
        """Until the store is asked again: soon where it did not answer, and something waits for it."""
        waits = self._lost_touch and (self.late or self.store.doubts())
        return min(_QUICK_SECONDS, self._announce_seconds) if waits else self._announce_seconds

    async def _closing_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        except TimeoutError:
            return False

    async def _announce(self) -> None:
        if self._has_left:
            await self.store.withdraw()
            return
        try:
            self._shares.census = await self.store.announce(self._worker)
        except StoreUnavailable:
            self._lost_touch = True  # the workers that were seen last still share the limits

    async def _look_at_levels(self) -> None:
        """Hear how much of what was in use still is; what the store does not say, time alone refills."""
        await _together(self._look_at(quotas) for quotas in self.levels.to_look_at())
        self._show_levels()

    async def _look_at(self, quotas: QuotaSet) -> None:
        try:
            self.levels.heard[quotas] = await self.store.missing(quotas)
        except StoreUnavailable:
            pass

    def _show_levels(self) -> None:
        self.levels.take_up(int(self._loop.time() * 1e6))
        self._levelled(self.levels.ratios)

    async def _renew(self) -> None:
        """Renew what the store holds for open exchanges, and take again what it forgot."""
        # Several steps of one exchange may have charged the same account.
        steps: dict[tuple[str, str], dict[Held, list[Charge]]] = {}
        for exchange_id, admissions in self._open.items():
            for held in admissions:
                if not held.local:
                    for charge in held.charges:
                        lease = steps.setdefault((exchange_id, charge.quota.key), {})
                        lease.setdefault(held, []).append(charge)
        lost_touch, self._lost_touch = self._lost_touch, False
        try:
            missing = set(await self.store.renew(steps))
        except StoreUnavailable:
            self._lost_touch = True
            return
        if lost_touch:
            # The store may have forgotten an earlier step, and been told of a later one since.
            missing.update(lease for lease in steps if len(self._open.get(lease[0], ())) > 1)
        await _together(
            self._restore(lease[0], held, lost)
            for lease in missing
            for held, charges in steps[lease].items()
            # Requests are not given back where a lease runs out.
            if (lost := [charge for charge in charges if charge.quota.dimension.settles])
        )

    async def _catch_up(self) -> None:
        """Tell the store what it missed: late settlements, finished usage, exchanges that began without it."""
        late = self.late.copy()
        self.late.clear()  # the list itself is known to the settlements
        await _together(settlement.again() for settlement in late)
        await _together(self._report(used) for used in self._shares.unreported())
        local = [(i, held) for i, admissions in self._open.items() for held in admissions if held.local]
        await _together(self._hand_over(exchange_id, held) for exchange_id, held in local)

    async def _report(self, used: Sequence[Charge]) -> None:
        try:
            await self.store.debit("", used)
        except StoreUnavailable as outage:
            if not outage.sent:
                self._shares.put_back(used)

    async def _hand_over(self, exchange_id: str, held: Held) -> None:
        """Let the store hold what began in this worker's shares."""
        if await self._restore(exchange_id, held, held.charges) and held.local:
            held.local = False
            self._shares.settle(exchange_id, held.charges, report=False)

    async def _restore(self, exchange_id: str, held: Held, charges: Iterable[Charge]) -> bool:
        """Take again what the store does not hold for an exchange; whether it does now."""
        done = True
        try:
            await self.store.debit(exchange_id, charges, hold=True)
        except StoreUnavailable as outage:
            if not outage.sent:
                return False
            done = False
        if held in self._open.get(exchange_id, ()):
            return done
        # It ended meanwhile and was settled without this.
        taken = Charges.of(charges)
        await Held(self, "settle", exchange_id, taken, [0] * len(taken)).again()
        return False


async def _together(steps: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Take steps side by side, not too many at once: they share round trips."""
    batch: list[Coroutine[Any, Any, Any]] = []
    for step in steps:
        batch.append(step)
        if len(batch) == _AT_ONCE:
            await asyncio.gather(*batch)
            batch.clear()
    await asyncio.gather(*batch)
