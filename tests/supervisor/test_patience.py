"""How soon workers are replaced."""

from __future__ import annotations

from gateway.supervisor.patience import AT_ONCE, HOPELESS_STARTS, MOST_DELAY_SECONDS, RECENT_SECONDS, Patience


def test_worker_that_dies_now_and_then_is_replaced_at_once() -> None:
    patience = Patience()

    assert [patience.ended(at * RECENT_SECONDS, came_up=True) for at in range(50)] == [0.0] * 50


def test_worker_that_dies_again_and_again_is_replaced_ever_later_and_never_later_than_a_bound() -> None:
    patience = Patience()
    delays = [patience.ended(0.01 * at, came_up=True) for at in range(40)]

    assert delays[:AT_ONCE] == [0.0] * AT_ONCE
    assert delays[AT_ONCE] > 0
    assert delays == sorted(delays)
    assert delays[-1] == MOST_DELAY_SECONDS


def test_starts_that_come_to_nothing_wait_from_the_first_on_until_there_is_no_hope() -> None:
    patience = Patience()
    for start in range(HOPELESS_STARTS):
        assert not patience.is_hopeless
        assert patience.ended(1000.0 * start, came_up=False) > 0

    assert patience.is_hopeless


def test_one_that_comes_up_ends_that() -> None:
    patience = Patience()
    for start in range(HOPELESS_STARTS):
        patience.ended(1000.0 * start, came_up=False)
    patience.came_up()

    assert not patience.is_hopeless
    assert patience.ended(1e6, came_up=True) == 0.0
