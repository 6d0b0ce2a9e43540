"""Objects are remembered, and counted once, however often their stores are told the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Dimension
from gateway.usage.late_objects import objects_in, shown_by
from gateway.usage.late_register import LateRegister
from gateway.usage.late_work import (
    Claim,
    Found,
    LateWorkStore,
    Maker,
    Note,
    Part,
    Place,
    Shown,
    Step,
    negative,
    still_to_charge,
)
from gateway.usage.memory_late_work import MemoryLateWork
from gateway.usage.redis_late_work import RedisLateWork
from gateway.usage.redis_wire import UsageWire
from gateway.usage.reported import Usage
from tests.kit.redis import RedisServer, running_cluster
from tests.kit.waiting import until

ALICE = Maker("acme", "alice", "gpt-5", "createResponse", "jti-1", {"max_tokens_per_1_day": 5})
BOB = Maker("acme", "bob", "", "getResponse")
ESTIMATE = Part("alice", "gpt-5", "createResponse", Usage(input=3, output=7, total=10, estimated=True), 4)
KEY = Place("api.openai.com", "acme").key("response", "resp_1")
SHOWN = Shown("response", "resp_1", None, (("", Usage(input=3, output=90, total=93)),))


def note(exchange: str = "req_1", part: Part = ESTIMATE, key: str = KEY) -> Note:
    return Note(key, exchange, ALICE, part)


def claim(
    exchange: str = "req_2", *, counts_unknown: bool = True, made_at: float | None = None, key: str = KEY
) -> Claim:
    return Claim(key, exchange, BOB, SHOWN._replace(made_at=made_at), counts_unknown)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[LateWorkStore]:
    if request.param == "memory":
        yield MemoryLateWork()
        return
    server: RedisServer = request.getfixturevalue("redis")
    shared = RedisLateWork(UsageWire(server.url, deadline_seconds=5))
    yield shared
    await shared.close()


async def test_first_claim_finds_who_made_it_and_later_ones_nothing(store: LateWorkStore) -> None:
    assert await store.take([note(), claim(), claim("req_3")]) == [None, Found(ALICE, [ESTIMATE]), None]
    assert await store.take([claim("req_4")]) == [None]


async def test_all_that_worked_on_it_is_remembered(store: LateWorkStore) -> None:
    other = ESTIMATE._replace(operation="submitToolOuputsToRun")
    await store.take([note(), note("req_9", other), note()])

    [found] = await store.take([claim()])

    assert found is not None
    assert sorted(found.parts) == sorted([ESTIMATE, other])


async def test_who_asks_for_what_nobody_remembers_is_its_maker_where_that_counts(
    store: LateWorkStore,
) -> None:
    assert await store.take([claim(counts_unknown=False)]) == [None]
    assert await store.take([claim(), claim("req_3")]) == [Found(BOB, []), None]


async def test_what_is_remembered_counts_whether_or_not_what_is_not_would(store: LateWorkStore) -> None:
    await store.take([note()])

    assert await store.take([claim(counts_unknown=False)]) == [Found(ALICE, [ESTIMATE])]


async def test_note_that_comes_too_late_says_so_once(store: LateWorkStore) -> None:
    await store.take([claim()])

    [late] = await store.take([note()])

    assert late is not None
    assert not late.parts
    assert await store.take([note()]) == [None]


async def test_claim_whose_outcome_nobody_heard_may_be_told_again(redis: RedisServer) -> None:
    store = RedisLateWork(UsageWire(redis.url, deadline_seconds=5))
    first = await store.take([note(), claim()])
    again = await store.take([note(), claim(), claim("req_3")])
    await store.close()

    assert again == [*first, None]


async def test_objects_are_gone_from_redis_after_35_days(redis: RedisServer) -> None:
    store = RedisLateWork(UsageWire(redis.url, deadline_seconds=5))
    await store.take([note()])
    await store.close()

    assert redis.command("TTL", "gateway:" + KEY) in {":3024000\r\n", ":3023999\r\n"}


async def test_memory_is_bounded_and_counts_nothing_that_it_may_have_forgotten() -> None:
    now = 1000.0
    store = MemoryLateWork(most=2, clock=lambda: now)
    keys = [Place("x", "acme").key("batch", f"batch_{n}") for n in range(3)]
    await store.take([claim("req_0", key=keys[0], made_at=900)])
    now = 2000.0
    await store.take([claim("req_1", key=keys[1], made_at=900), claim("req_2", key=keys[2], made_at=900)])

    assert await store.take([claim("req_3", key=keys[0], made_at=900)]) == [None]
    assert await store.take([claim("req_4", key=keys[0], made_at=1900)]) != [None]


def test_keys_tell_tenants_servers_kinds_and_ids_apart() -> None:
    places = [Place("a", "acme"), Place("a", "beta"), Place("b", "acme")]
    keys = [
        place.key(kind, id_)
        for place in places
        for kind in ("run", "batch")
        for id_ in ("1", "2", "run\0001")
    ]
    assert len(set(keys)) == len(keys)


async def test_objects_of_many_tenants_are_told_to_the_nodes_of_a_cluster() -> None:
    with running_cluster() as nodes:
        heard: list[tuple[Step, Found | None]] = []
        store = RedisLateWork(UsageWire(f"redis+cluster://127.0.0.1:{nodes[0].port}", deadline_seconds=5))
        register = LateRegister(store, heard=lambda step, found: heard.append((step, found)))
        places = [Place("api", f"tenant-{n}") for n in range(20)]
        keys = [place.key("run", "run_1") for place in places]
        for key in keys:
            register.note(note(key=key))
        for key in keys:
            register.claim(claim(key=key))
        await until(lambda: len(heard) == 2 * len(keys))
        await register.close()

    assert [found for step, found in heard if isinstance(step, Claim)] == [Found(ALICE, [ESTIMATE])] * len(
        keys
    )


class Stubborn:
    """A store that fails in some way until it is told not to."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.heard: list[Step] = []

    async def take(self, steps: Sequence[Step]) -> list[Found | None]:
        if self.error is not None and steps[0].maker.tenant == "acme":
            raise self.error
        self.heard += steps
        return [None] * len(steps)

    async def close(self) -> None:
        """Nothing is held."""


