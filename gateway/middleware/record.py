"""Opens the exchange; writes its one line and its metrics, whatever happened."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import replace
from time import monotonic, time

from gateway.errors import (
    BadRequest,
    Ending,
    GatewayError,
    MethodRefused,
    NotFound,
    OperationClosed,
    TargetAmbiguous,
    TargetTooLong,
)
from gateway.exchange.exchange import Exchange, Times
from gateway.exchange.metrics import Metrics
from gateway.exchange.slowest import Slowest
from gateway.operations.own import OWN, OWN_METHODS, OWN_PATHS
from gateway.operations.table import (
    UNLISTED_READ,
    Match,
    NeverUnlisted,
    NotUnderV1,
    OperationTable,
)
from gateway.operations.targets import TargetOverlong, TargetRefused
from gateway.proxy.answer import Answer, error_lines
from gateway.proxy.edge_state import Unseen
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.lifecycle import Interrupted, Lifecycle
from gateway.proxy.request import Request
from gateway.proxy.request_heads import KEPT_BYTES
from gateway.settings.section import OTHER_TENANT
from gateway.traces.tracing import Tracing
from gateway.wire import headers
from gateway.wire.addresses import Proxies
from gateway.wire.cors import Cors, unread
from gateway.wire.headers import NO_HEAD
from gateway.wire.trace_context import trace_context

Log = Callable[[Exchange, Times], bool]
"""Writes the line of an exchange that has ended, unless it is one of many; says whether it has one."""

UNMATCHED = replace(UNLISTED_READ, id="none", scope="", path="")
"""Stands for the operation where a request names none."""

_REFUSED_METHODS = frozenset({"CONNECT", "TRACE"})
_FORWARDED = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
"""Methods of the API, and what comes with them; others are forwarded too, but nobody has use for them."""

_ID_BYTES = 12
_IDS_AT_ONCE = 256
_digits = re.compile(f"[0-9a-f]{{{2 * _ID_BYTES}}}").findall


def request_ids() -> Callable[[], str]:
    """Ids that nobody can guess or link to another, so that they tell nothing of what others do.

    Asking the system for randomness once for many makes them cost next to nothing.
    """
    unused: list[str] = []

    def next_id() -> str:
        if not unused:
            unused.extend(map("req_gw_".__add__, _digits(secrets.token_hex(_ID_BYTES * _IDS_AT_ONCE))))
        return unused.pop()

    return next_id


def record(
    *,
    table: OperationTable,
    metrics: Metrics,
    log: Log,
    lifecycle: Lifecycle,
    max_header_bytes: int,
    cors: Cors | None,
    proxies: Proxies,
    slowest: Slowest,
    tracing: Tracing | None,
) -> Middleware:
    """The outermost middleware: from here on everything has a record."""
    next_id = request_ids()
    observer_failed = metrics.process.observer_failures.inc
    keeps_heads = max_header_bytes > 2 * KEPT_BYTES

    def around(handler: Handler) -> Handler:
        async def recorded(request: Request) -> Answer:
            known = request.known
            connection, readable_at = request.connection, request.readable_at
            exchange = request.exchange = Exchange(
                next_id(),
                known.method,
                UNMATCHED,
                readable_at,
                time() - (monotonic() - readable_at),
                observer_failed,
                target=known.target,
                own_values=request.own_values,
                stated_bytes=request.stated_bytes,
                client=connection.client,
                held_seconds=request.head_seconds,
            )
            if tracing is not None:
                exchange.span = span = tracing.begin(request.fields)
                exchange.trace = span.context
            try:
                match, head = known.match, known.head
                if match is None or head is None:
                    request.check_version()
                    match = matched(table, known.method, known.target)
                    exchange.operation, exchange.params = match.operation, match.params
                    head = headers.read(request.fields, http10=request.http10, max_bytes=max_header_bytes)
                    if head.is_socket:
                        match = matched(table, known.method, known.target, socket=True)
                        exchange.operation, exchange.params = match.operation, match.params
                    if cors is not None:
                        cors.judge(head)
                    if keeps_heads and known.own is not None:
                        known.match, known.head = match, head
                        head.own = known.own
                else:
                    exchange.operation, exchange.params = match.operation, match.params
                exchange.is_socket = head.is_socket
                exchange.head = head
                if connection.is_proxy and connection.client is not None:
                    exchange.client = proxies.client(connection.client, head)
                traced = head.names.traceparent
                if traced is not None and tracing is None:
                    exchange.trace = trace_context(head.value_at(traced, exchange.own_values))
                if head.is_socket and head.has_body:
                    raise BadRequest("A WebSocket handshake cannot have a body.", code="bad_handshake")
            except GatewayError as refusal:
                exchange.unreadable = refusal
                if cors is not None and exchange.head is NO_HEAD:
                    exchange.head = unread(cors.lines(request.fields))
            lifecycle.in_flight += 1
            try:
                return await handler(request)
            finally:
                # Nothing is awaited here: a second cancellation at shutdown would lose the record.
                lifecycle.in_flight -= 1
                if exchange.standing is not None:
                    exchange.standing.tallies.in_flight.value -= 1
                running = lifecycle.running.pop(exchange.id, None)
                if isinstance(running, Interrupted):
                    running.over()
                if exchange.ending is None:
                    exchange.end(Ending.FAILED)
                times = exchange.times(monotonic())
                metrics.ended(exchange, times, log(exchange, times))
                if times[0] > slowest.least_seconds:
                    slowest.note(exchange, times[0])
                if tracing is not None:
                    tracing.ended(exchange)
                exchange.release()

        return recorded

    return around


def unseen(*, metrics: Metrics, log: Log, cors: Cors | None, tracing: Tracing | None) -> Unseen:
    """Record what was answered before it became a request: the same line, the same metrics."""
    next_id = request_ids()

    def refused(error: GatewayError, client: str | None) -> bytes:
        now = monotonic()
        exchange = Exchange(
            next_id(), "", UNMATCHED, now, time(), client=client, status=error.status, error=error
        )
        exchange.end(error.ending)
        metrics.refused_requests.labels(str(error.status)).inc()
        metrics.faults.erred(OTHER_TENANT, error.code)
        times = exchange.times(now)
        metrics.ended(exchange, times, log(exchange, times))
        if tracing is not None:
            exchange.span = tracing.begin(())
            tracing.ended(exchange)
        if cors is not None:
            exchange.head = unread(cors.unknown)
        return error_lines(error, exchange)

    return refused


def matched(table: OperationTable, method: str, target: str, *, socket: bool = False) -> Match:
    """The operation that a request names. Raises the gateway's error when it names none.

    `socket`: it asks for a WebSocket.
    """
    if method in _REFUSED_METHODS:
        raise MethodRefused(f"{method} is not forwarded.", allow=_FORWARDED)
    path = target.partition("?")[0]
    own = OWN.get((method, path))
    if own is not None:
        return Match(own, {})
    if path in OWN_PATHS:
        raise MethodRefused(f"{path} is for {' and '.join(OWN_METHODS)} alone.", allow=OWN_METHODS)
    try:
        return table.match(method, target, socket=socket)
    except TargetOverlong as refused:
        raise TargetTooLong(f"The request target is too long: {refused.reason}. Shorten it.") from None
    except TargetRefused as refused:
        raise TargetAmbiguous(f"The request target is ambiguous: {refused.reason}.") from None
    except NotUnderV1:
        raise NotFound("Only paths under /v1 are served here. Does the base URL end in /v1?") from None
    except NeverUnlisted:
        raise OperationClosed(
            "This path belongs to organization administration and is no operation that the gateway knows."
        ) from None
