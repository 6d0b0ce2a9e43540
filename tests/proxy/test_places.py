"""Who gets a place: at most so many, in turn by tenant, each given back once."""

from __future__ import annotations

import asyncio
import random

import pytest

from gateway.proxy.places import Places

LONG_SECONDS = 60.0


def places(most: int, share: float = 0.5, seen: list[str] | None = None) -> Places:
    """So many places."""
    return Places(most, tenant_share=share, first=(seen if seen is not None else []).append)


@pytest.mark.parametrize(
    ("most", "share", "one", "all_of_three"),
    [
        (100, 0.5, 90, 100),
        (100, 0.95, 95, 100),
        (100, 0.01, 90, 92),
        (100, 1.0, 100, 100),
        (10, 0.5, 9, 10),
        (3, 0.5, 2, 3),
        (2, 0.5, 1, 2),
        (1, 0.5, 1, 1),
        (1, 0.01, 1, 1),
    ],
)
async def test_a_tenant_takes_more_than_its_share_only_while_a_tenth_stays_free(
    most: int, share: float, one: int, all_of_three: int
) -> None:
    these = places(most, share)

    assert sum(these.take("one") for _ in range(2 * most)) == one
    for tenant in ("two", "three"):
        for _ in range(2 * most):
            these.take(tenant)
    assert these.taken == all_of_three


async def test_a_tenant_is_told_of_when_it_takes_a_place_for_the_first_time() -> None:
    seen: list[str] = []
    these = places(2, 1.0, seen)
    for tenant in ("one", "two", "one"):
        if these.take(tenant):
            these.give_back(tenant)

    assert seen == ["one", "two"]
    assert these.held_by("one") == these.held_by("nobody") == 0


async def served(these: Places, order: list[str], tenant: str, *, name: str | None = None) -> None:
    """Wait for a place, and note that it came."""
    if not these.take(tenant):
        assert await these.wait(tenant, LONG_SECONDS)
    order.append(name or tenant)


async def test_turns_go_round_the_tenants_and_within_a_tenant_in_order() -> None:
    these, order = places(1), list[str]()
    assert these.take("a")
    waiting = [
        asyncio.create_task(served(these, order, name[0], name=name))
        for name in ("a1", "a2", "a3", "b1", "b2", "c1")
    ]
    await asyncio.sleep(0)
    assert these.waiting == 6

    for number in range(6):
        these.give_back("a" if not number else order[-1][0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
    await asyncio.gather(*waiting)
    assert these.waiting == 0


async def test_whoever_is_over_its_share_lets_others_pass_and_keeps_its_turn() -> None:
    these, order = places(10), list[str]()
    while these.take("big"):
        pass
    assert these.take("small")
    big = asyncio.create_task(served(these, order, "big"))
    await asyncio.sleep(0)
    small = asyncio.create_task(served(these, order, "small"))
    await asyncio.sleep(0)
    assert these.taken == 10

    these.give_back("small")
    await small
    assert order == ["small"], "nine are held by one tenant, and nothing is free"

    these.give_back("big")
    these.give_back("small")
    await asyncio.wait_for(big, 1)
    assert these.held_by("big") == 9


async def test_a_place_that_was_handed_to_who_was_cancelled_goes_to_the_next() -> None:
    these, order = places(1), list[str]()
    assert these.take("a")
    first = asyncio.create_task(served(these, order, "a", name="first"))
    second = asyncio.create_task(served(these, order, "b", name="second"))
    await asyncio.sleep(0)

    these.give_back("a")
    first.cancel()  # in the same turn of the loop: the place is its own already
    await asyncio.wait({first})

    await asyncio.wait_for(second, 1)
    assert order == ["second"]
    assert (these.taken, these.held_by("a"), these.waiting) == (1, 0, 0)


async def test_who_is_cancelled_before_its_turn_leaves_no_trace() -> None:
    these = places(1)
    assert these.take("a")
    waiting = [asyncio.create_task(these.wait("b", LONG_SECONDS)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in waiting[:2]:
        task.cancel()

    these.give_back("a")

    assert await asyncio.wait_for(waiting[2], 1) is True
    assert (these.taken, these.held_by("b"), these.waiting) == (1, 1, 0)
    these.give_back("b")
    assert these.taken == 0


async def test_a_wait_ends_in_time_and_takes_nothing() -> None:
    these = places(1)
    assert these.take("a")

    assert await these.wait("b", 0.02) is False

    these.give_back("a")
    assert (these.taken, these.waiting) == (0, 0)
    assert these.take("b")


async def test_after_any_mix_of_ends_nothing_is_held() -> None:
    chance = random.Random(9)
    these = places(7, 0.4)
    most = 0

    async def one(tenant: str) -> None:
        nonlocal most
        if not these.take(tenant) and not await these.wait(tenant, chance.uniform(0, 0.01)):
            return
        most = max(most, these.taken)
        try:
            await asyncio.sleep(chance.uniform(0, 0.003))
        finally:
            these.give_back(tenant)

    async def storm(tenant: str) -> None:
        for _ in range(40):
            task = asyncio.create_task(one(tenant))
            if chance.random() < 0.4:
                await asyncio.sleep(chance.uniform(0, 0.006))
                task.cancel()
            await asyncio.wait({task})

    await asyncio.gather(*(storm(tenant) for tenant in "abcd" for _ in range(6)))

    assert most == 7
    assert (these.taken, these.waiting, these._queues) == (0, 0, {})
