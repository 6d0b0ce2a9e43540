"""The gateway's own paths on the public listener: who am I, what have I used, which keys verify credentials?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import orjson

from gateway.app.usage_answers import UsageAnswers
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.trust import Trust
from gateway.errors import LimitExceeded
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_reset
from gateway.limits.limiter import Limiter
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Dimension, Level, Quota, account_key, binds
from gateway.operations.own import JWKS, ME, USAGE
from gateway.operations.scopes import Vocabulary
from gateway.proxy.answer import Answer, own_answer, own_lines, send_own
from gateway.proxy.handler import Handler
from gateway.proxy.request import Request
from gateway.usage.ledger import UsageLedger

_REQUESTS_PER_MINUTE = 60
"""Of one credential, whatever its limits; every process counts for itself, whatever becomes of a shared store."""

_MOST_CREDENTIALS = 10_000

_Body = Callable[[Exchange, str], Awaitable[bytes]]
"""Makes the document that answers an exchange with this query."""


def own_paths(*, trust: Trust, limiter: Limiter, ledger: UsageLedger) -> Handler:
    """The handler for the gateway's own operations."""
    bodies: Mapping[str, _Body] = {
        ME.id: partial(_me, limiter, trust.vocabulary),
        USAGE.id: UsageAnswers(ledger).answer,
        JWKS.id: _KeySet(trust).answer,
    }
    permits = MemoryBuckets(most_accounts=_MOST_CREDENTIALS)

    async def handle(request: Request) -> Answer:
        exchange = request.exchange
        if exchange.operation is not JWKS:
            await _take_permit(permits, exchange)
        document = await bodies[exchange.operation.id](exchange, exchange.target.partition("?")[2])
        lines = b"Cache-Control: no-store\r\n" + own_lines(exchange) + (exchange.head.cors or b"")
        answer = own_answer(200, document, lines=lines)
        return await send_own(request, answer)

    return handle


async def _take_permit(permits: MemoryBuckets, exchange: Exchange) -> None:
    """Take from what a credential may ask of the gateway itself. Raises LimitExceeded."""
    caller = exchange.caller
    account = account_key(caller.tenant.id, credential=caller.principal.credential_id)
    quota = Quota(Dimension.REQUESTS_PER_MINUTE, _REQUESTS_PER_MINUTE, account)
    decision = await permits.admit(exchange.id, (Charge(quota),))
    if not decision.allowed:
        seconds = decision.retry_after_seconds or 0.0
        raise LimitExceeded(
            f"Rate limit reached: {_REQUESTS_PER_MINUTE} requests a minute of one credential to the gateway's "
            f"own paths. Try again in {format_reset(seconds)}.",
            type=quota.dimension.unit,
            retry_after_seconds=seconds,
            detail="the gateway's own paths",
        )


class _KeySet:
    """The public keys, written down once for each ring: anybody may ask, as often as they like."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._ring: KeyRing | None = None
        self._document = b""

    async def answer(self, _: Exchange, __: str) -> bytes:
        ring = self._trust.ring
        if ring is not self._ring:
            self._ring, self._document = ring, orjson.dumps(ring.public_jwks())
        return self._document


async def _me(limiter: Limiter, vocabulary: Vocabulary, exchange: Exchange, _: str) -> bytes:
    """What a tenant may know of itself. Takes nothing from its limits."""
    caller = exchange.caller
    principal, tenant = caller.principal, caller.tenant
    scopes = principal.scopes & tenant.scopes
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
    document = {
        "object": "gateway.principal",
        "tenant": tenant.id,
        "tenant_name": tenant.settings.name,
        "subject": principal.subject,
        "credential_id": principal.credential_id,
        "expires_at": int(principal.expires_at),
        "expires": datetime.fromtimestamp(principal.expires_at, UTC).isoformat(),
        "groups": vocabulary.folded(scopes, principal.scope_version)[0],
        "scope_version": principal.scope_version,
        "scopes": sorted(scopes),
        "models": {"tenant": tenant.models, "credential": principal.models},
        "default_model": tenant.settings.default_model,
        "limits": levels,
        "unmetered": "refuse" if tenant.refuses_unmetered else "allow",
        "stored_objects": tenant.objects_in_words,
    }
    return orjson.dumps(document)


def _level(level: Level, quota: Quota) -> dict[str, object]:
    return {
        "limit": level.dimension.value,
        **binds(quota),
        "capacity": level.limit,
        "remaining": level.remaining,
        "reset": format_reset(level.reset_seconds),
    }
