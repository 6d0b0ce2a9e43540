"""The breaker: one trial at a time, longer pauses while the trouble lasts, a log line for each kind of it."""

from __future__ import annotations

import logging

import pytest
from redis.exceptions import ReadOnlyError

from gateway.redis.breaker import (
    FIRST_HOLD_SECONDS,
    LONGEST_HOLD_SECONDS,
    STEADY_SECONDS,
    Breaker,
    BreakerState,
)
from tests.limits.contract import FakeClock

FAULT = ConnectionError("refused")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def breaker(clock: FakeClock) -> Breaker:
    return Breaker("h:6379", clock=clock)


def test_first_failure_stops_all_calls(breaker: Breaker) -> None:
    assert breaker.lets_through()
    breaker.failed(FAULT)
    assert not breaker.lets_through()


def test_sign_of_life_admits_one_trial_and_its_success_everyone(breaker: Breaker) -> None:
    breaker.failed(FAULT)
    breaker.probed(None)
    assert [breaker.lets_through() for _ in range(3)] == [True, False, False]
    breaker.succeeded()
    assert [breaker.lets_through() for _ in range(3)] == [True, True, True]


def test_trial_that_fails_opens_again(breaker: Breaker) -> None:
    breaker.failed(FAULT)
    breaker.probed(None)
    assert breaker.lets_through()
    breaker.failed(FAULT)
    assert breaker.state is BreakerState.OPEN


def test_trial_whose_caller_left_is_passed_on(breaker: Breaker) -> None:
    breaker.failed(FAULT)
    breaker.probed(None)
    assert breaker.lets_through()
    breaker.withdrawn()
    assert breaker.lets_through()


def test_late_success_of_an_earlier_call_closes_nothing(breaker: Breaker) -> None:
    breaker.failed(FAULT)
    breaker.succeeded()
    assert not breaker.lets_through()


def test_hold_grows_while_the_trouble_lasts_and_no_further_than_its_bound(breaker: Breaker) -> None:
    breaker.failed(FAULT)
    holds = []
    for _ in range(8):
        holds.append(breaker.hold_seconds)
        breaker.probed(FAULT)
    assert holds[:3] == [FIRST_HOLD_SECONDS, 2 * FIRST_HOLD_SECONDS, 4 * FIRST_HOLD_SECONDS]
    assert holds[-1] == LONGEST_HOLD_SECONDS


def test_crowd_of_failures_is_one_failure(breaker: Breaker) -> None:
    for _ in range(64):
        breaker.failed(FAULT)
    assert breaker.hold_seconds == FIRST_HOLD_SECONDS


def test_hold_starts_small_again_after_a_steady_time(breaker: Breaker, clock: FakeClock) -> None:
    def trouble() -> None:
        breaker.failed(FAULT)
        breaker.probed(FAULT)
        breaker.probed(None)
        assert breaker.lets_through()
        breaker.succeeded()

    trouble()
    trouble()
    assert breaker.hold_seconds == 4 * FIRST_HOLD_SECONDS
    clock.advance(STEADY_SECONDS)
    breaker.failed(FAULT)
    assert breaker.hold_seconds == FIRST_HOLD_SECONDS


def test_one_line_is_logged_per_change(
    breaker: Breaker, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(5):
        breaker.failed(FAULT)
    for _ in range(3):
        clock.advance(1)
        breaker.probed(None)
        breaker.lets_through()
        breaker.failed(FAULT)
    breaker.probed(None)
    breaker.lets_through()
    breaker.succeeded()
    breaker.succeeded()
    assert caplog.messages == [
        "Redis h:6379 fails: ConnectionError: refused",
        "Redis h:6379 answers again after 3.0 s",
    ]


def test_refusal_of_a_server_that_did_not_answer_is_logged_once(
    breaker: Breaker, caplog: pytest.LogCaptureFixture
) -> None:
    breaker.failed(FAULT)
    for failure in (FAULT, TimeoutError(), ReadOnlyError("not you"), ReadOnlyError("nor you"), FAULT):
        breaker.probed(failure)
    assert [record.getMessage() for record in caplog.records] == [
        *("Redis h:6379 fails: ConnectionError: refused", "Redis h:6379 fails: ReadOnlyError: not you")
    ]
