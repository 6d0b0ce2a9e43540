"""Token-bucket arithmetic, exact and free of I/O; the types that limiter, stores and headers share.

A bucket remembers what is *taken* from it: 0 means full, and a bucket that nobody uses needs no memory.
Permits are counted in grains, `TICKS_PER_PERIOD` to the permit, and time in ticks, `TICKS_PER_PERIOD` to the
period. A bucket of capacity N therefore gets exactly N grains back per tick: every number is an integer below
2**53, nothing is ever rounded, and Lua (whose numbers are doubles) computes what Python computes.

A concurrency limit is a bucket that time does not refill: a slot comes back when its exchange is settled, or
when the lease of its exchange runs out.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote

TICKS_PER_PERIOD = 60_000
"""Grains per permit, and ticks per period: 1 ms of a minute, 1.44 s of a day."""

MOST_PERMITS = 2**53 // (4 * TICKS_PER_PERIOD)
"""The largest capacity whose debts still fit a double exactly."""

RETRY_SECONDS = 1.0
"""What a client is told to wait where nobody knows: for a slot, or for a store to come back."""


class Dimension(StrEnum):
    """What a limit counts, by the name that the API's own project rate limits give it."""

    period_seconds: int
    """Time in which an empty bucket fills; 0 for slots, which time does not refill."""
    unit: str
    """What is counted, as rate-limit headers and error types spell it."""
    permits_per_unit: int
    """Permits to one unit of the configured capacity: audio is limited in megabytes and charged in bytes."""

    def __new__(
        cls, value: str, period_seconds: int = 0, unit: str = "", permits_per_unit: int = 1
    ) -> Dimension:
        member = str.__new__(cls, value)
        member._value_ = value
        member.period_seconds = period_seconds
        member.unit = unit
        member.permits_per_unit = permits_per_unit
        return member

    REQUESTS_PER_MINUTE = "max_requests_per_1_minute", 60, "requests", 1
    REQUESTS_PER_DAY = "max_requests_per_1_day", 86_400, "requests", 1
    TOKENS_PER_MINUTE = "max_tokens_per_1_minute", 60, "tokens", 1
    TOKENS_PER_DAY = "max_tokens_per_1_day", 86_400, "tokens", 1
    BATCH_INPUT_TOKENS_PER_DAY = "batch_1_day_max_input_tokens", 86_400, "tokens", 1
    IMAGES_PER_MINUTE = "max_images_per_1_minute", 60, "images", 1
    AUDIO_MEGABYTES_PER_MINUTE = "max_audio_megabytes_per_1_minute", 60, "audio-megabytes", 1_000_000
    CONCURRENT_REQUESTS = "max_concurrent_requests", 0, "concurrent-requests", 1

    @property
    def settles(self) -> bool:
        """Whether what an exchange costs is known only when it ends (a request costs one request at once)."""
        return self.unit != "requests"


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

    def __post_init__(self) -> None:
        permits = self.capacity * self.dimension.permits_per_unit
        if not 0 < permits <= MOST_PERMITS:
            most = MOST_PERMITS // self.dimension.permits_per_unit
            raise ValueError(f"{self.dimension} must be between 1 and {most}, not {self.capacity}")
        object.__setattr__(self, "permits", permits)
        object.__setattr__(self, "grains", permits * TICKS_PER_PERIOD)
        tick = self.dimension.period_seconds * 1_000_000 // TICKS_PER_PERIOD
        object.__setattr__(self, "tick_microseconds", tick)

    @property
    def period_seconds(self) -> int:
        return self.dimension.period_seconds


@dataclass(frozen=True, slots=True)
class Charge:
    """Permits to take from one quota's bucket; 0 takes nothing, always fits, and still reports the level."""

    quota: Quota
    permits: int = 1
    known: int | None = None
    """The part of `permits` that is no guess; None: all of it."""

    def __post_init__(self) -> None:
        if self.permits < 0:
            raise ValueError(f"cannot take {self.permits} permits")
        if self.quota.dimension is Dimension.CONCURRENT_REQUESTS and self.permits > 1:
            raise ValueError("an exchange holds one slot")

    @classmethod
    def reserving(cls, quota: Quota, *, known: int, guessed: int) -> Charge:
        """A charge whose guess is cut so that both parts fit the bucket, as long as the known one does."""
        return cls(quota, max(known, min(known + guessed, quota.permits)), known)


@dataclass(frozen=True, slots=True)
class Level:
    """How full one bucket is, in the units of its dimension."""

    dimension: Dimension
    limit: int
    remaining: int
    """Whole units that could be taken now; never negative."""
    reset_seconds: float
    """Time until the bucket is full again; 0 for slots."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer to an admission; `levels` stand in the order of the charges, as they are after it."""

    allowed: bool
    levels: tuple[Level, ...]
    refused_by: Quota | None = None
    """The quota that makes the exchange wait longest."""
    retry_after_seconds: float | None = None
    """Time until every charge fits, if nobody else takes anything; None when allowed or never."""
    never: bool = False
    """Whether a charge exceeds the whole capacity of `refused_by`: waiting is pointless."""
    from_store: bool = True
    """False if the store was out of reach and the limits' own failure policy decided."""


class StoreUnavailable(Exception):
    """The store did not do what it was asked, or did not say so in time."""

    def __init__(self, reason: str, *, sent: bool = True) -> None:
        super().__init__(reason)
        self.sent = sent
        """Whether the step may have been carried out all the same."""


@dataclass(frozen=True, slots=True)
class Census:
    """How many workers share the store, and which of them (from 0) this one is."""

    place: int
    workers: int


