"""Fixtures: a gateway through production's runner, a scripted upstream with gates, credentials made at run time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

import pytest
import uvloop

from tests.kit.gateway import Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream

# What streams is tried on both loops; production runs uvloop.
_ON_BOTH_LOOPS = frozenset({"test_streaming.py", "test_sockets.py"})


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on production's loop."""
    loops = {"uvloop": uvloop.new_event_loop}
    if item.path.name in _ON_BOTH_LOOPS:
        loops["asyncio"] = asyncio.new_event_loop
    return loops


StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    """A raw upstream that plays what a test tells it, and records every byte it was sent."""
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture
async def start_gateway(upstream: ScriptedUpstream) -> AsyncIterator[StartGateway]:
    """Start a gateway in front of the scripted upstream; keyword arguments are settings."""
    async with AsyncExitStack() as stack:

        async def start(**settings: object) -> Gateway:
            settings.setdefault("upstream", {"base_url": upstream.base_url, "api_key": "sk-upstream-key"})
            return await stack.enter_async_context(running_gateway(**settings))

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    """A gateway with default settings, one tenant `acme`, in front of the scripted upstream."""
    return await start_gateway()


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith(("GATEWAY_", "OPENAI_")):
            monkeypatch.delenv(name)
