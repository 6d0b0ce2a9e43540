"""A process that may open few files: clear refusals, metrics that still answer, and nothing to recover from."""

from __future__ import annotations

import asyncio
import os
import resource
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from gateway.credentials.key_ring import KeyRing
from tests.kit.asking import credential_of, error_of
from tests.kit.client import RawAnswer, RawClient
from tests.kit.command import RunningCommand, running_with_files
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until

FILES = 256


def serving(
    tmp_path: Path, upstream: ScriptedUpstream, *more: str, files: tuple[int, int] = (FILES, FILES)
) -> AbstractAsyncContextManager[RunningCommand]:
    """`gateway serve` in a process that may open so many files, and may allow itself so many."""
    return running_with_files(
        files,
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--keys-dir", str(tmp_path / "keys"), *more),
        OPENAI_BASE_URL=upstream.base_url,
        OPENAI_API_KEY="sk-up",
    )


class Clients:
    """Connections to a gateway, all closed in the end."""

    def __init__(self, gateway: RunningCommand, keys: Path) -> None:
        self._gateway = gateway
        self._credential = credential_of(KeyRing.load(keys))
        self.all: list[RawClient] = []

    async def connect(self) -> RawClient:
        """One more."""
        client = await RawClient.connect(self._gateway.host, self._gateway.port, self._credential)
        self.all.append(client)
        return client

    async def close(self) -> None:
        """Leave."""
        for client in self.all:
            await client.close()

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def metrics(gateway: RunningCommand) -> str:
    """What /metrics says, on a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(f"http://127.0.0.1:{gateway.admin_port}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


def open_files(gateway: RunningCommand) -> set[int]:
    """The files that the process has open."""
    return {int(file.name) for file in Path(f"/proc/{gateway.process.pid}/fd").iterdir()}


def cpu_seconds(gateway: RunningCommand) -> float:
    """What the process has used so far."""
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def ask(client: RawClient, target: str = "/v1/models") -> RawAnswer | None:
    """The answer; None when there is none."""
    try:
        return await client.request("GET", target)
    except (ConnectionError, asyncio.IncompleteReadError):
        return None


def quiet(gateway: RunningCommand) -> bool:
    """Nothing went wrong that somebody would have to read a stack for."""
    said = "\n".join(gateway.stderr)
    return "Traceback" not in said and "Error" not in said


async def hold(turn: Turn) -> None:
    """Answers about the model `held` wait at the gate `open`."""
    await turn.read_body()
    if turn.seen.target.endswith("/held"):
        await turn.wait_for("open")
    await turn.send(OK)


async def test_a_process_takes_the_files_that_it_may_have(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    """Containers and services begin with few, for programs that could not do with more."""
    async with (
        serving(tmp_path, upstream, files=(FILES, 2048)) as gateway,
        Clients(gateway, tmp_path / "keys") as clients,
    ):
        for _ in range(FILES):
            await clients.connect()
        for client in clients.all:
            answer = await ask(client)
            assert answer is not None
            assert answer.status == 200


@pytest.mark.parametrize("most", [0, 5000])
async def test_three_hundred_connections_on_two_hundred_and_fifty_six_files(
    most: int, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """Whatever the configuration asks for, there are no more than files allow."""
    upstream.plays(hold)
    async with (
        serving(tmp_path, upstream, "--set", f"edge.max_connections={most}") as gateway,
        Clients(gateway, tmp_path / "keys") as clients,
    ):
        crowd = await asyncio.gather(*(clients.connect() for _ in range(300)))
        asking = [asyncio.create_task(ask(client, "/v1/models/held")) for client in crowd]
        await until(lambda: len(upstream.requests) > 20 and sum(task.done() for task in asking) > 150, 10)

        said = await metrics(gateway)
        before = cpu_seconds(gateway)
        await asyncio.sleep(1)
        assert cpu_seconds(gateway) - before < 0.3, "it does not spin"
        assert len(open_files(gateway)) < FILES - 16
        served = len(upstream.requests)
        upstream.gate("open").set()
        answers = await asyncio.gather(*asking)

        refused = [answer for answer in answers if answer is not None and answer.status == 503]
        assert sum(answer is not None and answer.status == 200 for answer in answers) == served
        assert len(refused) == 300 - served, "every refusal says so"
        assert {error_of(answer)["code"] for answer in refused} == {"overloaded"}
        assert f"gateway_client_connections {float(served)}" in said
        await clients.close()
        answer = await ask(await clients.connect())
        assert answer is not None
        assert answer.status == 200
        assert quiet(gateway), gateway.stderr
        assert any("there is room for" in line for line in gateway.stderr) == bool(most)


async def test_a_process_out_of_files_says_that_it_is_its_own_fault_and_recovers(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with serving(tmp_path, upstream) as gateway, Clients(gateway, tmp_path / "keys") as clients:
        first, second = await clients.connect(), await clients.connect()
        await metrics(gateway)  # whatever it opens once is open now
        _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE)
        limit = len(open_files(gateway)) + 2
        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (limit, hard))
        for _ in range(200):
            if set(range(limit)) <= open_files(gateway):
                break
            await clients.connect()
            await asyncio.sleep(0.02)

        answer = await ask(first)
        assert answer is not None
        assert (answer.status, error_of(answer)["code"]) == (503, "overloaded")
        assert answer.get("retry-after")
        said = await metrics(gateway)
        assert 'gateway_upstream_connects_total{result="no_files",upstream="default"} 3.0' in said
        assert 'result="failed"' not in said.partition("gateway_upstream_connects_total")[2].partition("#")[0]
        before = cpu_seconds(gateway)
        await asyncio.sleep(1)
        assert cpu_seconds(gateway) - before < 0.3, "it does not spin"
        for _ in range(3):
            assert "gateway_client_connections" in await metrics(gateway)

        resource.prlimit(gateway.process.pid, resource.RLIMIT_NOFILE, (FILES, hard))
        answer = await ask(second)
        assert answer is not None
        assert answer.status == 200
        answer = await ask(await clients.connect())
        assert answer is not None
        assert answer.status == 200
        assert quiet(gateway), gateway.stderr
