"""What the registry of stored objects costs: CPU microseconds of the gateway per request, with it and without.

    python -m tests.benchmarks.ownership [--requests 3000]

A gateway in this process answers one client over one connection, from an upstream that plays; that costs the same with
the registry and without, so that what is told is the difference. Without: the tenant has the account to itself by the
operator's word. Recorded: it is alone. With: another shares it. Rounds take turns, and of each the cheapest counts.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import AsyncExitStack, closing
from typing import Any

import orjson
import uvloop

from gateway.objects.store import Made
from tests.kit.client import JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import running_redis
from tests.kit.upstream import ScriptedUpstream, Turn

ROUNDS = 6
MODES: dict[str, dict[str, Any]] = {
    "without": {"a": EVERY_SCOPE | {"stored_objects": "own"}},
    "recorded": {"a": EVERY_SCOPE},
    "with": {"a": EVERY_SCOPE, "b": EVERY_SCOPE},
}
FILE = "file-1234567890abcdef"
REQUESTS: dict[str, tuple[str, str, bytes | None]] = {
    "chat": ("POST", "/v1/chat/completions", orjson.dumps({"model": "gpt-4o", "messages": []})),
    "response, not kept": (
        "POST",
        "/v1/responses",
        orjson.dumps({"model": "m", "input": "x", "store": False}),
    ),
    "response, kept": ("POST", "/v1/responses", orjson.dumps({"model": "m", "input": "x"})),
    "file": ("GET", f"/v1/files/{FILE}", None),
}


class Played:
    """An upstream that makes something new of every request."""

    def __init__(self) -> None:
        self._made = 0

    async def __call__(self, turn: Turn) -> None:
        await turn.read_body()
        self._made += 1
        item = {
            "type": "message",
            "id": f"msg_{self._made}",
            "content": [{"type": "output_text", "text": "x" * 400}],
        }
        body = orjson.dumps({"id": f"resp_{self._made}", "object": "response", "output": [item]})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(body) + body)


async def microseconds(client: RawClient, request: tuple[str, str, bytes | None], requests: int) -> float:
    """CPU of this process per request."""
    method, target, body = request
    headers = "" if body is None else JSON
    began = time.process_time()
    for _ in range(requests):
        answer = await client.request(method, target, body, headers=headers)
        assert answer.status == 200, answer
    return (time.process_time() - began) / requests * 1e6


async def opened(stack: AsyncExitStack, upstream: ScriptedUpstream, redis_url: str, mode: str) -> RawClient:
    """A client of a gateway whose tenant has a file."""
    way = {"base_url": upstream.base_url, "api_key": "sk-of-the-account", "name": mode}
    settings: dict[str, Any] = {
        "tenants": MODES[mode],
        "redis_url": redis_url,
        "redis_prefix": f"{mode}:",
        "upstream": way,
    }
    gateway: Gateway = await stack.enter_async_context(running_gateway(**settings))
    scope = gateway.app.services.tenants.get("a").scope
    if scope is not None and gateway.app.services.registry is not None:
        await gateway.app.services.registry.record(scope, [Made("file", FILE, time.time())])
    client = await RawClient.connect(gateway.host, gateway.port, gateway.credential(tenant="a"))
    gateway.clients.append(client)
    return client


async def compare(redis_url: str, requests: int) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        upstream.plays(Played())
        clients = {mode: await opened(stack, upstream, redis_url, mode) for mode in MODES}
        for name, request in REQUESTS.items():
            spent: dict[str, list[float]] = {mode: [] for mode in MODES}
            for _ in range(ROUNDS + 1):  # the first warms
                for mode, client in clients.items():
                    spent[mode].append(await microseconds(client, request, requests // ROUNDS))
            cheapest = {mode: min(rounds[1:]) for mode, rounds in spent.items()}
            print(
                f"{name:20} "
                + "  ".join(
                    f"{mode} {cost:6.1f} µs ({cost - cheapest['without']:+.1f})"
                    for mode, cost in cheapest.items()
                ),
                flush=True,
            )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--requests", type=int, default=3000, help="of each kind and way")
    with running_redis() as redis, closing(uvloop.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(compare(redis.unix_url, arguments.parse_args().requests))


if __name__ == "__main__":
    main()
