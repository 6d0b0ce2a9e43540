"""What a process tells the registry: confirmed, or waiting where it survives the process, or said in the log."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from gateway.limits.store import StoreUnavailable
from gateway.objects.heard import Became, Found
from gateway.objects.redis_objects import RedisObjects
from gateway.objects.registry import Registry
from gateway.objects.spool import FOLDER, Kept, Spool, SpoolFull
from gateway.objects.steps import Step
from gateway.objects.store import Intent, Made, Named, Scope
from gateway.objects.waiting import Waiting
from tests.kit.redis import RedisServer, running_redis
from tests.kit.waiting import PATIENCE_SECONDS, comes_to, stays, until
from tests.objects.stores import STORAGE, file, named, somebody, store_on


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.found = Counter[Found]()
        self.what = Counter[Became]()

    def looked(self, found: Found, seconds: float) -> None:
        assert 0 <= seconds < 20
        self.found[found] += 1

    def became(self, what: Became, objects: int) -> None:
        self.what[what] += objects

    def went_unasked(self) -> None:
        raise AssertionError("nobody asks here")


@asynccontextmanager
async def running(
    redis: RedisServer, keys_dir: Path | None, told: Told | None = None
) -> AsyncIterator[Registry]:
    """A registry as a gateway process has it."""
    registry = Registry(store_on(redis.url, deadline_seconds=1.0), keys_dir=keys_dir, heard=told or Told())
    await registry.start()
    yield registry
    await registry.close()


def waiting_in(keys_dir: Path) -> list[Path]:
    """Files that wait there."""
    return sorted((keys_dir / FOLDER).glob("*.jsonl"))


def reads_of(redis: RedisServer) -> int:
    """How often the server has read what came."""
    [reads] = re.findall(r"\btotal_reads_processed:(\d+)", redis.command("INFO", "stats"))
    return int(reads)


async def test_what_is_recorded_is_confirmed_and_counted(redis: RedisServer, tmp_path: Path) -> None:
    told, scope = Told(), somebody()
    async with running(redis, tmp_path, told) as registry:
        assert await registry.look(scope, [Named("file", "file-1")], Intent("e", "file", "a", 1.0)) == [False]
        assert await registry.look(scope, [], Intent("e", "file", "a", 1.0)) == []
        assert await registry.record(scope, [file("file-1")], "e") is True
        assert await registry.look(scope, [Named("file", "file-1")]) == [True]
        registry.free_soon(scope, [Named("file", "file-1")])
        await comes_to([False], lambda: registry.look(scope, [Named("file", "file-1")]))
        assert [intent async for intent in registry.store.intents(scope)] == []
    assert told.what == {Became.RECORDED: 1, Became.FREED: 1}
    assert told.found[Found.OWN] >= 2
    assert waiting_in(tmp_path) == []


async def test_what_the_store_does_not_take_waits_on_disk_and_is_told_when_it_is_back(
    redis: RedisServer, tmp_path: Path
) -> None:
    told, scope = Told(), somebody()
    async with running(redis, tmp_path, told) as registry:
        redis.stop()
        assert await registry.record(scope, [file("file-1")]) is False
        registry.record_soon(scope, [file("file-2")])
        await until(lambda: registry.waiting == 2)
        (first, *_) = waiting_in(tmp_path)
        assert first.stat().st_mode & 0o777 == 0o600
        assert first.parent.stat().st_mode & 0o777 == 0o700
        with pytest.raises(StoreUnavailable):
            await registry.look(scope, [Named("file", "file-1")])
        redis.start()
        await until(lambda: registry.waiting == 0, 30)
        assert await registry.look(scope, named(file("file-1"), file("file-2"))) == [True, True]
    assert told.found[Found.UNAVAILABLE] == 1
    assert told.what == {Became.WAITING: 2, Became.RECORDED: 2}
    assert waiting_in(tmp_path) == []


async def test_a_look_up_that_nobody_wants_any_more_is_no_outage_and_is_not_sent(redis: RedisServer) -> None:
    told, scope = Told(), somebody()
    async with running(redis, None, told) as registry:
        await registry.look(scope, [])
        registry.look(scope, [], Intent("unwanted", "file", "a", 1.0)).cancel()
        assert await registry.look(scope, [], Intent("wanted", "file", "a", 1.0)) == []
        assert [intent.exchange_id async for intent in registry.store.intents(scope)] == ["wanted"]
    assert told.found == {Found.OWN: 2}


async def test_what_is_asked_and_told_in_one_turn_leaves_in_one_write(redis: RedisServer) -> None:
    scope = somebody()
    async with running(redis, None) as registry:
        assert await registry.record(scope, [file("file-0")])  # from now on the server knows both scripts
        assert await registry.look(scope, [Named("file", "file-0")]) == [True]
        many = [file(f"file-{number}") for number in range(1, 21)]
        before = reads_of(redis)
        telling = [registry.record(scope, [one]) for one in many]
        asking = [registry.look(scope, named(one)) for one in many]
        assert await asyncio.gather(*telling) == [True] * 20
        assert await asyncio.gather(*asking) == [[True]] * 20, "each behind what was told before"
        assert reads_of(redis) - before <= 5  # with what this asks of the server itself


async def test_who_stops_waiting_stops_no_record(redis: RedisServer, tmp_path: Path) -> None:
    scope = somebody()
    async with running(redis, tmp_path) as registry:
        redis.freeze()

        async def waits() -> None:
            await registry.record(scope, [file("file-1")])

        recording = asyncio.create_task(waits())
        await asyncio.sleep(0)
        recording.cancel()
        await asyncio.wait({recording})
        redis.thaw()
        await comes_to([True], lambda: registry.look(scope, [Named("file", "file-1")]))


async def test_a_stop_leaves_what_waits_to_the_next_process(redis: RedisServer, tmp_path: Path) -> None:
    scope = somebody()
    redis.stop()
    async with running(redis, tmp_path) as registry:
        registry.record_soon(scope, [file("file-1")])
    assert len(waiting_in(tmp_path)) == 1
    redis.start()
    async with running(redis, tmp_path) as registry:
        await until(lambda: not waiting_in(tmp_path))
        assert await registry.look(scope, [Named("file", "file-1")]) == [True]


_DYING = """
import asyncio, sys
from pathlib import Path
from gateway.objects.redis_objects import RedisObjects
from gateway.objects.redis_objects import RedisObjects
from gateway.objects.registry import Registry
from gateway.objects.store import Made, Scope

