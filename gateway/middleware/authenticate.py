"""Who calls: the credential becomes a principal, and the principal a tenant."""

from __future__ import annotations

from collections.abc import Awaitable

from gateway.credentials.trust import Trust
from gateway.errors import LoopDetected
from gateway.middleware.standings import Standings
from gateway.operations.own import JWKS
from gateway.proxy.answer import Answer
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.request import Request


def authenticate(*, trust: Trust, standings: Standings, lifecycle: Lifecycle) -> Middleware:
    """Verify the credential and look its tenant up; from then on the exchange can be interrupted."""

    def around(handler: Handler) -> Handler:
        def authenticated(request: Request) -> Awaitable[Answer]:
            exchange = request.exchange
            if exchange.head.loops and trust.deployment.sent(exchange.head.loops):
                raise LoopDetected(
                    "This request has come through this gateway before: an upstream leads back to it. "
                    "Tell the gateway's operator.",
                    detail=f"CDN-Loop: {b', '.join(exchange.head.loops).decode('latin-1')}",
                )
            if exchange.operation is not JWKS:  # public keys are for everybody
                standing = exchange.standing = standings.of(exchange)
                standing.tallies.in_flight.value += 1
                exchange.caller = standing.caller
                lifecycle.running[exchange.id] = request
            return handler(request)

        return authenticated

    return around
