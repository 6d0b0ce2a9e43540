"""Whose stored objects are, on the oldest Redis that is supported, the newest at hand, and a cluster."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from operator import attrgetter

import pytest
from redis.crc import key_slot

from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import account_key
from gateway.objects.keys import base_key, digest_of
from gateway.objects.redis_objects import RedisObjects
from gateway.objects.store import Intent, Made, Named, Scope
from gateway.operations.stored_kinds import StoredKind, StoredKinds
from gateway.redis.schema import DEFAULT_PREFIX
from tests.kit.redis import RedisServer, packaged_executable, running_cluster, running_redis
from tests.objects.stores import STORAGE, all_pages, cluster_url, file, named, somebody, store_on

KINDS = StoredKinds.load()

_SERVERS = ("path", "cluster", *(("6.2",) if sys.version_info < (3, 13) else ()))
HOSTILE = ("", "{}", "a{b}", "{x}:o:", "ü:\x00\n", "acme:o:", "%7Bx%7D", "a" * 64)


@pytest.fixture(scope="module", params=_SERVERS)
def servers(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of each."""
    with ExitStack() as stack:
        if request.param == "cluster":
            yield cluster_url(stack.enter_context(running_cluster()))
            return
        executable = packaged_executable() if request.param == "6.2" else None
        yield stack.enter_context(running_redis(executable=executable)).url


@pytest.fixture
async def store(servers: str) -> AsyncIterator[RedisObjects]:
    store = store_on(servers)
    yield store
    await store.close()


async def test_what_a_tenant_made_is_its_own_and_nobody_elses(store: RedisObjects) -> None:
    mine, theirs = somebody(), somebody("beta")
    made = [file("file-1"), Made("response", "resp_1", time.time()), Made("thread", "thread_1", time.time())]
    assert await store.look(mine, named(*made)) == [False] * 3
    assert await store.record(mine, made) == 3
    assert await store.record(mine, made) == 0, "doing it again changes nothing"
    assert await store.look(mine, [*named(*made), Named("file", "file-2")]) == [True, True, True, False]
    assert await store.look(theirs, named(*made)) == [False] * 3
    assert await store.look(mine._replace(storage="localhost:8000"), named(*made)) == [False] * 3
    assert await store.look(mine, [Named("batch", "file-1"), Named("item", "resp_1")]) == [False, False]


async def test_what_is_freed_is_nobodys(store: RedisObjects) -> None:
    scope = somebody()
    made = [file("file-1"), file("file-2"), Made("response", "resp_1", time.time())]
    await store.record(scope, made)
    assert await store.free(scope, [*named(made[0], made[2]), Named("file", "nothing")]) == 2
    assert await store.look(scope, named(*made)) == [False, True, False]


async def test_what_is_unseen_stays_as_long_as_it_may_come_to_be_seen(store: RedisObjects) -> None:
    scope, now = somebody(), time.time()
    old, new = file("file-old", now - 3600), file("file-new", now)
    thread, response = Made("thread", "thread_1", now), Made("response", "resp_1", now - 3600)
    made = [old, new, thread, response]
    await store.record(scope, made)
    assert await store.free(scope, named(*made), unseen=True) == 1
    assert await store.look(scope, named(*made)) == [False, True, True, True]
    assert await store.free(scope, named(*made)) == 3
    assert await store.look(scope, named(*made)) == [False] * 4


async def test_what_counts_for_ever_and_is_no_longer_new_goes_where_it_is_unseen(redis: RedisServer) -> None:
    store, scope = store_on(redis.url), somebody()
    made = [Made("thread", "thread_1", 1.0), Made("conversation", "conv_1", 1.0)]
    await store.record(scope, made)
    key = base_key(DEFAULT_PREFIX, scope) + ":n"
    left = int(redis.command("TTL", key)[1:])
    assert 0 < left <= 600
    redis.command("DEL", key)
    assert await store.free(scope, named(*made), unseen=True) == 2
    await store.close()


async def test_names_that_look_like_keys_stay_apart(store: RedisObjects) -> None:
    scopes = [Scope(storage, tenant) for storage in HOSTILE for tenant in HOSTILE]
    keys = {base_key("gateway:", scope) for scope in scopes}
    assert len(keys) == len(scopes)
    await store.record(scopes[10], [file("file-1")])
    assert [scope for scope in scopes if await store.look(scope, [Named("file", "file-1")]) == [True]] == [
        scopes[10]
    ]


