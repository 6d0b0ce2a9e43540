"""What one gateway costs and adds: the same works straight to an upstream and through the gateway in front of it.

A trial measures; it does not start gateways and does not judge. All that went wrong is among its problems.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from gateway.bench import canned
from gateway.bench.processes import cpu_seconds, load, resident_bytes
from gateway.bench.works import Idle, Requests, Silent, Streams, Target, Uploads, Work

MEGABYTE = 1_000_000
_SETTLE_SECONDS = 0.15
"""What a gateway still writes down when the last answer is out."""

_FULL_SECONDS = 60.0
_LEAST_SECONDS = 0.3
_LOADED = 0.3
"""The part of what it can do at which a gateway's latency is looked at."""

_MOST_PER_SECOND = 3000.0
_EVERY_SECONDS = 0.05
_PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Subject:
    """A gateway that runs."""

    target: Target
    pid: int


@dataclass(frozen=True, slots=True)
class Extent:
    """How much there is to be of it all."""

    seconds: float
    """Of the whole measurement, about."""

    streams: int = 200
    silent: int = 500
    """Streams that say nothing, held at once."""

    idle: int = 1000
    """Connections that wait, held at once."""

    connections: int = 32
    """That ask for small answers, as fast as they come."""

    rounds: int = 3
    model: str = "gpt-4o-mini"

    def part(self, seconds: float) -> float:
        """What lasts so long in a full minute."""
        return max(_LEAST_SECONDS, seconds * self.seconds / _FULL_SECONDS)


@dataclass(frozen=True, slots=True)
class Round:
    """What one run of a work cost and gave."""

    cpu_us: float
    """Of the gateway's processes, per unit."""

    per_second: float
    """Units, while it ran."""

    outcome: dict[str, Any]


@dataclass(slots=True)
class Trial:
    """Works against gateways and against their upstream. `cpu` is the core of the client."""

    direct: Target
    extent: Extent
    cpu: int | None = None
    problems: list[str] = field(default_factory=list)

    async def requests(self, subject: Subject, seconds: float) -> Round:
        """Small JSON requests, as many as are answered."""
        lasting = self.extent.part(seconds)
        work = Requests(
            body=canned.chat(model=self.extent.model),
            connections=self.extent.connections,
            seconds=lasting,
            most_seconds=lasting + _PATIENCE_SECONDS,
        )
        return await self._cost(subject, work, "small JSON requests")

    async def events(self, subject: Subject, seconds: float) -> Round:
        """Streams with 20 events a second each."""
        return await self._cost(subject, self._streams(seconds), "streamed events")

    async def answers(self, subject: Subject, model: str, megabytes: int) -> Round:
        """Large answers, per megabyte."""
        size = 10 * MEGABYTE
        work = Requests(
            path=canned.SPEECH,
            body=canned.speech(size, model=model),
            connections=4,
            count=max(1, megabytes // 10),
            answer_bytes=size,
        )
        return await self._cost(subject, work, "large answers")

    async def uploads(self, subject: Subject, model: str, megabytes: int) -> Round:
        """One large upload, per megabyte."""
        return await self._cost(subject, Uploads(file_bytes=megabytes * MEGABYTE, model=model), "uploads")

    async def latencies(self, subject: Subject, capacity: float, seconds: float) -> dict[str, dict[str, Any]]:
        """Of small requests at a part of what the gateway can do; `direct` and `gateway`."""
        lasting = self.extent.part(seconds)
        work = Requests(
            body=canned.chat(model=self.extent.model),
            connections=self.extent.connections,
            per_second=round(max(20.0, min(_MOST_PER_SECOND, capacity * _LOADED))),
            seconds=lasting,
            most_seconds=lasting + _PATIENCE_SECONDS,
        )
        return {
            name: {
                "per_second": work.per_second,
                "latency": outcome["latency_us"],
                "late": outcome["late_us"],
            }
            for name, target in (("direct", self.direct), ("gateway", subject.target))
            for outcome in [await self._run(target, work, f"requests at a fixed rate, {name}")]
        }

    async def delays(self, seconds: float) -> dict[str, Any]:
        """Of events that come straight from the upstream."""
        return await self._run(self.direct, self._streams(seconds), "streamed events, direct")

    async def memory_per_stream(self, subject: Subject) -> float:
        """Bytes of a stream that says nothing."""
        extent = self.extent
        held = Silent(streams=extent.silent, ramp_seconds=extent.part(2), model=extent.model)
        return await self._memory(subject, held, "silent streams")

    async def memory_per_connection(self, subject: Subject) -> float:
        """Bytes of a connection that was answered and stays."""
        extent = self.extent
        held = Idle(
            body=canned.chat(model=extent.model), connections=extent.idle, ramp_seconds=extent.part(2)
        )
        return await self._memory(subject, held, "idle connections")

    def _streams(self, seconds: float) -> Streams:
        lasting = self.extent.part(seconds)
        return Streams(
            streams=self.extent.streams,
            events=max(4, round(lasting / _EVERY_SECONDS)),
            every_seconds=_EVERY_SECONDS,
            ramp_seconds=min(1.0, lasting / 4),
            model=self.extent.model,
            most_seconds=lasting + _PATIENCE_SECONDS,
        )

    async def _cost(self, subject: Subject, work: Work, name: str) -> Round:
        before = cpu_seconds(subject.pid)
        outcome = await self._run(subject.target, work, name)
        await asyncio.sleep(_SETTLE_SECONDS)
        spent = cpu_seconds(subject.pid) - before
        units = _units(work, outcome)
        return Round(
            cpu_us=spent * 1e6 / units if units else 0.0,
            per_second=units / outcome["elapsed_seconds"] if outcome["elapsed_seconds"] else 0.0,
            outcome=outcome,
        )

    async def _run(self, target: Target, work: Work, name: str) -> dict[str, Any]:
        async with load(target, work, cpu=self.cpu) as running:
            [outcome] = await running.outcomes()
        self._note(name, outcome)
        return outcome

    async def _memory(self, subject: Subject, work: Work, name: str) -> float:
        before = resident_bytes(subject.pid)
        async with load(subject.target, work, cpu=self.cpu) as running:
            await running.steady()
            await asyncio.sleep(_SETTLE_SECONDS)
            occupied = resident_bytes(subject.pid) - before
            running.stop()
            [outcome] = await running.outcomes()
        self._note(name, outcome)
        held = outcome["first_us"]["count"] or outcome["ok"]
        return max(0.0, occupied / held) if held else 0.0

    def _note(self, name: str, outcome: dict[str, Any]) -> None:
        for kind, count in outcome["errors"].items():
            quoted = f" ({outcome['first_error']})" if kind.startswith("status") else ""
            self.problems.append(f"{name}: {count} × {kind}, of {outcome['sent']} sent{quoted}")


def _units(work: Work, outcome: dict[str, Any]) -> float:
    """What a work is counted in: requests, events or megabytes."""
    match work:
        case Streams():
            return float(outcome["events"])
        case Uploads():
            return float(outcome["sent_bytes"] / MEGABYTE)
        case Requests(answer_bytes=size) if size:
            return float(outcome["answer_bytes"] / MEGABYTE)
        case _:
            return float(outcome["finished"])
