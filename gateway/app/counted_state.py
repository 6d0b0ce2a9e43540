"""What of the state has been counted by all workers together: tenants, upstreams, errors, Redis, processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from math import isfinite
from time import thread_time

from gateway.app.counted import Counted
from gateway.app.rests import Rests
from gateway.app.state import (
    MOST_CODES,
    MOST_LIMITS_LEFT,
    MOST_UPSTREAMS,
    ErrorCount,
    LimitLeft,
    Redis,
    Upstream,
)

_BITE = 500
"""Series that are looked at in one go: some 0.5 ms."""

_BROKEN = frozenset({"upstream_lost", "failed"})

Labels = Mapping[str, str]


@dataclass
class TenantCounts:
    """What has been counted of one tenant."""

    in_flight: int = 0
    exchanges: int = 0
    failed: int = 0
    throttled: int = 0
    input: float = 0.0
    output: float = 0.0
    limits: dict[str, float] = field(default_factory=dict)
    """What is in use of each, by dimension; 1.0 is all of it."""


@dataclass
class WorkerCounts:
    """What is known of the processes in one place."""

    cpu_seconds: float | None = None
    memory_bytes: float | None = None
    loop_lag_max_seconds: float | None = None


class CountedState:
    """Reads it once, in bites, from what has been heard so far. Whatever nobody has counted is absent, or 0."""

    def __init__(self, counted: Counted, rests: Rests) -> None:
        self._counted = counted
        self._rests = rests
        self.tenants: defaultdict[str, TenantCounts] = defaultdict(TenantCounts)
        self.workers: defaultdict[str, WorkerCounts] = defaultdict(WorkerCounts)
        self.upstreams: list[Upstream] = []
        self.errors: list[ErrorCount] = []
        self.redis: list[Redis] = []
        self.started = 0.0
        self.valid = True
        self.loaded: float | None = None

    async def read(self) -> None:
        """Read all of it."""
        await self._read_tenants()
        await self._read_upstreams()
        await self._read_workers()
        codes: defaultdict[str, float] = defaultdict(float)
        async for labels, count, _ in self._series("gateway_errors"):
            codes[labels["code"]] += count
        most = sorted(codes.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_CODES]
        self.errors = [{"code": code, "count": int(count)} for code, count in most]
        await self._read_redis()
        async for _, value, _ in self._series("gateway_configuration_valid"):
            self.valid = bool(value)
        async for _, value, _ in self._series("gateway_configuration_loaded_timestamp_seconds"):
            self.loaded = value

    async def _series(self, name: str) -> AsyncIterator[tuple[Labels, float, float]]:
        await self._rests.rest()
        began = thread_time()
        series = self._counted.numbers(name)
        while some := list(islice(series, _BITE)):
            for one in some:
                if isfinite(one[1]):
                    yield one
            self._rests.worked(began)
            await self._rests.rest()
            began = thread_time()

    async def _read_tenants(self) -> None:
        tenants = self.tenants
        async for labels, value, _ in self._series("gateway_exchanges_in_flight"):
            if "tenant" in labels:
                tenants[labels["tenant"]].in_flight = int(value)
        async for labels, value, _ in self._series("gateway_exchanges"):
            tenant = tenants[labels["tenant"]]
            tenant.exchanges += int(value)
            if _has_failed(labels["status"], labels["ending"]):
                tenant.failed += int(value)
        async for labels, value, _ in self._series("gateway_limiter_decisions"):
            if labels["decision"] == "refused":
                tenants[labels["tenant"]].throttled += int(value)
        async for labels, value, _ in self._series("gateway_usage"):
            if labels["kind"] == "input":
                tenants[labels["tenant"]].input += value
            elif labels["kind"] == "output":
                tenants[labels["tenant"]].output += value
        async for labels, value, _ in self._series("gateway_limit_used_ratio"):
            tenants[labels["tenant"]].limits[labels["dimension"]] = value

    async def _read_upstreams(self) -> None:
        found: dict[str, Upstream] = {}

        def of(labels: Labels) -> Upstream:
            name = labels.get("upstream", "")
            return found.setdefault(
                name,
                {
                    "upstream": name,
                    "answers": {},
                    "answer_seconds": 0.0,
                    "connects": {},
                    "connections": {},
                    "connections_most": None,
                    "waits": 0,
                    "asked_again": 0,
                    "limits_left": [],
                },
            )

        async for labels, value, _ in self._series("gateway_upstream_answers"):
            of(labels)["answers"][labels["status"]] = int(value)
        async for labels, _, seconds in self._series("gateway_upstream_answer_seconds"):
            of(labels)["answer_seconds"] = seconds
        async for labels, value, _ in self._series("gateway_upstream_connects"):
            of(labels)["connects"][labels["result"]] = int(value)
        async for labels, value, _ in self._series("gateway_upstream_connections"):
            of(labels)["connections"][labels["state"]] = int(value)
        async for labels, value, _ in self._series("gateway_upstream_connections_most"):
            of(labels)["connections_most"] = int(value)
        async for labels, value, _ in self._series("gateway_upstream_waits"):
            of(labels)["waits"] += int(value)
        async for labels, value, _ in self._series("gateway_upstream_asked_again"):
            of(labels)["asked_again"] = int(value)
        await self._read_limits_left(of)
        self.upstreams = sorted(
            found.values(), key=lambda one: (-sum(one["answers"].values()), one["upstream"])
        )
        del self.upstreams[MOST_UPSTREAMS:]
        for upstream in self.upstreams:
            upstream["limits_left"].sort(key=_part_left)
            del upstream["limits_left"][MOST_LIMITS_LEFT:]

    async def _read_limits_left(self, of: Callable[[Labels], Upstream]) -> None:
        limits: dict[tuple[str, ...], float] = {}
        async for labels, value, _ in self._series("gateway_upstream_limit"):
            limits[tuple(labels.values())] = value
        async for labels, value, _ in self._series("gateway_upstream_limit_remaining"):
            left: LimitLeft = {
                "model": labels["model"],
                "dimension": labels["dimension"],
                "remaining": value,
                "limit": limits.get(tuple(labels.values())),
            }
            of(labels)["limits_left"].append(left)

    async def _read_workers(self) -> None:
        workers = self.workers
        async for labels, value, _ in self._series("process_cpu_seconds"):
            workers[labels["worker"]].cpu_seconds = value
        async for labels, value, _ in self._series("process_resident_memory_bytes"):
            workers[labels["worker"]].memory_bytes = value
        async for labels, value, _ in self._series("gateway_event_loop_lag_max_seconds"):
            workers[labels["worker"]].loop_lag_max_seconds = value
        async for _, value, _ in self._series("process_start_time_seconds"):
            self.started = value

    async def _read_redis(self) -> None:
        trips = {
            labels["server"]: (int(count), seconds)
            async for labels, count, seconds in self._series("gateway_redis_seconds")
        }
        async for labels, value, _ in self._series("gateway_redis_up"):
            server = labels["server"]
            round_trips, seconds = trips.get(server, (0, 0.0))
            self.redis.append(
                {"server": server, "up": bool(value), "round_trips": round_trips, "seconds": seconds}
            )
        self.redis.sort(key=lambda one: one["server"])


def _has_failed(status: str, ending: str) -> bool:
    """Whether an exchange went wrong that was not the client's fault; of sessions, 101, time may run out."""
    return status.startswith("5") or ending in _BROKEN or (ending == "timed_out" and status != "1xx")


def _part_left(limit: LimitLeft) -> float:
    return limit["remaining"] / limit["limit"] if limit["limit"] else 1.0
