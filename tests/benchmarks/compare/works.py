"""What each candidate is made to do, and the figures that are read off.

A work runs against one candidate in one round and gives figures by name, or says what went wrong. CPU is that of the
candidate and all that it started, per unit of what it did.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.bench import canned
from gateway.bench.processes import cpu_seconds, family, load, resident_bytes
from gateway.bench.works import Idle, Requests, Silent, Sockets, Streams, Target, Uploads, Work
from tests.benchmarks.compare import machine
from tests.benchmarks.compare.candidates import GATEWAY, Candidate
from tests.benchmarks.compare.machine import Cores
from tests.benchmarks.compare.running import Running, headers, running
from tests.benchmarks.compare.setting import Setting

MB = 1_000_000
AUDIO_BYTES, UPLOAD_BYTES = 10 * MB, 200 * MB
ANSWER_DEADLINE_SECONDS, STEADY_SECONDS = 60.0, 30.0
_ASKED_BEFORE = 3
"""How often each of many credentials is used before it is measured."""

LATE_MS = 10.0
"""A client that sends later than this, one time in a hundred, was itself held up."""

SLIPPED_PERCENT = 5.0
"""An upstream that is later than this with the last event of a stream, of the time planned, was itself held up."""

Figures = dict[str, float]


class Failed(Exception):
    """The candidate does not do this work."""


@dataclass
class Bench:
    """What works stand on."""

    setting: Setting
    cores: Cores
    peers: Path
    seconds: float
    """How long a saturated work lasts."""

    started: dict[str, Running] = field(default_factory=dict)
    capacities: dict[str, float] = field(default_factory=dict)
    """Small JSON requests a second of each candidate, once it has been found out."""

    def target(self, it: Running, credentials: tuple[str, ...]) -> Target:
        """How the client reaches a candidate."""
        key = it.candidate.master_key
        return Target(
            port=it.port,
            credentials=(key,) if key else credentials,
            headers=dict(headers(it.candidate, self.setting)),
        )

    async def warm_up(self, it: Running, requests: int) -> None:
        """Let it do what it does only at first."""
        credentials = tuple(credential for credential, _ in self.setting.callers)
        [outcome] = await self.outcomes(
            self.target(it, credentials), Requests(connections=8, count=requests, most_seconds=30)
        )
        if not outcome["ok"]:
            raise Failed(f"no request succeeds: {outcome['errors']} {outcome['first_error']}")

    async def outcomes(self, target: Target, *works: Work) -> list[dict[str, Any]]:
        """What came of works of one client."""
        async with load(target, *works, cpu=self.cores.others) as client:
            return await client.outcomes()


@dataclass
class Cell:
    """One candidate, one work, one round."""

    bench: Bench
    it: Running
    credentials: tuple[str, ...]
    disturbed: str = ""

    async def do(self, *works: Work) -> tuple[list[dict[str, Any]], float, float]:
        """Works of one client: what came of them, the candidate's CPU seconds, and that as a share of the time."""
        target = self.bench.target(self.it, self.credentials)
        before = self._cpu_seconds()
        outcomes = await self.bench.outcomes(target, *works)
        used = self._cpu_seconds() - before
        self.look(outcomes, works)
        return outcomes, used, used / max(outcome["elapsed_seconds"] for outcome in outcomes)

    def processes(self) -> list[int]:
        """Of everybody who has a part in this cell: the candidate, client, upstream and Redis."""
        others = [it.pid for it in self.bench.started.values() if it is not self.it and it.pid is not None]
        idle = {process for pid in others for process in family(pid)}
        return [process for process in family(os.getpid()) if process not in idle]

    def _cpu_seconds(self) -> float:
        return 0.0 if self.it.pid is None else cpu_seconds(self.it.pid)

    def look(self, outcomes: list[dict[str, Any]], works: tuple[Work, ...]) -> None:
        """Raise what makes figures worthless, and note what disturbed them."""
        for outcome, work in zip(outcomes, works, strict=True):
            wrong = outcome["sent"] - outcome["ok"]
            if outcome["ok"] == 0 or wrong > 0.01 * outcome["sent"]:
                said = outcome["first_error"][:100]
                raise Failed(" ".join([f"{wrong} of {outcome['sent']}:", *outcome["errors"], said]).strip())
            late = outcome["late_us"]["p99"] / 1000
            if late > LATE_MS:
                self.disturbed = f"client late by {late:.0f} ms"
            if isinstance(work, Streams) and work.events > 1:
                planned = (work.events - 1) * work.every_seconds
                slipped = outcome["slip_us"]["p99"] / 1e4 / planned
                if slipped > SLIPPED_PERCENT:
                    self.disturbed = f"upstream slipped by {slipped:.0f} %"

    def cpu(self, used: float, units: float) -> Figures:
        """CPU per unit; nothing of who has no process."""
        return {} if self.it.pid is None else {"cpu_us": used * 1e6 / units}


# The works


