"""The gateway's own paths on the public listener: who am I, and with which keys credentials are verified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import orjson
from aiohttp import web

from gateway.edge import EXCHANGE, Handler, own_answer, send_own
from gateway.exchange import Exchange
from gateway.limits import Charge, Level, StoreUnavailable, format_reset
from gateway.operations import UNLISTED_READ, Operation
from gateway.services import Services

GROUP = "gateway"
ME = replace(UNLISTED_READ, id="gatewayMe", path="/gateway/me", group=GROUP, scope="", streams=False)
JWKS = replace(ME, id="gatewayJwks", path="/.well-known/jwks.json")

OWN: Mapping[tuple[str, str], Operation] = {
    (method, operation.path): operation for operation in (ME, JWKS) for method in ("GET", "HEAD")
}
"""By method and exact target."""


_Body = Callable[[Services, Exchange], Awaitable[dict[str, object]]]


def own_paths(services: Services) -> Handler:
    """The handler for the operations of this module."""
    bodies: Mapping[str, _Body] = {ME.id: _me, JWKS.id: _jwks}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        document = await bodies[exchange.operation.id](services, exchange)
        answer = own_answer(200, orjson.dumps(document), fields=[(b"Cache-Control", b"no-store")])
        return await send_own(request, answer, services.settings.edge.write_idle_timeout_seconds)

    return handle


async def _jwks(services: Services, _: Exchange) -> dict[str, object]:
    return services.trust.ring.public_jwks()


async def _me(services: Services, exchange: Exchange) -> dict[str, object]:
    """What a tenant may know of itself. Takes nothing from any bucket."""
    principal, policy = exchange.principal, exchange.tenant
    assert principal is not None
    assert policy is not None
    try:
        looked = await services.limiter.look(tuple(Charge(quota, 0) for quota in policy.quotas))
        levels = [_level(level) for level in looked.levels]
    except StoreUnavailable:
        levels = [{"limit": quota.dimension.value, "capacity": quota.capacity} for quota in policy.quotas]
    return {
        "object": "gateway.principal",
        "tenant": policy.id,
        "tenant_name": policy.tenant.name,
        "subject": principal.subject,
        "credential_id": principal.credential_id,
        "expires_at": int(principal.expires_at),
        "expires": datetime.fromtimestamp(principal.expires_at, UTC).isoformat(),
        "scopes": sorted(principal.scopes & policy.scopes),
        "models": {"tenant": policy.models, "credential": principal.models},
        "default_model": policy.tenant.default_model,
        "limits": levels,
        "stored_objects": "closed: the upstream key is shared" if policy.shared else "open",
    }


def _level(level: Level) -> dict[str, object]:
    return {
        "limit": level.dimension.value,
        "capacity": level.limit,
        "remaining": level.remaining,
        "reset": format_reset(level.reset_seconds),
    }