def test_entries_are_in_the_slot_of_the_tenants_limits() -> None:
    for tenant in HOSTILE:
        limits = key_slot(f"gateway:{account_key(tenant)}".encode())
        assert key_slot(base_key("gateway:", Scope(STORAGE, tenant)).encode()) == limits


@pytest.mark.parametrize("hostile", ["", "a" * 513, "\ud800", "ü" * 300])
async def test_what_is_no_id_is_nobodys_however_often_it_is_recorded(
    store: RedisObjects, hostile: str
) -> None:
    scope = somebody()
    for kind in ("file", "response"):
        assert await store.record(scope, [Made(kind, hostile, time.time())]) == 0
        assert await store.look(scope, [Named(kind, hostile)]) == [False]
        assert await store.free(scope, [Named(kind, hostile)]) == 0
    assert await store.find(scope, "file", hostile) is None


@pytest.mark.parametrize("odd", ["{}", "a b", "../x", "\x00", "-inf", "ü", "(1", "a" * 512])
async def test_ids_may_be_any_text(store: RedisObjects, odd: str) -> None:
    scope = somebody()
    await store.record(scope, [file(odd), Made("thread", odd, 1.0)])
    assert await store.look(scope, [Named("file", odd), Named("thread", odd)]) == [True, True]
    assert [entry.id for entry in await store.page(scope, "file", after=None, ascending=True, count=9)] == [
        odd
    ]


