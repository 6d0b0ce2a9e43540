"""Counts what work has used that reported later: in the ledger, the metrics and the limits of who made the object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gateway.credentials.principal import Principal
from gateway.exchange.metrics import Metrics
from gateway.limits.limiter import Limiter
from gateway.limits.terms import Charge, Dimension, Quota
from gateway.policy.tenants import TenantBook
from gateway.usage.counters import Counted, Entry, named, tier_of
from gateway.usage.late_work import (
    NOTHING_USED,
    Claim,
    Found,
    Maker,
    Part,
    Shown,
    Step,
    negative,
    still_to_charge,
)
from gateway.usage.ledger import UsageLedger
from gateway.usage.reported import NUMBERS, Known, Usage

_NOT_REPORTED = frozenset({Known.ESTIMATED, Known.UNREPORTED})


class LateCounting:
    """What becomes of the steps that a register has told its store."""

    def __init__(
        self, *, ledger: UsageLedger, limiter: Limiter, tenants: TenantBook, metrics: Metrics
    ) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._tenants = tenants
        self._metrics = metrics

    def heard(self, step: Step, found: Found | None) -> None:
        """The first claim counts; what a maker was counted with before is taken back, for its usage is known now."""
        if not isinstance(step, Claim):
            if found is not None:
                self._take_back(step.maker.tenant, (step.part,))
            elif not step.is_charged:
                self._charge_seen(step.maker, step.part.usage)
        elif step.own is not None:
            # Its own answer said the usage, and that has been counted: unless somebody else saw it first.
            parts = (step.own,) if found is None else found.parts
            self._take_back(step.maker.tenant, parts)
        elif found is not None:
            self._count(step.shown, found)

    def _count(self, shown: Shown, found: Found) -> None:
        maker, parts = found
        self._take_back(maker.tenant, parts)
        for model, usage in shown.named(maker):
            entry = Entry(named(maker.subject), named(model), maker.operation, tier_of(usage.tier))
            self._ledger.count(Counted(maker.tenant, entry), usage, None, requests=0)
        self._show(maker, shown, parts)
        self._charge(maker, shown, parts)

    def _take_back(self, tenant: str, parts: Iterable[Part]) -> None:
        for part in parts:
            entry = Entry(named(part.subject), named(part.model), part.operation, tier_of(part.usage.tier))
            counted = Counted(tenant, entry)
            if part.usage != NOTHING_USED:
                self._ledger.count(counted, negative(part.usage), None, requests=0)
            if part.known in _NOT_REPORTED:
                self._ledger.recount(counted, Known(part.known), Known.REPORTED)

    def _show(self, maker: Maker, shown: Shown, parts: Iterable[Part]) -> None:
        """Add to the metrics what they lack: they count upwards only."""
        added: tuple[Any, ...] = sum((negative(part.usage) for part in parts), shown.usage)[:NUMBERS]
        usage = Usage(*(max(0, amount) for amount in added))._replace(tier=shown.usage.tier)
        model = next((name for name, _ in shown.named(maker)), maker.model)
        self._metrics.of(self._tenants.get(maker.tenant).id, maker.operation).used(usage, model)

    def _charge(self, maker: Maker, shown: Shown, parts: Sequence[Part]) -> None:
        limits = self._tenants.get(maker.tenant).limits
        still = still_to_charge(shown.kind, shown.usage, parts)
        amounts = _by_quota(limits.of_caller(_principal(maker)), still)
        for name, usage in shown.named(maker):
            # A limit of a model holds what was made with its name.
            held = [part for part in parts if part.model == name]
            amounts += _by_quota(limits.of_model(name), still_to_charge(shown.kind, usage, held))
        if amounts:
            self._limiter.charge_soon([Charge(quota, amount) for quota, amount in amounts.items()])

    def _charge_seen(self, reader: Maker, usage: Usage) -> None:
        """Charge who has read what nobody may ever ask the usage of."""
        limits = self._tenants.get(reader.tenant).limits
        amounts = _by_quota(limits.of_caller(_principal(reader)), still_to_charge("response", usage, ()))
        self._limiter.charge_soon([Charge(quota, amount) for quota, amount in amounts.items()])


def _principal(maker: Maker) -> Principal:
    named = (maker.tenant, maker.subject, frozenset[str](), maker.credential_id)
    return Principal(*named, 0.0, 0.0, limits=maker.limits)


def _by_quota(quotas: Iterable[Quota], amounts: Mapping[Dimension, int]) -> Counter[Quota]:
    return Counter({quota: amounts[quota.dimension] for quota in quotas if quota.dimension in amounts})
