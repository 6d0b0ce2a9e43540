"""What the exchanges of one tenant and operation add to, found once and kept with their standing.

Where nothing is told apart by operation, those of one tenant share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, Protocol

from gateway.endings import Ending
from gateway.exchange.fault_metrics import FaultMetrics
from gateway.exchange.in_flight import InFlight
from gateway.exchange.instruments import Spread, Spreads, Sums, Tallies, Tally
from gateway.exchange.model_metrics import ModelMetrics
from gateway.settings.section import OTHER_TENANT
from gateway.usage.counters import DEFAULT_TIER, OTHER, tier_of
from gateway.usage.reported import NUMBERS, Usage

_KINDS = range(NUMBERS)
NO_OPERATION = "none"
"""Stands for the operation where a request names none, and in histograms for all that nobody known has asked for."""


class Families(Protocol):
    """The instruments to which exchanges add."""

    exchanges: Tallies
    decisions: Tallies
    exchange_seconds: Tallies
    bytes: Sums
    duration: Spreads
    first_byte: Spreads
    overhead: Spreads
    usage: Sums
    limited: Sums
    usage_exchanges: Sums
    faults: FaultMetrics
    in_flight: InFlight
    models: ModelMetrics


class ExchangeTallies:
    """What the exchanges of one tenant and operation add to; a series of what has not happened yet is not there."""

    __slots__ = (
        "_families",
        "_labels",
        "_timed_as",
        "bytes",
        "duration",
        "ended",
        "first_byte",
        "granted",
        "in_flight",
        "known",
        "limited",
        "overhead",
        "seconds",
        "usage",
    )

    def __init__(self, families: Families, tenant: str, operation: str) -> None:
        self._families = families
        self._labels = tenant, operation
        self.seconds = families.exchange_seconds.labels(tenant)
        # Who is nobody known may name every operation there is, and be refused as often as they like.
        self._timed_as = NO_OPERATION if tenant == OTHER_TENANT else operation
        self.duration = families.duration.labels(self._timed_as)
        self.overhead = families.overhead.labels(self._timed_as)
        self.in_flight = families.in_flight.of(tenant)
        """Those of the tenant that are being served now, whatever the operation."""

        self.bytes = families.bytes.labels(tenant)
        """Body bytes, in and out."""

        self.known = families.usage_exchanges.labels(tenant)
        """Those that used something, in the order of `Known`."""

        self.usage: dict[str, list[float]] = {}
        """In the order of `Usage`, by tier, as far as `used_by` has been asked for it."""

        self.limited: list[float] | None = None
        """LLM tokens reserved and settled; None until `limited_began` has been asked for it."""

        self.ended: dict[tuple[int | None, Ending | None], Tally] = {}
        """Exchanges by status and ending, as far as `so_ended` has been asked for them."""

        self.first_byte: Spread | None = None
        """None until `first_byte_began` has been asked for it."""

        self.granted: Tally | None = None
        """What the limiter granted; None until `was_granted` has been asked for it."""

    def erred(self, code: str) -> None:
        """Count an error of the gateway's own that the tenant was told."""
        self._families.faults.erred(self._labels[0], code)

    def used(self, usage: Usage, model: str | None) -> None:
        """Count what was used, of a model."""
        used = self.usage.get(usage.tier) or self.used_by(usage.tier)
        models = self._families.models
        by_model = (models.named.get(model) or models.of(model)).usage
        amounts: Sequence[Any] = usage
        for kind in compress(_KINDS, amounts):  # most are not used
            amount = amounts[kind]
            used[kind] += amount
            by_model[kind] += amount

    def was_granted(self) -> Tally:
        """What the limiter granted the tenant, whatever the operation."""
        tally = self.granted = self._families.decisions.labels(self._labels[0], "granted", "none")
        return tally

    def limited_began(self) -> list[float]:
        """LLM tokens that limits were asked for, and those that took their place."""
        limited = self.limited = self._families.limited.labels(self._labels[0])
        return limited

    def so_ended(self, status: int | None, ending: Ending | None) -> Tally:
        """Those with this status that ended so."""
        labels = *self._labels, status_class(status), str(ending or Ending.FAILED)
        tally = self.ended[status, ending] = self._families.exchanges.labels(*labels)
        return tally

    def first_byte_began(self) -> Spread:
        """Until the first byte of an answer's body."""
        spread = self.first_byte = self._families.first_byte.labels(self._timed_as)
        return spread

    def used_by(self, word: str) -> list[float]:
        """What was used of the tier that an answer calls so."""
        tier = tier_of(word)
        used = self._families.usage.labels(self._labels[0], tier or DEFAULT_TIER)
        if tier != OTHER:
            self.usage[word] = used  # words that nobody knows may be any
        return used


def status_class(status: int | None) -> str:
    """`2xx` for 200, and so on; `none` where no answer was sent."""
    return "none" if status is None else f"{status // 100}xx"
