"""Whoever asks for all there is leaves room for what is counted of others."""

from __future__ import annotations

import re

from gateway.operations.operation import Operation
from tests.conftest import StartGateway
from tests.kit.client import JSON
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, answer_ok


async def asks_for_everything(gateway: Gateway, credential: str) -> None:
    """One request for each operation."""
    for operation in gateway.app.services.table.operations:
        client = await gateway.connect()
        client.credential = credential
        await client.send(client.request_bytes(operation.method, filled(operation), b"{}", headers=JSON))
        await client.read_head()
        await client.close()


def filled(operation: Operation) -> str:
    return re.sub(r"\{[^}]*\}", "x", operation.path)


def histograms(gateway: Gateway) -> set[str]:
    """The operations that have histograms."""
    return set(re.findall(r'gateway_\w+_count\{operation="(\w+)"\}', gateway.metrics()))


async def test_strangers_make_no_histograms_whatever_they_ask_for(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    await asks_for_everything(gateway, "nonsense")

    assert histograms(gateway) == {"none"}
    asked = gateway.metric('gateway_exchange_duration_seconds_count{operation="none"}')
    assert asked == len(gateway.app.services.table.operations)


async def test_a_tenant_that_asks_for_everything_leaves_half_of_the_room_and_all_is_timed(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"greedy": {**EVERY_SCOPE, "stored_objects": "own"}})
    upstream.plays(answer_ok)
    await asks_for_everything(gateway, gateway.credential(tenant="greedy"))

    assert gateway.app.services.metrics.registry.room.taken < 12_000
    counts = re.findall(
        r'gateway_exchange_duration_seconds_count\{operation="\w+"\} (\S+)', gateway.metrics()
    )
    assert sum(map(float, counts)) == len(gateway.app.services.table.operations)