async def _saturated(cell: Cell, work: Requests) -> Figures:
    if len(cell.credentials) > 1:
        # What is learnt from a caller's first requests is no part of the price of the others.
        await cell.do(replace(work, seconds=0.0, count=_ASKED_BEFORE * len(cell.credentials)))
    [outcome], used, busy = await cell.do(work)
    figures = cell.cpu(used, outcome["ok"]) | {
        "answers": outcome["ok"],
        "per_second": outcome["ok"] / outcome["elapsed_seconds"],
        "busy": busy,
    }
    return figures | _milliseconds(outcome["latency_us"])


async def _json(cell: Cell) -> Figures:
    redis = cell.bench.setting.redis_pid
    before = cpu_seconds(redis)
    figures = await _saturated(cell, Requests(seconds=cell.bench.seconds))
    if cell.it.candidate is GATEWAY:
        figures["redis_us"] = (cpu_seconds(redis) - before) * 1e6 / figures["answers"]
    cell.bench.capacities[cell.it.candidate.name] = figures["per_second"]
    return figures


async def _embeddings(cell: Cell) -> Figures:
    work = Requests(path=canned.EMBEDDINGS, body=canned.embeddings(), seconds=cell.bench.seconds)
    return await _saturated(cell, work)


async def _latency(cell: Cell) -> Figures:
    """At 30 % of what the gateway can do, or of what the candidate can where that is less; before all others."""
    capacities, own, gateway = cell.bench.capacities, cell.it, cell.bench.started[GATEWAY.name]
    for it in (own, gateway):
        if it.candidate.name not in capacities:
            [outcome], _, _ = await Cell(cell.bench, it, cell.credentials).do(Requests(seconds=1.0))
            capacities[it.candidate.name] = outcome["ok"] / outcome["elapsed_seconds"]
    rate = 0.3 * min(capacities[own.candidate.name], capacities[GATEWAY.name])
    work = Requests(per_second=rate, seconds=2 * cell.bench.seconds)
    with machine.first(cell.processes()) as goes_first:
        [outcome], used, busy = await cell.do(work)
    return (
        _milliseconds(outcome["latency_us"])
        | {"per_second": rate, "busy": busy, "goes_first": float(goes_first)}
        | cell.cpu(used, outcome["ok"])
    )


def _events(streams: int, ramp_seconds: float) -> Callable[[Cell], Awaitable[Figures]]:
    async def work(cell: Cell) -> Figures:
        asked = Streams(streams=streams, events=80, every_seconds=0.05, ramp_seconds=ramp_seconds)
        [outcome], used, busy = await cell.do(asked)
        planned = asked.ramp_seconds + (asked.events + 1) * asked.every_seconds
        return cell.cpu(used, outcome["events"]) | {
            "delay_p50_ms": outcome["delay_us"]["p50"] / 1000,
            "delay_p99_ms": outcome["delay_us"]["p99"] / 1000,
            "first_p50_ms": outcome["first_us"]["p50"] / 1000 - 1000 * asked.every_seconds,
            "first_p99_ms": outcome["first_us"]["p99"] / 1000 - 1000 * asked.every_seconds,
            "slip_percent": max(0.0, 100 * (outcome["elapsed_seconds"] / planned - 1)),
            "busy": busy,
        }

    return work


async def _newcomers(cell: Cell) -> Figures:
    """500 streams a second begin beside 1,000 that run."""
    ramp, seconds = 2.0, cell.bench.seconds
    running_on = Streams(streams=1000, events=round(20 * (ramp + seconds + 1)), ramp_seconds=ramp)
    new = Streams(streams=round(500 * seconds), events=5, ramp_seconds=seconds, after_seconds=ramp + 0.5)
    [_, outcome], _, busy = await cell.do(running_on, new)
    every_ms = 1000 * new.every_seconds
    return {
        "first_p50_ms": outcome["first_us"]["p50"] / 1000 - every_ms,
        "first_p99_ms": outcome["first_us"]["p99"] / 1000 - every_ms,
        "busy": busy,
    }


async def _audio(cell: Cell) -> Figures:
    work = Requests(
        path=canned.SPEECH,
        body=canned.speech(AUDIO_BYTES),
        connections=4,
        count=40,
        answer_bytes=AUDIO_BYTES,
    )
    [outcome], used, busy = await cell.do(work)
    megabytes = outcome["answer_bytes"] / MB
    return cell.cpu(used, megabytes) | {"mb_per_second": megabytes / outcome["elapsed_seconds"], "busy": busy}


async def _upload(cell: Cell) -> Figures:
    [outcome], used, busy = await cell.do(Uploads(file_bytes=UPLOAD_BYTES, count=2))
    megabytes = outcome["sent_bytes"] / MB
    return cell.cpu(used, megabytes) | {"mb_per_second": megabytes / outcome["elapsed_seconds"], "busy": busy}


