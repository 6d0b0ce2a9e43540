"""What the caller may do: the operation's one scope, and what the operator has opened at all."""

from __future__ import annotations

import time
from collections.abc import Callable

from aiohttp import web

from gateway import minting
from gateway.credentials import Principal
from gateway.edge import EXCHANGE, Handler, Middleware
from gateway.errors import OperationClosed, ScopeMissing, UpstreamBroken
from gateway.services import Services

UNCONTAINED = ("/v1/chatkit/sessions", "/v1/realtime/calls")
"""Where sessions begin whose media or events never pass the gateway."""


def authorize(services: Services) -> Middleware:
    """Check the operation against the credential's scopes and the tenant's."""
    uncontained_open = services.settings.allow_uncontained
    administration_open = services.settings.upstream.admin_api_key is not None

    async def middleware(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        operation, principal, policy = exchange.operation, exchange.principal, exchange.tenant
        assert principal is not None
        assert policy is not None
        scope = operation.scope
        if scope.startswith("org.") and not administration_open:
            raise OperationClosed(
                "Organization administration is not offered by this gateway. Ask its operator if you need it."
            )
        if operation.path.startswith(UNCONTAINED) and not uncontained_open:
            raise OperationClosed(
                f"{operation.id} starts sessions that run past this gateway, so it is closed here. "
                "Ask its operator if you need it."
            )
        if scope not in principal.scopes:
            raise ScopeMissing(
                f"This credential lacks the scope {scope}, which {operation.id} needs. "
                "Ask the gateway's operator for a credential that has it."
            )
        if scope not in policy.scopes:
            raise ScopeMissing(
                f"The tenant {policy.id} may not use the scope {scope}, which {operation.id} needs. "
                "Ask the gateway's operator."
            )
        if operation.id in minting.OPERATIONS:
            exchange.rewrite_answer = _sealing(principal)
        return await handler(request)

    def _sealing(principal: Principal) -> Callable[[bytes], bytes]:
        def rewrite(body: bytes) -> bytes:
            try:
                return minting.replace_secret(body, principal, services.keys.ring, now=time.time())
            except (minting.NothingToReplace, LookupError) as error:
                raise UpstreamBroken(
                    "The upstream's realtime secret could not be replaced by one of this gateway.",
                    detail=str(error),
                ) from None

        return rewrite

    return middleware
