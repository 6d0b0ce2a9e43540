"""A running simulator, and the clients that ask it: the official SDK, strict, and raw bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from openai import (
    AsyncOpenAI,
)
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from gateway.simulator import build_simulator

QUESTION: list[Any] = [{"role": "user", "content": "how are you?"}]


@dataclass(frozen=True)
class Running:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sdk(self, api_key: str = "sk-anything", *, strict: bool = True) -> AsyncOpenAI:
        """A client that raises, if strict, when an answer is not what the SDK's own types say."""
        return AsyncOpenAI(
            api_key=api_key,
            base_url=f"{self.url}/v1",
            max_retries=0,
            timeout=10,
            _strict_response_validation=strict,
        )


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def run(**options: Any) -> Running:
            options.setdefault("pace_seconds", 0.001)
            runner = web.AppRunner(build_simulator(**options), handler_cancellation=True, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Running(runner.addresses[0][1])

        yield run


@pytest.fixture
async def simulator(start: Start) -> Running:
    return await start()


@pytest.fixture
async def sdk(simulator: Running) -> AsyncIterator[AsyncOpenAI]:
    async with simulator.sdk() as client:
        yield client


@pytest.fixture
async def lenient_sdk(simulator: Running) -> AsyncIterator[AsyncOpenAI]:
    """For the two places where the SDK's types are narrower than the API."""
    async with simulator.sdk(strict=False) as client:
        yield client


@pytest.fixture
async def http(simulator: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(simulator.url) as session:
        yield session


async def told(connection: AsyncRealtimeConnection) -> list[Any]:
    """The events up to the end of a response; fails after five seconds."""
    events: list[Any] = []
    async with asyncio.timeout(5):
        while not events or events[-1].type != "response.done":
            events.append(await connection.recv())
    return events


async def sse(answer: aiohttp.ClientResponse) -> list[tuple[str | None, str]]:
    """The names and data of all events of a stream."""
    events = []
    for block in (await answer.text()).removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        events.append((fields.get("event"), fields["data"]))
    return events
