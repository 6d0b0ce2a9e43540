"""Buckets in this process: exact for one worker, gone when it ends."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.limits.arithmetic import bounded, fits, still_taken, tick_of
from gateway.limits.charges import QuotaSet
from gateway.limits.store import BucketStore, Census, Step
from gateway.limits.terms import TICKS_PER_PERIOD, Dimension, Quota


@dataclass(slots=True)
class _Bucket:
    quota: Quota
    taken: int
    tick: int


@dataclass(slots=True)
class _Open:
    """What one exchange took from one account, in grains, and until when it may keep it."""

    expires_microseconds: int
    grains: dict[Dimension, int]


@dataclass(slots=True)
class _Account:
    buckets: dict[Dimension, _Bucket] = field(default_factory=dict)
    open: OrderedDict[str, _Open] = field(default_factory=OrderedDict)
    """By expiry: all leases are equally long, so the one that was renewed last expires last."""

    def taken(self, quota: Quota, now_microseconds: int, lease_microseconds: int) -> int:
        bucket = self.buckets.get(quota.dimension)
        if bucket is None:
            return 0
        tick = tick_of(quota, now_microseconds)
        if bucket.tick > tick:
            # The clock has gone back: from now on it is refilled, and not when the time comes that it has seen.
            bucket.tick = tick
            self.shorten_leases(now_microseconds + lease_microseconds)
        return still_taken(quota, bucket.taken, bucket.tick, now_microseconds)

    def put(self, quota: Quota, taken: int, now_microseconds: int) -> int:
        tick, taken = tick_of(quota, now_microseconds), bounded(taken)
        bucket = self.buckets.get(quota.dimension)
        if bucket is None:
            self.buckets[quota.dimension] = _Bucket(quota, taken, tick)
        else:
            bucket.quota, bucket.taken, bucket.tick = quota, taken, tick
        return taken

    def shorten_leases(self, latest_microseconds: int) -> None:
        """Let no lease be longer than one that begins now, should the clock have gone back."""
        for exchange in reversed(self.open.values()):
            if exchange.expires_microseconds <= latest_microseconds:
                return
            exchange.expires_microseconds = latest_microseconds

    def holds(self, exchange_id: str, dimension: Dimension) -> bool:
        """Whether the exchange took this here, and has not been settled."""
        exchange = self.open.get(exchange_id)
        return exchange is not None and dimension in exchange.grains

    def reclaim(self, now_microseconds: int) -> None:
        """Give back what exchanges took whose lease has run out: their worker is gone. The requests were made."""
        while self.open:
            exchange_id, oldest = next(iter(self.open.items()))
            if oldest.expires_microseconds > now_microseconds:
                return
            del self.open[exchange_id]
            for dimension, grains in oldest.grains.items():
                if grains and dimension.settles:
                    bucket = self.buckets[dimension]
                    bucket.taken = max(0, bucket.taken - grains)

    def idle(self, now_microseconds: int) -> bool:
        """Whether forgetting this account changes nothing."""
        self.reclaim(now_microseconds)
        return not self.open and not any(
            still_taken(bucket.quota, bucket.taken, bucket.tick, now_microseconds)
            for bucket in self.buckets.values()
        )


class MemoryBuckets(BucketStore):
    """A BucketStore without I/O: no step ever waits, so each is atomic in its event loop.

    Accounts whose buckets are full again are dropped as new ones come. Above `most_accounts` the one that was
    used least recently is forgotten whatever it holds, which fills its buckets.
    """

    def __init__(
        self,
        *,
        lease_seconds: float = 15.0,
        most_accounts: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._most_accounts = most_accounts
        self._clock = clock
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def __len__(self) -> int:
        """Accounts in memory."""
        return len(self._accounts)

    def put(self, step: Step) -> None:
        """Carry a step out on the spot."""
        granted, missing = self.carry_out(step)
        if not step.done(granted, missing) and granted:
            self.give_back(step)

    def carry_out(self, step: Step) -> tuple[bool, list[int]]:
        """Whether it was granted, or settled anything; and the grains that are missing per charge after it."""
        now, exchange_id, quotas, permits = self._now(), step.exchange_id, step.charges.quotas, step.permits
        if step.mode in ("settle", "give back"):
            return self._settle(exchange_id, quotas, permits, now), []
        accounts = self._touch(quotas, now)
        lease = self._lease_microseconds()
        taken = [accounts[quota.key].taken(quota, now, lease) for quota in quotas.quotas]
        if step.mode != "debit":
            for at, quota in enumerate(quotas.quotas):
                if not fits(quota, permits[at], taken[at]) and not accounts[quota.key].holds(
                    exchange_id, quota.dimension
                ):
                    return False, taken
        if step.mode == "look":
            return True, taken
        return True, self._take(step, accounts, taken, now)

    def _settle(self, exchange_id: str, quotas: QuotaSet, permits: Sequence[int], now: int) -> bool:
        found = False
        for quota, amount in zip(quotas.quotas, permits, strict=True):
            account = self._accounts.get(quota.key)
            if account is None:
                continue
            account.reclaim(now)
            exchange = account.open.get(exchange_id)
            reserved = None if exchange is None else exchange.grains.pop(quota.dimension, None)
            if exchange is None or reserved is None:
                continue
            found = True
            if not exchange.grains:
                del account.open[exchange_id]
            used = amount * TICKS_PER_PERIOD if quota.period_seconds else 0
            account.put(quota, account.taken(quota, now, self._lease_microseconds()) - reserved + used, now)
        return found

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        now = self._now()
        missing = []
        for exchange_id, key in leases:
            account = self._accounts.get(key)
            if account:
                account.reclaim(now)
                account.shorten_leases(now + self._lease_microseconds())
                slots = account.buckets.get(Dimension.CONCURRENT_REQUESTS)
                if slots is not None:
                    # They are as they are as of now: should the clock go back, it shows.
                    slots.tick = now
            if account is None or exchange_id not in account.open:
                missing.append((exchange_id, key))
                continue
            account.open[exchange_id].expires_microseconds = now + self._lease_microseconds()
            account.open.move_to_end(exchange_id)
        return missing

    async def reset(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._accounts.pop(key, None)

    async def announce(self, worker: str) -> Census:  # noqa: ARG002 - nobody else can see these buckets
        return Census(0, 1)

    def health(self) -> Mapping[str, bool]:
        return {}

    async def close(self) -> None:
        self._accounts.clear()

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)

    def _lease_microseconds(self) -> int:
        return int(self.lease_seconds * 1_000_000)

    def _touch(self, quotas: QuotaSet, now: int) -> dict[str, _Account]:
        """The accounts that are charged, with expired leases given back; new ones are not kept yet."""
        accounts: dict[str, _Account] = {}
        for quota in quotas.quotas:
            key = quota.key
            if key in accounts:
                continue
            account = self._accounts.get(key)
            if account is not None:
                self._accounts.move_to_end(key)
                account.reclaim(now)
            accounts[key] = account or _Account()
        return accounts

    def _make_room(self, now: int) -> None:
        """Look at two old accounts per new one: finds every idle one in time, without one long sweep."""
        for _ in range(min(2, len(self._accounts))):
            key, account = next(iter(self._accounts.items()))
            if account.idle(now):
                del self._accounts[key]
            elif len(self._accounts) < self._most_accounts:
                self._accounts.move_to_end(key)
        if len(self._accounts) >= self._most_accounts:
            self._accounts.popitem(last=False)

    def _take(self, step: Step, accounts: dict[str, _Account], taken: Sequence[int], now: int) -> list[int]:
        """Take every charge and hold it under the exchange, if one is named; what is missing afterwards.

        What the exchange holds already is a repetition, and takes nothing.
        """
        exchange_id = step.exchange_id
        expires = now + self._lease_microseconds()
        after = []
        for quota, permits, before in zip(step.charges.quotas.quotas, step.permits, taken, strict=True):
            account, missing = accounts[quota.key], before
            if account.holds(exchange_id, quota.dimension):
                after.append(before)
                continue
            if permits:
                missing = account.put(quota, before + permits * TICKS_PER_PERIOD, now)
            if exchange_id:
                exchange = account.open.get(exchange_id)
                if exchange is None:
                    exchange = account.open[exchange_id] = _Open(expires, {})
                elif exchange.expires_microseconds != expires:
                    exchange.expires_microseconds = expires
                    account.open.move_to_end(exchange_id)
                exchange.grains[quota.dimension] = missing - before
            after.append(missing)
        for key, account in accounts.items():
            if key not in self._accounts:
                self._make_room(now)
                self._accounts[key] = account
        return after
