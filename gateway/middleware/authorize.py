"""What the caller may do: the operation's one scope, the model where the head has it, and what is open at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from aiohttp import web

from gateway.credentials import realtime_secrets as minting
from gateway.credentials.principal import Principal
from gateway.errors import UpstreamBroken
from gateway.middleware.services import Services
from gateway.operations.own import GROUP
from gateway.policy import requests as rules
from gateway.proxy.request import EXCHANGE, Handler, Middleware


def authorize(services: Services) -> Middleware:
    """Check the operation against the credential's scopes and the tenant's."""

    async def middleware(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        operation, principal = exchange.operation, exchange.principal
        if operation.group == GROUP:
            return await handler(request)  # every tenant may ask who it is
        assert principal is not None
        rules.check_operation(exchange, services.settings)
        target = exchange.target
        rules.read_model(exchange, target)
        rules.check_head(exchange, target)
        if operation.id == "listModels" and rules.restricted(exchange):
            exchange.rewrite_answer = partial(rules.filtered_models, exchange)
        if operation.id in minting.OPERATIONS:
            exchange.rewrite_answer = _sealing(principal)
        return await handler(request)

    def _sealing(principal: Principal) -> Callable[[bytes], bytes]:
        def rewrite(body: bytes) -> bytes:
            try:
                return minting.replace_secret(body, principal, services.trust.ring, now=time.time())
            except (minting.NothingToReplace, LookupError) as error:
                raise UpstreamBroken(
                    "The upstream's realtime secret could not be replaced by one of this gateway.",
                    detail=str(error),
                ) from None

        return rewrite

    return middleware
