"""The arithmetic of limits, alone."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.arithmetic import bounded, debt, decide, fits, format_reset, level, still_taken, tightest
from gateway.limits.charges import Charges
from gateway.limits.store import Census, share
from gateway.limits.terms import (
    MOST_GRAINS,
    MOST_PERMITS,
    TICKS_PER_PERIOD,
    Charge,
    Dimension,
    Quota,
    account_key,
)

KEY = account_key("acme")
REQUESTS = Dimension.REQUESTS_PER_MINUTE


def test_every_dimension_has_the_name_of_the_api() -> None:
    assert {str(dimension) for dimension in Dimension} == {
        "max_requests_per_1_minute",
        "max_tokens_per_1_minute",
        "max_images_per_1_minute",
        "max_audio_megabytes_per_1_minute",
        "max_requests_per_1_day",
        "max_tokens_per_1_day",
        "batch_1_day_max_input_tokens",
        "max_concurrent_requests",
    }
    assert all(Dimension(str(dimension)) is dimension for dimension in Dimension)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (61.5, "1m1.5s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (86_400, "24h0m0s"),
        (90_061.25, "25h1m1.25s"),
    ],
)
def test_reset_is_written_like_the_api_does(seconds: float, text: str) -> None:
    assert format_reset(seconds) == text


@pytest.mark.parametrize("capacity", [0, -1, MOST_PERMITS + 1])
def test_capacity_that_cannot_be_counted_exactly_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="max_requests_per_1_minute must be between 1 and"):
        Quota(REQUESTS, capacity, KEY)


def test_exchange_takes_no_negative_permits_and_one_slot_at_most() -> None:
    with pytest.raises(ValueError, match="-1"):
        Charge(Quota(REQUESTS, 1, KEY), -1)
    with pytest.raises(ValueError, match="one slot"):
        Charge(Quota(Dimension.CONCURRENT_REQUESTS, 9, KEY), 2)


def test_only_what_settling_may_change_is_held() -> None:
    requests = Charge(Quota(REQUESTS, 10, KEY))
    tokens = Quota(Dimension.TOKENS_PER_DAY, 10, KEY)
    slots = Quota(Dimension.CONCURRENT_REQUESTS, 10, KEY)
    assert not Charges.of([requests, Charge(tokens, 0)]).holds()
    assert Charges.of([requests, Charge(tokens, 1)]).holds()
    assert Charges.of([requests, Charge(slots)]).holds()


def test_refusal_names_the_charge_that_waits_longest() -> None:
    minute = Quota(REQUESTS, 60, KEY)
    day = Quota(Dimension.REQUESTS_PER_DAY, 86_400, KEY)
    decision = decide(
        Charges.of([Charge(minute), Charge(day)]),
        [minute.grains, day.grains + 9 * TICKS_PER_PERIOD],
        granted=False,
    )
    assert decision.refused_by == day
    assert decision.retry_after_seconds == pytest.approx(10, abs=1.44)


def test_impossible_charge_is_named_before_one_that_only_waits() -> None:
    minute, tokens = Quota(REQUESTS, 1, KEY), Quota(Dimension.TOKENS_PER_MINUTE, 10, KEY)
    decision = decide(Charges.of([Charge(minute), Charge(tokens, 11)]), [minute.grains, 0], granted=False)
    assert (decision.refused_by, decision.never) == (tokens, True)


def test_slot_that_is_taken_is_worth_another_try_soon() -> None:
    slots = Quota(Dimension.CONCURRENT_REQUESTS, 1, KEY)
    decision = decide(Charges.of([Charge(slots)]), [slots.grains], granted=False)
    assert decision.retry_after_seconds == 1.0


def test_tightest_level_of_each_unit_is_reported() -> None:
    day = level(Quota(Dimension.REQUESTS_PER_DAY, 1000, KEY), 999 * TICKS_PER_PERIOD)
    minute = level(Quota(REQUESTS, 60, KEY), 0)
    tokens = level(Quota(Dimension.TOKENS_PER_MINUTE, 5, KEY), 0)
    assert list(tightest([minute, day, tokens])) == [day, tokens]


def test_clock_that_goes_back_refills_nothing() -> None:
    quota = Quota(REQUESTS, 60, KEY)
    assert still_taken(quota, quota.grains, 5_000, 1_000_000) == quota.grains


@given(st.sampled_from(Dimension), st.integers(1, MOST_PERMITS), st.lists(st.integers(0, 10**30), max_size=9))
def test_sum_of_absurd_reports_is_one_that_doubles_hold(
    dimension: Dimension, permits: int, reports: list[int]
) -> None:
    quota = Quota(dimension, max(1, permits // dimension.permits_per_unit), KEY)
    taken, exact = 0, True
    for reported in reports:
        more = min(reported, quota.most_reported) * TICKS_PER_PERIOD
        assert taken + more <= 2**53
        exact = exact and taken + more <= MOST_GRAINS
        taken = bounded(taken + more)
    assert taken <= MOST_GRAINS
    if exact:
        assert taken == sum(min(reported, quota.most_reported) for reported in reports) * TICKS_PER_PERIOD


def test_report_is_a_hundred_limits_at_most_or_what_can_be_owed_at_all() -> None:
    assert Quota(REQUESTS, 60, KEY).most_reported == 6000
    assert Quota(Dimension.AUDIO_MEGABYTES_PER_MINUTE, 1, KEY).most_reported == 100_000_000
    assert Quota(REQUESTS, MOST_PERMITS, KEY).most_reported == MOST_GRAINS // TICKS_PER_PERIOD
    assert MOST_GRAINS // TICKS_PER_PERIOD > 75_000_000_000


@given(st.integers(1, MOST_PERMITS), st.integers(0, MOST_GRAINS))
def test_debt_is_paid_off_when_it_is_said_to_be(permits: int, taken: int) -> None:
    quota = Quota(Dimension.TOKENS_PER_DAY, permits, KEY)
    owed, milliseconds = debt(quota, taken)
    assert (owed - 1) * TICKS_PER_PERIOD < max(0, taken - quota.grains) <= owed * TICKS_PER_PERIOD
    tick = quota.tick_microseconds // 1000
    assert still_taken(quota, taken, 0, milliseconds * 1000) <= quota.grains
    if owed:
        assert still_taken(quota, taken, 0, (milliseconds - tick) * 1000) > quota.grains


def test_account_keys_share_their_tenants_slot_and_nothing_else() -> None:
    keys = [
        account_key("acme"),
        account_key("acme", model="gpt-4o*"),
        account_key("acme", subject="model=gpt-4o*"),
        account_key("acme", model="a", subject="b"),
        account_key("acme", credential="b"),
        account_key("acme:model=a"),
        account_key("a}b{c"),
    ]
    assert len(set(keys)) == len(keys)
    tags = [key[: key.index("}") + 1] for key in keys]
    assert len(set(tags[:5])) == 1
    assert len(set(tags)) == 3
    assert all(len(tag) == 10 and key.count("{") == 1 for tag, key in zip(tags, keys, strict=True))


@given(st.integers(1, MOST_PERMITS), st.integers(1, 500))
def test_shares_of_all_workers_sum_up_to_the_limit(capacity: int, workers: int) -> None:
    quota = Quota(REQUESTS, capacity, KEY)
    shares = [share(quota, Census(place, workers)) for place in range(workers)]
    assert sum(part.capacity for part in shares if part) == capacity
    assert all(part.key == KEY for part in shares if part)


steps = st.lists(st.tuples(st.integers(0, 90_000_000_000), st.integers(1, 50)), max_size=60)


@given(st.sampled_from([d for d in Dimension if d.period_seconds]), st.integers(1, 60), steps)
def test_no_window_grants_more_than_capacity_plus_refill(
    dimension: Dimension, capacity: int, steps: list[tuple[int, int]]
) -> None:
    quota = Quota(dimension, capacity, KEY)
    now = taken = tick = 0
    grants: list[tuple[int, int]] = []
    for pause, permits in steps:
        now += pause
        taken, tick = still_taken(quota, taken, tick, now), now // quota.tick_microseconds
        if fits(quota, permits, taken):
            taken += permits * TICKS_PER_PERIOD
            grants.append((now, permits))
    for first, (start, _) in enumerate(grants):
        total = 0
        for when, permits in grants[first:]:
            total += permits
            # One tick of grace: time is counted in whole ticks, from before the window.
            elapsed = Fraction(when - start + quota.tick_microseconds, 1_000_000)
            assert total <= quota.permits + quota.permits * elapsed / quota.period_seconds


@given(st.integers(1, 1000), st.integers(0, MOST_GRAINS), st.integers(1, 1000), st.integers(0, 10**9))
def test_waiting_as_told_is_enough_and_one_tick_less_is_not(
    capacity: int, taken: int, permits: int, now: int
) -> None:
    quota = Quota(REQUESTS, capacity, KEY)
    charge = Charge(quota, min(permits, capacity))
    if fits(quota, charge.permits, taken):
        return
    wait = decide(Charges.of([charge]), [taken], granted=False).retry_after_seconds
    assert wait is not None
    tick, later = now // quota.tick_microseconds, now + round(wait * 1_000_000)
    assert fits(quota, charge.permits, still_taken(quota, taken, tick, later))
    assert not fits(quota, charge.permits, still_taken(quota, taken, tick, later - quota.tick_microseconds))
