"""Memory, Redis and a model that shares no code with either are put through the same random histories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from fractions import Fraction

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gateway.limits.charges import Charges
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import BucketStore, Mode, Step
from gateway.limits.terms import MOST_GRAINS, Charge, Decision, Dimension, Quota, account_key
from tests.kit.redis import RedisServer
from tests.limits.contract import FakeClock

LEASE_SECONDS = 10
TICKS = 60_000
SLOTS = Dimension.CONCURRENT_REQUESTS
KEYS = [account_key("acme"), account_key("acme", model="gpt-4o*"), account_key("acme", subject="alice")]
CAPACITIES = {
    Dimension.REQUESTS_PER_MINUTE: 7,
    Dimension.TOKENS_PER_MINUTE: 1000,
    Dimension.TOKENS_PER_DAY: 5_000_000,
    SLOTS: 3,
}
QUOTAS = [Quota(dimension, capacity, key) for key in KEYS for dimension, capacity in CAPACITIES.items()]


@dataclass
class Model:
    """Buckets as one would explain them: permits that are there, as fractions; a dict of who holds what."""

    there: dict[Quota, Fraction] = field(default_factory=lambda: {q: Fraction(q.capacity) for q in QUOTAS})
    holders: dict[tuple[str, str], dict[Quota, Fraction]] = field(default_factory=dict)
    expiry: dict[tuple[str, str], Fraction] = field(default_factory=dict)

    def advance(self, before: Fraction, after: Fraction) -> None:
        """Refill in whole ticks, the way time is defined to pass for buckets."""
        for quota in QUOTAS:
            if quota.dimension is not SLOTS:
                tick = Fraction(quota.period_seconds, TICKS)
                ticks = after // tick - before // tick
                refilled = self.there[quota] + Fraction(quota.capacity, TICKS) * ticks
                self.there[quota] = min(Fraction(quota.capacity), refilled)

    def reclaim(self, now: Fraction, keys: set[str]) -> None:
        for (exchange, key), expires in list(self.expiry.items()):
            if key in keys and expires <= now:
                for quota, taken in self._forget(exchange, key).items():
                    if quota.dimension is not Dimension.REQUESTS_PER_MINUTE:
                        self._add(quota, taken)

    def take(self, exchange: str, charges: list[Charge], now: Fraction, *, force: bool, hold: bool) -> bool:
        if hold:
            charges = [c for c in charges if c.quota not in self.holders.get((exchange, c.quota.key), {})]
        if not force and any(
            charge.permits and charge.permits > self.there[charge.quota] for charge in charges
        ):
            return False
        for charge in charges:
            before = self.there[charge.quota]
            if charge.permits:
                self._add(charge.quota, Fraction(-charge.permits))
            if hold:
                held = self.holders.setdefault((exchange, charge.quota.key), {})
                held[charge.quota] = before - self.there[charge.quota]
                self.expiry[exchange, charge.quota.key] = now + LEASE_SECONDS
        return True

    def settle(self, exchange: str, charges: list[Charge]) -> bool:
        found = False
        for charge in charges:
            quota, lease = charge.quota, (exchange, charge.quota.key)
            if quota not in self.holders.get(lease, {}):
                continue
            found = True
            used = 0 if quota.dimension is SLOTS else charge.permits
            self._add(quota, self.holders[lease].pop(quota) - used)
            if not self.holders[lease]:
                self._forget(*lease)
        return found

    def fits(self, charges: list[Charge]) -> bool:
        return all(c.permits == 0 or c.permits <= self.there[c.quota] for c in charges)

    def remaining(self, quota: Quota) -> int:
        return max(0, int(self.there[quota]))

    def _add(self, quota: Quota, permits: Fraction) -> None:
        lowest = quota.capacity - Fraction(MOST_GRAINS, TICKS)
        self.there[quota] = max(lowest, min(Fraction(quota.capacity), self.there[quota] + permits))

    def _forget(self, exchange: str, key: str) -> dict[Quota, Fraction]:
        del self.expiry[exchange, key]
        return self.holders.pop((exchange, key))


Asking = Callable[[BucketStore], Coroutine[None, None, Decision]]

exchanges = st.sampled_from([f"exchange-{n}" for n in range(6)])


@st.composite
def charge_lists(draw: st.DrawFn) -> list[Charge]:
    quotas = draw(st.lists(st.sampled_from(QUOTAS), min_size=1, max_size=6, unique=True))
    charges = []
    for quota in quotas:
        most = 1 if quota.dimension is SLOTS else quota.capacity + quota.capacity // 10
        charges.append(Charge(quota, draw(st.integers(0, most) | st.integers(0, min(most, 3)))))
    return charges


@st.composite
def reports(draw: st.DrawFn) -> list[Charge]:
    """What is said to have been used: as much as may be, or more than can be."""
    return [
        charge
        if charge.quota.dimension is SLOTS
        else Charge(charge.quota, draw(st.just(charge.permits) | st.integers(0, 10**13) | st.just(2**60)))
        for charge in draw(charge_lists())
    ]


class Histories(RuleBasedStateMachine):
    """Every rule does one thing to all three and compares what they say."""

    redis_url = ""

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock()
        self.lowest = self.clock.now
        self.model = Model()
        self.runner = asyncio.Runner()
        self.memory = MemoryBuckets(lease_seconds=LEASE_SECONDS, clock=self.clock)
        self.redis = RedisBuckets(
            self.redis_url, lease_seconds=LEASE_SECONDS, deadline_seconds=5.0, clock=self.clock
        )
        self.runner.run(self.redis.reset(KEYS))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.redis.close())
            self.runner.close()

    @property
    def now(self) -> Fraction:
        return Fraction(int(self.clock.now * 1_000_000), 1_000_000)

    @rule(seconds=st.sampled_from([0.0005, 0.001, 0.7, 1.5, 4.0, 9.99, 11.0, 59.9, 3600.0, 90_000.0]))
    def time_passes(self, seconds: float) -> None:
        before = self.now
        self.clock.advance(seconds)
        self.model.advance(before, self.now)

    @rule(exchange=exchanges, charges=charge_lists())
    def admit(self, exchange: str, charges: list[Charge]) -> None:
        self.model.reclaim(self.now, {charge.quota.key for charge in charges})
        granted = self.model.take(exchange, charges, self.now, force=False, hold=True)
        self.agree(charges, granted, lambda store: store.admit(exchange, charges, hold=True))

    @rule(charges=charge_lists())
    def admit_for_good(self, charges: list[Charge]) -> None:
        final = [charge for charge in charges if not charge.quota.dimension.settles]
        self.model.reclaim(self.now, {charge.quota.key for charge in final})
        granted = self.model.take("", final, self.now, force=False, hold=False)
        self.agree(final, granted, lambda store: store.admit("unheld", final))

    @rule(charges=charge_lists())
    def look(self, charges: list[Charge]) -> None:
        self.model.reclaim(self.now, {charge.quota.key for charge in charges})
        granted = self.model.fits(charges)
        self.agree(charges, granted, lambda store: store.look(charges))

    @rule(days=st.sampled_from([0.001, 1, 40]))
    def clock_goes_back(self, days: float) -> None:
        """To before anything that has been, and everybody notices."""
        every = [Charge(quota, 1 if quota.dimension is not SLOTS else 0) for quota in QUOTAS]
        self.debit("nobody", every, hold=False)  # as of now
        self.lowest = self.clock.now = self.lowest - days * 86_400
        for lease, expires in self.model.expiry.items():
            self.model.expiry[lease] = min(expires, self.now + LEASE_SECONDS)
        self.look([Charge(quota, 0) for quota in QUOTAS])
        for key in KEYS:
            for store in (self.memory, self.redis):
                assert self.runner.run(store.renew([("nobody", key)])) == [("nobody", key)]

    @rule(exchange=exchanges, charges=reports())
    def settle(self, exchange: str, charges: list[Charge]) -> None:
        self.model.reclaim(self.now, {charge.quota.key for charge in charges})
        expected = self.model.settle(exchange, charges)
        assert self.runner.run(self.memory.settle(exchange, charges)) == expected
        assert self.runner.run(self.redis.settle(exchange, charges)) == expected

    @rule(exchange=exchanges, charges=reports(), hold=st.booleans())
    def debit(self, exchange: str, charges: list[Charge], hold: bool) -> None:
        self.model.reclaim(self.now, {charge.quota.key for charge in charges})
        self.model.take(exchange, charges, self.now, force=True, hold=hold)
        for store in (self.memory, self.redis):
            self.runner.run(store.debit(exchange, charges, hold=hold))

    @rule(some=st.lists(exchanges, max_size=4, unique=True), key=st.sampled_from(KEYS))
    def renew(self, some: list[str], key: str) -> None:
        self.model.reclaim(self.now, {key})
        leases = [(exchange, key) for exchange in some]
        missing = [lease for lease in leases if lease not in self.model.holders]
        for lease in leases:
            if lease in self.model.holders:
                self.model.expiry[lease] = self.now + LEASE_SECONDS
        for store in (self.memory, self.redis):
            assert sorted(self.runner.run(store.renew(leases))) == sorted(missing)

    @rule(
        wanted=st.lists(
            st.tuples(
                st.sampled_from(["take", "debit", "look", "settle"]), exchanges, charge_lists(), st.booleans()
            ),
            min_size=2,
            max_size=8,
        )
    )
    def several_in_one_call(self, wanted: list[tuple[Mode, str, list[Charge], bool]]) -> None:
        """Steps that travel together are what they are one by one."""
        expected = []
        for mode, exchange, charges, hold in wanted:
            self.model.reclaim(self.now, {charge.quota.key for charge in charges})
            match mode:
                case "settle":
                    expected.append(self.model.settle(exchange, charges))
                case "look":
                    expected.append(self.model.fits(charges))
                case "take" | "debit":
                    force = mode == "debit"
                    expected.append(self.model.take(exchange, charges, self.now, force=force, hold=hold))

        async def together(store: BucketStore) -> list[tuple[bool, list[int]]]:
            loop = asyncio.get_running_loop()
            outcomes = []
            for mode, exchange, charges, hold in wanted:
                holds = mode == "settle" or (hold and mode != "look")
                step = Step(mode, exchange if holds else "", Charges.of(charges))
                step.outcome = loop.create_future()
                outcomes.append(step.outcome)
                store.put(step)
            return [(granted, list(missing)) for granted, missing in await asyncio.gather(*outcomes)]

        by_memory, by_redis = (self.runner.run(together(store)) for store in (self.memory, self.redis))
        assert by_memory == by_redis
        assert [granted for granted, _ in by_redis] == expected

    def agree(self, charges: list[Charge], granted: bool, step: Asking) -> None:
        by_memory, by_redis = (self.runner.run(step(store)) for store in (self.memory, self.redis))
        assert by_memory == by_redis
        assert by_memory.allowed == granted
        remaining = [level.remaining for level in by_memory.levels]
        assert remaining == [self.model.remaining(charge.quota) for charge in charges]


def test_model_memory_and_redis_agree_on_every_history(redis: RedisServer) -> None:
    class OnThisServer(Histories):
        redis_url = redis.unix_url

    run_state_machine_as_test(
        OnThisServer,
        settings=settings(
            max_examples=100,
            # Shrinking a history takes minutes; a failure prints its seed, and can be shrunk by hand.
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