async def main(url, keys_dir, tenant):
    registry = Registry(RedisObjects(url, deadline_seconds=0.2), keys_dir=Path(keys_dir))
    await registry.start()
    for n in range(100_000):
        assert not await registry.record(Scope("api.openai.com", tenant), [Made("file", f"file-{n}", 1.7e9)])
        print(n, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_kill_loses_nothing_that_was_answered_and_two_who_adopt_it_tell_it_once(
    redis: RedisServer, tmp_path: Path
) -> None:
    scope = somebody()
    redis.stop()
    died = await asyncio.to_thread(_killed_behind, 40, redis.url, str(tmp_path), scope.tenant)
    assert died >= 40
    redis.start()
    told = Told(), Told()
    async with running(redis, tmp_path, told[0]) as one, running(redis, tmp_path, told[1]) as other:
        await until(lambda: not waiting_in(tmp_path), 30)
        asked = [Named("file", f"file-{n}") for n in range(died + 1)]
        assert await one.look(scope, asked) == [True] * len(asked)
        assert await other.look(scope, asked) == [True] * len(asked)
    recorded = told[0].what[Became.RECORDED] + told[1].what[Became.RECORDED]
    assert len(asked) <= recorded <= len(asked) + 1  # the last may have been kept, and not said so


def _killed_behind(answers: int, *arguments: str) -> int:
    """The last answer of a process that is killed behind so many."""
    last = -1
    with subprocess.Popen([sys.executable, "-c", _DYING, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if last < answers <= int(line):
                os.kill(process.pid, signal.SIGKILL)
            last = int(line)
    return last


async def test_a_keys_dir_that_takes_nothing_keeps_it_in_memory_and_says_so(
    redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scope = somebody()
    (tmp_path / "keys").write_text("no folder")
    async with running(redis, tmp_path / "keys") as registry:
        redis.stop()
        assert await registry.record(scope, [file("file-1")]) is False
        assert registry.waiting == 1
        assert "kept in memory alone" in caplog.text
        redis.start()
        await comes_to(0, lambda: _now(registry.waiting), 30)
        assert await registry.look(scope, [Named("file", "file-1")]) == [True]


async def _now(value: int) -> int:
    return value


async def test_what_has_no_room_to_wait_is_said_whole_and_opens_nothing(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    told, scope = Told(), somebody()
    async with running(redis, None, told) as registry:
        registry.in_force({scope: True}, checked=[scope])
        left = somebody()._replace(others=(scope.tenant,))
        await comes_to([True], lambda: registry.look(left, [Named("file", "unknown")]))
        registry._waiting._most = 1
        redis.freeze()
        await registry.record(scope, [file("file-1")])
        await registry.record(scope, [file("file-2")])
        assert told.what == {Became.WAITING: 2, Became.LOST: 1}
        (line,) = re.findall(r"could not be told: (.*)", caplog.text)
        assert Step.read(line.encode()) == Step(scope, (file("file-2"),))
        redis.thaw()

        async def closed() -> bool:
            with contextlib.suppress(StoreUnavailable):
                return await registry.look(left, [Named("file", "unknown")]) == [False]
            return False

        await comes_to(True, closed, 30)


async def test_without_room_or_disk_a_stop_says_what_is_lost(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    scope = somebody()
    redis.stop()
    async with running(redis, None) as registry:
        await registry.record(scope, [file("file-1")])
    assert '"file-1"' in caplog.text


async def test_a_redis_that_lost_its_data_is_noticed_by_who_asks_it(
    redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scope = somebody()
    async with running(redis, tmp_path) as registry:
        registry.in_force({scope: True}, checked=[scope])
        await until(lambda: (tmp_path / "objects-marks.jsonl").exists())
        await registry.record(scope, [file("file-1")])
        redis.command("FLUSHALL")
        assert await registry.look(scope, [Named("file", "file-1")]) == [False]
        await until(lambda: registry.lost == 1)
        assert "is lost" in caplog.text
    async with running(redis, tmp_path) as registry:
        registry.in_force({scope: None}, checked=[scope])
        await until(lambda: registry.lost == 1)
        await registry.store.begin(scope, recorded=None, acknowledged=True)
        registry.in_force({scope: None}, checked=[scope])
        await until(lambda: registry.lost == 0)


async def test_a_redis_that_lost_its_data_while_nobody_ran_is_noticed_by_the_next(
    redis: RedisServer, tmp_path: Path
) -> None:
    scope = somebody()
    async with running(redis, tmp_path) as registry:
        registry.in_force({scope: True}, checked=[scope])
        await until(lambda: (tmp_path / "objects-marks.jsonl").exists())
    redis.command("FLUSHALL")
    left = somebody()._replace(others=(scope.tenant,))
    async with running(redis, tmp_path) as registry:
        registry.in_force({scope: True, left: None}, checked=[scope, left])
        await until(lambda: registry.lost == 1)
        assert await registry.look(left, [Named("file", "unknown")]) == [False], "nothing opens by it"


async def asked(registry: Registry, scope: Scope, file_id: str) -> bool:
    """Whether a tenant may use a file, as soon as somebody can say."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(StoreUnavailable):
                return (await registry.look(scope, [Named("file", file_id)]))[0]
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("checked", [True, False])
async def test_a_redis_that_has_lost_the_last_moments_is_noticed_and_opens_nothing_of_them(
    tmp_path: Path, *, checked: bool
) -> None:
    """It was restarted from an older file, or a replica that lagged took its place."""
    scope = somebody()
    left = somebody()._replace(others=(scope.tenant,))
    with running_redis() as redis:
        async with running(redis, tmp_path) as registry:
            registry.in_force({scope: True, left: None}, checked=[scope])
            await until(lambda: (tmp_path / "objects-marks.jsonl").exists())
            await registry.record(scope, [file("file-1")])
            assert await asked(registry, scope, "file-1")
            redis.command("SAVE")
            redis.stop()
            redis.start()
            assert await asked(registry, scope, "file-1")
            assert await asked(registry, left, "unknown")
            await stays(0, lambda: _now(registry.lost), for_seconds=0.2)

            await registry.record(scope, [file("file-2")])
            assert await asked(registry, scope, "file-2")
            if not checked:
                registry.in_force({left: None}, checked=[])
            redis.stop()
            redis.start()
            assert not await asked(registry, left, "file-2"), "not even for a moment"
            assert await asked(registry, scope, "file-1")
            if checked:
                await until(lambda: registry.lost == 1)
            await comes_to(False, lambda: registry.store.is_recorded_wholly(scope))  # type: ignore[attr-defined]
            await registry.store.begin(scope, recorded=None, acknowledged=True)
            registry.in_force({scope: None}, checked=[scope])
            await until(lambda: registry.lost == 0)
        async with running(redis, tmp_path) as registry:
            registry.in_force({scope: None, left: None}, checked=[scope])
            await stays(0, lambda: _now(registry.lost), for_seconds=0.2)
            assert not await asked(registry, left, "file-2")


async def test_a_redis_that_may_drop_entries_is_said_and_opens_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scope = somebody()
    left = somebody()._replace(others=(scope.tenant,))
    with running_redis("--maxmemory-policy", "allkeys-lru") as redis:
        async with running(redis, tmp_path) as registry:
            registry.in_force({scope: True, left: None}, checked=[scope])
            await until(lambda: (tmp_path / "objects-marks.jsonl").exists())
            assert await asked(registry, left, "unknown"), "it has as much memory as it likes"
            redis.command("CONFIG", "SET", "maxmemory", "100mb")
            for _ in range(2):
                await registry.store.begin(scope, recorded=None)
            assert not await asked(registry, left, "unknown")
            assert caplog.text.count("maxmemory-policy allkeys-lru") == 1
            redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await registry.store.begin(scope, recorded=None)
            assert await asked(registry, left, "unknown")


class TestSpool:
    def test_steps_come_back_as_they_were(self, tmp_path: Path) -> None:
        spool, scope = Spool(tmp_path), somebody('"ü{}')
        steps = [
            Step(
                scope,
                (Made("file", "ü\n{}", 1.5, None), Made("item", "i", 2, 3.0)),
                (Named("file", "f"),),
                "e",
            ),
            Step(scope, intent_id="e"),
        ]
        spool.put(steps)
        (path,) = spool.files()
        kept = spool.read(path)
        assert (kept.steps, kept.is_whole) == (steps, True)
        assert spool.waiting() == 2
        spool.done(kept)
        assert spool.files() == []
        assert spool.read(path) == Kept(path, (), is_whole=True)

    def test_it_is_bounded_by_files_and_by_bytes(self, tmp_path: Path) -> None:
        step = Step(somebody(), (file("file-1"),))
        few = Spool(tmp_path / "few", most_files=2)
        few.put([step])
        few.put([step])
        with pytest.raises(SpoolFull):
            few.put([step])
        small = Spool(tmp_path / "small", most_bytes=len(step.written()) + 1)
        small.put([step])
        with pytest.raises(SpoolFull):
            small.put([step])

    @pytest.mark.parametrize(
        ("more", "left"), [(b'{"tenant": "half', 1), (b"\xff\n", 1), (b"[]\n{}\n", 1), (b"", 1), (None, 0)]
    )
    def test_what_cannot_be_read_of_a_file_is_set_aside_once_the_rest_is_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, more: bytes | None, left: int
    ) -> None:
        spool, step = Spool(tmp_path), Step(somebody(), (file("file-1"),))
        spool.put([step, step])
        (path,) = spool.files()
        path.write_bytes(b"" if more is None else step.written() + more)
        kept = spool.read(path)
        assert (kept.steps, kept.is_whole) == ([step][:left], False)
        assert spool.files() == [path], "it has not been told yet"
        spool.done(kept)
        assert spool.files() == []
        assert f"{left} of 2 answers could be read" in caplog.text
        assert path.with_suffix(".unreadable").exists()

    def test_one_at_a_time_tells(self, tmp_path: Path) -> None:
        one, other = Spool(tmp_path), Spool(tmp_path)
        assert one.lock() is None, "nothing waits"
        one.put([Step(somebody(), intent_id="e")])
        lock = one.lock()
        assert lock is not None
        assert other.lock() is None
        one.unlock(lock)
        again = other.lock()
        assert again is not None
        other.unlock(again)


async def test_a_thousand_that_wait_take_few_files(tmp_path: Path) -> None:
    async def away(step: Step) -> None:
        raise StoreUnavailable("away", sent=False)

    waiting = Waiting(Spool(tmp_path), tell=away, lose=lambda _: None)
    scope = somebody()
    began = time.monotonic()
    await asyncio.gather(*(waiting.keep(Step(scope, (file(f"file-{n}"),))) for n in range(1000)))
    assert time.monotonic() - began < 10
    assert waiting.size == 1000
    assert len(waiting_in(tmp_path)) <= 3
    assert not await waiting.tell_all()
    assert waiting.size == 1000


def test_a_line_is_one_document() -> None:
    step = Step(somebody(), (file("a\nb"),))
    assert step.written().count(b"\n") == 1
    assert orjson.loads(step.written())["storage"] == STORAGE


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b"1", b'{"tenant":"a","storage":"b","made":[[1]]}'])
def test_what_is_no_step_is_said(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Step.read(line)


class Crowded(RedisObjects):
    """Counts how many ask at once for many objects of one tenant."""

    def __init__(self, url: str) -> None:
        super().__init__(url, deadline_seconds=5.0)
        self.asking = Counter[Scope]()
        self.most = Counter[Scope]()

    def look(
        self, scope: Scope, named: Sequence[Named], intent: Intent | None = None
    ) -> asyncio.Future[list[bool]]:
        looking = super().look(scope, named, intent)
        if len(named) > 1:
            self.asking[scope] += 1
            self.most[scope] = max(self.most[scope], self.asking[scope])
            looking.add_done_callback(lambda _: self.asking.subtract([scope]))
        return looking


async def test_a_tenant_asks_for_many_objects_in_turn_and_others_need_not_wait_for_that(
    redis: RedisServer,
) -> None:
    store = Crowded(redis.url)
    registry = Registry(store)
    await registry.start()
    a, b = somebody("a"), somebody("b")
    many = named(*(file(f"file-{number}") for number in range(2000)))
    asking = [registry.look(a, many) for _ in range(8)]
    await until(lambda: store.asking[a] == 1)
    assert await registry.look(b, many) == [False] * 2000
    assert await registry.look(a, many[:1]) == [False]
    assert await asyncio.gather(*asking) == [[False] * 2000] * 8
    assert store.most == {a: 1, b: 1}
    await registry.close()
