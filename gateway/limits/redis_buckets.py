"""Buckets in Redis: one Lua call per step, on Redis' own clock, exact across workers and replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from gateway.limits.arithmetic import decide
from gateway.limits.store import Census, StoreUnavailable, holds
from gateway.limits.terms import Charge, Decision
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, RedisUnavailable, Reply
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers

SILENT_SECONDS = 3.0
"""A worker that has not announced itself for so long no longer counts."""

_LEASES_PER_CALL = 1000
_SCRIPTS = ("admit", "settle", "renew", "reset", "announce")


class RedisBuckets:
    """A BucketStore that all workers and replicas share; redis/servers.py says what `url` may be.

    Nothing is connected before the first call. No call takes longer than `deadline_seconds`. `prefix` keeps
    deployments apart that share a server. `clock` (seconds) stands in for Redis' own time in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = 15.0,
        deadline_seconds: float = 0.08,
        prefix: str = "gateway:",
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._prefix = prefix
        self._clock = clock
        self._wire = open_wire(RedisServers.parse(url), deadline_seconds=deadline_seconds)
        self._scripts = {name: Script.load(__package__, "buckets", name) for name in _SCRIPTS}
        self._announced: str | None = None
        self._background: set[asyncio.Task[None]] = set()

    async def admit(
        self, exchange_id: str, charges: Sequence[Charge], *, hold: bool | None = None
    ) -> Decision:
        held = holds(charges) or bool(hold)

        def give_back(reply: Reply) -> None:
            if held and reply[0]:
                task = asyncio.create_task(self._settle_unused(exchange_id, charges))
                self._background.add(task)
                task.add_done_callback(self._background.discard)

        return await self._step("take", exchange_id if held else "", charges, give_back)

    async def look(self, charges: Sequence[Charge]) -> Decision:
        return await self._step("look", "", charges)

    async def debit(self, exchange_id: str, charges: Sequence[Charge], *, hold: bool = False) -> None:
        await self._step("debit", exchange_id if hold else "", charges)

    async def settle(self, exchange_id: str, charges: Sequence[Charge]) -> bool:
        keys, arguments, _ = self._accounts(charges)
        return bool(await self._run("settle", keys, [exchange_id, self._now(), *arguments]))

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        missing: list[tuple[str, str]] = []
        for key, pairs in groupby(sorted(leases, key=_account_of), key=_account_of):
            ids = [exchange_id for exchange_id, _ in pairs]
            for start in range(0, len(ids), _LEASES_PER_CALL):
                arguments = [self._lease(), self._now(), *ids[start : start + _LEASES_PER_CALL]]
                reply = await self._run("renew", self._keys(key), arguments)
                missing.extend((exchange_id.decode(), key) for exchange_id in reply)
        return missing

    async def reset(self, keys: Iterable[str]) -> None:
        for key in keys:
            await self._run("reset", self._keys(key), [])

    async def announce(self, worker: str) -> Census:
        self._announced = worker
        silent = int(SILENT_SECONDS * 1_000_000)
        place, workers = await self._run("announce", self._workers(), [worker, "lives", silent])
        return Census(place, workers)

    def health(self) -> Mapping[str, bool]:
        return self._wire.health()

    async def close(self) -> None:
        while self._background:
            await asyncio.wait(self._background)
        if self._announced is not None:
            try:
                await self._run("announce", self._workers(), [self._announced, "leaves", 0])
            except StoreUnavailable:
                pass  # silence says the same, a little later
        await self._wire.close()

    async def _step(
        self,
        mode: str,
        exchange_id: str,
        charges: Sequence[Charge],
        abandoned: Callable[[Reply], None] | None = None,
    ) -> Decision:
        keys, arguments, order = self._accounts(charges)
        head: list[Argument] = [mode, exchange_id, self._lease(), self._now()]
        reply = await self._run("admit", keys, head + arguments, abandoned, writes=mode != "look")
        taken = [0] * len(charges)
        for position, missing in zip(order, reply[1:], strict=True):
            taken[position] = missing
        return decide(charges, taken, granted=bool(reply[0]))

    async def _run(
        self,
        script: str,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        abandoned: Callable[[Reply], None] | None = None,
        *,
        writes: bool = True,
    ) -> Reply:
        try:
            return await self._wire.run(self._scripts[script], keys, arguments, abandoned, writes=writes)
        except RedisUnavailable as error:
            raise StoreUnavailable(str(error), sent=error.sent) from error

    async def _settle_unused(self, exchange_id: str, charges: Sequence[Charge]) -> None:
        """Undo an admission that nobody heard of: all but the requests, which were made."""
        unused = [Charge(c.quota, 0 if c.quota.dimension.settles else c.permits) for c in charges]
        try:
            await self.settle(exchange_id, unused)
        except StoreUnavailable:
            pass  # the lease runs out by itself

    def _accounts(self, charges: Sequence[Charge]) -> tuple[list[Argument], list[Argument], list[int]]:
        """Keys and arguments as the scripts take them, and which charge stands where in them."""
        by_account: dict[str, list[int]] = {}
        for position, charge in enumerate(charges):
            by_account.setdefault(charge.quota.key, []).append(position)
        keys: list[Argument] = []
        arguments: list[Argument] = []
        for key, positions in by_account.items():
            keys += self._keys(key)
            arguments.append(len(positions))
            for position in positions:
                charge = charges[position]
                quota = charge.quota
                arguments += (quota.dimension.value, quota.permits, quota.tick_microseconds, charge.permits)
        return keys, arguments, [position for positions in by_account.values() for position in positions]

    def _keys(self, key: str) -> tuple[str, str]:
        return f"{self._prefix}{key}", f"{self._prefix}{key}:open"

    def _workers(self) -> tuple[str]:
        return (f"{self._prefix}workers",)

    def _lease(self) -> int:
        return int(self.lease_seconds * 1_000_000)

    def _now(self) -> Argument:
        return int(self._clock() * 1_000_000) if self._clock else ""


def _account_of(lease: tuple[str, str]) -> str:
    return lease[1]
