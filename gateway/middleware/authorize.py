"""What the caller may do: the operation's one scope, the model where the head has it, and what is open at all."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any, assert_never

from gateway.credentials import realtime_secrets
from gateway.credentials.principal import Principal
from gateway.credentials.trust import Trust
from gateway.errors import UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import AnswerChange, BodyChange
from gateway.operations.table import Rewrite
from gateway.policy import requests as policy
from gateway.policy.caller import Caller
from gateway.policy.coverage import check_covered
from gateway.policy.model_list import filtered_models
from gateway.proxy.answer import Answer
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.request import Request
from gateway.wire.minted_secret import find_secret

_RUN_NOTHING = frozenset({"DELETE", "OPTIONS"})
"""Methods that cannot run anything without a body, also where nobody knows the operation."""


def authorize(*, trust: Trust, administration: Callable[[], bool], uncontained: bool) -> Middleware:
    """Check the operation against the credential's scopes and the tenant's.

    `administration` and `uncontained`: the operator has opened those operations.
    """

    def around(handler: Handler) -> Handler:
        def authorized(request: Request) -> Awaitable[Answer]:
            exchange = request.exchange
            operation, standing = exchange.operation, exchange.standing
            if operation.is_own or standing is None:
                return handler(request)  # every tenant may ask who it is
            if standing.asks_head or not standing.allowed or exchange.is_socket:
                exchange.model = check_head(
                    exchange, standing.caller, administration=administration(), uncontained=uncontained
                )
                standing.allowed = True
            if operation.rewrite is not None:
                exchange.choose(_change(exchange, operation.rewrite))
            return handler(request)

        return authorized

    def _change(exchange: Exchange, rewrite: Rewrite) -> AnswerChange | None:
        match rewrite:
            case Rewrite.MODEL_LIST:
                if not exchange.caller.restricted:
                    return None
                rules = exchange.caller.model_rules
                return AnswerChange(body=BodyChange(filtered_models, _list_of_models, (rules,)))
            case Rewrite.REALTIME_SECRET:
                return AnswerChange(body=BodyChange(find_secret, _sealing(exchange.caller.principal)))
            case never:
                assert_never(never)

    def _sealing(principal: Principal) -> Callable[[bytes, Any], bytes]:
        def rewrite(body: bytes, found: tuple[str, float | None] | None) -> bytes:
            try:
                return realtime_secrets.replace_secret(body, found, principal, trust.ring, now=time.time())
            except (realtime_secrets.NothingToReplace, LookupError) as error:
                raise UpstreamBroken(
                    "The upstream's realtime secret could not be replaced by one of this gateway.",
                    detail=str(error),
                ) from None

        return rewrite

    return around


def _list_of_models(_body: bytes, filtered: bytes | None) -> bytes:
    if filtered is None:
        raise UpstreamBroken("The upstream's list of models cannot be read, and may not pass unfiltered.")
    return filtered


def check_head(exchange: Exchange, caller: Caller, *, administration: bool, uncontained: bool) -> str | None:
    """The model that the head names; raises the refusal of what this caller may not do, as far as the head tells."""
    operation, target, socket = exchange.operation, exchange.target, exchange.is_socket
    policy.check_operation(
        caller,
        operation,
        exchange.method,
        target,
        socket=socket,
        administration=administration,
        uncontained=uncontained,
    )
    check_covered(caller, operation, socket=socket)
    model = policy.model_in_head(caller, operation, exchange.params, target)
    bodiless = not exchange.head.has_body and exchange.method not in _RUN_NOTHING
    policy.check_named_model(caller, operation, model, socket=socket, bodiless=bodiless)
    policy.check_sharing(caller, operation, target, socket=socket)
    return model
