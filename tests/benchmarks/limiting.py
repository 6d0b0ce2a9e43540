"""What limits and metering cost: CPU microseconds per request of the two middlewares, ledger included.

    python -m tests.benchmarks.limiting [--seconds 1]

The middlewares run around a handler that plays an answer without any socket: one JSON answer, or a stream of
100 events. The same without them is measured in turn and taken off; of several rounds the cheapest counts,
because the others were disturbed. Alone (one request after another) and with 64 at a time; in memory and with
a real Redis on a Unix socket.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from typing import Any

import orjson
import uvloop

from gateway.app.build import build_app
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import Principal
from gateway.exchange.exchange import Exchange
from gateway.exchange.standing import Standing
from gateway.middleware import build_middlewares, compose
from gateway.middleware.record import request_ids
from gateway.middleware.services import Services
from gateway.policy.caller import Caller
from gateway.proxy.answer import own_lines
from gateway.proxy.received_body import ReceivedBody
from gateway.settings.sources import load
from gateway.wire import headers
from gateway.wire.answer_head import Head
from tests.kit.redis import running_redis
from tests.kit.usage_answers import CHAT_USAGE

MANY = 10**9
ROUNDS = 8
LIMITS: dict[str, dict[str, Any]] = {
    "no limits": {},
    "requests": {"max_requests_per_1_minute": MANY},
    "five limits": {
        "max_requests_per_1_minute": MANY,
        "max_requests_per_1_day": MANY,
        "max_tokens_per_1_minute": MANY,
        "max_tokens_per_1_day": MANY,
        "max_concurrent_requests": MANY,
    },
}
MESSAGES = [
    {"role": "system", "content": "Be brief. " * 20},
    {"role": "user", "content": "Hello there! " * 20},
]
BODIES = {
    "json": orjson.dumps({"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 500}),
    "stream": orjson.dumps({"model": "gpt-4o", "messages": MESSAGES, "max_tokens": 500, "stream": True}),
}
JSON_HEAD = Head(200, "OK", [(b"Content-Type", b"application/json")])
JSON_ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello! " * 30}}],
        "usage": CHAT_USAGE,
    }
)
EVENTS_HEAD = Head(200, "OK", [(b"Content-Type", b"text/event-stream; charset=utf-8")])
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"gpt-4o",'
    b'"system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" hello"},"finish_reason":null}]}\n\n'
)
EVENTS = [EVENT] * 98 + [
    b'data: {"id":"chatcmpl-1","choices":[],"usage":' + orjson.dumps(CHAT_USAGE) + b"}\n\n",
    b"data: [DONE]\n\n",
]


class Request:
    """What the two middlewares ask of a request."""

    http10 = False

    def __init__(self, exchange: Exchange, body: bytes) -> None:
        self.exchange = exchange
        self.body = ReceivedBody(body)


async def play(request: Any) -> Any:
    """What the proxy does to an exchange, without the sockets."""
    exchange: Exchange = request.exchange
    exchange.forwarded_at = time.monotonic()
    raw = request.body.read_nowait() if exchange.body is None else b"".join(exchange.body.pieces())
    exchange.request_piece(raw)
    exchange.head_at = time.monotonic()
    streams = b'"stream":true' in raw
    head = EVENTS_HEAD if streams else JSON_HEAD
    exchange.status = head.status
    exchange.opened(head)
    change = exchange.change
    filtering = change.events() if change is not None and change.events is not None else None
    for piece in EVENTS if streams else (JSON_ANSWER,):
        exchange.answer_piece(piece, len(piece if filtering is None else filtering.feed(piece)))
    if filtering is not None:
        filtering.end()
    own_lines(exchange)


def asking(services: Services, body: bytes, handler: Callable[[Any], Awaitable[Any]]) -> Callable[[], Any]:
    """One request after the other layers have done their part."""
    operation = services.table.by_id("createChatCompletion")
    principal = Principal("acme", "alice", frozenset(), "jti", 0.0, 2e9)
    caller = Caller(principal, services.tenants.policies["acme"])
    tallies = services.metrics.of("acme", operation.id)
    standing = Standing(caller, operation, until=principal.expires_at, tallies=tallies)
    fields = [(b"Content-Type", b"application/json"), (b"Host", b"a"), (b"Content-Length", b"%d" % len(body))]
    next_id = request_ids()

    async def ask() -> None:
        exchange = Exchange(next_id(), "POST", operation, time.monotonic(), time.time())
        exchange.head = headers.read(fields, http10=False, max_bytes=65536)
        exchange.standing, exchange.caller = standing, caller
        await handler(Request(exchange, body))

    return ask


async def microseconds(ask: Callable[[], Any], concurrent: int, seconds: float) -> float:
    """CPU of this process per request."""
    done = 0
    until = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal done
        while not done or time.perf_counter() < until:
            await ask()
            done += 1
            await asyncio.sleep(0)

    began = time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrent)))
    return (time.process_time() - began) / done * 1e6


async def table(store: str, redis_url: str | None, seconds: float) -> None:
    for name, limits in LIMITS.items():
        settings = load(
            flags={
                "tenants": {"acme": {"limits": limits}},
                **({"redis_url": redis_url} if redis_url else {}),
            },
            environ={},
        )
        app = build_app(settings, ring=KeyRing.ephemeral())
        services = app.services
        await services.limiter.start()
        await services.ledger.start()
        layered = compose(build_middlewares(services)[-2:], play)
        for kind, body in BODIES.items():
            for concurrent in (1, 64):
                await microseconds(asking(services, body, layered), concurrent, seconds / ROUNDS)
                cells = [
                    [
                        await microseconds(asking(services, body, handler), concurrent, seconds / ROUNDS)
                        for handler in (play, layered)
                    ]
                    for _ in range(ROUNDS)
                ]
                bare, whole = (min(cell) for cell in zip(*cells, strict=True))
                print(
                    f"{store:7} {name:12} {kind:7} {concurrent:3} at a time  {whole - bare:7.1f} µs  "
                    f"(of {whole:.1f})",
                    flush=True,
                )
        await services.limiter.close()
        await services.ledger.close()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--seconds", type=float, default=1.0, help="how long each cell runs")
    seconds = arguments.parse_args().seconds
    with running_redis() as redis, closing(uvloop.new_event_loop()) as loop:
        loop.run_until_complete(table("memory", None, seconds))
        loop.run_until_complete(table("redis", redis.unix_url, seconds))


if __name__ == "__main__":
    main()
