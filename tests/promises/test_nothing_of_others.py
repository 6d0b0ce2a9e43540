"""What one tenant is told says nothing of what others do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import HANDSHAKE, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn

LIMITS = "x-ratelimit-limit-requests: 60\r\nX-RateLimit-Remaining-Tokens: 7\r\n"


async def ids(gateway: Gateway, count: int) -> AsyncIterator[str]:
    """The ids of so many requests, of every kind that has one."""
    async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
        for number in range(count):
            if number % 10 == 9:
                async with await RawClient.connect(gateway.host, gateway.port) as unreadable:
                    await unreadable.send(b"nonsense\r\n\r\n")
                    answer = await unreadable.read_answer()
            else:
                answer = await client.request("GET", ("/v1/models", "/gateway/me")[number % 2])
            yield answer.get("x-gateway-request-id") or ""


async def test_request_ids_cannot_be_counted_or_linked(gateway: Gateway) -> None:
    seen = [one async for one in ids(gateway, 300)]

    assert len(set(seen)) == 300
    assert {one[:7] for one in seen} == {"req_gw_"}
    parts = [bytes.fromhex(one[7:]) for one in seen]
    assert {len(part) for part in parts} == {12}
    for place in range(12):
        assert len({part[place] for part in parts}) > 100, "no place is a prefix or counts slowly"
    numbers = [int.from_bytes(part) for part in parts]
    rising = sum(one < other for one, other in pairwise(numbers))
    assert 90 < rising < 210, "no place counts at all"


async def test_request_id_is_the_one_in_the_log(gateway: Gateway) -> None:
    seen = [one async for one in ids(gateway, 20)]

    assert [line["request_id"] for line in await gateway.lines.wait(20)] == seen


async def upstream_limits(turn: Turn) -> None:
    """An answer that tells what is left of the account; to an upgrade, a refusal that does."""
    await turn.read_body()
    status = "429 Too Many Requests" if turn.seen.get("upgrade") else "200 OK"
    await turn.send(
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{LIMITS}Content-Length: 2\r\n\r\n{{}}".encode()
    )


@pytest.mark.parametrize("word", ["registry", "refuse"])
async def test_what_is_left_of_an_upstream_account_is_told_to_who_has_it_alone(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, word: str
) -> None:
    upstream.plays(upstream_limits)
    elsewhere = upstream.base_url.replace("127.0.0.1", "localhost")
    alone: dict[str, Any] = {"upstream": {"api_key": "sk-own", "base_url": elsewhere}}
    shares = EVERY_SCOPE | {"stored_objects": word}
    gateway = await start_gateway(
        tenants={"acme": shares, "neighbour": shares, "apart": EVERY_SCOPE | alone},
        redis_url=redis.url,
        upstream={"base_url": upstream.base_url, "api_key": "sk-upstream-key", "admin_api_key": "sk-admin"},
    )

    async def told(tenant: str, target: str = "/v1/models", headers: str = "") -> list[str]:
        answer = await ask(gateway, "GET", target, headers=headers, tenant=tenant)
        assert answer.status == (429 if headers else 200)
        return [f"{name}: {value}" for name, value in answer.fields if "ratelimit" in name.lower()]

    everything = ["x-upstream-ratelimit-limit-requests: 60", "x-upstream-RateLimit-Remaining-Tokens: 7"]
    assert await told("apart") == everything
    assert await told("apart", "/v1/realtime?model=m", HANDSHAKE) == everything
    for tenant in ("acme", "neighbour"):
        assert await told(tenant) == []
        assert await told(tenant, "/v1/realtime?model=m", HANDSHAKE) == []
    assert await told("apart", "/v1/organization/users") == [], "that account is everybody's"
