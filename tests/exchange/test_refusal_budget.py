"""Whatever addresses refusals come from, what is kept and told of them is bounded."""

from __future__ import annotations

from typing import Any

from gateway.exchange.refusal_budget import MOST_ADDRESSES, RefusalBudget


async def test_many_addresses_share_one_budget_beyond_some() -> None:
    told: list[dict[str, Any]] = []
    budget = RefusalBudget(2, tell=told.append)
    for number in range(20_000):
        budget.has_room(f"203.{number // 65536}.{number // 256 % 256}.{number % 256}", "invalid_api_key")
    assert len(budget._lines) <= MOST_ADDRESSES + 1
    budget.close()

    (others,) = told
    assert others["client"] is None
    assert others["refusals"] == {"invalid_api_key": 20_000 - MOST_ADDRESSES - 2}


async def test_addresses_of_one_network_share_a_budget() -> None:
    told: list[dict[str, Any]] = []
    budget = RefusalBudget(2, tell=told.append)
    rooms = [budget.has_room(f"2001:db8::{number:x}", "missing_api_key") for number in range(5)]
    rooms += [budget.has_room("2001:db8:0:1::1", "missing_api_key")]
    budget.close()

    assert rooms == [True, True, False, False, False, True]
    assert [(line["client"], line["refusals"]) for line in told] == [
        ("2001:db8::/64", {"missing_api_key": 3})
    ]


async def test_each_second_begins_anew() -> None:
    budget = RefusalBudget(1, tell=lambda _: None)
    assert [budget.has_room("192.0.2.1", "x") for _ in range(2)] == [True, False]
    budget.close()
    assert budget.has_room("192.0.2.1", "x")
    budget.close()
