"""Own entries are found wherever they lie, at a bounded price, whatever comes and goes meanwhile."""

from __future__ import annotations

import asyncio
import random

import orjson
import pytest
from aiohttp import web

from gateway.proxy import owned_lists
from tests.kit.gateway import running_gateway
from tests.kit.redis import RedisServer
from tests.kit.stored import FIRST_SECOND, files, own, registry_of, running_account, scope_of, sharing
from tests.kit.waiting import comes_to, until
from tests.promises.owned_lists.conftest import Shared


@pytest.mark.parametrize("at", [0, 5_000, 9_999])
@pytest.mark.parametrize("limit", ["limit=20", "limit=1", "order=asc"])
async def test_one_among_ten_thousand_costs_two_questions(shared: Shared, at: int, limit: str) -> None:
    everything = list(files(10_000, in_a_second=100))
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", [everything[at]])
    assert await shared.listed(f"/v1/files?{limit}") == ([everything[at]["id"]], False)
    assert len(shared.account.asked) <= 2


async def test_a_tenant_that_has_nothing_sees_nothing_for_one_question(shared: Shared) -> None:
    shared.account.put("/v1/files", files(3_000))
    assert await shared.listed("/v1/files") == ([], False)
    assert len(shared.account.asked) == 1
    line = (await shared.gateway.lines.wait())[-1]
    assert (line["attempts"], line["upstream_status"], line["status"]) == (1, 200, 200)


async def test_scattered_entries_are_asked_for_by_their_ids_eight_at_once(shared: Shared) -> None:
    everything = list(files(10_000, in_a_second=50))
    mine = everything[::400]
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", mine)
    under_way, most = 0, 0

    async def count(request: web.Request) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.02)
        under_way -= 1

    shared.account.before = count
    ids, more = await shared.listed("/v1/files?limit=20")
    assert (ids, more) == ([one["id"] for one in mine[::-1][:20]], True)
    assert most == 8
    assert len(shared.account.asked) <= 22
    line = (await shared.gateway.lines.wait())[-1]
    assert line["attempts"] == len(shared.account.asked)


async def test_few_among_many_are_found_in_longer_pages(shared: Shared) -> None:
    everything = list(files(5_000, in_a_second=50))
    mine = everything[::50]
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", mine)
    assert await shared.listed("/v1/files?limit=20") == ([one["id"] for one in mine[::-1][:20]], True)
    assert len(shared.account.asked) <= 3


async def test_bunches_far_apart_are_taken_from_the_pages_behind_their_first(shared: Shared) -> None:
    everything = list(files(9_000, in_a_second=30))
    mine = [one for at, one in enumerate(everything) if at % 3_000 < 300]
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", mine)
    assert await shared.listed("/v1/files") == ([one["id"] for one in mine[::-1]], False)
    assert len(shared.account.asked) <= 40


async def test_nothing_is_shown_twice_or_missed_while_much_comes_and_goes(shared: Shared) -> None:
    """All of it in a few seconds, so that only the order of recording tells entries apart."""
    chance = random.Random(4)
    everything = list(files(1_500, in_a_second=700))
    shared.account.put("/v1/files", everything)
    mine = [one for one in everything if chance.random() < 0.2]
    chance.shuffle(mine)  # they are recorded in another order than the upstream has them in
    mine.sort(key=lambda one: one["created_at"])
    await own(shared.gateway, "ours", "file", mine)
    for order in ("asc", "desc"):
        there = {one["id"] for one in mine if shared.account.store.has(f"/v1/files/{one['id']}")}
        seen: list[str] = []
        gone: set[str] = set()
        first, after, more = 2_000 if order == "asc" else 4_000, "", True
        while more:
            some, more = await shared.listed(f"/v1/files?limit=17&order={order}{after}")
            seen += some
            after = f"&after={some[-1]}" if some else ""
            for one in chance.sample(everything, 12):
                path = f"/v1/files/{one['id']}"
                if one["id"] != seen[-1] and shared.account.store.has(path):
                    shared.account.store.delete(path)
                    gone.add(one["id"])
            new = list(files(5, first=first))
            first += 5
            shared.account.put("/v1/files", new)
            await own(shared.gateway, "others", "file", new)
        assert len(set(seen)) == len(seen)
        assert there - gone <= set(seen) <= there


async def test_what_is_gone_upstream_is_left_out_and_forgotten(shared: Shared) -> None:
    everything = list(files(400))
    mine = everything[::50]
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", mine)
    for one in mine[2:5]:
        shared.account.store.delete(f"/v1/files/{one['id']}")
    left = [one["id"] for one in [*mine[:2], *mine[5:]]]
    assert await shared.iterated("/v1/files?limit=2&order=asc") == left
    store, scope = registry_of(shared.gateway).store, scope_of(shared.gateway, "ours")
    await comes_to(len(left), lambda: store.count(scope, "file"))


