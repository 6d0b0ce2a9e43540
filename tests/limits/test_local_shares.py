"""What a worker grants by itself: its share, the limit's policy, and an honest account afterwards."""

from __future__ import annotations

import pytest

from gateway.limits.local_shares import LocalShares
from gateway.limits.store import Census, StoreUnavailable
from gateway.limits.terms import Charge, Dimension, OnStoreFailure, Quota
from tests.limits.contract import FakeClock, fresh_id, fresh_key, quota

UNSENT = StoreUnavailable("away", sent=False)
SENT = StoreUnavailable("silent", sent=True)
TOKENS = Dimension.TOKENS_PER_MINUTE


def shares(place: int = 0, workers: int = 1) -> LocalShares:
    return LocalShares(Census(place, workers), clock=FakeClock())


def grants(local: LocalShares, charge: Charge, times: int) -> int:
    allowed = 0
    for _ in range(times):
        decision, _ = local.admit(fresh_id(), [charge], UNSENT, hold=False)
        allowed += decision.allowed
    return allowed


def test_all_workers_together_grant_one_limit() -> None:
    requests = quota(capacity=10)
    granted = [grants(shares(place, 4), Charge(requests), 10) for place in range(4)]
    assert sorted(granted) == [2, 2, 3, 3]


def test_worker_without_a_share_refuses_but_never_says_never() -> None:
    requests = quota(capacity=1)
    decision, taken = shares(0, 2).admit(fresh_id(), [Charge(requests)], UNSENT, hold=False)
    assert (decision.allowed, decision.never, decision.refused_by, taken) == (False, False, requests, [])
    assert decision.retry_after_seconds == 1.0
    assert (decision.levels[0].limit, decision.levels[0].remaining) == (1, 0)


def test_decision_speaks_of_the_limit_not_of_the_share() -> None:
    requests = quota(capacity=10)
    local = shares(0, 2)
    decision, _ = local.admit(fresh_id(), [Charge(requests)], UNSENT, hold=False)
    assert (decision.allowed, decision.from_store) == (True, False)
    assert (decision.levels[0].limit, decision.levels[0].remaining) == (10, 4)
    grants(local, Charge(requests), 10)
    refused, _ = local.admit(fresh_id(), [Charge(requests)], UNSENT, hold=False)
    assert refused.refused_by == requests
    assert refused.retry_after_seconds == 12.0


def test_guess_is_cut_to_the_share_and_what_is_known_must_fit() -> None:
    tokens = quota(TOKENS, 1000)
    local = shares(0, 4)
    guessed = Charge(tokens, 900, known=100)
    decision, taken = local.admit(fresh_id(), [guessed], UNSENT, hold=True)
    assert decision.allowed
    assert [charge.permits for charge in taken] == [250]
    known, _ = shares(0, 4).admit(fresh_id(), [Charge(tokens, 900)], UNSENT, hold=True)
    assert (known.allowed, known.never) == (False, False)
    never, _ = shares(0, 4).admit(fresh_id(), [Charge(tokens, 1001)], UNSENT, hold=True)
    assert never.never


def test_open_limit_grants_everything_and_counts_nothing() -> None:
    requests = Quota(Dimension.REQUESTS_PER_MINUTE, 1, fresh_key(), OnStoreFailure.OPEN)
    local = shares()
    assert grants(local, Charge(requests), 5) == 5
    assert list(local.unreported()) == []


def test_closed_limit_cannot_be_decided_unless_it_is_only_looked_at() -> None:
    closed = Quota(Dimension.REQUESTS_PER_MINUTE, 1, fresh_key(), OnStoreFailure.CLOSED)
    local = shares()
    with pytest.raises(StoreUnavailable):
        local.admit(fresh_id(), [Charge(closed)], UNSENT, hold=False)
    decision, _ = local.admit(fresh_id(), [Charge(closed, 0)], UNSENT, hold=False)
    assert decision.allowed


def test_one_closed_limit_keeps_the_others_untouched() -> None:
    requests = quota(capacity=1)
    closed = Quota(TOKENS, 10, requests.key, OnStoreFailure.CLOSED)
    local = shares()
    with pytest.raises(StoreUnavailable):
        local.admit(fresh_id(), [Charge(requests), Charge(closed)], UNSENT, hold=True)
    assert grants(local, Charge(requests), 1) == 1


def test_what_was_granted_for_good_is_reported_once() -> None:
    requests = quota(capacity=10)
    local = shares()
    grants(local, Charge(requests), 3)
    assert list(local.unreported()) == [[Charge(requests, 3)]]
    assert list(local.unreported()) == []


def test_what_the_store_may_have_charged_is_not_reported_again() -> None:
    requests = quota(capacity=10)
    local = shares()
    local.admit(fresh_id(), [Charge(requests)], SENT, hold=False)
    assert list(local.unreported()) == []


def test_what_is_held_is_reported_as_used_when_it_ends() -> None:
    key, exchange = fresh_key(), fresh_id()
    tokens, slots = quota(TOKENS, 100, key=key), quota(Dimension.CONCURRENT_REQUESTS, 1, key=key)
    local = shares()
    local.admit(exchange, [Charge(tokens, 80), Charge(slots)], UNSENT, hold=True)
    assert list(local.unreported()) == []
    assert not (local.look([Charge(slots)], UNSENT)).allowed
    local.settle(exchange, [Charge(tokens, 30), Charge(slots, 0)])
    assert list(local.unreported()) == [[Charge(tokens, 30)]]
    look = local.look([Charge(tokens), Charge(slots)], UNSENT)
    assert [level.remaining for level in look.levels] == [70, 1]


def test_slot_is_free_again_even_if_the_share_is_gone_when_it_ends() -> None:
    slots, exchange = quota(Dimension.CONCURRENT_REQUESTS, 1), fresh_id()
    local = shares(0, 1)
    local.admit(exchange, [Charge(slots)], UNSENT, hold=True)
    local.census = Census(0, 2)
    local.settle(exchange, [Charge(slots, 0)])
    local.census = Census(1, 2)
    assert (local.look([Charge(slots)], UNSENT)).allowed


def test_shares_follow_the_number_of_workers() -> None:
    requests = quota(capacity=10)
    local = shares(0, 1)
    assert grants(local, Charge(requests), 4) == 4
    local.census = Census(0, 2)
    assert grants(local, Charge(requests), 4) == 1
