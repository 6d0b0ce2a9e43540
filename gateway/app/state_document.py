"""Makes the document of `GET /gateway/state`, on the private listener's thread: of what is counted and what is told."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from heapq import nlargest
from itertools import chain
from operator import itemgetter
from time import monotonic, thread_time
from typing import Any, TypeVar, cast

import orjson

from gateway import __version__
from gateway.app.counted_state import CountedState, TenantCounts
from gateway.app.exposition import Exposition
from gateway.app.health import Health, WorkerState
from gateway.app.own_state import OwnState
from gateway.app.rests import Rests
from gateway.app.state import (
    MOST_EXCHANGES,
    MOST_TENANTS,
    CommonTold,
    Ended,
    Running,
    State,
    Tenant,
    TenantTold,
    Told,
    Worker,
)

_KEPT_SECONDS = 1.0
"""For how long one document is told: whoever asks more often is told the same."""

_NOTHING_TOLD: CommonTold = {
    "tenants": [],
    "tenants_in_all": 0,
    "credentials": None,
    "more_credentials": False,
}

_Exchange = TypeVar("_Exchange", Running, Ended)

Ask = Callable[[Sequence[str]], Awaitable[Mapping[int, Told]]]
"""Asks all workers what they have to tell, by their processes; one of them also of tenants, of these first. Whoever
does not answer at once is not among them."""

_ASK_SECONDS = 1.0
"""For the one process that there is."""


def ask_one(state: OwnState, loop: asyncio.AbstractEventLoop) -> Ask:
    """How the one process is asked, whose loop this is, from another thread."""

    async def ask(busiest: Sequence[str]) -> Mapping[int, Told]:
        telling = asyncio.run_coroutine_threadsafe(state.tell(common=True, busiest=busiest), loop)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                return {os.getpid(): await asyncio.wrap_future(telling)}
        except TimeoutError:
            return {}

    return ask


class StateDocument:
    """Makes one at a time, in bites and with rests, whoever asks how often."""

    def __init__(
        self,
        exposition: Exposition,
        health: Health,
        *,
        workers: Callable[[], Iterable[WorkerState]],
        ask: Ask,
        port: int,
    ) -> None:
        """`workers` are asked from the private listener's thread, as `health` is; `port` is where clients come."""
        self._exposition = exposition
        self._health = health
        self._workers = workers
        self._ask = ask
        self._instance = f"{socket.gethostname()}:{port}"
        self._rests = Rests()
        self._common = _NOTHING_TOLD
        """What was told last of what all workers know alike: who was asked now may hang."""

        self._one_at_a_time = asyncio.Lock()
        self._made_at = -_KEPT_SECONDS
        self._body = b""

    async def body(self) -> bytes:
        """The document, at most a second old, as JSON."""
        async with self._one_at_a_time:
            if monotonic() - self._made_at >= _KEPT_SECONDS:
                self._body = await self._made()
                self._made_at = monotonic()
            return self._body

    async def _made(self) -> bytes:
        await self._rests.rest()
        began = thread_time()
        await self._exposition.count()
        self._rests.worked(began)
        counted = CountedState(self._exposition.counted, self._rests)
        await counted.read()
        busiest = sorted(counted.tenants, key=lambda name: _weight(counted.tenants[name]), reverse=True)
        told = await self._ask(busiest[:MOST_TENANTS])
        began = thread_time()
        document = orjson.dumps(self._document(counted, told), option=orjson.OPT_APPEND_NEWLINE)
        self._rests.worked(began)
        return document

    def _document(self, counted: CountedState, told: Mapping[int, Told]) -> State:
        common = self._common = next((one["common"] for one in told.values() if one["common"]), self._common)
        tenants = _tenants(counted, common)
        ready = self._health.ready()
        return {
            "version": __version__,
            "time": round(time.time(), 3),
            "started": counted.started,
            "instance": self._instance,
            "ready": ready.ok,
            "reasons": cast(Any, ready.document["reasons"]),
            "workers": [_worker(worker, counted, told.get(worker.pid)) for worker in self._workers()],
            "tenants": tenants,
            "oldest": _oldest(told.values()),
            "slowest": _most(one["slowest"] for one in told.values()),
            "upstreams": counted.upstreams,
            "errors": counted.errors,
            "redis": counted.redis,
            "credentials": common["credentials"],
            "configuration": {"valid": counted.valid, "loaded": counted.loaded},
            "left_out": {
                "tenants": max(
                    0, common["tenants_in_all"] - sum(one["enabled"] is not None for one in tenants)
                ),
                "credentials": common["more_credentials"],
            },
        }


def _worker(worker: WorkerState, counted: CountedState, told: Told | None) -> Worker:
    counts = counted.workers[str(worker.index)]
    return {
        "worker": worker.index,
        "pid": worker.pid,
        "state": worker.state.value,
        "cpu_seconds": counts.cpu_seconds,
        "memory_bytes": counts.memory_bytes,
        "loop_lag_max_seconds": counts.loop_lag_max_seconds,
        "in_flight": None if told is None else told["in_flight"],
        "connections": None if told is None else told["connections"],
    }


def _oldest(told: Collection[Told]) -> list[Running]:
    of_each = (
        _most([running for running in one["oldest"] if running["transport"] == transport] for one in told)
        for transport in ("http", "websocket")
    )
    return sorted(chain.from_iterable(of_each), key=itemgetter("age_seconds"), reverse=True)


def _most(of_workers: Iterable[list[_Exchange]]) -> list[_Exchange]:
    return nlargest(MOST_EXCHANGES, chain.from_iterable(of_workers), key=itemgetter("age_seconds"))


def _weight(counts: TenantCounts) -> tuple[int, int]:
    return counts.exchanges, counts.in_flight


def _tenants(counted: CountedState, common: CommonTold) -> list[Tenant]:
    """The busiest, and of the configuration also those that have done nothing yet."""
    known = {one["tenant"]: one for one in common["tenants"]}
    weights = {name: _weight(counted.tenants[name]) for name in {*counted.tenants, *known}}
    names = [name for name, weight in weights.items() if name in known or any(weight)]
    names.sort(key=lambda name: (*(-number for number in weights[name]), name))
    return [_tenant(name, counted.tenants[name], known.get(name)) for name in names[:MOST_TENANTS]]


def _tenant(name: str, counts: TenantCounts, known: TenantTold | None) -> Tenant:
    limits = {} if known is None else known["limits"]
    in_use = sorted(counts.limits.items(), key=itemgetter(1), reverse=True)
    return {
        "tenant": name,
        "name": None if known is None else known["name"],
        "enabled": None if known is None else known["enabled"],
        "in_flight": counts.in_flight,
        "exchanges": counts.exchanges,
        "failed": counts.failed,
        "throttled": counts.throttled,
        "llm_tokens": {"input": counts.input, "output": counts.output},
        "limits": [
            {"dimension": dimension, "used_ratio": round(ratio, 4), "limit": limits.get(dimension)}
            for dimension, ratio in in_use
        ],
        "used": {"today": None, "month": None, "read": None} if known is None else known["used"],
    }
