"""What a session uses: read from its events, counted and charged response by response, for it may last for hours.

Where usage has to be known each response is followed from its beginning, by `session_responses`; else what the
upstream reports is all that counts, and nothing else is looked at. Where each event is a request of its own, each is
judged and admitted in any case, by `session_requests`, and followed, by `session_under_way`.
"""

from __future__ import annotations

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import StreamObserver
from gateway.limits.charges import QuotaSet
from gateway.limits.limiter import Limiter
from gateway.middleware.admission import Decided
from gateway.middleware.session_objects import SessionObjects
from gateway.middleware.session_permits import SessionPermits
from gateway.middleware.session_references import SessionReferences
from gateway.middleware.session_requests import SessionRequests
from gateway.middleware.session_responses import SessionResponses
from gateway.middleware.session_under_way import SessionUnderWay
from gateway.objects.registry import Registry
from gateway.operations.table import OperationTable
from gateway.usage.guesses import Guesses
from gateway.usage.ledger import UsageLedger
from gateway.usage.reader import realtime_usage
from gateway.usage.reported import Known, Usage


class SessionMeter:
    """Meters one session, until it has ended."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        ledger: UsageLedger,
        limiter: Limiter,
        table: OperationTable,
        guesses: Guesses,
        decided: Decided,
        registry: Registry | None,
        unseen_per_second: float,
    ) -> None:
        standing = exchange.standing
        assert standing is not None, "who calls is known"
        self._exchange = exchange
        self._standing = standing
        self._ledger = ledger
        self._followed: SessionResponses | SessionUnderWay | None = None
        if exchange.operation.over_http is not None:
            operation = table.by_id(exchange.operation.over_http)
            permits = SessionPermits(exchange, limiter, decided, QuotaSet.of(()), operation)
            self._followed = under_way = SessionUnderWay(
                exchange,
                permits,
                operation,
                guesses=guesses,
                unseen_per_second=unseen_per_second,
                count=self.count,
                named=self._named,
            )
            objects = SessionObjects(exchange, registry, operation, under_way)
            exchange.session_gate = SessionRequests(
                exchange, permits, operation, table, under_way, guesses=guesses, objects=objects
            )
            if standing.caller.tenant.scope is not None:
                exchange.recorder = objects
            exchange.observers.append(under_way)
            return
        caller = standing.caller
        if standing.metered:
            quotas = QuotaSet.of(
                quota for quota in standing.quotas_of(exchange.model) if quota.dimension.is_reported
            )
            permits = SessionPermits(exchange, limiter, decided, quotas)
            self._followed = exchange.session_gate = responses = SessionResponses(
                exchange,
                permits,
                quotas,
                guesses=guesses,
                references=SessionReferences(registry, caller, permits),
                unseen_per_second=unseen_per_second,
                count=self._count,
            )
            exchange.observers.append(responses)
        else:
            exchange.observers.append(_Reports(self))
            if caller.asks_registry(exchange.operation):
                permits = SessionPermits(exchange, limiter, decided, QuotaSet.of(()))
                exchange.session_gate = SessionReferences(registry, caller, permits)

    def count(self, used: Usage, model: str | None) -> None:
        """Count what was used of a model, reported or estimated."""
        exchange = self._exchange
        exchange.usage = used if exchange.usage is None else exchange.usage + used
        self._standing.tallies.used(used, model)
        # What is known of it is counted with the request, when the session has ended.
        self._ledger.count(self._standing.counted(model, used.tier), used, None, requests=0)

    def _count(self, used: Usage) -> None:
        self.count(used, self._exchange.model)

    def _named(self, model: str) -> None:
        """A response of this model begins: the session is recorded under the first."""
        if self._exchange.model is None:
            self._exchange.model = model

    def result(self, *, left: bool) -> tuple[None, Known | None]:  # noqa: ARG002 (every response has said it)
        """The session has ended: settle what is open. What it used has been counted as it went on."""
        if self._followed is not None:
            self._followed.finish()
            self._followed = None
        usage = self._exchange.usage
        if usage is None:
            return None, None
        return None, Known.ESTIMATED if usage.estimated else Known.REPORTED


class _Reports(StreamObserver):
    """Reads what a session reports of which nothing else has to be known."""

    def __init__(self, meter: SessionMeter) -> None:
        self._meter = meter

    def answer_message(self, text: bytes) -> None:
        """Most events report nothing."""
        used = realtime_usage(text)
        if used is not None:
            self._meter._count(used)
