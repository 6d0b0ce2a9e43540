"""A client that leaves, however and whenever, takes its exchange with it, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.conftest import StartGateway
from tests.kit.client import RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.promises.leaving import (
    WAYS,
    all_of,
    amid_the_stream,
    before_the_first_byte,
    before_the_head_is_complete,
    during_an_upload,
    leave,
    settled,
    stream_for_ever,
)


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_a_client_that_leaves_takes_the_upstream_exchange_with_it_within_a_second(
    way: Callable[[RawClient], Awaitable[None]], by: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(stream_for_ever)
    client = await gateway.connect()
    await way(client)
    if way in (during_an_upload, before_the_first_byte):
        await until(lambda: upstream.requests)

    await leave(client, by)

    assert await upstream.all_closed(within_seconds=1.0)
    assert not any(seen.complete for seen in upstream.requests if way is during_an_upload)
    if way is not before_the_head_is_complete:
        [line] = await gateway.lines.wait(1)
        assert (line["ending"], line["status"]) == ("client_left", 200 if way is amid_the_stream else None)


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_a_thousand_exits_leave_nothing_behind(
    by: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    # With few slots to spare, one that is not given back would soon refuse everybody.
    gateway = await start_gateway(tenants={"acme": {"limits": {"max_concurrent_requests": 60}}})
    upstream.plays(stream_for_ever)

    async def one(way: Callable[[RawClient], Awaitable[None]]) -> None:
        client = await RawClient.connect(gateway.host, gateway.port, credential)
        await way(client)
        await leave(client, by)

    credential = gateway.credential()
    await all_of(one(way) for way in WAYS)
    assert await upstream.all_closed()
    tasks, descriptors = await settled()

    await all_of((one(WAYS[number % len(WAYS)]) for number in range(510)), width=40)

    assert await upstream.all_closed(within_seconds=2)
    tasks_after, descriptors_after = await settled()
    assert tasks_after <= tasks
    assert descriptors_after <= descriptors
    assert not any(gateway.upstream_connections(state) for state in ("busy", "idle", "waiting"))
    assert gateway.app.services.lifecycle.in_flight == 0
    assert gateway.app.server is not None
    assert gateway.app.server.state.clients.open == 0
    assert not [line for line in await gateway.lines.wait(1) if line["status"] == 429]


# An upload that the upstream does not take: the client's bytes pile up unread in the system.


async def start_stalled_upload(
    gateway: Gateway, upstream: ScriptedUpstream
) -> tuple[RawClient, asyncio.Task[None]]:
    async def never_reads(turn: Turn) -> None:
        turn.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(60)

    upstream.plays(never_reads)
    client = await gateway.connect()
    await client.send(
        client.request_bytes(
            "POST", "/v1/files", headers="Content-Type: text/plain\r\nContent-Length: 200000000\r\n"
        )
    )

    async def push() -> None:
        try:
            while True:
                client.writer.write(bytes(2**18))
                await client.writer.drain()
        except (ConnectionError, RuntimeError):  # uvloop's word for writing to what was aborted
            pass

    pushing = asyncio.create_task(push())
    before, sent = -1, 0
    while sent != before or not upstream.requests:
        # It stands still once every buffer between the two ends is full.
        before, sent = sent, client.writer.transport.get_write_buffer_size()
        await asyncio.sleep(0.3)
    return client, pushing


async def gone_within(gateway: Gateway, seconds: float) -> bool:
    """Whether the gateway lets go of its upstream connection in time."""
    deadline = asyncio.get_running_loop().time() + seconds
    while gateway.upstream_connections() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    return not gateway.upstream_connections()


async def test_the_reset_of_a_client_whose_upload_is_held_back_is_found_within_two_seconds(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client, pushing = await start_stalled_upload(gateway, upstream)
    assert gateway.upstream_connections() == 1

    client.reset()

    assert await gone_within(gateway, 2.0)
    await pushing
    assert (await gateway.lines.wait(1))[0]["ending"] == "client_left"


async def test_a_fin_behind_unread_bytes_is_found_by_the_body_idle_deadline(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"body_idle_timeout_seconds": 1.0})
    client, pushing = await start_stalled_upload(gateway, upstream)
    pushing.cancel()

    client.writer.transport.abort()

    assert await gone_within(gateway, 3.0)
    assert (await gateway.lines.wait(1))[0]["ending"] in ("client_left", "timed_out", "refused")
