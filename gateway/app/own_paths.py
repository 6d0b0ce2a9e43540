"""The gateway's own paths on the public listener: who am I, what have I used, which keys verify credentials?"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from gateway.credentials.trust import Trust
from gateway.errors import BadRequest, LimitsUnavailable
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_reset
from gateway.limits.limiter import Limiter
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Level, Quota, binds
from gateway.operations.own import JWKS, ME, USAGE
from gateway.proxy.answer import own_answer, own_fields, send_own
from gateway.proxy.request import EXCHANGE, Handler
from gateway.usage.ledger import UsageLedger
from gateway.usage.report import Question, moment, report, total

_ASKED = {"since": "24h", "by": "model"}
"""What GET /gateway/usage understands, with its defaults."""

_Body = Callable[[Exchange, str], Awaitable[dict[str, object]]]
"""Makes the document that answers an exchange with this query."""


def own_paths(*, trust: Trust, limiter: Limiter, ledger: UsageLedger, write_idle_seconds: float) -> Handler:
    """The handler for the gateway's own operations."""
    bodies: Mapping[str, _Body] = {
        ME.id: partial(_me, limiter),
        USAGE.id: partial(_usage, ledger),
        JWKS.id: partial(_jwks, trust),
    }

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        document = await bodies[exchange.operation.id](exchange, exchange.target.partition("?")[2])
        fields = [(b"Cache-Control", b"no-store"), *own_fields(exchange)]
        answer = own_answer(200, orjson.dumps(document), fields=fields)
        return await send_own(request, answer, write_idle_seconds)

    return handle


async def _jwks(trust: Trust, _: Exchange, __: str) -> dict[str, object]:
    return trust.ring.public_jwks()


async def _usage(ledger: UsageLedger, exchange: Exchange, query: str) -> dict[str, object]:
    """What the caller's tenant has used. Raises BadRequest, or LimitsUnavailable when nobody can say."""
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
    tenant = exchange.caller.tenant.id
    try:
        rows = await ledger.read(tenant, periods)
    except StoreUnavailable as error:
        raise LimitsUnavailable(
            "The usage counters cannot be read at the moment. Try again shortly.", detail=str(error)
        ) from error
    return {
        "object": "gateway.usage",
        "tenant": tenant,
        "since": moment(periods[0].start),
        "until": moment(now),
        "data": report(rows, question.by),
        "total": total(rows),
    }


async def _me(limiter: Limiter, exchange: Exchange, _: str) -> dict[str, object]:
    """What a tenant may know of itself. Takes nothing from any bucket."""
    caller = exchange.caller
    principal, tenant = caller.principal, caller.tenant
    quotas = caller.quotas
    for of_model in tenant.limits.models.values():
        quotas += of_model
    try:
        looked = await limiter.look(tuple(Charge(quota, 0) for quota in quotas))
        levels = [_level(level, quota) for level, quota in zip(looked.levels, quotas, strict=True)]
    except StoreUnavailable:
        levels = [
            {"limit": quota.dimension.value, **binds(quota), "capacity": quota.capacity} for quota in quotas
        ]
    return {
        "object": "gateway.principal",
        "tenant": tenant.id,
        "tenant_name": tenant.settings.name,
        "subject": principal.subject,
        "credential_id": principal.credential_id,
        "expires_at": int(principal.expires_at),
        "expires": datetime.fromtimestamp(principal.expires_at, UTC).isoformat(),
        "scopes": sorted(principal.scopes & tenant.scopes),
        "models": {"tenant": tenant.models, "credential": principal.models},
        "default_model": tenant.settings.default_model,
        "limits": levels,
        "stored_objects": "closed: the upstream key is shared" if tenant.shared else "open",
    }


def _level(level: Level, quota: Quota) -> dict[str, object]:
    return {
        "limit": level.dimension.value,
        **binds(quota),
        "capacity": level.limit,
        "remaining": level.remaining,
        "reset": format_reset(level.reset_seconds),
    }