class BucketStore(Protocol):
    """Where buckets live. Every method is one atomic step; all raise StoreUnavailable and nothing else.

    An admission that *holds* something (a slot, or permits that settling may change) is remembered under its
    exchange id until it is settled, or until its lease runs out: then everything it took is given back.
    """

    lease_seconds: float
    """How long a held admission lives after it was taken or last renewed."""

    async def admit(
        self, exchange_id: str, charges: Sequence[Charge], *, hold: bool | None = None
    ) -> Decision:
        """Take every charge, or none.

        `hold=None` remembers the exchange if a charge needs it. A held admission may be repeated: while the
        exchange is open in an account, that account is charged nothing further. So a later step of the same
        exchange charges other accounts; naming the first ones again costs nothing.
        """

    async def look(self, charges: Sequence[Charge]) -> Decision:
        """What admit would say now, taking nothing."""

    async def settle(self, exchange_id: str, charges: Sequence[Charge]) -> bool:
        """Put what was really used in place of what was taken, and free the slots; once per exchange.

        Charges whose quota was not admitted change nothing; permits above the reservation become debt, no
        deeper than one capacity. False if no such exchange is open (settled before, expired, never held).
        """

    async def debit(self, exchange_id: str, charges: Sequence[Charge], *, hold: bool = False) -> None:
        """Take every charge whatever the levels, into debt no deeper than one capacity."""

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Let (exchange id, account key) pairs live for another lease; return those that are not open."""

    async def reset(self, keys: Iterable[str]) -> None:
        """Fill every bucket of these accounts and forget their open exchanges."""

    async def announce(self, worker: str) -> Census:
        """Say that this worker lives (once a second); learn how many do."""

    def health(self) -> Mapping[str, bool]:
        """Per server whether it answers; empty where there is none to ask."""

    async def close(self) -> None:
        """Withdraw the worker and let go of connections; nothing else may be called afterwards."""


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


def holds(charges: Iterable[Charge]) -> bool:
    """Whether admitting these leaves something to be settled."""
    return any(charge.permits and charge.quota.dimension.settles for charge in charges)


def share(quota: Quota, census: Census) -> Quota | None:
    """This worker's part of a limit; None if that is nothing. All workers' parts sum up to the limit."""
    upper, lower = (quota.capacity * n // census.workers for n in (census.place + 1, census.place))
    return replace(quota, capacity=upper - lower) if upper > lower else None


def still_taken(quota: Quota, taken: int, tick: int, now_microseconds: int) -> int:
    """Grains that are still taken now, of those that were taken at `tick`; never more than a capacity of debt.

    A clock that went back refills nothing: after a failover the new master's may be behind.
    """
    if not quota.tick_microseconds:
        return taken
    taken = min(taken, 2 * quota.grains)
    elapsed = now_microseconds // quota.tick_microseconds - tick
    return max(0, taken - quota.permits * elapsed) if elapsed > 0 else taken


def fits(charge: Charge, taken: int) -> bool:
    """Whether the charge can be taken from a bucket of which `taken` grains are missing."""
    return charge.permits == 0 or taken + charge.permits * TICKS_PER_PERIOD <= charge.quota.grains


def bounded(quota: Quota, taken: int) -> int:
    """Keep a bucket between full and one capacity of debt; slots are counted as they are."""
    return max(0, min(taken, 2 * quota.grains) if quota.tick_microseconds else taken)


def level(quota: Quota, taken: int) -> Level:
    """What the account's owner is told about a bucket of which `taken` grains are missing."""
    grains_per_unit = TICKS_PER_PERIOD * quota.dimension.permits_per_unit
    remaining = max(0, (quota.grains - taken) // grains_per_unit)
    return Level(quota.dimension, quota.capacity, remaining, _seconds_to_refill(quota, taken))


def decide(charges: Sequence[Charge], taken: Sequence[int], *, granted: bool) -> Decision:
    """Word the decision that a store took, from the grains that are missing per charge after it."""
    levels = tuple(level(charge.quota, missing) for charge, missing in zip(charges, taken, strict=True))
    if granted:
        return Decision(True, levels)
    worst, longest = None, -1.0
    for charge, missing in zip(charges, taken, strict=True):
        if fits(charge, missing):
            continue
        if charge.permits > charge.quota.permits:
            return Decision(False, levels, charge.quota, never=True)
        wait = _seconds_until_fit(charge, missing)
        if wait > longest:
            worst, longest = charge.quota, wait
    return Decision(False, levels, worst, longest)


def tightest(levels: Iterable[Level]) -> dict[str, Level]:
    """The level to report per unit: the one with least left, of equals the one that takes longest to fill."""
    least: dict[str, Level] = {}
    for candidate in levels:
        known = least.get(candidate.dimension.unit)
        if known is None or _room(candidate) < _room(known):
            least[candidate.dimension.unit] = candidate
    return least


def format_reset(seconds: float) -> str:
    """Write a duration, rounded up to 1 ms, as the API's headers do: 0s, 120ms, 1s, 8.64s, 6m0s, 1h0m0s."""
    milliseconds = max(0, math.ceil(seconds * 1000 - 1e-6))
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    rest = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{rest}"
    return f"{minutes}m{rest}" if minutes else rest


def _room(level: Level) -> tuple[int, float]:
    return level.remaining, -level.reset_seconds


def _seconds_to_refill(quota: Quota, grains: int) -> float:
    ticks = -(-grains // quota.permits)
    return ticks * quota.tick_microseconds / 1_000_000


def _seconds_until_fit(charge: Charge, taken: int) -> float:
    if not charge.quota.tick_microseconds:
        return RETRY_SECONDS
    return _seconds_to_refill(charge.quota, taken + charge.permits * TICKS_PER_PERIOD - charge.quota.grains)
