"""The order in which an exchange is handled: outermost first, and why each stands where it does.

One file for each link. `standings` belongs to `authenticate`; `admission`, `ownership`, `batch_input` and `recording`
to `limit`; `costs` to that and `meter`; to `meter` belongs what meters an answer (`answer_meter`), a session
(`session_meter`, `session_responses`, `session_permits`, `session_references`; `session_requests`,
`session_under_way`, `session_objects` and `session_asked` where its events are requests) and work that reports later
(`late_watch`, `late_counting`). Every room above may ask: `app`, which wires it, and `cli.explain`, which asks
`authenticate` and `record` what they would say. A link decides when, and what becomes of a refusal; the rules are in
`policy`, the arithmetic in `limits` and `usage`, the bytes in `proxy`.
"""

from __future__ import annotations

from gateway.middleware.answer import answer
from gateway.middleware.authenticate import authenticate
from gateway.middleware.authorize import authorize
from gateway.middleware.batch_input import BatchInput
from gateway.middleware.costs import Costs
from gateway.middleware.limit import limit
from gateway.middleware.meter import meter
from gateway.middleware.preflight import preflight
from gateway.middleware.record import record
from gateway.middleware.services import Services
from gateway.middleware.standings import Standings
from gateway.proxy.handler import Handler, Middleware
from gateway.wire.addresses import Proxies


def build_middlewares(with_: Services) -> tuple[Middleware, ...]:
    """The one place where the order is declared, and what each link works with."""
    settings = with_.settings
    edge = settings.edge
    costs = Costs(with_.guesses, most_bytes=edge.max_body_bytes)
    return (
        # sees every ending, refusals included: one line and one set of metrics each
        record(
            table=with_.table,
            metrics=with_.metrics,
            log=with_.log,
            lifecycle=with_.lifecycle,
            max_header_bytes=edge.max_header_bytes,
            cors=with_.cors,
            proxies=Proxies(edge.trusted_proxies, edge.forwarded_header),
            slowest=with_.slowest,
            tracing=with_.tracing,
        ),
        # before answer, for a browser asks about what is refused too; before all that costs
        *(() if with_.cors is None else (preflight(cors=with_.cors),)),
        # below record, so that an error is recorded with the status it was answered with
        answer(lifecycle=with_.lifecycle, faults=with_.metrics.faults),
        # before anything that needs to know who calls
        authenticate(
            trust=with_.trust,
            standings=Standings(
                trust=with_.trust,
                tenants=with_.tenants,
                administration=with_.administers,
                metrics=with_.metrics,
            ),
            lifecycle=with_.lifecycle,
        ),
        # before limit: what is not allowed costs no permits
        authorize(
            trust=with_.trust,
            administration=with_.administers,
            uncontained=settings.allow_uncontained,
        ),
        # outside meter: what was used is known when it settles
        limit(
            limiter=with_.limiter,
            table=with_.table,
            edge=edge,
            reading=with_.reading,
            guesses=with_.guesses,
            costs=costs,
            file_bytes=with_.file_bytes,
            decided=with_.metrics.decided,
            memory=with_.memory,
            registry=with_.registry,
            batch_input=BatchInput(
                pieces=with_.file_pieces,
                reading=with_.reading,
                table=with_.table,
                registry=with_.registry,
            ),
        ),
        # innermost: nothing stands between it and the bytes
        meter(
            ledger=with_.ledger,
            limiter=with_.limiter,
            table=with_.table,
            late=with_.late,
            guesses=with_.guesses,
            costs=costs,
            decided=with_.metrics.decided,
            lists=with_.model_lists,
            registry=with_.registry,
            unseen_tokens_per_second=settings.unseen_tokens_per_second,
        ),
    )


def compose(middlewares: tuple[Middleware, ...], handler: Handler) -> Handler:
    """Fold the middlewares around the handler that ends the chain."""
    for middleware in reversed(middlewares):
        handler = middleware(handler)
    return handler
