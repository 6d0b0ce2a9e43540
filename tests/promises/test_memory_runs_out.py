"""Where memory does not suffice, whoever asks for much is told so (503); nobody else notices, and nothing dies."""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import credential_of, verdict
from tests.kit.client import CHAT, JSON, MIB, QUESTION, RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.promises.test_memory import memory_bytes

ROOM_BYTES = 48 * MIB
CROWD = 8
OVERLOADED = (503, "overloaded")
CUT = (0, None)
"""Where there was no memory even for what came next over the connection."""


@pytest.fixture
async def served(upstream: ScriptedUpstream, tmp_path: Path) -> AsyncIterator[tuple[RunningCommand, str]]:
    """A gateway, and a credential for it."""
    ring, _ = ensure_ring(tmp_path / "keys")
    arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    arguments += ["--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys")]
    async with running_command("serve", *arguments, OPENAI_API_KEY="sk-up") as gateway:
        yield gateway, credential_of(ring)


async def test_a_failed_allocation_is_503_for_who_asks_for_much_and_nothing_for_anybody_else(
    served: tuple[RunningCommand, str], upstream: ScriptedUpstream
) -> None:
    gateway, credential = served

    async def slow(turn: Turn) -> None:
        await turn.read_body()
        if turn.seen.target != "/v1/models":
            await asyncio.sleep(0.2)
        turn.seen.body = b""
        await turn.send(OK)

    async def ask(method: str, target: str, body: bytes | None, headers: str = "") -> tuple[int, str | None]:
        async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
            try:
                await client.send(client.request_bytes(method, target, body, headers=headers))
            except ConnectionError:
                pass  # answered before all of it had been read
            try:
                return verdict(await client.read_answer())
            except (ConnectionError, asyncio.IncompleteReadError):
                return CUT

    small: Counter[tuple[int, str | None]] = Counter()

    async def others() -> None:
        while True:
            small[await ask("GET", "/v1/models", None)] += 1
            await asyncio.sleep(0.01)

    upstream.plays(slow)
    text = orjson.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "é" * 10 * MIB}]})
    assert await ask("POST", CHAT, text, JSON) == (200, None)
    limit_bytes = memory_bytes(gateway, "VmSize") + ROOM_BYTES
    resource.prlimit(gateway.process.pid, resource.RLIMIT_AS, (limit_bytes, limit_bytes))

    beside = asyncio.create_task(others())
    large: Counter[tuple[int, str | None]] = Counter()
    for _ in range(3):
        large.update(await asyncio.gather(*(ask("POST", CHAT, text, JSON) for _ in range(CROWD))))
    beside.cancel()

    assert gateway.process.returncode is None
    assert large.keys() <= {(200, None), OVERLOADED, CUT}
    assert large[OVERLOADED] > CROWD
    assert small.keys() == {(200, None)}
    assert await ask("POST", CHAT, QUESTION, JSON) == (200, None)
    asked: list[dict[str, object]] = []

    def all_told() -> bool:
        lines = map(orjson.loads, gateway.stdout)
        asked[:] = [line for line in lines if line["operation"] != "listModels"]
        return len(asked) == 2 + large.total()

    await until(all_told)
    endings = {(line["ending"], line.get("error")) for line in asked}
    assert endings == {("complete", None), ("refused", "overloaded")}
