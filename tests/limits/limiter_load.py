"""Steady load on a limiter, and what came of it; for fault tests and benchmarks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.limits.limiter import Limiter
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Decision, Dimension, Quota
from tests.limits.contract import fresh_id

HOLD_SECONDS = 0.03


@dataclass
class Outcome:
    """One admission: when it was asked for, how long the answer took, and what it was (None: unavailable)."""

    at: float
    seconds: float
    decision: Decision | None


@dataclass
class Load:
    """Exchanges that begin at a steady rate, hold what they got for a moment, and settle."""

    limiter: Limiter
    charges: Sequence[Charge]
    per_second: int = 100
    used: dict[Dimension, int] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    worst_lag_seconds: float = 0.0
    """How late the event loop was at worst: what a busy machine adds to every measurement."""

    async def run(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_lag(seconds))
            for n in range(int(seconds * self.per_second)):
                group.create_task(self._exchange(n / self.per_second))

    async def _exchange(self, delay: float) -> None:
        await asyncio.sleep(delay)
        exchange, at = fresh_id(), time.monotonic()
        try:
            decision = await self.limiter.admit(exchange, self.charges)
        except StoreUnavailable:
            decision = None
        self.outcomes.append(Outcome(at, time.monotonic() - at, decision))
        if decision and decision.allowed:
            await asyncio.sleep(HOLD_SECONDS)
            self.limiter.settle_soon(exchange, self.used)

    async def _watch_lag(self, seconds: float) -> None:
        began = now = time.monotonic()
        while now - began < seconds:
            await asyncio.sleep(0.005)
            self.worst_lag_seconds = max(self.worst_lag_seconds, time.monotonic() - now - 0.005)
            now = time.monotonic()

    @property
    def granted(self) -> int:
        return sum(outcome.decision is not None and outcome.decision.allowed for outcome in self.outcomes)

    @property
    def unavailable(self) -> int:
        return sum(outcome.decision is None for outcome in self.outcomes)

    def seconds_at(self, quantile: float) -> float:
        return sorted(outcome.seconds for outcome in self.outcomes)[int(quantile * (len(self.outcomes) - 1))]

    def from_store(self) -> list[bool]:
        ordered = sorted(self.outcomes, key=lambda outcome: outcome.at)
        return [outcome.decision is not None and outcome.decision.from_store for outcome in ordered]


async def seconds_until_from_store(limiter: Limiter, quota: Quota) -> float:
    """How long until the store decides again and is known to be sound, asked every 10 ms; fails after 5 s."""
    began = time.monotonic()
    while time.monotonic() - began < 5:
        decision = await limiter.look([Charge(quota, 0)])
        if decision.from_store and all(limiter.state().servers.values()):
            return time.monotonic() - began
        await asyncio.sleep(0.01)
    raise TimeoutError("the store does not decide again")
