"""Who is the only tenant left of an account sees all that nobody else is known to have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from tests.kit.gateway import EVERY_SCOPE, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.stored import Object, files, own, running_account, scope_of, sharing
from tests.promises.owned_lists.conftest import Shared

EVERYTHING = list(files(1_500, in_a_second=5))
THEIRS = [one for at, one in enumerate(EVERYTHING) if at % 4 == 0 or 600 <= at < 1_100]
LEFT = [one for one in EVERYTHING if one not in THEIRS]


@asynccontextmanager
async def left_alone(redis: RedisServer) -> AsyncIterator[Shared]:
    """The others are gone, and all that they made is known; of what is left only some is."""
    async with running_account() as account:
        account.put("/v1/files", EVERYTHING)
        both = sharing(account, ["ours", "others"], redis.url)
        async with running_gateway(**both) as gateway:
            await own(gateway, "others", "file", THEIRS)
            await own(gateway, "ours", "file", LEFT[::3])
        alone: dict[str, Any] = both | {"tenants": {"ours": EVERY_SCOPE | {"stored_objects": "registry"}}}
        async with running_gateway(**alone) as gateway:
            assert scope_of(gateway, "ours").others == ("others",)
            yield Shared(gateway, account)


def ids(objects: list[Object]) -> list[str]:
    return [one["id"] for one in objects]


async def test_all_is_listed_but_what_another_is_known_to_have_made(redis: RedisServer) -> None:
    async with left_alone(redis) as shared:
        for limit in (7, 100, 10_000):
            assert await shared.iterated(f"/v1/files?limit={limit}") == ids(LEFT[::-1])
            assert await shared.iterated(f"/v1/files?limit={limit}&order=asc") == ids(LEFT)


async def test_what_the_upstream_filters_is_shown_whatever_it_filters_by(redis: RedisServer) -> None:
    async with left_alone(redis) as shared:
        wanted = [one for one in LEFT[::-1] if one["purpose"] == "user_data"]
        assert await shared.iterated("/v1/files?limit=9&purpose=user_data") == ids(wanted)


async def test_the_page_before_an_object_ends_at_it(redis: RedisServer) -> None:
    async with left_alone(redis) as shared:
        assert await shared.listed(f"/v1/files?limit=3&before={LEFT[50]['id']}") == (
            ids(LEFT[53:50:-1]),
            True,
        )


@pytest.mark.parametrize("cursor", [THEIRS[3]["id"], "file-of-nobody"])
async def test_no_cursor_is_anothers_object(redis: RedisServer, cursor: str) -> None:
    async with left_alone(redis) as shared:
        answer = await shared.ask(f"/v1/files?after={cursor}")
        assert (answer.status, orjson.loads(answer.body)["error"]["param"]) == (400, "after")
        assert THEIRS[4]["id"].encode() not in answer.body
