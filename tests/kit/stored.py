"""Upstream accounts that have objects of many tenants in them, and a registry that knows whose they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gateway.limits.store import StoreUnavailable
from gateway.objects.registry import Registry
from gateway.objects.store import Made, Scope
from gateway.simulator import build_simulator
from gateway.simulator.administration import stocked
from gateway.simulator.app import MODELS
from gateway.simulator.store import Store
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.waiting import found

FIRST_SECOND = 1_700_000_000
MOST_OBJECTS = 50_000

Object = dict[str, Any]


@dataclass
class Account:
    """A simulator, what it stores, and what it was asked."""

    url: str
    store: Store
    asked: list[str] = field(default_factory=list)
    """Method and target of each request."""

    before: Callable[[web.Request], Awaitable[None]] | None = None
    """What happens before each request is answered."""

    after: Callable[[web.Request, web.Response], Awaitable[web.StreamResponse]] | None = None
    """What becomes of each answer."""

    def put(self, collection: str, objects: Iterable[Mapping[str, Any]]) -> None:
        """Have these in it, as the latest."""
        for one in objects:
            self.store.put(collection, dict(one))


@asynccontextmanager
async def running_account() -> AsyncIterator[Account]:
    """An upstream account of its own, on loopback."""
    store = stocked(MODELS, most_objects=MOST_OBJECTS)
    app = build_simulator(store=store, pace_seconds=0.0)
    account = Account("", store)

    @web.middleware
    async def noting(request: web.Request, handler: Any) -> web.StreamResponse:
        account.asked.append(f"{request.method} {request.raw_path}")
        if account.before is not None:
            await account.before(request)
        answer: web.StreamResponse = await handler(request)
        if account.after is not None and isinstance(answer, web.Response):
            return await account.after(request, answer)
        return answer

    app.middlewares.append(noting)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        account.url = f"http://{host}:{port}/v1"
        yield account
    finally:
        await runner.cleanup()


def files(count: int, *, in_a_second: int = 3, first: int = 0, **members: Any) -> Iterator[Object]:
    """So many files, some in each second."""
    for at in range(first, first + count):
        yield {
            "id": f"file-{at:032x}",
            "object": "file",
            "bytes": at,
            "created_at": FIRST_SECOND + at // in_a_second,
            "filename": f'file "{at}".jsonl',
            "purpose": "batch" if at % 7 else "user_data",
            "status": "processed",
        } | members


def sharing(account: Account, names: Sequence[str], redis_url: str, **settings: Any) -> dict[str, Any]:
    """The settings of a gateway whose tenants have one account among them."""
    return {
        "upstream": {"base_url": account.url, "api_key": "sk-of-all-of-them"},
        "redis_url": redis_url,
        "tenants": {name: EVERY_SCOPE | {"stored_objects": "registry"} for name in names},
    } | settings


def scope_of(gateway: Gateway, tenant: str) -> Scope:
    """Where the registry has what a tenant makes."""
    scope = gateway.app.services.tenants.get(tenant).scope
    assert scope is not None
    return scope


def registry_of(gateway: Gateway) -> Registry:
    """The registry that a gateway asks."""
    registry = gateway.app.services.registry
    assert registry is not None
    return registry


async def own(gateway: Gateway, tenant: str, kind: str, objects: Iterable[Mapping[str, Any]]) -> None:
    """Have the registry know these objects as the tenant's, in the order in which they come."""
    made = [
        Made(kind, one["id"], float(one.get("created_at", one.get("created", FIRST_SECOND))))
        for one in objects
    ]
    store, scope = registry_of(gateway).store, scope_of(gateway, tenant)

    async def is_recorded() -> bool:
        try:
            await store.record(scope, made)  # again changes nothing
        except StoreUnavailable:
            return False  # the machine is busy
        return True

    await found(is_recorded)