async def _sockets(cell: Cell) -> Figures:
    """Every message that is sent comes back: two to each that returns."""
    [outcome], used, busy = await cell.do(Sockets(sockets=100, per_second=50, seconds=cell.bench.seconds))
    return cell.cpu(used, 2 * outcome["events"]) | {
        "delay_p50_ms": outcome["delay_us"]["p50"] / 1000,
        "delay_p99_ms": outcome["delay_us"]["p99"] / 1000,
        "busy": busy,
    }


async def _fairness(cell: Cell) -> Figures:
    """A tenant that asks 100 times a second, alone and beside one that asks as fast as it is answered."""
    bench = cell.bench
    asking = Requests(per_second=100, connections=8, seconds=2 * bench.seconds)
    rival = bench.target(cell.it, (bench.setting.rival[0],))
    [alone] = await bench.outcomes(rival, asking)
    many = Requests(connections=32, seconds=asking.seconds + 1)
    saturating = bench.target(cell.it, cell.credentials)
    async with load(saturating, many, cpu=bench.cores.others, nice=10) as client:
        await client.steady()
        await asyncio.sleep(0.5)
        [beside] = await bench.outcomes(rival, asking)
        client.stop()
        await client.outcomes()
    cell.look([alone, beside], (asking, asking))
    before, after = alone["latency_us"]["p99"], beside["latency_us"]["p99"]
    return {"idle_p99_ms": before / 1000, "beside_p99_ms": after / 1000, "times_idle": after / before}


async def _fresh(cell: Cell) -> Figures:
    """A process of its own: its start, and what it occupies at rest, with idle connections, with silent streams."""
    bench, candidate = cell.bench, cell.it.candidate
    idle, silent = Idle(connections=1000, ramp_seconds=2.0), Silent(streams=1000, ramp_seconds=2.0)
    setting = bench.setting.apart("fresh")
    with running(candidate, setting, bench.peers, {bench.cores.measured}) as new:
        assert new.pid is not None
        target = bench.target(new, cell.credentials)
        started = await _first_answer(new, target) - new.began
        figures = {"start_seconds": started, "rest_mib": resident_bytes(new.pid) / 2**20}
        async with AsyncExitStack() as stack:
            for figure, work, held in (
                ("connection_kib", idle, idle.connections),
                ("stream_kib", silent, silent.streams),
            ):
                before = resident_bytes(new.pid)
                client = await stack.enter_async_context(load(target, work, cpu=bench.cores.others))
                try:
                    async with asyncio.timeout(STEADY_SECONDS):
                        await client.steady()
                except TimeoutError:
                    break  # not all of them are served
                await asyncio.sleep(0.5)
                figures[figure] = (resident_bytes(new.pid) - before) / held / 1024
    return figures


async def _first_answer(it: Running, target: Target) -> float:
    """When it has answered a request, by the monotonic clock."""
    body = canned.chat().encode()
    fields = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {target.credentials[0]}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **target.headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"POST {canned.CHAT} HTTP/1.1\r\n{head}\r\n".encode() + body
    deadline = time.monotonic() + ANSWER_DEADLINE_SECONDS
    said = b""
    while time.monotonic() < deadline:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", it.port)
            writer.write(request)
            said = await reader.read(4096)
            writer.close()
        except OSError:
            said = b""
        if said.startswith(b"HTTP/1.1 200"):
            return time.monotonic()
        await asyncio.sleep(0.002)
    raise Failed(f"no answer: {said[:100].decode('utf-8', 'replace')}")


def _milliseconds(spread: Mapping[str, float]) -> Figures:
    return {"p50_ms": spread["p50"] / 1000, "p99_ms": spread["p99"] / 1000}


@dataclass(frozen=True)
class Kind:
    """A work, and who can do it."""

    run: Callable[[Cell], Awaitable[Figures]]
    needs: str
    """One of the kinds that candidates say they are able to do."""

    direct: bool = False
    """Whether the direct way is measured too, for others to be set against."""

    many: bool = False
    """Whether it is done once more with many credentials in turn."""

    def is_for(self, candidate: Candidate) -> bool:
        if candidate.name == "direct":
            return self.direct
        if not candidate.limited:
            return self is WORKS["json"]
        return self.needs in candidate.able


WORKS: Mapping[str, Kind] = {
    "json": Kind(_json, "json", direct=True, many=True),
    "latency": Kind(_latency, "json", direct=True),
    "embeddings": Kind(_embeddings, "embeddings", direct=True, many=True),
    "events-200": Kind(_events(200, 1.0), "events", direct=True, many=True),
    "events-1000": Kind(_events(1000, 2.0), "many events", direct=True, many=True),
    "newcomers": Kind(_newcomers, "many events", direct=True),
    "audio": Kind(_audio, "audio", direct=True),
    "upload": Kind(_upload, "upload", direct=True),
    "sockets": Kind(_sockets, "sockets", direct=True),
    "fairness": Kind(_fairness, "rates"),
    "fresh": Kind(_fresh, "memory"),
}
