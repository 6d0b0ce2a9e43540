"""`GET /gateway/state` of several workers: what all of them tell together, with a Redis that keeps what they share."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp

from gateway.app import state as described
from tests.app.test_state import check, of
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, silent
from tests.kit.waiting import comes_to
from tests.kit.workers import Workers, running_workers

KEY = "the-operators-key-0123456789"


async def state_of(workers: Workers) -> dict[str, Any]:
    status, document = await workers.page("/gateway/state")
    assert status == 200
    assert isinstance(document, dict)
    return document


async def test_what_all_workers_do_is_told_together(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    upstream.plays(silent)
    async with running_workers(tmp_path, upstream.base_url, redis) as workers:
        pids = await workers.all_ready(2)
        clients = [await workers.connect_to(pid) for pid in pids]
        for client in clients:
            await client.send(client.request_bytes("GET", "/v1/models"))

        async def running() -> list[int]:
            return sorted(one["worker"] for one in (await state_of(workers))["oldest"])

        await comes_to([0, 1], running)
        document = await state_of(workers)
        check(document, described.State)
        assert [one["pid"] for one in document["workers"]] == pids
        for worker in document["workers"]:
            assert worker["in_flight"] == 1
            assert worker["memory_bytes"] > 1e6

        # The first credential stands on the register; what was asked of the gateway itself is counted.
        (credential,) = document["credentials"]
        assert credential["tenant"] == "default"
        assert credential["id"]
        assert workers.credential not in str(document)
        assert of(document["tenants"], tenant="default")["used"]["read"] is not None
        assert {one["up"] for one in document["redis"]} <= {True}


async def test_a_worker_that_hangs_or_has_died_keeps_nobody_from_being_told_of_the_others(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    async with running_workers(tmp_path, upstream.base_url, redis) as workers:
        first, second = await workers.all_ready(2)
        await state_of(workers)  # what all know alike is known from then on
        os.kill(first, signal.SIGSTOP)
        try:

            async def told() -> dict[int, int | None]:
                return {one["pid"]: one["in_flight"] for one in (await state_of(workers))["workers"]}

            await comes_to({first: None, second: 0}, told)
            document = await state_of(workers)
            assert of(document["workers"], pid=first)["state"] == "hung"
            assert of(document["tenants"], tenant="default")["enabled"] is True
        finally:
            os.kill(first, signal.SIGKILL)
        await workers.all_ready(2, but=(first,))

        async def in_flight() -> list[int]:
            return [one["in_flight"] for one in (await state_of(workers))["workers"]]

        await comes_to([0, 0], in_flight)


async def test_the_operators_key_is_followed_by_who_serves_the_page(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(f'admin_key = "{KEY}"\n')
    async with running_workers(tmp_path, upstream.base_url, redis, "--config", str(file)) as workers:
        await workers.all_ready(2)

        async def opens(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "192.0.2.1"}
            url = f"http://127.0.0.1:{workers.command.admin_port}/gateway/state"
            async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
                return answer.status

        assert await opens(KEY) == 200
        assert await opens(KEY[::-1]) == 401
        file.write_text(f'admin_key = "{KEY[::-1]}"\n')
        for _ in range(40):
            await asyncio.sleep(0.25)  # seldom enough to guess no more than one may
            if await opens(KEY) == 401:
                break
        assert await opens(KEY[::-1]) == 200
