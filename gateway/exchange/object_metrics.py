"""How the registry of stored objects fares: what is asked of it, what it is told, what it has not been told yet."""

from __future__ import annotations

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads
from gateway.objects.heard import Became, Found

# From a server on the same machine to the longest that anybody waits for one.
_LOOK_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5)


class ObjectMetrics:
    """Instruments of `objects`."""

    def __init__(self, registry: Registry) -> None:
        self._look_ups = Counts(
            "gateway_object_look_ups",
            "Look-ups whose stored objects are, by what came of each: all that was named is the tenant's own, "
            "something is unknown, or the registry was unavailable.",
            ["result"],
            registry=registry,
        )
        self._seconds = Spreads(
            "gateway_object_look_up_seconds",
            "How long a look-up took.",
            bounds=_LOOK_SECONDS,
            registry=registry,
        ).labels()
        self._objects = Counts(
            "gateway_objects",
            "Stored objects, by what became of them: recorded as somebody's, waiting because the registry could not "
            "be told, freed because the upstream has them no longer, lost because there was no room to wait.",
            ["became"],
            registry=registry,
        )
        self._objects.labels(Became.LOST.value)  # which an alert has to see grow from nothing
        self._unasked = Counts(
            "gateway_objects_unrecorded_inference",
            "Inference that went through although the registry was away, so that its answer may be recorded late.",
            registry=registry,
        ).labels()
        self.waiting = Gauges(
            "gateway_objects_waiting",
            "Answers of which the registry of stored objects has not been told yet: on the disk of the machine, and in "
            "the memory of the process that has most.",
            rule=Rule.MAX,
            registry=registry,
        )
        self.lost = Gauges(
            "gateway_objects_lost_tenants",
            "Tenants to whom only what is recorded is open, of whom the registry of stored objects has forgotten that, "
            "until the operator has imported it, or acknowledged that it is gone.",
            rule=Rule.MAX,
            registry=registry,
        )

    def looked(self, found: Found, seconds: float) -> None:
        """Count one look-up."""
        self._look_ups.labels(found.value).inc()
        self._seconds.observe(seconds)

    def went_unasked(self) -> None:
        """Count inference that went through."""
        self._unasked.inc()

    def became(self, what: Became, objects: int) -> None:
        """Count objects."""
        self._objects.labels(what.value).inc(objects)
