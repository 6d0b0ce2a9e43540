"""A request begins when its first byte could have been read: while the loop does something else, its client waits."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.kit.client import CHAT, JSON, QUESTION, RawClient
from tests.kit.gateway import Gateway
from tests.kit.tls import served_pair
from tests.kit.upstream import ScriptedUpstream, Turn, answer_ok

BUSY_SECONDS = 0.5
SEEN_MS = BUSY_SECONDS * 1000 - 15
"""What is to be seen of it at least: the kernel tells such times by its ticks."""

PROMPT_MS = 300
"""What nothing takes here that waits for nobody."""


def busy_while(send: Callable[[], object]) -> None:
    """Keep the loop from everything else, for so long behind what `send` does meanwhile."""
    sending = threading.Thread(target=send)
    time.sleep(0.05)
    sending.start()
    sending.join()
    time.sleep(BUSY_SECONDS)


def _put(client: RawClient, data: bytes) -> None:
    """Send, on whatever thread and whatever the loop does."""
    os.write(client.socket.fileno(), data)


def asked(client: RawClient) -> bytes:
    return client.request_bytes("POST", CHAT, QUESTION, headers=JSON)


async def answered(gateway: Gateway, client: RawClient, *, lines: int = 1) -> dict[str, Any]:
    """The last of so many lines, when the client has its answer."""
    assert (await client.read_answer("POST")).status == 200
    return (await gateway.lines.wait(lines))[-1]


async def used(gateway: Gateway, upstream: ScriptedUpstream) -> RawClient:
    """A client that has asked something before, promptly."""
    upstream.plays(answer_ok)
    client = await gateway.connect()
    assert (await client.request("GET", "/v1/models")).status == 200
    await gateway.lines.wait(1)
    return client


def assert_waited(line: dict[str, Any]) -> None:
    assert line["overhead_ms"] >= SEEN_MS
    assert line["first_byte_ms"] >= SEEN_MS
    assert line["duration_ms"] >= SEEN_MS


@pytest.mark.both_loops
async def test_what_came_while_the_loop_was_busy_waited_so_long(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await used(gateway, upstream)
    busy_while(lambda: _put(client, asked(client)))
    sent = time.time() - BUSY_SECONDS

    line = await answered(gateway, client, lines=2)

    assert_waited(line)
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - sent) < 0.3
    assert gateway.metric('gateway_overhead_seconds_bucket{le="0.25",operation="createChatCompletion"}') == 0


async def test_what_came_while_another_connection_was_dealt_with_waited_so_long(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The loop is busy while it reads, and not between two turns."""
    client = await used(gateway, upstream)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()

    def deal() -> None:
        ours.recv(1)
        busy_while(lambda: _put(client, asked(client)))

    with ours, theirs:
        loop.add_reader(ours, deal)
        theirs.send(b"x")
        line = await answered(gateway, client, lines=2)
        loop.remove_reader(ours)

    assert_waited(line)


async def test_who_connected_while_the_loop_was_busy_waited_so_long(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answer_ok)
    request = asked(await gateway.connect())
    with socket.socket() as newcomer:

        def connect() -> None:
            newcomer.connect((gateway.host, gateway.port))
            newcomer.send(request)

        busy_while(connect)
        assert_waited((await gateway.lines.wait(1))[0])


async def test_what_came_by_tls_while_the_loop_was_busy_waited_so_long(
    start_gateway: StartGateway, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    gateway = await start_gateway(**served_pair(tmp_path))
    upstream.plays(answer_ok)
    tls, request = gateway.tls, asked(await gateway.connect())
    assert tls is not None
    with socket.create_connection((gateway.host, gateway.port)) as raw:
        client = await asyncio.to_thread(partial(tls.wrap_socket, raw, server_hostname=gateway.host))
        with client:
            client.send(request)
            assert await asyncio.to_thread(client.recv, 2**16)
            busy_while(lambda: client.send(request))
            assert_waited((await gateway.lines.wait(2))[1])


async def test_what_its_own_former_request_kept_waiting_is_not_ours(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def slow(turn: Turn) -> None:
        if len(upstream.requests) == 1:
            await asyncio.sleep(BUSY_SECONDS)
        await answer_ok(turn)

    upstream.plays(slow)
    client = await gateway.connect()
    await client.send(asked(client) * 2)
    await client.read_answer("POST")

    line = await answered(gateway, client, lines=2)

    assert line["overhead_ms"] < PROMPT_MS
    assert line["duration_ms"] < PROMPT_MS


async def test_a_client_that_is_slow_to_send_its_head_is_not_the_gateways_overhead(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await used(gateway, upstream)
    request = asked(client)
    for at in range(0, 90, 30):
        await client.send(request[at : at + 30])
        await asyncio.sleep(BUSY_SECONDS / 3)
    await client.send(request[90:])

    line = await answered(gateway, client, lines=2)

    assert line["overhead_ms"] < PROMPT_MS
    assert line["duration_ms"] >= SEEN_MS, "it began with its first byte"


async def test_a_head_whose_last_part_came_while_the_loop_was_busy_waited_so_long(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await used(gateway, upstream)
    request = asked(client)
    await client.send(request[:40])
    await asyncio.sleep(0.05)
    busy_while(lambda: _put(client, request[40:]))

    assert_waited(await answered(gateway, client, lines=2))


async def test_who_waited_long_with_nothing_to_ask_has_waited_for_nobody(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await used(gateway, upstream)
    busy_while(lambda: None)
    await asyncio.sleep(0.1)
    await client.send(asked(client))

    line = await answered(gateway, client, lines=2)

    assert line["overhead_ms"] < PROMPT_MS
    assert line["duration_ms"] < PROMPT_MS


@pytest.mark.parametrize("sent", [1, 70_000], ids=["small", "large"])
async def test_a_client_that_leaves_while_it_sends_its_body_is_not_the_gateways_overhead(
    gateway: Gateway, sent: int
) -> None:
    client = await gateway.connect()
    request = client.request_bytes("POST", "/v1/chat/completions", b"x" * 100_000, headers=JSON)
    await client.send(request[: len(request) - 100_000 + sent])
    await asyncio.sleep(BUSY_SECONDS)
    await client.close()

    (line,) = await gateway.lines.wait(1)
    assert line["duration_ms"] >= SEEN_MS
    assert line["overhead_ms"] < SEEN_MS
