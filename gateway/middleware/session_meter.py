"""What a session uses: read from its events, counted and charged response by response, for it may last for hours.

Where usage has to be known each response is followed from its beginning, by `session_responses`; else what the
upstream reports is all that counts, and nothing else is looked at.
"""

from __future__ import annotations

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import StreamObserver
from gateway.limits.limiter import Limiter
from gateway.middleware.admission import Decided
from gateway.middleware.session_permits import SessionPermits
from gateway.middleware.session_responses import SessionResponses
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
        guesses: Guesses,
        decided: Decided,
        unseen_per_second: float,
    ) -> None:
        standing = exchange.standing
        assert standing is not None, "who calls is known"
        self._exchange = exchange
        self._standing = standing
        self._ledger = ledger
        self._responses: SessionResponses | None = None
        if not standing.metered:
            exchange.observers.append(_Reports(self))
            return
        self._responses = responses = SessionResponses(
            exchange,
            SessionPermits(exchange, limiter, decided),
            guesses=guesses,
            unseen_per_second=unseen_per_second,
            count=self.count,
        )
        exchange.observers.append(responses)
        exchange.session_gate = responses

    def count(self, used: Usage) -> None:
        """Count what was used, reported or estimated."""
        exchange = self._exchange
        exchange.usage = used if exchange.usage is None else exchange.usage + used
        # What is known of it is counted with the request, when the session has ended.
        self._ledger.count(self._standing.counted(exchange.model, used.tier), used, None, requests=0)

    def result(self, *, left: bool) -> tuple[None, Known | None]:  # noqa: ARG002 (every response has said it)
        """The session has ended: settle what is open. What it used has been counted as it went on."""
        if self._responses is not None:
            self._responses.finish()
            self._responses = None
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
            self._meter.count(used)
