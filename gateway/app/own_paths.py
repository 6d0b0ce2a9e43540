"""The gateway's own paths on the public listener: who am I, what have I used, which keys verify credentials?"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from gateway.errors import BadRequest, LimitsUnavailable
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_reset
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Level, Quota, binds
from gateway.middleware.services import Services
from gateway.operations.own import JWKS, ME, USAGE
from gateway.proxy.answer import own_answer, send_own
from gateway.proxy.request import EXCHANGE, Handler
from gateway.usage.report import Question, moment, report, total

_ASKED = {"since": "24h", "by": "model"}
"""What GET /gateway/usage understands, with its defaults."""

_Body = Callable[[Services, Exchange, str], Awaitable[dict[str, object]]]


def own_paths(services: Services) -> Handler:
    """The handler for the operations of this module."""
    bodies: Mapping[str, _Body] = {ME.id: _me, USAGE.id: _usage, JWKS.id: _jwks}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        query = exchange.target.partition("?")[2]
        document = await bodies[exchange.operation.id](services, exchange, query)
        answer = own_answer(200, orjson.dumps(document), fields=[(b"Cache-Control", b"no-store")])
        return await send_own(request, answer, services.settings.edge.write_idle_timeout_seconds)

    return handle


async def _jwks(services: Services, _: Exchange, __: str) -> dict[str, object]:
    return services.trust.ring.public_jwks()


async def _usage(services: Services, exchange: Exchange, query: str) -> dict[str, object]:
    """What the caller's tenant has used. Raises BadRequest, or LimitsUnavailable when nobody can say."""
    assert exchange.tenant is not None
    asked = {**_ASKED, **dict(parse_qsl(query))}
    unknown = asked.keys() - _ASKED.keys()
    if unknown:
        raise BadRequest(f"The query has {min(unknown)!r}; known are {', '.join(_ASKED)}.")
    try:
        question = Question.read(asked["since"], asked["by"])
    except ValueError as error:
        raise BadRequest(f"The query cannot be answered: {error}.") from None
    now = time.time()
    periods = question.periods(now)
    try:
        rows = await services.ledger.read(exchange.tenant.id, periods)
    except StoreUnavailable as error:
        raise LimitsUnavailable(
            "The usage counters cannot be read at the moment. Try again shortly.", detail=str(error)
        ) from error
    return {
        "object": "gateway.usage",
        "tenant": exchange.tenant.id,
        "since": moment(periods[0].start),
        "until": moment(now),
        "data": report(rows, question.by),
        "total": total(rows),
    }


async def _me(services: Services, exchange: Exchange, _: str) -> dict[str, object]:
    """What a tenant may know of itself. Takes nothing from any bucket."""
    principal, policy = exchange.principal, exchange.tenant
    assert principal is not None
    assert policy is not None
    quotas = policy.limits.of_caller(principal)
    for of_model in policy.limits.models.values():
        quotas += of_model
    try:
        looked = await services.limiter.look(tuple(Charge(quota, 0) for quota in quotas))
        levels = [_level(level, quota) for level, quota in zip(looked.levels, quotas, strict=True)]
    except StoreUnavailable:
        levels = [
            {"limit": quota.dimension.value, **binds(quota), "capacity": quota.capacity} for quota in quotas
        ]
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


def _level(level: Level, quota: Quota) -> dict[str, object]:
    return {
        "limit": level.dimension.value,
        **binds(quota),
        "capacity": level.limit,
        "remaining": level.remaining,
        "reset": format_reset(level.reset_seconds),
    }
