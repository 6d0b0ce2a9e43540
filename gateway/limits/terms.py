"""What limits are about: what is counted, for whom, what is taken, and what is said about it.

A bucket remembers what is *taken* from it: 0 means full, and a bucket that nobody uses needs no memory.
Permits are counted in grains, `TICKS_PER_PERIOD` to the permit, and time in ticks, `TICKS_PER_PERIOD` to the
period: see arithmetic.py.

A concurrency limit is a bucket that time does not refill: a slot comes back when its exchange is settled, or
when the lease of its exchange runs out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from struct import Struct
from typing import NamedTuple
from urllib.parse import quote, unquote

TICKS_PER_PERIOD = 60_000
"""Grains per permit, and ticks per period: 1 ms of a minute, 1.44 s of a day."""

MOST_PERMITS = 2**53 // (4 * TICKS_PER_PERIOD)
"""The largest capacity: an empty bucket of it is half of the deepest debt."""

MOST_GRAINS = 2**52
"""The most that is ever missing from a bucket, 75 billion permits: as much more can be added to it exactly."""

MOST_REPORTED = 100
"""The most that one report may take, in whole limits: more is no usage, but a fault of the server's."""


_QUOTA = Struct("<ddB")


LLM_TOKENS = "total"
"""What limits on LLM tokens count."""


class Dimension(StrEnum):
    """What a limit counts, by the name that the API's own project rate limits give it."""

    period_seconds: int
    """Time in which an empty bucket fills; 0 for slots, which time does not refill."""
    unit: str
    """What is counted, as rate-limit headers and error types spell it."""
    permits_per_unit: int
    """Permits to one unit of the configured capacity: audio is limited in megabytes and charged in bytes."""

    counts: str
    """What it counts, by the name that requests and answers have for it (`usage.cost`, `usage.reported`). Empty where
    it counts requests."""

    is_reported: bool
    """Whether answers report what counts here, so that usage has to be known where it is limited."""
    settles: bool
    """Whether what an exchange costs is known only when it ends (a request costs one request at once)."""

    by_request: bool
    """Whether a request takes one, whatever it asks."""

    def __new__(
        cls,
        value: str,
        period_seconds: int = 0,
        unit: str = "",
        permits_per_unit: int = 1,
        counts: str = "",
        is_reported: bool = False,
    ) -> Dimension:
        member = str.__new__(cls, value)
        member._value_ = value
        member.period_seconds = period_seconds
        member.unit = unit
        member.permits_per_unit = permits_per_unit
        member.counts = counts
        member.is_reported = is_reported
        member.settles = unit != "requests"
        member.by_request = unit in {"requests", "concurrent-requests"}
        return member

    REQUESTS_PER_MINUTE = "max_requests_per_1_minute", 60, "requests", 1
    REQUESTS_PER_DAY = "max_requests_per_1_day", 86_400, "requests", 1
    TOKENS_PER_MINUTE = "max_tokens_per_1_minute", 60, "tokens", 1, LLM_TOKENS, True
    TOKENS_PER_DAY = "max_tokens_per_1_day", 86_400, "tokens", 1, LLM_TOKENS, True
    BATCH_INPUT_TOKENS_PER_DAY = "batch_1_day_max_input_tokens", 86_400, "tokens", 1, "batch_input"
    IMAGES_PER_MINUTE = "max_images_per_1_minute", 60, "images", 1, "images"
    AUDIO_MEGABYTES_PER_MINUTE = (
        *("max_audio_megabytes_per_1_minute", 60, "audio-megabytes", 1_000_000),
        "audio_bytes",
    )
    CONCURRENT_REQUESTS = "max_concurrent_requests", 0, "concurrent-requests", 1


_SLOTS = Dimension.CONCURRENT_REQUESTS


