"""Whatever befalls a supervisor and its workers, at whatever moment: what can be served is served, and said truly."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest

import gateway
from tests.kit.client import RawClient
from tests.kit.command import run_command, running_command
from tests.kit.redis import RedisServer, free_port
from tests.kit.upstream import ScriptedUpstream, answer_ok, two_events
from tests.kit.waiting import comes_to, found
from tests.kit.workers import AT_ONCE, Workers, is_alive, running_workers

Start = Callable[..., Awaitable[Workers]]


@pytest.fixture
async def start(tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer) -> AsyncIterator[Start]:
    """Start two workers; arguments are those of the command line."""
    upstream.plays(answer_ok)
    async with AsyncExitStack() as stack:

        async def start(*more: str) -> Workers:
            return await stack.enter_async_context(running_workers(tmp_path, upstream.base_url, redis, *more))

        yield start


@contextmanager
def no_more_files(pid: int) -> Iterator[None]:
    """A process that may open none beyond those it has."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (10, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def starting(workers: Workers, slot: int) -> int:
    """The successor that comes up in this slot."""
    _, document = await workers.page("/livez")
    for worker in document["workers"]:
        if worker["index"] == slot and worker["state"] == "starting":
            return int(worker["pid"])
    return 0


async def status_of(client: RawClient) -> int:
    return (await client.request("GET", "/v1/models")).status


async def longest_head(workers: Workers, pid: int) -> int:
    """What this worker answers to a head of 8 KB."""
    async with await workers.connect_to(pid) as client:
        await client.send(client.request_bytes("GET", "/v1/models", headers=f"X-Long: {'x' * 8000}\r\n"))
        return (await client.read_answer()).status


