"""What is shown: one row of each table. Every number is that of all gateways that are looked at. Pure.

A rate is over the last readings, and None until there are two.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Sum:
    """Something that is counted."""

    total: float = 0.0
    per_second: float | None = None

    def add(self, now: float, before: float | None, seconds: float) -> None:
        """Add what one gateway has counted. `before` is None where it did not say."""
        self.total += now
        if before is not None and seconds > 0:
            self.per_second = (self.per_second or 0.0) + max(0.0, now - before) / seconds

    def add_sum(self, other: Sum) -> None:
        """Add what has been added up elsewhere."""
        self.total += other.total
        if other.per_second is not None:
            self.per_second = (self.per_second or 0.0) + other.per_second


@dataclass(slots=True)
class TenantRow:
    """One tenant."""

    tenant: str
    name: str | None = None
    enabled: bool | None = None
    in_flight: int = 0
    exchanges: Sum = field(default_factory=Sum)
    failed: Sum = field(default_factory=Sum)
    throttled: Sum = field(default_factory=Sum)
    input: Sum = field(default_factory=Sum)
    output: Sum = field(default_factory=Sum)
    limits: dict[str, float] = field(default_factory=dict)
    """The part of each that is in use."""

    @property
    def fullest(self) -> tuple[str, float]:
        """The limit of which most is in use."""
        return max(self.limits.items(), key=lambda limit: limit[1], default=("", 0.0))


@dataclass(slots=True)
class UpstreamRow:
    """One upstream."""

    upstream: str
    answers: dict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    """By status or its class."""

    seconds: Sum = field(default_factory=Sum)
    """Until the heads of all answers had come."""

    unconnected: Sum = field(default_factory=Sum)
    """Attempts to connect that failed."""

    waits: Sum = field(default_factory=Sum)
    busy: int = 0
    idle: int = 0
    waiting: int = 0
    most: int | None = None
    left: tuple[str, float] | None = None
    """Of which of its own limits least is left, and which part of it."""

    def answered(self, *prefixes: str) -> Sum:
        """Answers whose status begins so; all without any."""
        found = Sum()
        for status, counted in self.answers.items():
            if not prefixes or status.startswith(prefixes):
                found.add_sum(counted)
        return found

    @property
    def answer_seconds(self) -> float | None:
        """How long an answer took to begin, on average of the last seconds; else of all time."""
        answers = self.answered()
        if answers.per_second and self.seconds.per_second is not None:
            return self.seconds.per_second / answers.per_second
        return self.seconds.total / answers.total if answers.total else None


@dataclass(slots=True)
class ExchangeRow:
    """An exchange, running or over."""

    request_id: str
    tenant: str
    operation: str
    model: str | None
    upstream: str | None
    age_seconds: float
    bytes_out: int
    transport: str
    worker: int
    instance: str
    status: int | None = None
    ending: str | None = None


@dataclass(slots=True)
class WorkerRow:
    """One process that serves."""

    instance: str
    worker: int
    pid: int
    state: str
    cpus: float | None
    """How many processors it kept busy."""

    memory_bytes: float | None
    loop_lag_max_seconds: float | None
    in_flight: int | None
    connections: int | None


@dataclass(slots=True)
class RedisRow:
    """One Redis server."""

    server: str
    up: bool = True
    round_trips: Sum = field(default_factory=Sum)
    seconds: Sum = field(default_factory=Sum)


@dataclass(slots=True)
class LimitRow:
    """One limit of a tenant's that is in use."""

    tenant: str
    dimension: str
    used_ratio: float


@dataclass(slots=True)
class ErrorRow:
    """Errors of the gateway's own with one code."""

    code: str
    count: Sum


@dataclass(slots=True)
class GatewayRow:
    """One gateway, whatever became of asking it."""

    url: str
    instance: str
    problem: str | None = None
    """Why it has said nothing; None: it has."""

    ready: bool = False
    version: str | None = None
    up_seconds: float | None = None
    workers: int = 0
    workers_ready: int = 0
    in_flight: int = 0
    requests: Sum = field(default_factory=Sum)
    cpus: float | None = None
    memory_bytes: float | None = None
