"""Registries on real servers, for tests of the room."""

from __future__ import annotations

import secrets

from gateway.objects.redis_objects import RedisObjects
from gateway.objects.store import Entry, Made, Named, Scope
from tests.kit.redis import RedisServer

STORAGE = "api.openai.com"


def store_on(url: str, *, deadline_seconds: float = 5.0) -> RedisObjects:
    """A store that waits as long as a busy machine needs."""
    return RedisObjects(url, deadline_seconds=deadline_seconds)


def cluster_url(nodes: list[RedisServer]) -> str:
    """Where a cluster is."""
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def somebody(name: str = "acme") -> Scope:
    """A tenant that no other test has."""
    return Scope(STORAGE, f"{name}-{secrets.token_hex(4)}")


def file(name: str, created_at: float = 1_700_000_000) -> Made:
    return Made("file", name, created_at)


def named(*made: Made) -> list[Named]:
    return [Named(one.kind, one.id) for one in made]


async def all_pages(
    store: RedisObjects, scope: Scope, kind: str, *, ascending: bool, count: int
) -> list[str]:
    """The ids of all entries, page by page."""
    last: Entry | None = None
    found: list[str] = []
    while page := await store.page(scope, kind, after=last, ascending=ascending, count=count):
        assert len(page) <= count
        found += [entry.id for entry in page]
        last = page[-1]
    return found
