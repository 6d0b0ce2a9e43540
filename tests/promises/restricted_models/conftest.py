"""Gateways whose tenant may use some models only, in front of an upstream that notices what gets through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest_asyncio

from tests.conftest import StartGateway
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream, answer_ok

TRANSCRIPTIONS = "/v1/audio/transcriptions"
REFUSED = (403, "model_not_allowed")
RESTRICTED = EVERY_SCOPE | {"models": ["good", "good-*", "gpt-4o*"]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    """One upstream for all; what a test sees of it is `upstream`."""
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(scripted: ScriptedUpstream) -> ScriptedUpstream:
    """The upstream as if it were new."""
    scripted.requests.clear()
    scripted.plays(answer_ok)
    return scripted


@pytest_asyncio.fixture(loop_scope="module")
async def start_gateway(scripted: ScriptedUpstream) -> AsyncIterator[StartGateway]:
    """Start a gateway for one test; keyword arguments are settings."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Gateway:
            return await stack.enter_async_context(running_gateway(upstream=way_to(scripted), **settings))

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(scripted: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway whose tenant may use every model."""
    async with running_gateway(upstream=way_to(scripted), tenants={"acme": EVERY_SCOPE}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restricted(scripted: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway whose tenant may use the models `good`, `good-*` and `gpt-4o*`, and has no default."""
    async with running_gateway(
        upstream=way_to(scripted), tenants={"acme": RESTRICTED}, allow_uncontained=True
    ) as running:
        yield running


def way_to(upstream: ScriptedUpstream) -> dict[str, str]:
    return {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
