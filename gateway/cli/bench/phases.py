"""What is measured, one after the other, and how long each may take."""

from __future__ import annotations

import asyncio
import math
import os
import resource
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from redis.exceptions import RedisError

from gateway.app.process import room_for_connections
from gateway.bench.certificate import make_certificate
from gateway.bench.processes import raw_upstream, resident_bytes
from gateway.bench.trial import Extent, Round, Trial
from gateway.bench.works import Target
from gateway.cli.bench.configuration import (
    described,
    document,
    models_of,
    redis_prefix,
)
from gateway.cli.bench.process import MeasuredGateway, running
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.redis.servers import RedisServers
from gateway.redis.sweeping import sweep
from gateway.settings.section import Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings

_REDIS_SECONDS = 3.0
_SWEEPING_SECONDS = 60.0
_CREDENTIAL_SECONDS = 7200
_FILES = 65_536
_FULL_SECONDS = 60.0


async def measure(settings: Settings, tenant: str, seconds: float) -> dict[str, Any]:
    """Measure a tenant's requests for about so long.

    Raises SettingsInvalid, or OSError where something does not start.
    """
    _allow_files()
    cores = sorted(os.sched_getaffinity(0))
    base_url = settings.tenants[tenant].upstream.base_url or settings.upstream.base_url
    tls = base_url.startswith("https:")
    models = models_of(settings, tenant)
    extent = _extent(settings, seconds, models["chat"])
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-bench-")))
        ring, _ = ensure_ring(directory / "keys")
        credential = _credential(ring, settings, tenant)
        problems: list[str] = []
        if settings.redis_url is not None:
            await stack.enter_async_context(
                _swept(
                    RedisServers.parse(revealed(settings.redis_url) or ""), redis_prefix(settings), problems
                )
            )
        ca_file = str(make_certificate(directory)) if tls else ""
        port = await stack.enter_async_context(
            raw_upstream(cpu=cores[0], certificate=directory if tls else None)
        )
        configured = partial(
            document,
            settings,
            tenant,
            base_url=f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1",
            ca_file=ca_file,
        )
        start = partial(
            running,
            keys_dir=directory / "keys",
            credential=credential,
            core=cores[-1] if len(cores) > 1 else None,
        )
        trial = Trial(Target(port=port, ca_file=ca_file), extent, cpu=cores[1 if len(cores) > 2 else 0])
        gateway, started = await stack.enter_async_context(start(configured(limited=True)))
        bare, _ = await stack.enter_async_context(start(configured(limited=False)))
        found = await _phases(trial, gateway, bare, models)
    return {
        "tenant": tenant,
        "configuration": described(settings, tenant),
        "tls": tls,
        "own_core": len(cores) > 1,
        "extent": asdict(extent),
        "start_seconds": round(started, 3),
        **found,
        "problems": [*trial.problems, *problems],
    }


async def _phases(
    trial: Trial, gateway: MeasuredGateway, bare: MeasuredGateway, models: dict[str, str]
) -> dict[str, Any]:
    subject, extent = gateway.subject, trial.extent
    rest_bytes = resident_bytes(subject.pid)
    for warmed in (subject, bare.subject):
        await trial.requests(warmed, 1.0)
    memory = {
        "rest": rest_bytes,
        "silent_stream": await trial.memory_per_stream(subject),
        # Of the other: what the first one held would be used again.
        "idle_connection": await trial.memory_per_connection(bare.subject),
    }
    whole, unlimited = [], []
    for _ in range(extent.rounds):
        whole.append(await trial.requests(subject, 2.0))
        unlimited.append(await trial.requests(bare.subject, 2.0))
    capacity = median(each.per_second for each in whole)
    latencies = await trial.latencies(subject, capacity, 3.0)
    events = [await trial.events(subject, 4.0) for _ in range(min(2, extent.rounds))]
    direct_events = await trial.delays(3.0)
    large: dict[str, list[Round]] = {"answer_megabyte": [], "upload_megabyte": []}
    megabytes = min(1000, max(10, round(100 * extent.part(1.0))))
    for _ in range(extent.rounds):
        if model := models.get("speech"):
            large["answer_megabyte"].append(await trial.answers(subject, model, megabytes))
        if model := models.get("transcriptions"):
            large["upload_megabyte"].append(await trial.uploads(subject, model, megabytes))
    costs = {"request": whole, "event": events, **large}
    return {
        "cpu_us": {
            name: [round(each.cpu_us, 1) for each in rounds] for name, rounds in costs.items() if rounds
        },
        "requests_per_second": round(capacity),
        "request_cpu_us_without_limits": [round(each.cpu_us, 1) for each in unlimited],
        "latency_us": latencies,
        "event_delay_us": {
            "direct": direct_events["delay_us"],
            "gateway": events[-1].outcome["delay_us"],
        },
        "first_event_us": {
            "direct": direct_events["first_us"],
            "gateway": events[-1].outcome["first_us"],
        },
        "slip_us": events[-1].outcome["slip_us"],
        "memory_bytes": memory,
        "request_areas": [await _areas(trial, gateway) for _ in range(extent.rounds)],
    }


async def _areas(trial: Trial, gateway: MeasuredGateway) -> dict[str, float]:
    """What part of a small request's time each area of the code takes."""
    gateway.look()
    await trial.requests(gateway.subject, 1.5)
    seen = await gateway.seen()
    looks = max(1, sum(seen.values()))
    return {area: round(count / looks, 4) for area, count in seen.items()}


def _extent(settings: Settings, seconds: float, model: str) -> Extent:
    """As much as this configuration has room for."""
    edge = settings.edge
    clients = min(room_for_connections(), edge.max_connections or math.inf) * edge.peer_share
    places = settings.upstream.max_connections * settings.upstream.tenant_share
    streams = min(clients, places)
    return Extent(
        seconds=seconds,
        streams=_within(200, streams),
        silent=_within(500, streams),
        idle=_within(1000, clients),
        connections=_within(32, clients),
        rounds=3 if seconds >= _FULL_SECONDS / 2 else 1,
        model=model,
    )


def _within(wanted: int, room: float) -> int:
    return max(1, int(min(wanted, room)))


def _credential(ring: KeyRing, settings: Settings, tenant: str) -> str:
    return issue(
        ring,
        settings.credentials,
        tenant=tenant,
        subject="bench",
        scopes=settings.tenants[tenant].scopes,
        ttl_seconds=min(_CREDENTIAL_SECONDS, int(settings.credentials.max_lifetime_seconds)),
    ).credential


@asynccontextmanager
async def _swept(servers: RedisServers, prefix: str, problems: list[str]) -> AsyncIterator[None]:
    """See that Redis answers, and afterwards take away what was kept there. Raises SettingsInvalid when it does not."""
    try:
        async with asyncio.timeout(_REDIS_SECONDS):
            connection = await servers.connector()()
            await connection.disconnect(nowait=True)
    except (OSError, RedisError, TimeoutError) as error:
        said = str(error) or "no answer"
        raise SettingsInvalid(
            [
                Problem(
                    "redis_url",
                    f"Redis at {servers.name} cannot be asked ({said}); start it, or leave it out",
                )
            ]
        ) from None
    try:
        yield
    finally:
        try:
            async with asyncio.timeout(_SWEEPING_SECONDS):
                await sweep(servers, prefix)
        except (OSError, RedisError, TimeoutError) as error:
            problems.append(f"keys with the prefix {prefix} are left in Redis: {str(error) or 'no answer'}")


def _allow_files() -> None:
    """As many files as the system lets this process and its children have: each stream needs several."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
