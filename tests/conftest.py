"""Fixtures: a gateway through production's runner, a scripted upstream with gates, a Redis of one's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop

from tests.kit.faults.faulty_link import FaultyLink, faulty_link
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.identity import SUBJECT, IdentityEndpoint, running_identity_endpoint, shown
from tests.kit.redis import RedisServer, running_redis
from tests.kit.upstream import ScriptedUpstream

# How long an example takes is the machine's affair, which others use, too.
hypothesis.settings.register_profile("all", deadline=None)
hypothesis.settings.load_profile("all")


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on production's loop, uvloop; what is marked `both_loops` on asyncio's own as well."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.get_closest_marker("both_loops"):
        loops["asyncio"] = asyncio.new_event_loop
    return loops


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes test, begin with the scripted day: who came to its long tests last would run alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith("tests/day/"))


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

        async def start(**settings: Any) -> Gateway:
            settings.setdefault("upstream", {"base_url": upstream.base_url, "api_key": "sk-upstream-key"})
            return await stack.enter_async_context(running_gateway(**settings))

        yield start


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    """A gateway with default settings, one tenant `acme`, in front of the scripted upstream."""
    return await start_gateway()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis of this test alone, empty, which may be hurt."""
    with running_redis() as server:
        yield server


@pytest.fixture
async def link(redis: RedisServer) -> AsyncIterator[FaultyLink]:
    """The way to that Redis, with faults when the test says so."""
    async with faulty_link(redis.port) as link:
        yield link


@pytest.fixture
async def endpoint() -> AsyncIterator[IdentityEndpoint]:
    """A provider's endpoint at which workload identities are exchanged."""
    async with running_identity_endpoint() as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What the platform says of the gateway, as a workload identity's file has it."""
    path = tmp_path / "token"
    shown(path, SUBJECT)
    return path


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tuple(os.environ):
        if name.startswith(("GATEWAY_", "OPENAI_")):
            monkeypatch.delenv(name)
