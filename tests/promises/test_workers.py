"""Several workers on one machine: all serve, one that dies is replaced, and nobody notices a restart."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

import orjson
import pytest

from tests.kit.client import RawClient
from tests.kit.command import run_command
from tests.kit.jwks import LOGIN, THEIRS, running_jwks_server, their_credential
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn, answer_ok, two_events
from tests.kit.waiting import comes_to, found, until
from tests.kit.workers import AT_ONCE, Workers, is_alive, running_workers

QUESTION = b'{"model":"m","stream":true,"messages":[]}'
JSON = "Content-Type: application/json\r\n"

Start = Callable[..., Awaitable[Workers]]


@pytest.fixture
async def start(tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer) -> AsyncIterator[Start]:
    """Start two workers; arguments are those of the command line."""
    async with AsyncExitStack() as stack:

        async def start(*more: str, module: str = "gateway") -> Workers:
            return await stack.enter_async_context(
                running_workers(tmp_path, upstream.base_url, redis, *more, module=module)
            )

        yield start


async def one_stream(turn: Turn) -> None:
    """An event at once, and another one for every gate `go on`."""
    await turn.read_body()
    await turn.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await turn.chunk(b"data: 1\n\n")
    await turn.wait_for("go on")
    await turn.chunk(b"data: 2\n\n")
    await turn.chunk(b"")


def plays_streams(upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await (two_events(turn) if "chat" in turn.seen.target else answer_ok(turn))

    upstream.plays(script)


async def begin_stream(client: RawClient) -> None:
    await client.send(client.request_bytes("POST", "/v1/chat/completions", QUESTION, headers=JSON))
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: 1\n\n"


async def ends_well(client: RawClient) -> None:
    assert await client.read_chunk() == b"data: 2\n\n"
    assert await client.read_chunk() == b""


async def is_answered(workers: Workers) -> int:
    async with await workers.connect() as client:
        return (await client.request("GET", "/v1/models")).status


async def test_all_workers_serve_and_one_page_and_one_log_tell_of_all(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answer_ok)
    workers = await start()
    for _ in range(40):
        assert await is_answered(workers) == 200

    assert len(set(await workers.pids())) == 2
    assert await workers.metric('gateway_workers{state="ready"}') == 2
    counted = (
        'gateway_exchanges_total{ending="complete",operation="listModels",status="2xx",tenant="default"}'
    )
    await comes_to(40.0, lambda: workers.metric(counted))
    await until(lambda: len(workers.command.stdout) == 40)
    lines = [orjson.loads(line) for line in workers.command.stdout]
    assert {line["worker"] for line in lines} == {0, 1}


async def test_who_was_accepted_and_has_not_asked_is_answered_after_a_restart(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answer_ok)
    workers = await start()
    before = await workers.pids()
    clients = [await workers.connect() for _ in range(100)]
    workers.signal(signal.SIGUSR2)
    await workers.all_ready(2, but=tuple(before))
    await asyncio.sleep(0.2)

    for client in clients:
        answer = await client.request("GET", "/v1/models")
        assert (answer.status, answer.get("Connection")) == (200, "close")


async def test_streams_end_well_over_a_restart_and_their_workers_go_then(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start(*AT_ONCE)
    before = await workers.pids()
    streams = [await workers.connect_to(pid) for pid in before]
    for client in streams:
        await begin_stream(client)
    workers.signal(signal.SIGUSR2)
    await workers.all_ready(2, but=tuple(before))
    assert await is_answered(workers) == 200
    assert sorted(await workers.pids("leaving")) == sorted(before)

    upstream.gate("go on").set()
    for client in streams:
        await ends_well(client)
    await until(lambda: not any(map(is_alive, before)))
    assert await workers.metric('gateway_worker_restarts_total{cause="asked"}') == 2


async def test_killed_worker_is_replaced_within_two_seconds_and_cuts_its_own_streams_alone(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start(*AT_ONCE)
    killed, other = await workers.pids()
    cut, kept = await workers.connect_to(killed), await workers.connect_to(other)
    for client in (cut, kept):
        await begin_stream(client)
    name = 'gateway_exchanges_total{ending="complete",operation="gatewayMe",status="2xx",tenant="default"}'
    counted = await workers.metric(name)
    began = monotonic()
    os.kill(killed, signal.SIGKILL)

    answered = [is_answered(workers) for _ in range(20)]
    assert await asyncio.wait_for(asyncio.gather(*answered), 5) == [200] * 20
    await workers.all_ready(2, but=(killed,))
    assert monotonic() - began < 4, "two seconds, where the machine is not shared"
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await cut.read_chunk()
    upstream.gate("go on").set()
    await ends_well(kept)
    assert counted > 0
    assert await workers.metric(name) >= counted
    assert await workers.metric('gateway_worker_restarts_total{cause="died"}') == 1


async def test_neighbour_accepts_for_a_worker_that_does_not_turn_until_that_is_replaced(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answer_ok)
    workers = await start(*AT_ONCE, "--set", "worker_hang_seconds=4")
    stopped, other = await workers.pids()
    os.kill(stopped, signal.SIGSTOP)
    began = monotonic()

    answers = await asyncio.gather(*(is_answered(workers) for _ in range(40)))
    assert answers == [200] * 40
    assert monotonic() - began < 4, "they were answered by a neighbour, not by its successor"
    assert await workers.pids("hung") == [stopped]
    await workers.all_ready(2, but=(stopped,), within_seconds=15)
    assert not is_alive(stopped)
    assert other in await workers.pids()
    assert await workers.metric('gateway_worker_restarts_total{cause="hung"}') == 1


async def test_worker_whose_loop_is_stuck_writes_down_where_before_it_is_replaced(start: Start) -> None:
    workers = await start("--set", "worker_hang_seconds=2", module="tests.kit.stuck")
    stuck, _ = await workers.pids()
    os.kill(stuck, signal.SIGALRM)

    await workers.command.says("in stand_still", 15)
    await workers.all_ready(2, but=(stuck,), within_seconds=15)
    assert not is_alive(stuck)


async def test_workers_of_a_machine_that_was_paused_are_not_replaced(
    start: Start, upstream: ScriptedUpstream
) -> None:
    workers = await start("--set", "worker_hang_seconds=1")
    pids = await workers.pids()
    everybody = (workers.supervisor, *pids)
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(2)
    for pid in everybody:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(1)

    assert await workers.pids() == pids
    assert await workers.metric('gateway_worker_restarts_total{cause="hung"}') == 0


async def test_worker_that_is_told_to_end_by_itself_leaves_when_it_has_a_successor(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start(*AT_ONCE)
    left, other = await workers.pids()
    client = await workers.connect_to(left)
    await begin_stream(client)
    os.kill(left, signal.SIGTERM)

    ready = await workers.all_ready(2, but=(left,))
    assert other in ready
    upstream.gate("go on").set()
    await ends_well(client)


async def test_stop_lets_streams_of_all_workers_end_and_refuses_newcomers(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start("--set", "drain_notice_seconds=1")
    pids = await workers.pids()
    streams = [await workers.connect_to(pid) for pid in pids]
    for client in streams:
        await begin_stream(client)
    workers.signal(signal.SIGTERM)
    await comes_to(503, lambda: status_of(workers, "/readyz"))
    assert await is_answered(workers) == 200, "load balancers have not noticed yet"

    async def refuses() -> bool:
        try:
            await (await workers.connect()).close()
        except ConnectionRefusedError:
            return True
        return False

    await comes_to(True, refuses)
    upstream.gate("go on").set()
    for client in streams:
        await ends_well(client)
    assert await workers.command.exit_code() == 0
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("notice_seconds", [0, 30], ids=["while they drain", "while balancers notice"])
async def test_second_signal_ends_all_at_once(
    start: Start, upstream: ScriptedUpstream, notice_seconds: int
) -> None:
    plays_streams(upstream)
    workers = await start("--set", f"drain_notice_seconds={notice_seconds}")
    pids = await workers.pids()
    client = await workers.connect()
    await begin_stream(client)
    workers.signal(signal.SIGTERM)
    await workers.command.says("stopping")
    workers.signal(signal.SIGTERM)

    assert await workers.command.exit_code(2) == 0
    assert not any(map(is_alive, pids))
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.read_chunk()
    endings = [orjson.loads(line)["ending"] for line in workers.command.stdout]
    assert "drained" in endings


async def test_workers_whose_supervisor_is_gone_finish_and_go(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start(*AT_ONCE)
    pids = await workers.pids()
    client = await workers.connect_to(pids[0])
    await begin_stream(client)
    workers.signal(signal.SIGKILL)
    await until(lambda: not is_alive(pids[1]))

    upstream.gate("go on").set()
    await ends_well(client)
    await until(lambda: not is_alive(pids[0]))


async def test_worker_whose_supervisor_is_gone_ends_at_once_when_told_to(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start(*AT_ONCE)
    (orphan, _) = await workers.pids()
    await begin_stream(await workers.connect_to(orphan))
    workers.signal(signal.SIGKILL)
    # Whoever has not noticed yet leaves SIGTERM to the supervisor, and each of the two notices by itself.
    await until(lambda: sum("the supervisor is gone" in line for line in workers.command.stderr) == 2)
    os.kill(orphan, signal.SIGTERM)

    await until(lambda: not is_alive(orphan))


async def test_new_settings_are_taken_by_all_workers_or_by_none(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(answer_ok)
    file = tmp_path / "gateway.toml"
    file.write_text("tenants.default.scopes = ['*']\n")
    workers = await start("--config", str(file))
    pids = await workers.pids()

    async def statuses() -> set[int]:
        found = set()
        for pid in pids:
            async with await workers.connect_to(pid) as client:
                found.add((await client.request("GET", "/v1/models")).status)
        return found

    file.write_text("tenants.default.scopes = ['*']\ntenants.default.nonsense = 1\n")
    workers.signal(signal.SIGHUP)
    await workers.command.says("nonsense")
    assert await statuses() == {200}
    assert await workers.metric("gateway_configuration_valid") == 0
    file.write_text("tenants.default.scopes = ['files:*']\n")
    workers.signal(signal.SIGHUP)
    await workers.command.says("configuration reloaded")
    assert await statuses() == {403}
    assert await workers.metric("gateway_configuration_valid") == 1

    os.kill(pids[0], signal.SIGKILL)
    pids = await workers.all_ready(2, but=(pids[0],))
    assert await statuses() == {403}


async def test_keys_of_another_issuer_are_fetched_once_for_all_workers(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(answer_ok)
    async with running_jwks_server() as issuer:
        issuer.publish(THEIRS)
        file = tmp_path / "gateway.toml"
        file.write_text(
            f"[issuers.login]\nissuer = '{LOGIN}'\naudience = 'gateway'\njwks_url = '{issuer.url}'\n"
            "tenant = 'default'\nscopes = ['models:read']\n"
        )
        workers = await start("--config", str(file))
        killed, _ = await workers.pids()
        os.kill(killed, signal.SIGKILL)
        for pid in await workers.all_ready(2, but=(killed,)):
            async with await workers.connect_to(pid) as client:
                client.credential = their_credential()
                assert (await client.request("GET", "/v1/models")).status == 200
        fetches = 'gateway_jwks_fetches_total{issuer="login",result="new"}'

        assert await workers.metric(fetches) == 1
        assert len(issuer.requests) == 1


async def test_restart_takes_what_waits_for_a_start_and_goes_back_where_no_worker_comes_up(
    start: Start, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.plays(answer_ok)
    file = tmp_path / "gateway.toml"
    file.write_text("edge.max_header_bytes = 65536\n")
    workers = await start("--config", str(file), *AT_ONCE)
    before = tuple(await workers.pids())
    restart = ("restart", "--admin-listen", f"127.0.0.1:{workers.command.admin_port}")

    file.write_text("edge.max_header_bytes = 'many'\n")
    failed = await run_command(*restart)
    assert failed.code == 1
    assert "edge.max_header_bytes" in failed.stderr
    assert tuple(await workers.pids()) == before
    assert await is_answered(workers) == 200

    file.write_text("edge.max_header_bytes = 4096\n")
    done = await run_command(*restart)
    assert (done.code, done.stderr) == (0, "")
    await workers.all_ready(2, but=before)
    async with await workers.connect() as client:
        asked = client.request_bytes("GET", "/v1/models", headers=f"X-Long: {'x' * 8000}\r\n")
        await client.send(asked)
        assert (await client.read_answer()).status == 431


async def test_successor_that_is_killed_while_it_comes_up_changes_nothing(
    start: Start, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answer_ok)
    workers = await start(*AT_ONCE)
    before = await workers.pids()
    workers.signal(signal.SIGUSR2)
    (successor,) = await found(lambda: workers.pids("starting"))
    os.kill(successor, signal.SIGKILL)

    await workers.command.says("restart failed")
    assert await workers.pids() == before
    assert await workers.pids("starting", "leaving") == []
    assert await is_answered(workers) == 200
    workers.signal(signal.SIGTERM)
    assert await workers.command.exit_code() == 0


async def test_at_most_two_old_workers_of_a_slot_live_then_the_oldest_is_cut(
    start: Start, upstream: ScriptedUpstream
) -> None:
    plays_streams(upstream)
    workers = await start(*AT_ONCE)
    streams = []
    for _ in range(3):
        pids = tuple(await workers.pids())
        streams.append(await workers.connect_to(pids[0]))
        await begin_stream(streams[-1])
        workers.signal(signal.SIGUSR2)
        await workers.all_ready(2, but=pids)

    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await streams[0].read_chunk()
    upstream.gate("go on").set()
    for client in streams[1:]:
        await ends_well(client)


async def test_what_keeps_workers_from_coming_up_is_said_once(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "one.json").write_text("no key")
    done = await run_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "2"),
        *("--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys")),
        *("--set", f"redis_url={redis.url}"),
    )

    assert done.code == 1
    assert done.stderr.count("one.json") == 1
    assert "Traceback" not in done.stderr


async def test_port_where_another_gateway_listens_is_taken(
    start: Start, upstream: ScriptedUpstream, redis: RedisServer, tmp_path: Path
) -> None:
    workers = await start()
    taken = f"127.0.0.1:{workers.command.port}"
    done = await run_command(
        *("serve", "--listen", taken, "--admin-listen", "127.0.0.1:0", "--workers", "2"),
        *("--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys")),
        *("--set", f"redis_url={redis.url}"),
    )

    assert done.code == 1
    assert f"gateway: listen {taken}: " in done.stderr


async def status_of(workers: Workers, path: str) -> int:
    return (await workers.page(path))[0]
