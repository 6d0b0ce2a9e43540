"""Two tenants behind one key of a scripted upstream, and the registry that tells apart what is whose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from gateway.objects.redis_objects import RedisObjects
from gateway.objects.store import Intent, Named, Scope
from gateway.policy.accounts import storage_of
from tests.kit.client import RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream

FROZEN_SECONDS = 0.1


@dataclass
class Shared:
    """Two tenants behind one key."""

    gateway: Gateway
    upstream: ScriptedUpstream
    store: RedisObjects
    redis: RedisServer

    def scope(self, tenant: str) -> Scope:
        """Where a tenant's objects are."""
        return Scope(storage_of(self.upstream.base_url), tenant)

    async def owns(self, tenant: str, kind: str, object_id: str) -> bool:
        """Whether the registry says so."""
        return (await self.store.look(self.scope(tenant), [Named(kind, object_id)]))[0]

    async def intents(self, tenant: str = "a") -> list[Intent]:
        """Those that are left."""
        return [intent async for intent in self.store.intents(self.scope(tenant))]

    async def waits_for_redis(self, reads: asyncio.Task[bytes], gate: str) -> None:
        """Let the upstream go on, and see that its client reads nothing as long as Redis confirms nothing."""
        self.redis.freeze()
        self.upstream.gate(gate).set()
        await asyncio.wait({reads}, timeout=FROZEN_SECONDS)
        has_read = reads.done()
        self.redis.thaw()
        assert not has_read

    async def connect(self, tenant: str = "a") -> RawClient:
        """A connection of a tenant's."""
        credential = self.gateway.credential(tenant=tenant)
        client = await RawClient.connect(self.gateway.host, self.gateway.port, credential)
        self.gateway.clients.append(client)
        return client


@asynccontextmanager
async def sharing(redis: RedisServer, **settings: Any) -> AsyncIterator[Shared]:
    """A gateway for tenants a and b, who have one key."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        settings = {
            "upstream": {"base_url": upstream.base_url, "api_key": "sk-shared-by-both"},
            "redis_url": redis.url,
            "tenants": {"a": EVERY_SCOPE, "b": EVERY_SCOPE},
            **settings,
        }
        gateway = await stack.enter_async_context(running_gateway(**settings))
        store = RedisObjects(redis.url)
        stack.push_async_callback(store.close)
        yield Shared(gateway, upstream, store, redis)
