"""What is shown: what gateways have counted, added up, and how much of it there was a second. Pure."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.app.state import State, Tenant, Upstream
from gateway.cli.top.asking import NO_GATEWAY, Answer
from gateway.cli.top.readings import Reading
from gateway.cli.top.rows import (
    ErrorRow,
    ExchangeRow,
    GatewayRow,
    LimitRow,
    RedisRow,
    Sum,
    TenantRow,
    UpstreamRow,
    WorkerRow,
)


@dataclass(slots=True)
class Tables:
    """What some gateways do together."""

    tenants: list[TenantRow]
    upstreams: list[UpstreamRow]
    errors: list[ErrorRow]
    oldest: list[ExchangeRow]
    slowest: list[ExchangeRow]
    workers: list[WorkerRow]
    redis: list[RedisRow]
    left_out: int
    """Tenants for which there was no room."""

    @property
    def limits(self) -> list[LimitRow]:
        """All limits in use, fullest first."""
        rows = [LimitRow(row.tenant, name, used) for row in self.tenants for name, used in row.limits.items()]
        return sorted(rows, key=lambda row: row.used_ratio, reverse=True)


def tables_of(readings: Sequence[Reading]) -> Tables:
    """What these gateways do together, busiest first."""
    tenants: dict[str, TenantRow] = {}
    upstreams: dict[str, UpstreamRow] = {}
    errors: dict[str, Sum] = defaultdict(Sum)
    redis: dict[str, RedisRow] = {}
    oldest: list[ExchangeRow] = []
    slowest: list[ExchangeRow] = []
    workers: list[WorkerRow] = []
    left_out = 0
    for reading in readings:
        state, before, seconds = reading.state, reading.before, reading.seconds
        if state is None:
            continue
        left_out += state["left_out"]["tenants"]
        told = {} if before is None else {one["tenant"]: one for one in before["tenants"]}
        # A tenant that was not told of had nothing, unless there was no room for it.
        unknown = None if before is None or before["left_out"]["tenants"] else 0
        for tenant in state["tenants"]:
            row = tenants.setdefault(tenant["tenant"], TenantRow(tenant["tenant"]))
            _add_tenant(row, tenant, told.get(tenant["tenant"]), unknown, seconds)
        asked = {} if before is None else {one["upstream"]: one for one in before["upstreams"]}
        for upstream in state["upstreams"]:
            way = upstreams.setdefault(upstream["upstream"], UpstreamRow(upstream["upstream"]))
            _add_upstream(way, upstream, asked.get(upstream["upstream"]), before is not None, seconds)
        raised = {} if before is None else {one["code"]: one["count"] for one in before["errors"]}
        for error in state["errors"]:
            errors[error["code"]].add(
                error["count"], None if before is None else raised.get(error["code"], 0), seconds
            )
        servers = {} if before is None else {one["server"]: one for one in before["redis"]}
        for server in state["redis"]:
            found = redis.setdefault(server["server"], RedisRow(server["server"]))
            found.up &= server["up"]
            earlier = servers.get(server["server"])
            for into, name in ((found.round_trips, "round_trips"), (found.seconds, "seconds")):
                into.add(server[name], None if earlier is None else earlier[name], seconds)  # type: ignore[literal-required]
        oldest += [_exchange(one, reading.now.name) for one in state["oldest"]]
        slowest += [_exchange(one, reading.now.name) for one in state["slowest"]]
        workers += _workers(state, before, seconds, reading.now.name)
    return Tables(
        tenants=sorted(tenants.values(), key=_busyness, reverse=True),
        upstreams=sorted(upstreams.values(), key=lambda way: way.answered().total, reverse=True),
        errors=sorted(itertools.starmap(ErrorRow, errors.items()), key=_count, reverse=True),
        oldest=sorted(oldest, key=lambda one: one.age_seconds, reverse=True),
        slowest=sorted(slowest, key=lambda one: one.age_seconds, reverse=True),
        workers=workers,
        redis=sorted(redis.values(), key=lambda server: server.server),
        left_out=left_out,
    )


def gateway_of(reading: Reading) -> GatewayRow:
    """One gateway in a line."""
    state, name = reading.state, reading.now.name
    if state is None:
        return GatewayRow(reading.now.url, name, reading.now.problem)
    tables = tables_of([reading])
    requests = Sum()
    for row in tables.tenants:
        requests.add_sum(row.exchanges)
    return GatewayRow(
        reading.now.url,
        name,
        ready=bool(state["ready"]),
        version=state["version"],
        up_seconds=state["time"] - state["started"],
        workers=len(tables.workers),
        workers_ready=sum(worker.state == "ready" for worker in tables.workers),
        in_flight=sum(row.in_flight for row in tables.tenants),
        requests=requests,
        cpus=_known_sum(worker.cpus for worker in tables.workers),
        memory_bytes=_known_sum(worker.memory_bytes for worker in tables.workers),
    )


def _known_sum(numbers: Iterable[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _count(row: ErrorRow) -> float:
    return row.count.total


def _busyness(row: TenantRow) -> tuple[float, float]:
    return row.exchanges.per_second or 0.0, row.exchanges.total


def _add_tenant(
    row: TenantRow, now: Tenant, before: Tenant | None, unknown: int | None, seconds: float
) -> None:
    row.name = row.name or now["name"]
    row.enabled = now["enabled"] if row.enabled is None else row.enabled and now["enabled"] is not False
    row.in_flight += now["in_flight"]
    row.exchanges.add(now["exchanges"], unknown if before is None else before["exchanges"], seconds)
    row.failed.add(now["failed"], unknown if before is None else before["failed"], seconds)
    row.throttled.add(now["throttled"], unknown if before is None else before["throttled"], seconds)
    used, earlier = now["llm_tokens"], None if before is None else before["llm_tokens"]
    row.input.add(used["input"], unknown if earlier is None else earlier["input"], seconds)
    row.output.add(used["output"], unknown if earlier is None else earlier["output"], seconds)
    for limit in now["limits"]:
        name, ratio = limit["dimension"], limit["used_ratio"]
        row.limits[name] = max(row.limits.get(name, 0.0), ratio)  # what several share, each of them tells


def _add_upstream(
    row: UpstreamRow, now: Upstream, before: Upstream | None, compared: bool, seconds: float
) -> None:
    earlier = None if not compared else {} if before is None else before["answers"]
    for status, count in now["answers"].items():
        row.answers[status].add(count, None if earlier is None else earlier.get(status, 0), seconds)
    none = 0.0 if compared else None
    row.seconds.add(now["answer_seconds"], none if before is None else before["answer_seconds"], seconds)
    row.waits.add(now["waits"], none if before is None else before["waits"], seconds)
    row.unconnected.add(_unconnected(now), none if before is None else _unconnected(before), seconds)
    connections = now["connections"]
    row.busy += connections.get("busy", 0)
    row.idle += connections.get("idle", 0)
    row.waiting += connections.get("waiting", 0)
    if now["connections_most"] is not None:
        row.most = (row.most or 0) + now["connections_most"]
    for left in now["limits_left"]:
        if not left["limit"]:
            continue
        part = left["remaining"] / left["limit"]
        if row.left is None or part < row.left[1]:
            row.left = f"{left['dimension']} of {left['model']}" if left["model"] else left["dimension"], part


def _unconnected(told: Upstream) -> int:
    return sum(count for result, count in told["connects"].items() if result != "connected")


def _exchange(told: Any, instance: str) -> ExchangeRow:
    return ExchangeRow(
        *(told["request_id"], told["tenant"], told["operation"], told["model"], told["upstream"]),
        *(told["age_seconds"], told["bytes_out"], told["transport"], told["worker"], instance),
        status=told.get("status"),
        ending=told.get("ending"),
    )


def _workers(state: State, before: State | None, seconds: float, instance: str) -> Iterable[WorkerRow]:
    # By their process: what one has used is no part of what its successor does.
    earlier = {} if before is None else {one["pid"]: one["cpu_seconds"] for one in before["workers"]}
    for worker in state["workers"]:
        used, cpu = earlier.get(worker["pid"]), worker["cpu_seconds"]
        cpus = None if used is None or cpu is None or not seconds else max(0.0, cpu - used) / seconds
        yield WorkerRow(
            *(instance, worker["worker"], worker["pid"], worker["state"], cpus, worker["memory_bytes"]),
            *(worker["loop_lag_max_seconds"], worker["in_flight"], worker["connections"]),
        )


def sound(answer: Answer) -> Answer:
    """What a gateway said, or that it is none where that cannot be added up."""
    try:
        tables_of([Reading(answer)])
    except (KeyError, TypeError, ValueError, AttributeError):
        return replace(answer, state=None, problem=NO_GATEWAY)
    return answer