async def test_what_waits_for_the_store_is_bounded_and_what_is_lost_is_told() -> None:
    lost: list[int] = []
    store = Stubborn(StoreUnavailable("away", sent=False))
    register = LateRegister(store, heard=lambda *_: None, lost=lost.append)
    for n in range(10_000):
        register.note(note(f"req_{n}"))
    assert register.waiting == 5_000, "one tenant takes no more than it leaves"
    for n in range(10_000):
        register.note(Note(KEY, f"req_{n}", ALICE._replace(tenant="beta"), ESTIMATE))

    assert register.waiting == 7_500
    assert sum(lost) == 12_500
    await register.close()
    assert sum(lost) == 20_000


async def test_who_has_a_part_of_the_store_that_is_away_holds_up_nobody_else() -> None:
    store = Stubborn(StoreUnavailable("away", sent=True))
    register = LateRegister(store, heard=lambda *_: None)
    register.note(note("req_1"))
    other = Place("api", "beta").key("run", "run_1")
    register.note(Note(other, "req_2", ALICE._replace(tenant="beta"), ESTIMATE))
    await until(lambda: store.heard)
    assert register.waiting == 1
    store.error = None
    await until(lambda: not register.waiting)
    await register.close()

    assert [step.exchange_id for step in store.heard] == ["req_2", "req_1"]


async def test_a_defect_in_one_step_does_not_hold_up_the_others() -> None:
    lost: list[int] = []
    store = Stubborn(ValueError("a defect"))
    register = LateRegister(store, heard=lambda *_: None, lost=lost.append)
    register.note(note("req_1"))
    await until(lambda: lost == [1])
    store.error = None
    register.note(note("req_2"))
    await until(lambda: not register.waiting)
    await register.close()

    assert [step.exchange_id for step in store.heard] == ["req_2"]


def test_the_limit_takes_what_it_does_not_hold_and_never_less_than_nothing() -> None:
    usage = Usage(input=3, output=90, total=93)
    assert still_to_charge("response", usage, [ESTIMATE]) == {Dimension.TOKENS_PER_DAY: 83}
    assert still_to_charge("batch", usage, [ESTIMATE]) == {}
    assert still_to_charge("eval_run", usage, []) == {Dimension.BATCH_INPUT_TOKENS_PER_DAY: 3}
    assert still_to_charge("run", usage, [ESTIMATE] * 10) == {}


def test_what_is_taken_back_leaves_nothing() -> None:
    usage = Usage(*range(1, len(Usage._fields) - 1))
    assert not any((usage + negative(usage))[: Usage._fields.index("tier")])


def test_a_maker_and_a_part_are_read_as_they_were_written() -> None:
    assert Maker.read(ALICE.written()) == ALICE
    assert Maker.read(BOB.written()) == BOB
    assert Part.read(ESTIMATE.written()) == ESTIMATE


@pytest.mark.parametrize(
    "document",
    [
        {"id": "run_1", "object": "thread.run", "status": "completed", "usage": None},
        {"id": "run_1", "object": "thread.run", "status": "completed", "usage": {}},
        {"id": "run_1", "object": "thread.run", "status": "completed", "usage": {"total_tokens": 0}},
        {"id": "run_1", "object": "thread.run", "status": "in_progress", "usage": {"total_tokens": 5}},
        {"id": "run_1", "object": "thread.run", "usage": {"total_tokens": 5}},
        {"id": "run_1", "object": "thread.run.step", "status": "completed", "usage": {"total_tokens": 5}},
        {"id": 7, "object": "thread.run", "status": "completed", "usage": {"total_tokens": 5}},
        {"id": "x" * 1000, "object": "thread.run", "status": "completed", "usage": {"total_tokens": 5}},
        {"metadata": {"id": "run_1", "status": "completed", "usage": {"total_tokens": 5}}},
        [],
        "completed",
    ],
)
def test_what_is_not_final_or_no_such_object_shows_nothing(document: object) -> None:
    assert not [shown for one in objects_in(document) if (shown := shown_by(one, "run"))]
