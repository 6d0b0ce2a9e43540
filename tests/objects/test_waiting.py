"""What waits for a store gets there, or is said, whatever becomes of the disk, of the store, and of the process."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from gateway.limits.store import StoreUnavailable
from gateway.objects.registry import Registry
from gateway.objects.spool import Kept, Spool
from gateway.objects.steps import Step
from gateway.objects.store import Made, Named, Scope
from gateway.objects.waiting import Waiting
from tests.kit.redis import RedisServer
from tests.kit.waiting import until
from tests.objects.stores import file, somebody, store_on


class Store:
    """Remembers what it was told, and takes nothing of some."""

    def __init__(self, *away: Scope, seconds: float = 0.0) -> None:
        self.away = set(away)
        self.seconds = seconds
        self.asked: list[Step] = []
        self.took: list[Step] = []

    async def tell(self, step: Step) -> None:
        self.asked.append(step)
        await asyncio.sleep(self.seconds)
        if step.scope in self.away:
            raise StoreUnavailable("away", sent=False)
        self.took.append(step)


def made(scope: Scope, number: int = 0) -> Step:
    return Step(scope, (file(f"file-{number}"),))


async def test_of_whom_the_store_takes_nothing_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    """In a cluster that has lost a node, say."""
    a, b = somebody("a"), somebody("b")
    spool, store = Spool(tmp_path), Store(a)
    for number in range(200):
        spool.put([made(a, number)])
    spool.put([made(b)])
    waiting = Waiting(spool, tell=store.tell, lose=store.took.append)
    assert not await waiting.tell_all()
    assert store.took == [made(b)]
    assert len(store.asked) < 100, "a store that does not answer is not asked for each"
    assert waiting.size == 200
    store.away.clear()
    assert await waiting.tell_all()
    assert waiting.size == 0
    assert {step.made[0].id for step in store.took if step.scope == a} == {f"file-{n}" for n in range(200)}


async def test_what_no_store_can_take_is_set_aside_and_all_else_is_told(
    redis: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kind that an earlier version does not know, where one has been gone back to."""
    scope, spool = somebody(), Spool(tmp_path)
    for number in range(5):
        spool.put([Step(scope, (Made("hologram", "holo_1", 1.0),)), made(scope, number)])
    registry = Registry(store_on(redis.url), keys_dir=tmp_path)
    await registry.start()
    await until(lambda: not spool.files())
    assert await registry.look(scope, [Named("file", f"file-{number}") for number in range(5)]) == [True] * 5
    await registry.close()
    assert len(list(spool.folder.glob("*.unreadable"))) == 5
    assert "holo_1" in caplog.text


class Failing(Spool):
    """A folder of which some calls fail as a disk says."""

    failing: Sequence[str] = ()
    number = errno.EROFS

    def read(self, path: Path) -> Kept:
        self._fail("read")
        return super().read(path)

    def done(self, kept: Kept) -> None:
        self._fail("done")
        super().done(kept)

    def lock(self) -> int | None:
        self._fail("lock")
        return super().lock()

    def put(self, steps: Sequence[Step]) -> None:
        self._fail("put")
        super().put(steps)

    def _fail(self, call: str) -> None:
        if call in self.failing:
            raise OSError(self.number, "the disk says")


async def test_a_folder_that_cannot_be_changed_any_more_is_told_once_and_wholly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scope, spool, store = somebody(), Failing(tmp_path), Store()
    for number in range(100):
        spool.put([made(scope, number)])
    spool.failing = ["done"]
    waiting = Waiting(spool, tell=store.tell, lose=store.took.append)
    for _ in range(3):
        await waiting.tell_all()
    assert len(store.took) == 100
    assert caplog.text.count("cannot be read or taken away") == 1
    spool.failing = []
    for _ in range(3):
        await waiting.tell_all()
    assert spool.files() == []
    assert len(store.took) == 100


@pytest.mark.parametrize("call", ["read", "lock"])
async def test_a_process_without_descriptors_sets_nothing_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    scope, spool, store = somebody(), Failing(tmp_path), Store()
    spool.put([made(scope)])
    spool.failing, spool.number = [call], errno.EMFILE
    waiting = Waiting(spool, tell=store.tell, lose=store.took.append)
    for _ in range(3):
        assert not await waiting.tell_all()
    assert (len(spool.files()), store.took) == (1, [])
    assert caplog.text.count("the disk says") == 1
    spool.failing = []
    assert await waiting.tell_all()
    assert (spool.files(), store.took) == ([], [made(scope)])


async def test_a_stop_says_what_it_cannot_keep_though_the_folder_cannot_be_read(tmp_path: Path) -> None:
    scope, spool, store, said = somebody(), Failing(tmp_path), Store(), list[Step]()
    store.away.add(scope)
    spool.put([made(scope, 0)])
    spool.failing = ["lock", "put"]
    waiting = Waiting(spool, tell=store.tell, lose=said.append)
    await waiting.keep(made(scope, 1))
    await waiting.close()
    assert said == [made(scope, 1)]


class Hanging(Spool):
    """A folder on a disk that does not answer, until the test says so."""

    def __init__(self, keys_dir: Path) -> None:
        super().__init__(keys_dir)
        self.answers = threading.Event()

    def put(self, steps: Sequence[Step]) -> None:
        self.answers.wait(60)
        super().put(steps)


async def test_a_disk_that_hangs_holds_no_answer_for_long_and_no_stop(tmp_path: Path) -> None:
    scope, spool, store, said = somebody(), Hanging(tmp_path), Store(), list[Step]()
    store.away.add(scope)
    waiting = Waiting(spool, tell=store.tell, lose=said.append)
    try:
        began = time.monotonic()
        await asyncio.gather(*(waiting.keep(made(scope, number)) for number in range(3)))
        assert time.monotonic() - began < 8
        assert waiting.size == 3
        began = time.monotonic()
        await waiting.close()
        assert time.monotonic() - began < 15
        assert [step.made[0].id for step in said] == ["file-0", "file-1", "file-2"]
    finally:
        spool.answers.set()


async def test_a_stop_tells_nothing_that_is_safe_on_disk(tmp_path: Path) -> None:
    """There may be thousands of files, and a store that is slow: what ends the process does not wait so long."""
    scope, spool = somebody(), Spool(tmp_path)
    for number in range(300):
        spool.put([made(scope, number)] * 64)
    store = Store(seconds=0.05)
    waiting = Waiting(spool, tell=store.tell, lose=store.took.append)
    telling = asyncio.create_task(waiting.tell_all())
    await until(lambda: store.took)
    telling.cancel()
    began = time.monotonic()
    await waiting.close()
    assert time.monotonic() - began < 5
    assert len(store.took) < 300 * 64 / 2
    assert spool.files()


async def test_a_stop_tells_what_is_in_memory_while_the_store_takes_it_and_says_the_rest() -> None:
    scope, store, said = somebody(), Store(seconds=0.3), list[Step]()
    waiting = Waiting(None, tell=store.tell, lose=said.append)
    for number in range(2000):
        await waiting.keep(made(scope, number))
    began = time.monotonic()
    await waiting.close()
    assert time.monotonic() - began < 8
    assert store.took
    assert said
    assert {*store.took, *said} == {made(scope, number) for number in range(2000)}