@pytest.mark.parametrize("ascending", [True, False])
async def test_pages_keep_the_order_of_recording_within_one_second(
    store: RedisObjects, ascending: bool
) -> None:
    scope = somebody()
    made = [file(f"file-{random.random()}", 1_700_000_000 + n // 40) for n in range(200)]
    for at in range(0, len(made), 7):
        await store.record(scope, made[at : at + 7])
    ids = [one.id for one in made]
    expected = ids if ascending else ids[::-1]
    assert await all_pages(store, scope, "file", ascending=ascending, count=17) == expected
    entry = await store.find(scope, "file", ids[60])
    assert entry is not None
    assert entry.id == ids[60]
    assert int(entry.created_at) == 1_700_000_001
    behind = await store.page(scope, "file", after=entry, ascending=True, count=1)
    assert behind[0].id == ids[61]
    assert await store.count(scope, "file") == 200


async def test_a_page_goes_on_behind_an_entry_that_is_gone(store: RedisObjects) -> None:
    scope = somebody()
    await store.record(scope, [file(f"file-{n}") for n in range(10)])
    first = await store.page(scope, "file", after=None, ascending=False, count=5)
    await store.free(scope, [Named("file", entry.id) for entry in first])
    rest = await store.page(scope, "file", after=first[-1], ascending=False, count=9)
    assert [entry.id for entry in rest] == [f"file-{n}" for n in reversed(range(5))]


@pytest.mark.parametrize("created", [float("nan"), float("inf"), -1.0, 0.0, 1e300, 4e9])
async def test_a_creation_that_cannot_be_is_now(store: RedisObjects, created: float) -> None:
    scope = somebody()
    await store.record(scope, [file("file-1", created)])
    entry = await store.find(scope, "file", "file-1")
    assert entry is not None
    assert abs(entry.created_at - time.time()) < 60


async def test_an_intent_is_noted_by_the_look_up_and_forgotten_by_the_record(store: RedisObjects) -> None:
    scope = somebody()
    first = Intent("exchange-1", "batch", "alice", 1_700_000_000.5)
    second = Intent("exchange-2", "file", 'b"o\\b', 1_600_000_000.0)
    third = Intent("exchange-3", "file", "carol", 1_650_000_000.0)
    for intent in (first, second, third):
        assert await store.look(scope, [], intent) == []
    assert await store.look(scope, [Named("file", "unknown")], Intent("exchange-4", "file", "x", 1.0)) == [
        False
    ]
    assert [intent async for intent in store.intents(scope)] == [second, third, first]
    await store.record(scope, [Made("batch", "batch_1", time.time())], "exchange-1")
    await store.forget_intent(scope, "exchange-3")
    assert [intent async for intent in store.intents(scope)] == [second]


async def test_of_very_many_intents_the_oldest_go(store: RedisObjects) -> None:
    scope = somebody()
    for at in range(0, 10_050, 50):
        await asyncio.gather(
            *(store.look(scope, [], Intent(f"e{n}", "file", "s", 1e9 + n)) for n in range(at, at + 50))
        )
    left = [intent async for intent in store.intents(scope)]
    assert 9_000 <= len(left) <= 10_000
    assert left[-1].exchange_id == "e10049"
    assert left[0].at > 1e9 + 40


async def test_thousands_are_looked_up_and_recorded_in_one_call(store: RedisObjects) -> None:
    scope = somebody()
    made = [Made("response" if n % 2 else "file", f"id-{n}", time.time()) for n in range(5_000)]
    assert await store.record(scope, made, "exchange-1") == 5_000
    asked = [*named(*made), Named("file", "id-1"), Named("response", "id-0")]
    intent = Intent("exchange-2", "batch", "alice", 1.0)
    assert await store.look(scope, asked, intent) == [True] * 5_000 + [False, False]
    assert [one async for one in store.intents(scope)] == []
    assert await store.look(scope, named(*made), intent) == [True] * 5_000
    assert [one async for one in store.intents(scope)] == [intent]
    assert await store.free(scope, named(*made)) == 5_000


async def test_what_the_upstream_has_forgotten_goes(store: RedisObjects) -> None:
    scope = somebody()
    long_ago, soon = time.time() - 3 * 86_400, time.time() + 3_600
    gone = [
        Made("file", "file-gone", 1.7e9, long_ago),
        Made("response", "resp_gone", time.time() - 40 * 86_400),
    ]
    here = [Made("file", "file-here", 1.7e9, soon), Made("response", "resp_here", time.time() - 34 * 86_400)]
    await store.record(scope, [*gone, *here])
    await store.record(scope, [file("file-new")])  # looks what has gone
    assert await store.look(scope, named(*gone)) == [False, False]
    assert await store.look(scope, named(*here)) == [True, True]
    assert await store.count(scope, "response") == 1


async def test_digests_of_a_full_bucket_are_found_at_every_level(store: RedisObjects) -> None:
    scope = somebody()
    made = [Made("thread", f"thread_{n}", time.time()) for n in range(3_000)]
    await store.record(scope, made)
    assert await store.look(scope, named(*made)) == [True] * len(made)
    assert await store.count(scope, "thread") == len(made)
    found = [digest async for some in store.digests(scope, "thread") for digest, _ in some]
    assert len(set(found)) == len(made)
    twin = somebody()
    await store.record_digests(twin, "thread", [(digest, 0) for digest in found])
    assert await store.look(twin, named(*made)) == [True] * len(made)


class TestOnlyOneIsLeft:
    """What nobody knows is the tenant's own, unless it may be another's."""

    async def test_what_another_made_stays_the_others(self, store: RedisObjects) -> None:
        gone = somebody("gone")
        left = somebody()._replace(others=(gone.tenant,))
        await store.begin(gone, recorded=True)
        await store.record(gone, [file("file-1"), Made("response", "resp_1", time.time())])
        asked = [Named("file", "file-1"), Named("response", "resp_1"), Named("file", "file-before")]
        assert await store.look(left, asked) == [False, False, True]
        intent = Intent("exchange-1", "batch", "alice", 1.0)
        assert await store.look(left, asked, intent) == [False, False, True]
        assert [one async for one in store.intents(left)] == []
        assert await store.look(left, asked[2:], intent) == [True]
        assert [one async for one in store.intents(left)] == [intent]

    @pytest.mark.parametrize("said", [[], [False], [True, False], [False, True], [None]])
    async def test_another_who_was_not_always_recorded_closes_all(
        self, store: RedisObjects, said: list[bool | None]
    ) -> None:
        gone, other = somebody("gone"), somebody("gone")
        left = somebody()._replace(others=(gone.tenant, other.tenant))
        await store.begin(other, recorded=True)
        for recorded in said:
            await store.begin(gone, recorded=recorded)
        assert await store.look(left, [Named("file", "file-before")]) == [False]
        await store.record(left, [file("file-1")])
        assert await store.look(left, [Named("file", "file-1")]) == [True]

    @pytest.mark.parametrize(
        "kind", [kind for kind in KINDS.kinds.values() if kind.leaves], ids=attrgetter("name")
    )
    @pytest.mark.parametrize("way", ["recorded", "by its digest", "intended"])
    async def test_what_may_have_come_of_what_another_made_is_not_its_own(
        self, store: RedisObjects, kind: StoredKind, way: str
    ) -> None:
        gone = somebody("gone")
        left = somebody()._replace(others=(gone.tenant,))
        await store.begin(gone, recorded=True)
        asked = [Named(one, "unknown") for one in KINDS.kinds]
        assert await store.look(left, asked) == [True] * len(asked)
        match way:
            case "recorded":
                await store.record(gone, [Made(kind.name, "one", time.time())])
            case "by its digest" if not kind.is_listed:
                await store.record_digests(gone, kind.name, [(digest_of("one"), 0)])
            case _:
                intent = Intent("exchange-1", kind.name, "alice", 1.0)
                assert await store.look(gone, [], intent) == []
                await store.forget_intent(gone, "exchange-1")
        assert await store.look(left, asked) == [one.kind not in kind.leaves for one in asked]
        await store.record(left, [Made(one, "own", time.time()) for one in KINDS.kinds])
        assert await store.look(left, [Named(one, "own") for one in KINDS.kinds]) == [True] * len(asked)

    @pytest.mark.parametrize("intents", [0, 1, 101])
    async def test_what_another_may_have_made_unseen_is_not_its_own(
        self, store: RedisObjects, intents: int
    ) -> None:
        gone = somebody("gone")
        left = somebody()._replace(others=(gone.tenant,))
        await store.begin(gone, recorded=True)
        for number in range(intents):
            await store.look(gone, [], Intent(f"exchange-{number}", "vector_store", "alice", 1.0))
        asked = ["file", "vector_store"]
        assert await store.look(left, [Named(one, "unknown") for one in asked]) == [
            intents <= 100,
            intents == 0,
        ]

    async def test_with_no_others_all_is_its_own(self, store: RedisObjects) -> None:
        assert await store.look(somebody()._replace(others=()), [Named("file", "any")]) == [True]


async def test_a_mark_that_is_another_says_that_entries_are_lost(store: RedisObjects) -> None:
    scope = somebody()
    first = await store.begin(scope, recorded=True)
    assert first == await store.begin(scope, recorded=None, mark=first.mark)
    other = await store.begin(scope, recorded=None, mark="of before")
    assert other.mark == first.mark
    assert other.lost_since is not None
    assert (await store.begin(scope, recorded=None)).lost_since == other.lost_since, "all know of it"
    assert (await store.begin(scope, recorded=None, acknowledged=True)).lost_since is None
    assert (await store.begin(scope, recorded=None, mark="of before")).lost_since is None
    early = scope._replace(tenant="imported before anybody has noticed")
    assert (await store.begin(early, recorded=None, acknowledged=True)).lost_since is None
    assert (await store.begin(early, recorded=True, mark="of before")).lost_since is None
    assert not await store.is_recorded_wholly(early), "what came back need not be all"


async def test_who_has_had_a_storage_is_remembered(store: RedisObjects) -> None:
    scope = somebody("{odd}")
    await store.begin(scope._replace(others=("x",)), recorded=False)
    assert scope in await store.scopes()


async def test_a_server_that_is_away_is_said_in_time(redis: RedisServer) -> None:
    store = store_on(redis.url, deadline_seconds=0.2)
    scope = somebody()
    await store.record(scope, [file("file-1")])
    redis.freeze()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await store.look(scope, [Named("file", "file-1")])
    assert time.monotonic() - began < 2
    redis.thaw()
    await store.close()


async def test_an_entry_that_is_a_digest_takes_about_twenty_bytes(redis: RedisServer) -> None:
    store, scope, many = store_on(redis.url, deadline_seconds=10), somebody(), 200_000
    now = time.time()
    for at in range(0, many, 1000):
        await store.record(scope, [Made("response", f"resp_{n:040x}", now) for n in range(at, at + 1000)])
    assert await store.count(scope, "response") == many
    taken = redis.command("EVAL", _TAKEN, 0)
    each = int(taken.strip().lstrip(":")) / many
    print(f"{each:.1f} bytes per entry")
    assert each < 40
    await store.close()


_TAKEN = """
local taken, cursor = 0, '0'
repeat
  local found = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = found[1]
  for _, key in ipairs(found[2]) do taken = taken + redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) end
until cursor == '0'
return taken
"""
