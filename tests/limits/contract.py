"""What every bucket store promises; test_memory_buckets.py and test_redis_buckets.py each run all of it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from gateway.limits.store import BucketStore
from gateway.limits.terms import MOST_GRAINS, Charge, Dimension, Quota, account_key
from tests.kit.clock import Clock

_ids = itertools.count()


class FakeClock(Clock):
    """Starts at a tick boundary of every dimension."""

    def __init__(self) -> None:
        super().__init__(1_728_000_000.0)


def quota(
    dimension: Dimension = Dimension.REQUESTS_PER_MINUTE, capacity: int = 60, *, key: str | None = None
) -> Quota:
    return Quota(dimension, capacity, key or fresh_key())


def fresh_key(**parts: str) -> str:
    return account_key(f"tenant-{next(_ids)}", **parts)


def fresh_id() -> str:
    return f"exchange-{next(_ids)}"


TOKENS = Dimension.TOKENS_PER_MINUTE
SLOTS = Dimension.CONCURRENT_REQUESTS


class BucketContract:
    """Subclasses provide the `store` fixture (leases of 10 s, driven by `clock`)."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    async def remaining(self, store: BucketStore, *quotas: Quota) -> list[int]:
        look = await store.look([Charge(quota, 0) for quota in quotas])
        return [level.remaining for level in look.levels]

    async def test_burst_of_whole_capacity_then_refusal(self, store: BucketStore) -> None:
        requests = quota(capacity=5)
        granted = [(await store.admit(fresh_id(), [Charge(requests)])).allowed for _ in range(7)]
        assert granted == [True] * 5 + [False] * 2

    async def test_refill_is_one_permit_per_share_of_the_period(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        requests = quota(capacity=3)
        assert (await store.admit(fresh_id(), [Charge(requests, 3)])).allowed
        clock.advance(19.999)
        assert not (await store.admit(fresh_id(), [Charge(requests)])).allowed
        clock.advance(0.001)
        assert (await store.admit(fresh_id(), [Charge(requests)])).allowed
        assert not (await store.admit(fresh_id(), [Charge(requests)])).allowed

    async def test_refill_in_many_small_steps_loses_nothing(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        requests = quota(capacity=7)
        await store.admit(fresh_id(), [Charge(requests, 7)])
        for _ in range(60):
            clock.advance(1)
            await store.admit(fresh_id(), [Charge(requests, 7)], hold=False)
        assert await self.remaining(store, requests) == [0]
        clock.advance(60)
        assert await self.remaining(store, requests) == [7]

    async def test_refusal_names_the_limit_and_costs_nothing(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        key = fresh_key()
        requests, tokens = quota(key=key, capacity=10), quota(TOKENS, 1000, key=key)
        assert (await store.admit(fresh_id(), [Charge(requests), Charge(tokens, 900)])).allowed
        refused = await store.admit(fresh_id(), [Charge(requests), Charge(tokens, 200)])
        assert (refused.allowed, refused.refused_by, refused.never) == (False, tokens, False)
        assert refused.retry_after_seconds == pytest.approx(6.0)
        assert [level.remaining for level in refused.levels] == [9, 100]
        assert await self.remaining(store, requests, tokens) == [9, 100]
        clock.advance(6.0)
        assert (await store.admit(fresh_id(), [Charge(requests), Charge(tokens, 200)])).allowed

    async def test_refusal_in_one_account_takes_nothing_from_another(self, store: BucketStore) -> None:
        tenant = quota(capacity=10, key=account_key("acme"))
        model = quota(capacity=1, key=account_key("acme", model="gpt-4o*"))
        await store.reset([tenant.key, model.key])
        assert (await store.admit(fresh_id(), [Charge(tenant), Charge(model)])).allowed
        refused = await store.admit(fresh_id(), [Charge(tenant), Charge(model)])
        assert refused.refused_by == model
        assert await self.remaining(store, tenant, model) == [9, 0]

    async def test_levels_come_in_the_order_of_the_charges(self, store: BucketStore) -> None:
        first, second = fresh_key(), fresh_key()
        if first[:10] != second[:10]:
            second = first + ":subject=x"
        charges = [
            Charge(quota(TOKENS, 100, key=first), 10),
            Charge(quota(TOKENS, 200, key=second), 20),
            Charge(quota(capacity=30, key=first), 3),
        ]
        decision = await store.admit(fresh_id(), charges)
        assert [(level.limit, level.remaining) for level in decision.levels] == [
            (100, 90),
            (200, 180),
            (30, 27),
        ]

    async def test_charge_above_capacity_can_never_pass(self, store: BucketStore) -> None:
        tokens = quota(TOKENS, 100)
        decision = await store.admit(fresh_id(), [Charge(tokens, 101)])
        assert (decision.allowed, decision.never, decision.retry_after_seconds) == (False, True, None)
        assert decision.refused_by == tokens

    async def test_zero_permits_report_and_take_nothing_even_in_debt(self, store: BucketStore) -> None:
        tokens = quota(TOKENS, 100)
        await store.debit("", [Charge(tokens, 150)])
        decision = await store.admit(fresh_id(), [Charge(tokens, 0)])
        assert decision.allowed
        assert decision.levels[0].remaining == 0

    async def test_look_foresees_the_decision_and_takes_nothing(self, store: BucketStore) -> None:
        requests = quota(capacity=1)
        assert (await store.look([Charge(requests)])).allowed
        assert (await store.admit(fresh_id(), [Charge(requests)])).allowed
        seen = await store.look([Charge(requests)])
        assert (seen.allowed, seen.refused_by, seen.retry_after_seconds) == (False, requests, 60.0)

    async def test_repeated_admission_of_a_held_exchange_is_charged_once(self, store: BucketStore) -> None:
        tokens, exchange = quota(TOKENS, 100), fresh_id()
        for _ in range(3):
            decision = await store.admit(exchange, [Charge(tokens, 60)])
            assert decision.allowed
            assert decision.levels[0].remaining == 40

    async def test_second_step_charges_only_accounts_that_are_new_to_the_exchange(
        self, store: BucketStore
    ) -> None:
        exchange, key = fresh_id(), fresh_key()
        tenant, model = quota(TOKENS, 100, key=key), quota(TOKENS, 50, key=key + ":model=m")
        assert (await store.admit(exchange, [Charge(tenant, 60)])).allowed
        refused = await store.admit(exchange, [Charge(tenant, 60), Charge(model, 51)])
        assert (refused.allowed, refused.refused_by) == (False, model)
        assert (await store.admit(exchange, [Charge(tenant, 60), Charge(model, 50)])).allowed
        assert await self.remaining(store, tenant, model) == [40, 0]

    async def test_second_step_charges_in_the_same_account_what_the_exchange_does_not_hold_there(
        self, store: BucketStore
    ) -> None:
        exchange, key = fresh_id(), fresh_key()
        requests, slots, tokens = (
            quota(capacity=2, key=key),
            quota(SLOTS, 2, key=key),
            quota(TOKENS, 100, key=key),
        )
        door = [Charge(requests), Charge(slots)]
        assert (await store.admit(exchange, door)).allowed
        refused = await store.admit(exchange, [*door, Charge(tokens, 101)])
        assert (refused.allowed, refused.refused_by) == (False, tokens)
        assert await self.remaining(store, requests, slots, tokens) == [1, 1, 100]
        granted = await store.admit(exchange, [*door, Charge(tokens, 60)])
        assert (granted.allowed, [level.remaining for level in granted.levels]) == (True, [1, 1, 40])
        assert (await store.admit(exchange, [Charge(tokens, 60)])).allowed, "a repetition"
        assert await self.remaining(store, requests, slots, tokens) == [1, 1, 40]
        assert await store.settle(exchange, [Charge(tokens, 10), Charge(slots, 0), Charge(requests)])
        assert await self.remaining(store, requests, slots, tokens) == [1, 2, 90]

    async def test_step_that_is_refused_leaves_what_the_exchange_holds_to_be_given_back(
        self, store: BucketStore
    ) -> None:
        exchange, key = fresh_id(), fresh_key()
        requests, tokens = quota(capacity=2, key=key), quota(TOKENS, 100, key=key)
        assert (await store.admit(exchange, [Charge(requests)], hold=True)).allowed
        assert not (await store.admit(exchange, [Charge(tokens, 101)], hold=True)).allowed
        assert await store.settle(exchange, [Charge(requests, 0)])
        assert await self.remaining(store, requests, tokens) == [2, 100]

    async def test_steps_of_one_exchange_are_settled_each_by_itself(self, store: BucketStore) -> None:
        exchange, key = fresh_id(), fresh_key()
        slots, tokens = quota(SLOTS, 2, key=key), quota(TOKENS, 100, key=key)
        await store.admit(exchange, [Charge(slots)])
        await store.admit(exchange, [Charge(tokens, 60)])
        assert await store.settle(exchange, [Charge(tokens, 10)])
        assert not await store.settle(exchange, [Charge(tokens, 10)])
        assert await self.remaining(store, slots, tokens) == [1, 90], "the exchange goes on"
        assert await store.settle(exchange, [Charge(slots, 0)])
        assert not await store.settle(exchange, [Charge(slots, 0)])
        assert await self.remaining(store, slots, tokens) == [2, 90]

    async def test_lease_of_all_steps_ends_with_the_last_one(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        exchange, key = fresh_id(), fresh_key()
        slots, tokens = quota(SLOTS, 2, key=key), quota(Dimension.TOKENS_PER_DAY, 100, key=key)
        await store.admit(exchange, [Charge(slots)])
        clock.advance(6)
        other = fresh_id()
        await store.admit(other, [Charge(slots)])
        clock.advance(2)
        await store.admit(exchange, [Charge(tokens, 60)])
        clock.advance(9)
        assert await self.remaining(store, slots, tokens) == [1, 40], "the other one's has ended"
        clock.advance(1)
        assert await self.remaining(store, slots, tokens) == [2, 100]

    @pytest.mark.parametrize(("used", "left"), [(0, 1000), (100, 900), (600, 400), (1000, 0)])
    async def test_settling_charges_what_was_used(self, store: BucketStore, used: int, left: int) -> None:
        tokens, exchange = quota(TOKENS, 1000), fresh_id()
        await store.admit(exchange, [Charge(tokens, 600)])
        assert await store.settle(exchange, [Charge(tokens, used)])
        assert await self.remaining(store, tokens) == [left]

    async def test_settling_happens_once(self, store: BucketStore) -> None:
        tokens, exchange = quota(TOKENS, 1000), fresh_id()
        await store.admit(exchange, [Charge(tokens, 600)])
        assert await store.settle(exchange, [Charge(tokens, 100)])
        assert not await store.settle(exchange, [Charge(tokens, 100)])
        assert not await store.settle(fresh_id(), [Charge(tokens, 100)])
        assert await self.remaining(store, tokens) == [900]

    async def test_debt_is_kept_whole_and_paid_by_waiting(self, store: BucketStore, clock: FakeClock) -> None:
        tokens, exchange = quota(TOKENS, 1000), fresh_id()
        await store.admit(exchange, [Charge(tokens, 10)])
        await store.settle(exchange, [Charge(tokens, 50_000)])
        refused = await store.admit(fresh_id(), [Charge(tokens, 500)])
        assert refused.retry_after_seconds == 49.5 * 60
        clock.advance(49 * 60)
        assert await self.remaining(store, tokens) == [0]
        clock.advance(30)
        assert (await store.admit(fresh_id(), [Charge(tokens, 500)])).allowed

    @pytest.mark.parametrize("dimension", [d for d in Dimension if d.settles and d.period_seconds])
    @pytest.mark.parametrize("by", ["settlements", "debits"])
    async def test_nobody_exceeds_the_limit_in_the_long_run(
        self, store: BucketStore, clock: FakeClock, dimension: Dimension, by: str
    ) -> None:
        """Whoever always gets five times what was thought still has one limit per period."""
        limit, period = quota(dimension, 10), dimension.period_seconds
        step, used, periods = limit.permits // 10, 0, 300
        for _ in range(periods):
            for _ in range(10):
                exchange = fresh_id()
                if (await store.admit(exchange, [Charge(limit, step)])).allowed:
                    used += 5 * step
                    if by == "debits":
                        await store.debit("", [Charge(limit, 4 * step)])
                        await store.settle(exchange, [Charge(limit, step)])
                    else:
                        await store.settle(exchange, [Charge(limit, 5 * step)])
            clock.advance(period)
        assert used <= limit.permits * (periods + 2)

    async def test_deepest_debt_is_counted_and_does_not_grow(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        tokens = quota(Dimension.TOKENS_PER_DAY, 10)
        for _ in range(3):
            for permits in (1000, 10**12, 2**60, 10**30):
                await store.debit("", [Charge(tokens, permits)])
        assert list(await store.missing([tokens])) == [MOST_GRAINS]
        wait = (await store.look([Charge(tokens)])).retry_after_seconds
        assert wait == (MOST_GRAINS - 9 * 60_000) // 10 * 1.44 + 1.44
        clock.advance(86_400)
        assert list(await store.missing([tokens])) == [MOST_GRAINS - 10 * 60_000]

    async def test_settling_holds_on_to_what_is_not_named(self, store: BucketStore) -> None:
        key, exchange = fresh_key(), fresh_id()
        requests, tokens = quota(capacity=10, key=key), quota(TOKENS, 1000, key=key)
        await store.admit(exchange, [Charge(requests), Charge(tokens, 600)])
        await store.settle(exchange, [Charge(tokens, 100)])
        assert await self.remaining(store, requests, tokens) == [9, 900]
        assert await store.settle(exchange, [Charge(requests, 0)])
        assert await self.remaining(store, requests, tokens) == [10, 900]

    async def test_settling_with_zeros_gives_everything_back(self, store: BucketStore) -> None:
        key, exchange = fresh_key(), fresh_id()
        charges = [Charge(quota(capacity=10, key=key)), Charge(quota(SLOTS, 2, key=key))]
        await store.admit(exchange, charges)
        await store.settle(exchange, [Charge(charge.quota, 0) for charge in charges])
        assert await self.remaining(store, *(charge.quota for charge in charges)) == [10, 2]

    async def test_requests_alone_can_be_held_and_given_back(self, store: BucketStore) -> None:
        requests, exchange = quota(capacity=10), fresh_id()
        await store.admit(exchange, [Charge(requests)], hold=True)
        assert await self.remaining(store, requests) == [9]
        assert await store.settle(exchange, [Charge(requests, 0)])
        assert await self.remaining(store, requests) == [10]

    async def test_held_charge_of_zero_permits_may_be_settled_upwards(self, store: BucketStore) -> None:
        tokens, exchange = quota(TOKENS, 100), fresh_id()
        await store.admit(exchange, [Charge(tokens, 0)], hold=True)
        assert await store.settle(exchange, [Charge(tokens, 30)])
        assert await self.remaining(store, tokens) == [70]

    async def test_slots_are_free_again_when_settled_and_not_by_time(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        slots = quota(SLOTS, 2)
        held = [fresh_id(), fresh_id()]
        for exchange in held:
            assert (await store.admit(exchange, [Charge(slots)])).allowed
        clock.advance(5)
        refused = await store.admit(fresh_id(), [Charge(slots)])
        assert (refused.allowed, refused.refused_by) == (False, slots)
        assert await store.settle(held[0], [Charge(slots)])
        assert (await store.admit(fresh_id(), [Charge(slots)])).allowed

    async def test_crashed_exchange_returns_slot_and_reservation_when_its_lease_ends(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        key = fresh_key()
        slots, tokens = quota(SLOTS, 1, key=key), quota(Dimension.TOKENS_PER_DAY, 1000, key=key)
        await store.admit(fresh_id(), [Charge(slots), Charge(tokens, 900)])
        clock.advance(9.9)
        assert await self.remaining(store, slots, tokens) == [0, 100]
        clock.advance(0.2)
        assert await self.remaining(store, slots, tokens) == [1, 1000]

    @pytest.mark.parametrize("dimension", Dimension)
    async def test_lease_that_ends_gives_back_what_may_not_have_been_used_and_no_request(
        self, store: BucketStore, clock: FakeClock, dimension: Dimension
    ) -> None:
        capacity = 1_000_000  # so that time gives back nothing that shows
        limit = quota(dimension, capacity // dimension.permits_per_unit)
        permits = 1 if dimension is SLOTS else capacity // 2
        assert (await store.admit(fresh_id(), [Charge(limit, permits)], hold=True)).allowed
        clock.advance(10.5)
        missing = (await store.missing([limit]))[0]
        if dimension.settles:
            assert missing == 0
        else:
            assert missing > capacity // 4 * 60_000

    async def test_clock_that_goes_back_goes_on_refilling_what_was_taken(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        key = fresh_key()
        minute, day = quota(TOKENS, 60, key=key), quota(Dimension.TOKENS_PER_DAY, 86_400, key=key)
        await store.debit("", [Charge(minute, 60), Charge(day, 86_400)])
        for seconds in (90, 3 * 3600, 5 * 365 * 86_400):
            clock.now -= seconds
            for asked in range(2):
                refused = await store.admit(fresh_id(), [Charge(minute, 30), Charge(day, 30)])
                assert not refused.allowed
                assert refused.retry_after_seconds == pytest.approx(30 - 5 * asked, abs=1.5)
                clock.advance(5)
            clock.advance(21.5)
            assert (await store.admit(fresh_id(), [Charge(minute, 30), Charge(day, 30)])).allowed
            await store.debit("", [Charge(minute, await self.left(store, minute))])
            await store.debit("", [Charge(day, await self.left(store, day))])

    async def left(self, store: BucketStore, limit: Quota) -> int:
        return (await self.remaining(store, limit))[0]

    @pytest.mark.parametrize("asked", ["by look", "by settlement"])
    async def test_clock_that_goes_back_is_noticed_whoever_asks(
        self, store: BucketStore, clock: FakeClock, asked: str
    ) -> None:
        tokens, exchange = quota(TOKENS, 60), fresh_id()
        await store.admit(exchange, [Charge(tokens, 30)])
        await store.debit("", [Charge(tokens, 30)])
        clock.now -= 3600
        if asked == "by look":
            await store.look([Charge(tokens)])
        else:
            await store.settle(exchange, [Charge(tokens, 30)])
        clock.advance(9)
        assert await self.remaining(store, tokens) == [9]

    @pytest.mark.parametrize("seen_by", ["who asks", "who lives on"])
    async def test_slot_of_who_died_comes_back_though_the_clock_went_back(
        self, store: BucketStore, clock: FakeClock, seen_by: str
    ) -> None:
        slots = quota(SLOTS, 3)
        dead, alive = fresh_id(), fresh_id()
        await store.admit(dead, [Charge(slots)])
        await store.admit(alive, [Charge(slots)])
        for _ in range(20):
            clock.advance(5)
            await store.renew([(dead, slots.key), (alive, slots.key)])
        clock.now -= 30
        if seen_by == "who asks":
            await store.look([Charge(slots)])
        assert await store.renew([(alive, slots.key)]) == []
        clock.advance(9)
        assert await store.renew([(alive, slots.key)]) == []
        assert await self.remaining(store, slots) == [1]
        clock.advance(1.1)
        assert await self.remaining(store, slots) == [2]

    async def test_renewed_lease_lives_on_and_missing_ones_are_named(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        slots = quota(SLOTS, 2)
        renewed, forgotten = fresh_id(), fresh_id()
        for exchange in (renewed, forgotten):
            await store.admit(exchange, [Charge(slots)])
        for _ in range(3):
            clock.advance(6)
            missing = await store.renew([(renewed, slots.key), ("nobody", slots.key)])
            assert missing == [("nobody", slots.key)]
            await store.look([Charge(slots)])
        assert await self.remaining(store, slots) == [1]
        assert await store.settle(renewed, [Charge(slots)])
        assert not await store.settle(forgotten, [Charge(slots)])

    async def test_debit_takes_whatever_the_level_and_can_be_held(self, store: BucketStore) -> None:
        tokens, exchange = quota(TOKENS, 100), fresh_id()
        await store.admit(fresh_id(), [Charge(tokens, 90)])
        await store.debit(exchange, [Charge(tokens, 60)], hold=True)
        await store.debit(exchange, [Charge(tokens, 60)], hold=True)
        assert (await store.look([Charge(tokens, 50)])).retry_after_seconds == 60.0
        assert await store.settle(exchange, [Charge(tokens, 0)])
        assert await self.remaining(store, tokens) == [10]

    async def test_capacity_may_change_between_admissions(self, store: BucketStore, clock: FakeClock) -> None:
        key = fresh_key()
        await store.admit(fresh_id(), [Charge(quota(capacity=1000, key=key), 900)])
        assert await self.remaining(store, quota(capacity=2000, key=key)) == [1100]
        lowered = quota(capacity=10, key=key)
        assert await self.remaining(store, lowered) == [0]
        clock.advance(89 * 60)
        assert await self.remaining(store, lowered) == [0], "what was used is used"
        clock.advance(60)
        assert await self.remaining(store, lowered) == [10]

    async def test_audio_is_limited_in_megabytes_and_charged_in_bytes(self, store: BucketStore) -> None:
        audio = quota(Dimension.AUDIO_MEGABYTES_PER_MINUTE, 25)
        decision = await store.admit(fresh_id(), [Charge(audio, 1_500_000)])
        assert (decision.levels[0].limit, decision.levels[0].remaining) == (25, 23)
        assert not (await store.admit(fresh_id(), [Charge(audio, 23_500_001)])).allowed
        assert (await store.admit(fresh_id(), [Charge(audio, 23_500_000)])).allowed

    async def test_reset_fills_buckets_and_frees_slots(self, store: BucketStore) -> None:
        key = fresh_key()
        charges = [Charge(quota(TOKENS, 100, key=key), 100), Charge(quota(SLOTS, 1, key=key))]
        await store.admit(fresh_id(), charges)
        await store.reset([key])
        assert (await store.admit(fresh_id(), charges)).allowed

    async def test_concurrent_admissions_never_exceed_the_capacity(self, store: BucketStore) -> None:
        key = fresh_key()
        requests, tokens = quota(capacity=100, key=key), quota(TOKENS, 500, key=key)

        async def one() -> bool:
            return (await store.admit(fresh_id(), [Charge(requests), Charge(tokens, 7)])).allowed

        granted = await asyncio.gather(*(one() for _ in range(400)))
        assert sum(granted) == 500 // 7
        assert await self.remaining(store, requests, tokens) == [100 - 71, 500 - 71 * 7]

    async def test_steps_of_one_turn_are_decided_one_after_another(self, store: BucketStore) -> None:
        key, first, second = fresh_key(), fresh_id(), fresh_id()
        slots, tokens = quota(SLOTS, 1, key=key), quota(TOKENS, 100, key=key)
        charges = [Charge(slots), Charge(tokens, 60)]
        assert (await store.admit(first, charges)).allowed
        refused, settled, granted, look = await asyncio.gather(
            store.admit(second, charges),
            store.settle(first, [Charge(slots, 0), Charge(tokens, 10)]),
            store.admit(second, charges),
            store.look([Charge(slots, 0), Charge(tokens, 0)]),
        )
        assert (refused.allowed, settled, granted.allowed) == (False, True, True)
        assert [level.remaining for level in look.levels] == [0, 30]

    async def test_exchange_may_begin_and_end_within_one_turn(
        self, store: BucketStore, clock: FakeClock
    ) -> None:
        exchange, slots = fresh_id(), quota(SLOTS, 1)
        held, settled, again = await asyncio.gather(
            store.admit(exchange, [Charge(slots)]),
            store.settle(exchange, [Charge(slots, 0)]),
            store.settle(exchange, [Charge(slots, 0)]),
        )
        assert (held.allowed, settled, again) == (True, True, False)
        assert await store.renew([(exchange, slots.key)]) == [(exchange, slots.key)], "nothing is left of it"
        clock.advance(11)
        assert await self.remaining(store, slots) == [1]

    async def test_turn_may_be_larger_than_a_call(self, store: BucketStore) -> None:
        requests, others = quota(capacity=150), quota(capacity=1000)
        decisions = await asyncio.gather(
            *(store.admit(fresh_id(), [Charge((n % 2 and requests) or others)]) for n in range(400))
        )
        assert sum(decision.allowed for decision in decisions) == 350
        # Of two tenants, whose accounts may be on different servers.
        assert await self.remaining(store, requests) == [0]
        assert await self.remaining(store, others) == [800]
