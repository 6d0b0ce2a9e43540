"""Who calls: the credential becomes a principal, and the principal a tenant."""

from __future__ import annotations

import asyncio

from gateway.credentials.trust import Trust
from gateway.errors import LoopDetected
from gateway.middleware.standings import Standings
from gateway.operations.own import JWKS
from gateway.proxy.answer import Answer
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.lifecycle import Lifecycle, Running
from gateway.proxy.request import Request


def authenticate(*, trust: Trust, standings: Standings, lifecycle: Lifecycle) -> Middleware:
    """Verify the credential and look its tenant up; from then on the exchange can be interrupted."""

    async def middleware(request: Request, handler: Handler) -> Answer:
        exchange = request.exchange
        if exchange.head.loops and trust.deployment.sent(exchange.head.loops):
            raise LoopDetected(
                "This request has come through this gateway before: an upstream leads back to it. "
                "Tell the gateway's operator.",
                detail=f"CDN-Loop: {b', '.join(exchange.head.loops).decode('latin-1')}",
            )
        if exchange.operation is JWKS:
            return await handler(request)  # public keys are for everybody
        exchange.standing = standings.of(exchange)
        exchange.caller = exchange.standing.caller
        running = lifecycle.running[exchange.id] = Running(exchange)
        try:
            return await handler(request)
        except asyncio.CancelledError:
            if not running.interrupted():
                raise
        finally:
            del lifecycle.running[exchange.id]
        raise running.refusal()

    return middleware
