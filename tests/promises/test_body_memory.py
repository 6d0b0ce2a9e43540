"""However many large bodies one tenant sends, a gateway's memory grows by its cap and little more, and others pass."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import credential_of
from tests.kit.client import CHAT, JSON, MIB, RawClient
from tests.kit.command import running_command
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.middleware.limited import chat
from tests.promises.test_memory import memory_bytes

CAP_BYTES = 64 * MIB
SLACK_BYTES = 64 * MIB
"""Connections' buffers, what is on its way to who reads it, and what the allocator keeps."""

CLIENTS, BODY_BYTES = 40, 20 * MIB


async def test_forty_bodies_of_twenty_megabytes_occupy_the_cap_and_no_more(
    upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    ring, _ = ensure_ring(keys)
    configuration = tmp_path / "gateway.toml"
    configuration.write_text(
        f"""
        listen = "127.0.0.1:0"
        admin_listen = "127.0.0.1:0"
        keys_dir = "{keys}"
        [upstream]
        base_url = "{upstream.base_url}"
        [edge]
        body_memory_bytes = {CAP_BYTES}
        [tenants.flood.limits]
        max_requests_per_1_day = 1000000
        [tenants.calm]
        """
    )

    async def reads(turn: Turn) -> None:
        """Forgets what it reads, and takes its time."""
        left = int(turn.seen.get("content-length") or 0)
        while left:
            left -= len(await turn.reader.read(MIB))
        await asyncio.sleep(0.2)
        await turn.send(OK)

    upstream.plays(reads)
    async with running_command("serve", "--config", str(configuration), OPENAI_API_KEY="sk-up") as gateway:
        flooding = credential_of(ring, tenant="flood")
        calm = await RawClient.connect(gateway.host, gateway.port, credential_of(ring, tenant="calm"))
        assert (await calm.request("POST", CHAT, chat(), headers=JSON)).status == 200
        body = chat("x" * BODY_BYTES)
        statuses: Counter[int] = Counter()

        async def floods() -> None:
            client = await RawClient.connect(gateway.host, gateway.port, flooding)
            client.timeout_seconds = 60
            await client.send(
                client.request_bytes("POST", CHAT, headers=f"{JSON}Content-Length: {len(body)}\r\n")
            )
            answer = asyncio.create_task(client.read_answer())
            try:
                for at in range(0, len(body), MIB):
                    if answer.done():
                        break  # it was refused: nobody wants the rest
                    await client.send(body[at : at + MIB])
            except ConnectionError:
                pass  # so it was
            statuses[(await answer).status] += 1
            await client.close()

        before = memory_bytes(gateway, "VmRSS")
        Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")  # the peak starts afresh
        flood = [asyncio.create_task(floods()) for _ in range(CLIENTS)]
        asked = 0
        while not all(task.done() for task in flood):
            assert (await calm.request("POST", CHAT, chat("x" * 100_000), headers=JSON)).status == 200
            asked += 1
            await asyncio.sleep(0.02)
        await asyncio.gather(*flood)
        growth = memory_bytes(gateway, "VmHWM") - before
        await calm.close()

    assert statuses.keys() <= {200, 503}
    assert statuses[200], statuses
    assert statuses[503], "forty at once have no room"
    assert asked
    assert growth <= CAP_BYTES + SLACK_BYTES, growth / MIB