async def test_stop_is_heard_at_once_whatever_is_under_way(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("drain_notice_seconds = 0\n")
    workers = await start("--config", str(file))
    workers.signal(signal.SIGUSR2)
    (successor,) = await found(lambda: workers.pids("starting"))
    os.kill(successor, signal.SIGSTOP)
    workers.signal(signal.SIGHUP)
    await asyncio.sleep(0.2)
    workers.signal(signal.SIGTERM)

    assert await workers.command.exit_code(3) == 0
    assert not is_alive(successor)


@pytest.mark.parametrize("slot", [0, 1])
async def test_rights_are_taken_away_while_a_successor_does_not_come_up(
    start: Start, tmp_path: Path, slot: int
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    workers = await start("--config", str(file))
    before = await workers.pids()
    clients = [await workers.connect_to(pid) for pid in before]
    workers.signal(signal.SIGUSR2)
    for place in range(slot + 1):
        successor = await found(partial(starting, workers, place))
    os.kill(successor, signal.SIGSTOP)
    try:
        file.write_text("[tenants.default]\nenabled = false\n")
        workers.signal(signal.SIGHUP)
        await asyncio.sleep(2)
        for client in (*clients, await workers.connect(), await workers.connect()):
            assert (await client.request("GET", "/v1/models")).status == 403
    finally:
        os.kill(successor, signal.SIGCONT)

    await workers.all_ready(2, but=tuple(before))
    await workers.command.says("all workers have been replaced")
    for pid in await workers.pids():
        client = await workers.connect_to(pid)
        await comes_to(403, partial(status_of, client))


async def test_newcomers_are_answered_while_a_stop_ends_a_restart(start: Start) -> None:
    workers = await start("--set", "drain_notice_seconds=3")
    workers.signal(signal.SIGUSR2)
    await found(lambda: workers.pids("starting"))
    workers.signal(signal.SIGTERM)
    statuses = []
    try:
        while True:
            client = await workers.connect()
            await asyncio.sleep(0.01)
            statuses.append((await client.request("GET", "/v1/models")).status)
    except ConnectionRefusedError:
        pass

    assert set(statuses) == {200}
    assert await workers.command.exit_code() == 0


async def test_restart_says_how_a_successor_ended_and_that_the_gateway_stops(start: Start) -> None:
    workers = await start("--set", "drain_notice_seconds=20")
    restart = ("restart", "--admin-listen", f"127.0.0.1:{workers.command.admin_port}")
    failing = asyncio.create_task(run_command(*restart))
    (successor,) = await found(lambda: workers.pids("starting"), 20)
    os.kill(successor, signal.SIGKILL)
    assert "worker 0 did not come up: it was killed by signal 9" in (await failing).stderr

    workers.signal(signal.SIGTERM)
    failed = await run_command(*restart)
    assert (failed.code, failed.stderr) == (1, "gateway: the gateway stops\n")


async def test_new_release_with_a_setting_that_the_old_one_does_not_know_comes_into_its_place_quietly(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    installed = tmp_path / "installed" / "gateway"
    shutil.copytree(Path(gateway.__file__).parent, installed, ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "gateway.toml"
    file.write_text("")
    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "2"),
        *("--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys"), "--config", str(file)),
        *("--set", f"redis_url={redis.url}", *AT_ONCE),
        PYTHONPATH=str(installed.parent),
        PYTHONSAFEPATH="1",
    ) as command:
        known = "    allow_uncontained: bool = False\n"
        settings = installed / "settings" / "settings.py"
        settings.write_text(settings.read_text().replace(known, f"    brand_new: int = 3\n{known}", 1))
        file.write_text("brand_new = 5\n")
        await command.says("brand_new: is not a setting")
        said = len(command.stderr)
        command.signal(signal.SIGUSR2)
        await command.says("all workers have been replaced", 20)

        assert command.stderr[said:] == [
            "gateway: replacing all workers, one by one",
            "gateway: all workers have been replaced",
        ]


async def test_who_dies_while_it_finishes_what_it_served_is_told_of(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(two_events)
    workers = await start(*AT_ONCE)
    leaving, _ = await workers.pids()
    client = await workers.connect_to(leaving)
    await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}"))
    assert (await client.read_head()).status == 200
    workers.signal(signal.SIGUSR2)
    await comes_to([leaving], lambda: workers.pids("leaving"), 20)
    os.kill(leaving, signal.SIGKILL)

    await workers.command.says(f"(pid {leaving}) was killed by signal 9; it was finishing what it served")


async def test_signals_for_who_serves_end_nobody_who_is_starting(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "gateway",
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ),
        *("--workers", "2", "--keys-dir", str(tmp_path / "keys"), "--upstream", "http://127.0.0.1:1/v1"),
        *AT_ONCE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(20):
            while b"a signing key" not in (said := await process.stderr.readline()):
                assert said
            while b"serving on" not in said:
                for number in (signal.SIGHUP, signal.SIGUSR2):
                    process.send_signal(number)
                with_pause = asyncio.wait_for(process.stderr.readline(), 0.1)
                try:
                    said = await with_pause
                except TimeoutError:
                    continue
                assert said, "it ended"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_settings_that_are_tried_reach_nobody_else_before_they_are_in_force(
    start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("edge.max_header_bytes = 65536\n")
    workers = await start("--config", str(file), *AT_ONCE)
    first, second = await workers.pids()
    file.write_text("edge.max_header_bytes = 4096\n")
    workers.signal(signal.SIGUSR2)
    (trying,) = await found(lambda: workers.pids("starting"))
    os.kill(trying, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    _, successor = await workers.all_ready(2, but=(second,))
    os.kill(trying, signal.SIGKILL)
    await workers.command.says("restart failed")

    assert await longest_head(workers, first) == 200
    assert await longest_head(workers, successor) == 200


async def test_worker_that_was_told_to_end_by_itself_and_has_no_successor_says_that_it_goes_on(
    start: Start,
) -> None:
    workers = await start(*AT_ONCE)
    told, _ = await workers.pids()
    with no_more_files(workers.supervisor):
        os.kill(told, signal.SIGTERM)
        await workers.command.says(
            "worker 0 goes on without a successor: worker 0 did not come up: [Errno 24]"
        )
    os.kill(told, signal.SIGTERM)

    await workers.all_ready(2, but=(told,))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_who_has_no_standard_error_serves(workers: str, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--listen", f"127.0.0.1:{port}"),
        *("--admin-listen", f"127.0.0.1:{admin}", "--workers", workers, "--keys-dir", str(tmp_path / "keys")),
        *("--upstream", "http://127.0.0.1:1/v1", *AT_ONCE),
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        preexec_fn=partial(os.closerange, 0, 3),
    )
    try:
        async with aiohttp.ClientSession() as session:

            async def ready() -> bool:
                try:
                    async with session.get(f"http://127.0.0.1:{admin}/readyz") as answer:
                        return answer.status == 200
                except aiohttp.ClientConnectionError:
                    assert process.returncode is None
                    return False

            await found(ready, 20)
            async with session.get(f"http://127.0.0.1:{port}/v1/models") as answer:
                assert answer.status == 401
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 10) == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
