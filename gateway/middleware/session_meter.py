"""What a session uses: read from its events, counted and charged response by response."""

from __future__ import annotations

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import StreamObserver
from gateway.limits.limiter import Limiter
from gateway.limits.terms import Charge
from gateway.usage.ledger import UsageLedger
from gateway.usage.reader import realtime_usage
from gateway.usage.reported import Known


class SessionReading(StreamObserver):
    """Counts and charges what a session has used, response by response: it may last for hours."""

    def __init__(self, exchange: Exchange, ledger: UsageLedger, limiter: Limiter) -> None:
        caller = exchange.caller
        quotas = caller.quotas + caller.tenant.limits.of_model(exchange.model)
        self._exchange = exchange
        self._ledger = ledger
        self._limiter = limiter
        self._quotas = [quota for quota in quotas if quota.dimension.is_reported]

    def answer_message(self, text: bytes) -> None:
        """Most events report nothing."""
        used = realtime_usage(text)
        if used is None:
            return
        exchange = self._exchange
        exchange.usage = used if exchange.usage is None else exchange.usage + used
        if self._quotas:
            self._limiter.charge_soon([Charge(quota, used.total) for quota in self._quotas])
        standing = exchange.standing
        assert standing is not None
        self._ledger.count(standing.counted(exchange.model), used, Known.REPORTED, requests=0)
