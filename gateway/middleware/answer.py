"""The only place where an error becomes an answer."""

from __future__ import annotations

import asyncio

from gateway.errors import ClientLeft, Ending, GatewayError, Internal
from gateway.exchange.exchange import Exchange
from gateway.exchange.fault_metrics import FaultMetrics
from gateway.exchange.kept_errors import forget_origin, lacked_memory
from gateway.proxy.answer import Answer, broken_off, error_lines, own_answer, send_own
from gateway.proxy.body import much_is_left
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.own_failures import out_of_memory
from gateway.proxy.request import Request

# After these the connection is not to be trusted: what follows on it may be part of the refused request.
_CLOSING = frozenset({400, 405, 408, 413, 414, 417, 426, 431, 500, 501, 505})

# But not where a sound head's body has come whole, and was all that was wrong.
_OF_BODIES = frozenset({400, 413})


def answer(*, lifecycle: Lifecycle, faults: FaultMetrics) -> Middleware:
    """Render errors in the API's shape; cut the connection when the head is out already."""

    def around(handler: Handler) -> Handler:
        async def answered(request: Request) -> Answer:
            exchange = request.exchange
            try:
                if exchange.unreadable is not None:
                    raise exchange.unreadable
                return await handler(request)
            except asyncio.CancelledError:
                withdrawn = lifecycle.interruption(exchange.id)
                if withdrawn is None:
                    if request.connection.starved:
                        exchange.error = out_of_memory()
                        faults.erred(exchange.caller.tenant.id, exchange.error.code)
                        exchange.end(exchange.error.ending)
                    elif exchange.ending is None:
                        exchange.end(Ending.DRAINED if lifecycle.cutting else Ending.CLIENT_LEFT)
                    raise
                refusal = withdrawn
            except GatewayError as error:
                refusal = error
            except Exception as defect:  # noqa: BLE001 (a defect of ours must end as an answer, a line and a metric)
                refusal = Internal(
                    "The gateway failed. Quote this request's id to its operator.", detail=repr(defect)
                )
                refusal.__cause__ = defect
            lifecycle.running.pop(exchange.id, None)  # from here on nothing is left to be interrupted
            if lacked_memory(refusal):
                refusal = out_of_memory()  # whatever has been made of that
            forget_origin(refusal)
            if not isinstance(
                refusal, ClientLeft
            ):  # that is nobody's error, and has no code to be looked up by
                exchange.error = refusal
                faults.erred(exchange.caller.tenant.id, refusal.code)
            return await _refused(request, exchange, refusal)

        return answered

    return around


async def _refused(request: Request, exchange: Exchange, refusal: GatewayError) -> Answer:
    """Tell the client, if it can still be told."""
    exchange.end(refusal.ending)
    if request.answer_begun or isinstance(refusal, ClientLeft):
        # A second answer would corrupt the first.
        return broken_off(request)
    own = own_answer(refusal.status, refusal.body(), lines=error_lines(refusal, exchange))
    body_left = much_is_left(request, exchange.head)
    if body_left or exchange.is_socket or _is_doubtful(request, exchange, refusal):
        own.keep_alive = False  # behind a refused WebSocket its frames may follow
    try:
        sent = await send_own(request, own)
    except ClientLeft:
        return broken_off(request)
    if body_left:
        request.connection.linger()  # it would otherwise be read to its end, and thrown away
    return sent


def _is_doubtful(request: Request, exchange: Exchange, refusal: GatewayError) -> bool:
    """Whether it is not sure where the next request begins."""
    if refusal.status not in _CLOSING:
        return False
    return refusal.status not in _OF_BODIES or exchange.unreadable is not None or not request.body.is_eof