async def test_a_list_of_nothing_but_what_is_gone_is_empty_and_has_no_more(shared: Shared) -> None:
    shared.account.put("/v1/files", files(300))
    await own(shared.gateway, "ours", "file", list(files(30, first=1_000)))
    assert await shared.listed("/v1/files?limit=5") == ([], False)


async def test_a_page_that_others_empty_meanwhile_is_told_all_the_same(shared: Shared) -> None:
    """The entry of another tenant's behind which the list is asked on is deleted between two pages."""
    everything = list(files(1_000, in_a_second=10))
    mine = [one for at, one in enumerate(everything) if at % 10 < 2]
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", mine)
    ours = {one["id"] for one in mine}

    async def delete(request: web.Request) -> None:
        cursor = request.query.get("after")
        if cursor and cursor not in ours and shared.account.store.has(f"/v1/files/{cursor}"):
            shared.account.store.delete(f"/v1/files/{cursor}")

    shared.account.before = delete
    assert await shared.iterated("/v1/files?limit=60") == [one["id"] for one in mine[::-1]]


async def test_time_runs_out_with_what_was_found_and_the_rest_follows(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned_lists, "SECONDS", 1.0)
    everything = list(files(4_000, in_a_second=40))
    mine = everything[::100]
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "ours", "file", mine)

    async def slowly(request: web.Request) -> None:
        await asyncio.sleep(0.3)

    shared.account.before = slowly
    some, more = await shared.listed("/v1/files?limit=100")
    assert more
    assert 0 < len(some) < len(mine)
    assert some == [one["id"] for one in mine[::-1]][: len(some)]
    assert await shared.iterated("/v1/files?limit=100") == [one["id"] for one in mine[::-1]]


async def test_time_that_runs_out_before_anything_was_found_is_a_timeout(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owned_lists, "SECONDS", 0.3)
    shared.account.put("/v1/files", files(2_000))
    await own(shared.gateway, "ours", "file", list(files(1)))

    async def slowly(request: web.Request) -> None:
        await asyncio.sleep(0.0 if "limit" in request.query else 5.0)

    shared.account.before = slowly
    answer = await shared.ask("/v1/files?limit=5")
    assert answer.status == 504
    assert orjson.loads(answer.body)["error"]["code"] == "upstream_timeout"


async def test_several_gateways_turn_one_anothers_pages(redis: RedisServer) -> None:
    everything = list(files(600))
    mine = everything[::7]
    async with running_account() as account:
        settings = sharing(account, ["ours", "others"], redis.url)
        async with running_gateway(**settings) as one, running_gateway(**settings) as other:
            account.put("/v1/files", everything)
            await own(one, "ours", "file", mine)
            gateways, more, turn = [Shared(one, account), Shared(other, account)], True, 0
            ids: list[str] = []
            while more:
                after = f"&after={ids[-1]}" if ids else ""
                some, more = await gateways[turn % 2].listed(f"/v1/files?limit=9{after}")
                ids += some
                turn += 1
            assert ids == [entry["id"] for entry in mine[::-1]]


async def test_tenants_do_not_wait_for_the_long_lists_of_others(shared: Shared) -> None:
    everything = list(files(10_000, in_a_second=100))
    shared.account.put("/v1/files", everything)
    await own(shared.gateway, "others", "file", everything[::25])
    await own(shared.gateway, "ours", "file", everything[:3])
    long = [asyncio.create_task(shared.listed("/v1/files", tenant="others")) for _ in range(6)]
    await asyncio.sleep(0)
    ids, _ = await shared.listed("/v1/files?limit=3")
    assert len(ids) == 3
    assert not all(task.done() for task in long)
    assert all(len(found) == 400 for found, _ in await asyncio.gather(*long))


@pytest.mark.parametrize("slow", ["/v1/files?", "/v1/files/file-"])
async def test_a_client_that_leaves_leaves_nothing_open_upstream(shared: Shared, slow: str) -> None:
    shared.account.put("/v1/files", files(2_000))
    await own(shared.gateway, "ours", "file", list(files(20)))

    async def wait(request: web.Request) -> None:
        await asyncio.sleep(30.0 if request.raw_path.startswith(slow) else 0.0)

    shared.account.before = wait
    client = await shared.gateway.connect()
    client.credential = shared.gateway.credential(tenant="ours")
    await client.send(client.request_bytes("GET", "/v1/files?limit=20"))
    await until(lambda: any(slow in asked for asked in shared.account.asked))
    client.reset()
    await until(lambda: shared.gateway.upstream_connections() == 0)
    line = (await shared.gateway.lines.wait())[-1]
    assert line["ending"] == "client_left"


def test_files_are_made_some_in_each_second() -> None:
    assert [one["created_at"] - FIRST_SECOND for one in files(5, in_a_second=2)] == [0, 0, 1, 1, 2]
