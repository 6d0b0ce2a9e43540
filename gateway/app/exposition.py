"""The page of metrics: what has been counted, as Prometheus reads it."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import thread_time

from gateway.app.counted import Counted
from gateway.app.health import WorkerState
from gateway.app.rests import Rests
from gateway.app.snapshots import Snapshots
from gateway.app.supervisor_metrics import SupervisorMetrics
from gateway.exchange.instruments import Registry

_COUNT_SECONDS = 2.0
"""For workers to be asked what they have counted: then the page says what was last known."""

_GZIP = 16 + zlib.MAX_WBITS
_LEVEL = 1
"""The page is a tenth of its size at any level, and the higher ones take four times as long."""

_OPENMETRICS = "application/openmetrics-text"
_TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS_TYPE = f"{_OPENMETRICS}; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class MetricsPage:
    """The metrics as one scraper wants them."""

    body: bytes
    content_type: str
    content_encoding: str | None


class Exposition:
    """Makes the page, one at a time and in bites, so that nobody waits for it, whoever asks how often."""

    def __init__(self, counted: Counted, *, count: Callable[[], Awaitable[object]]) -> None:
        """`count` has `counted` hear what has been counted by now; awaited before each page, on its thread."""
        self.counted = counted
        self.count = count
        self._one_at_a_time = asyncio.Lock()
        self._rests = Rests()

    async def page(self, accept: str, accept_encoding: str) -> MetricsPage:
        """The page as these two fields of a request ask for it: text or OpenMetrics, compressed or not."""
        openmetrics = _wants_openmetrics(accept)
        packer = zlib.compressobj(_LEVEL, wbits=_GZIP) if _wants_gzip(accept_encoding) else None
        parts = []
        async with self._one_at_a_time:
            await self._rests.rest()
            began = thread_time()
            await self.count()
            self._rests.worked(began)
            began = thread_time()
            for text in texts(self.counted, openmetrics=openmetrics):
                part = text.encode()
                parts.append(part if packer is None else packer.compress(part))
                self._rests.worked(began)
                await self._rests.rest()
                began = thread_time()
        if packer is not None:
            parts.append(packer.flush())
        return MetricsPage(
            b"".join(parts),
            _OPENMETRICS_TYPE if openmetrics else _TEXT_TYPE,
            None if packer is None else "gzip",
        )


def texts(counted: Counted, *, openmetrics: bool) -> Iterator[str]:
    """The page, some lines at a time."""
    for family, totals in counted.families():
        yield family.head(openmetrics=openmetrics)
        yield from family.lines(totals, openmetrics=openmetrics)
    if openmetrics:
        yield "# EOF\n"


def exposition_of_one(
    registry: Registry,
    worker: Callable[[], WorkerState],
    sockets: Callable[[], Iterable[socket.socket]] = tuple,
) -> Exposition:
    """The page of one process: what is on this registry, how it fares, and who waits at what listens for it."""
    metrics = SupervisorMetrics(lambda: (worker(),), sockets=lambda: (sockets(),), supervises=False)
    counted, snapshots = Counted(refused=metrics.refused, folded=metrics.folded), Snapshots(registry)

    async def count() -> None:
        counted.hear("the only one", 0, await snapshots.take())

    return exposition_of_all(counted, metrics, count)


def exposition_of_all(
    counted: Counted, metrics: SupervisorMetrics, count: Callable[[], Awaitable[object]]
) -> Exposition:
    """The page of all workers and of who looks after them; `count` has the workers' latest snapshots heard."""
    snapshots = Snapshots(metrics.registry)
    metrics.series.watch(lambda: counted.room.taken)

    async def count_all() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_COUNT_SECONDS):
                await count()
        metrics.look()
        counted.hear("who looks after them", 0, await snapshots.take())

    return Exposition(counted, count=count_all)


def _wants_openmetrics(accept: str) -> bool:
    weights = _weights(accept)
    openmetrics = weights.get(_OPENMETRICS, 0.0)
    return openmetrics > 0 and openmetrics >= weights.get("text/plain", 0.0)


def _wants_gzip(accept_encoding: str) -> bool:
    weights = _weights(accept_encoding)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _weights(field: str) -> dict[str, float]:
    """What an Accept or Accept-Encoding names, and how much it is wanted; of what is named twice the most."""
    weights: dict[str, float] = {}
    for member in field.lower().split(","):
        name, *parameters = (part.strip() for part in member.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        if name:
            weights[name] = max(weight, weights.get(name, 0.0))
    return weights