class OnStoreFailure(StrEnum):
    """What becomes of a limit while the store that counts it cannot be reached."""

    LOCAL = "local"
    OPEN = "open"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit of one account: `capacity` units per period, of which all may be used in one burst."""

    dimension: Dimension
    capacity: int
    key: str
    """The account that the bucket belongs to, from `account_key`."""
    on_store_failure: OnStoreFailure = OnStoreFailure.LOCAL
    permits: int = field(init=False, repr=False, compare=False)
    grains: int = field(init=False, repr=False, compare=False)
    tick_microseconds: int = field(init=False, repr=False, compare=False)
    """Time that gives back one grain per permit; 0 for slots."""
    unit_grains: int = field(init=False, repr=False, compare=False)
    """Grains of one unit of the capacity."""
    most_reported: int = field(init=False, repr=False, compare=False)
    """Permits that one report takes at most."""
    told: tuple[str, bytes] = field(init=False, repr=False, compare=False)
    """What a script is told: the account; capacity in permits, tick in microseconds and dimension, packed."""

    def __post_init__(self) -> None:
        permits = self.capacity * self.dimension.permits_per_unit
        if not 0 < permits <= MOST_PERMITS:
            most = MOST_PERMITS // self.dimension.permits_per_unit
            raise ValueError(f"{self.dimension} must be between 1 and {most}, not {self.capacity}")
        object.__setattr__(self, "permits", permits)
        object.__setattr__(self, "grains", permits * TICKS_PER_PERIOD)
        tick = self.dimension.period_seconds * 1_000_000 // TICKS_PER_PERIOD
        object.__setattr__(self, "tick_microseconds", tick)
        object.__setattr__(self, "unit_grains", TICKS_PER_PERIOD * self.dimension.permits_per_unit)
        object.__setattr__(
            self, "most_reported", min(MOST_REPORTED * permits, MOST_GRAINS // TICKS_PER_PERIOD)
        )
        name = self.dimension.value.encode("ascii")
        object.__setattr__(self, "told", (self.key, _QUOTA.pack(permits, tick, len(name)) + name))

    @property
    def period_seconds(self) -> int:
        return self.dimension.period_seconds


@dataclass(slots=True, init=False)
class Charge:
    """Permits to take from one quota's bucket; 0 takes nothing, always fits, and still reports the level.

    Nobody changes one; it is not frozen because every request makes some, and that takes three times as long.
    """

    quota: Quota
    permits: int
    known: int | None
    """The part of `permits` that is no guess; None: all of it."""

    def __init__(self, quota: Quota, permits: int = 1, known: int | None = None) -> None:
        if permits != 1:
            if permits < 0:
                raise ValueError(f"cannot take {permits} permits")
            if permits and quota.dimension is _SLOTS:
                raise ValueError("an exchange holds one slot")
        self.quota = quota
        self.permits = permits
        self.known = known


class Level(NamedTuple):
    """How full one bucket is, in the units of its dimension."""

    dimension: Dimension
    limit: int
    remaining: int
    """Whole units that could be taken now; never negative."""

    reset_milliseconds: int
    """Time until the bucket is full again, rounded up; 0 for slots."""

    @property
    def reset_seconds(self) -> float:
        return self.reset_milliseconds / 1000


@dataclass(slots=True)
class Decision:
    """The answer to an admission; `levels` stand in the order of the charges, as they are after it.

    Nobody changes one; it is as little frozen as charges are.
    """

    allowed: bool
    levels: Sequence[Level]
    refused_by: Quota | None = None
    """The quota that makes the exchange wait longest."""
    retry_after_seconds: float | None = None
    """Time until every charge fits, if nobody else takes anything; None when allowed or never."""
    never: bool = False
    """Whether a charge exceeds the whole capacity of `refused_by`: waiting is pointless."""
    from_store: bool = True
    """False if the store was out of reach and the limits' own failure policy decided."""
    units_differ: bool = False
    """Whether the levels are known to be of as many units."""


def account_key(
    tenant: str, *, model: str | None = None, subject: str | None = None, credential: str | None = None
) -> str:
    """Name an account; the braces put all accounts of a tenant into one Redis Cluster slot.

    The tag is a digest because a tenant's own id could hold braces, and so choose its slot.
    """
    tag = hashlib.sha256(tenant.encode()).hexdigest()[:8]
    parts = [("tenant", tenant), ("model", model), ("subject", subject), ("credential", credential)]
    return f"{{{tag}}}:" + ":".join(
        f"{name}={quote(value, safe='')}" for name, value in parts if value is not None
    )


def tenant_of(quota: Quota) -> str:
    """Whose account a quota is of."""
    return unquote(quota.key.split(":")[1].removeprefix("tenant="))


def binds(quota: Quota) -> dict[str, str]:
    """What a quota counts apart, for its owner: nothing, a model pattern, a subject or a credential."""
    return bound_by(quota.key)


def bound_by(key: str) -> dict[str, str]:
    """The same of an account."""
    parts = (part.partition("=") for part in key.split(":")[2:])
    return {name: unquote(value) for name, _, value in parts}
