"""Token-bucket arithmetic, exact and free of I/O.

A bucket of capacity N gets exactly N grains back per tick: every number is an integer below 2**53, nothing is
ever rounded, and Lua (whose numbers are doubles) computes what Python computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

from gateway.limits.charges import Charges
from gateway.limits.terms import MOST_GRAINS, TICKS_PER_PERIOD, Charge, Decision, Level, Quota

RETRY_SECONDS = 1.0
"""What a client is told to wait where nobody knows: for a slot, or for a store to come back."""


def tick_of(quota: Quota, now_microseconds: int) -> int:
    """As of when a bucket is as it is now: in its ticks, or, of slots, which have none, in microseconds."""
    return now_microseconds // (quota.tick_microseconds or 1)


def still_taken(quota: Quota, taken: int, tick: int, now_microseconds: int) -> int:
    """Grains that are still taken now, of those that were taken at `tick`.

    A `tick` that is still to come refills nothing: the clock has gone back, as after a failover to a master that is
    behind. Who finds one has the bucket begin anew now, with what was taken, so that it is refilled from now on.
    """
    if not quota.tick_microseconds:
        return taken
    elapsed = now_microseconds // quota.tick_microseconds - tick
    return max(0, taken - quota.permits * elapsed) if elapsed > 0 else taken


def fits(quota: Quota, permits: int, taken: int) -> bool:
    """Whether these permits can be taken from a bucket of which `taken` grains are missing."""
    return permits == 0 or taken + permits * TICKS_PER_PERIOD <= quota.grains


def bounded(taken: int) -> int:
    """Keep a bucket between full and the deepest debt that is counted exactly."""
    return max(0, min(taken, MOST_GRAINS))


def debt(quota: Quota, taken: int) -> tuple[int, int]:
    """What is owed of a bucket of which `taken` grains are missing: units, and milliseconds until it is paid off."""
    owed = taken - quota.grains
    if owed <= 0 or not quota.tick_microseconds:
        return 0, 0
    return -(-owed // quota.unit_grains), -(-(-(-owed // quota.permits) * quota.tick_microseconds) // 1000)


def level(quota: Quota, taken: int) -> Level:
    """What the account's owner is told about a bucket of which `taken` grains are missing."""
    remaining = (quota.grains - taken) // quota.unit_grains
    milliseconds = -(-(-(-taken // quota.permits) * quota.tick_microseconds) // 1000)
    # As Level(…), without its frame.
    return tuple.__new__(
        Level, (quota.dimension, quota.capacity, remaining if remaining > 0 else 0, milliseconds)
    )


def decide(charges: Charges, taken: Sequence[int], *, granted: bool) -> Decision:
    """Word the decision that a store took, from the grains that are missing per charge after it."""
    quotas = charges.quotas
    levels = list(map(level, quotas.quotas, taken))
    if granted:
        return Decision(True, levels, units_differ=quotas.units_differ)
    worst, longest = None, -1.0
    for charge, missing in zip(charges, taken, strict=True):
        if fits(charge.quota, charge.permits, missing):
            continue
        if charge.permits > charge.quota.permits:
            return Decision(False, levels, charge.quota, never=True)
        wait = _seconds_until_fit(charge, missing)
        if wait > longest:
            worst, longest = charge.quota, wait
    return Decision(False, levels, worst, longest)


def tightest(levels: Iterable[Level]) -> Iterable[Level]:
    """The level to report of each unit: the one with least left, of equals the one that takes longest to fill."""
    least: dict[str, Level] = {}
    for candidate in levels:
        unit = candidate.dimension.unit
        known = least.setdefault(unit, candidate)
        if known is not candidate and _room(candidate) < _room(known):
            least[unit] = candidate
    return least.values()


def format_reset(seconds: float) -> str:
    """Write a duration, rounded up to 1 ms, as the API's headers do: 0s, 120ms, 1s, 8.64s, 6m0s, 1h0m0s."""
    return format_milliseconds(math.ceil(seconds * 1000 - 1e-6))


@lru_cache(maxsize=4096)
def format_milliseconds(milliseconds: int) -> str:
    """Write a duration as the API's headers do."""
    if milliseconds <= 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{rest}"
    return f"{minutes}m{rest}" if minutes else rest


def _room(level: Level) -> tuple[int, int]:
    return level.remaining, -level.reset_milliseconds


def _seconds_to_refill(quota: Quota, grains: int) -> float:
    ticks = (grains + quota.permits - 1) // quota.permits
    return ticks * quota.tick_microseconds / 1_000_000


def _seconds_until_fit(charge: Charge, taken: int) -> float:
    if not charge.quota.tick_microseconds:
        return RETRY_SECONDS
    return _seconds_to_refill(charge.quota, taken + charge.permits * TICKS_PER_PERIOD - charge.quota.grains)
