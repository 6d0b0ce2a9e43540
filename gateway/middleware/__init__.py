"""The order in which an exchange is handled: outermost first, and why each stands where it does."""

from __future__ import annotations

from gateway.middleware.answer import answer
from gateway.middleware.authenticate import authenticate
from gateway.middleware.authorize import authorize
from gateway.middleware.limit import limit
from gateway.middleware.meter import meter
from gateway.middleware.record import record
from gateway.middleware.services import Services
from gateway.proxy.request import Handler, Middleware


def build_middlewares(services: Services) -> tuple[Middleware, ...]:
    """The one place where the order is declared."""
    return (
        record(services),  # sees every ending, refusals included: one line and one set of metrics each
        answer(services),  # below record, so that an error is recorded with the status it was answered with
        authenticate(services),  # before anything that needs to know who calls
        authorize(services),  # before limit: what is not allowed costs no permits
        limit(services),  # outside meter: what was used is known when it settles
        meter(services),  # innermost: nothing stands between it and the bytes
    )


def compose(middlewares: tuple[Middleware, ...], handler: Handler) -> Handler:
    """Fold the middlewares around the handler that ends the chain."""
    for middleware in reversed(middlewares):
        handler = _around(handler, middleware)
    return handler


def _around(handler: Handler, middleware: Middleware) -> Handler:
    return lambda request: middleware(request, handler)
