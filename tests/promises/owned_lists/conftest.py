"""A shared account behind a gateway of two tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.kit.client import RawAnswer
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.stored import Account, running_account, sharing


@dataclass
class Shared:
    """What is asked, and whose upstream account is asked."""

    gateway: Gateway
    account: Account

    async def ask(
        self, target: str, *, tenant: str = "ours", method: str = "GET", headers: str = ""
    ) -> RawAnswer:
        """Ask the gateway, over a connection of its own."""
        client = await self.gateway.connect()
        client.credential = self.gateway.credential(tenant=tenant)
        client.timeout_seconds = 30.0
        return await client.request(method, target, headers=headers)

    async def listed(self, target: str, *, tenant: str = "ours") -> tuple[list[str], bool]:
        """The ids of a page, and whether there are more."""
        answer = await self.ask(target, tenant=tenant)
        assert answer.status == 200, answer.body
        page: dict[str, Any] = orjson.loads(answer.body)
        ids = [one["id"] for one in page["data"]]
        assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
        assert ids or not page["has_more"]
        return ids, page["has_more"]

    async def iterated(self, target: str, *, tenant: str = "ours") -> list[str]:
        """All pages, as an SDK turns them."""
        ids, more = await self.listed(target, tenant=tenant)
        while more:
            some, more = await self.listed(f"{target}&after={ids[-1]}", tenant=tenant)
            ids += some
        return ids


@pytest.fixture
async def shared(redis: RedisServer) -> AsyncIterator[Shared]:
    async with (
        running_account() as account,
        running_gateway(**sharing(account, ["ours", "others"], redis.url)) as gateway,
    ):
        yield Shared(gateway, account)
