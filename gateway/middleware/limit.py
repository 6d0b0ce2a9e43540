"""How much: takes permits before the upstream is asked, and holds what must be held to the last byte.

Admission has two moments. At the door, with the head alone: what fails there costs the client no
byte of its body. With the body: everything is taken in one step, all or nothing.
"""

from __future__ import annotations

from time import monotonic

from aiohttp import web

from gateway import intake
from gateway.edge import EXCHANGE, Handler, Middleware
from gateway.errors import LimitExceeded, NeverFits, StoreUnavailable
from gateway.exchange import Exchange
from gateway.limits import Charge, Decision
from gateway.limits import StoreUnavailable as StoreDown
from gateway.own_paths import GROUP
from gateway.policy import check_body
from gateway.services import Services


def limit(services: Services) -> Middleware:
    """Admit the exchange, or refuse it naming the limit."""
    limiter, edge, table = services.limiter, services.settings.edge, services.table

    async def middleware(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        if exchange.operation.group == GROUP:
            return await handler(request)  # asking what is left takes nothing away
        head, policy = exchange.head, exchange.tenant
        assert head is not None
        assert policy is not None
        whole = intake.must_be_read(head, exchange)
        intake.check_length(head, whole=whole, edge=edge)
        charges = tuple(Charge(quota) for quota in policy.quotas)
        if whole:
            if head.expect_continue and charges:
                # The client waits for our word: look before it sends what would be refused.
                await _decide(exchange, charges, look=True)
            intake.invite(request, head)
            started = monotonic()
            exchange.body = await intake.whole(request, edge)
            exchange.held_seconds = monotonic() - started
            intake.read_fields(exchange)
            check_body(exchange, table)
            if charges:
                await _decide(exchange, charges)
        else:
            intake.watch_form(exchange, head)
            if charges:
                await _decide(exchange, charges)
            intake.invite(request, head)
        return await handler(request)

    async def _decide(exchange: Exchange, charges: tuple[Charge, ...], *, look: bool = False) -> None:
        policy = exchange.tenant
        assert policy is not None
        try:
            decision = await (limiter.look(charges) if look else limiter.admit(exchange.id, charges))
        except StoreDown as error:
            services.metrics.decided(policy.id, "unavailable")
            raise StoreUnavailable(
                "The limits cannot be checked at the moment. Try again shortly.", detail=str(error)
            ) from error
        exchange.decision = decision
        if decision.allowed:
            if not look:
                services.metrics.decided(policy.id, "granted")
            return
        assert decision.refused_by is not None
        services.metrics.decided(policy.id, "refused", decision.refused_by.dimension.value)
        _refuse(decision)

    return middleware


def _refuse(decision: Decision) -> None:
    quota = decision.refused_by
    assert quota is not None
    dimension = quota.dimension
    if decision.never:
        raise NeverFits(
            f"This request alone costs more than the whole limit {dimension.value} = {quota.capacity}. "
            "Make it smaller; waiting cannot help."
        )
    seconds = decision.retry_after_seconds or 0.0
    raise LimitExceeded(
        f"Rate limit reached: {dimension.value} = {quota.capacity}. Try again in {seconds:.3g} seconds.",
        type=dimension.unit,
        decision=decision,
    )
