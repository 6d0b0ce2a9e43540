"""Many measured times, and the few numbers that tell of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles in microseconds; zeros where nothing was measured."""

    count: int = 0
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    most: float = 0.0

    @classmethod
    def of(cls, nanoseconds: Iterable[int]) -> Spread:
        """Of values in nanoseconds, in any order."""
        ordered = sorted(nanoseconds)
        if not ordered:
            return cls()
        count = len(ordered)

        def part(share: float) -> float:
            return round(ordered[min(count - 1, int(count * share))] / 1000, 1)

        return cls(
            count=count,
            mean=round(sum(ordered) / count / 1000, 1),
            p50=part(0.5),
            p90=part(0.9),
            p99=part(0.99),
            most=part(1.0),
        )
