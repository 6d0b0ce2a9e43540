"""How many workers share a machine, why so many, and what is each one's part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.app.machine import container_seen, machine_memory_bytes, own_memory_bytes, usable_cores
from gateway.app.place import Place
from gateway.proxy.body_memory import share_of
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Settings, uncounted

_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Workers:
    """How many there are, and why, as people read it."""

    count: int
    why: str


def how_many_workers(settings: Settings) -> int:
    """How many workers this machine gets."""
    return workers_of(settings).count


def workers_of(
    settings: Settings, *, root: Path = _ROOT, environ: Mapping[str, str] | None = None
) -> Workers:
    """How many workers this machine gets, and why. `root` is where /proc and /sys are.

    Where nobody has said how many, there are no more than leave each of them room for a body that has room in all.
    """
    if settings.workers is not None:
        return Workers(settings.workers, "set by `workers`")
    if settings.redis_url is None:
        return Workers(1, "redis_url is not set")
    seen = container_seen(root, environ)
    if seen is not None:
        return Workers(1, f"this is a container, as {seen} shows")
    cores = usable_cores(root)
    count = cores
    while count > 1 and narrow(settings, count, root) is not None:
        count -= 1
    if count < cores:
        return Workers(
            count, f"of {cores} cores; more workers would have too little of edge.body_memory_bytes each"
        )
    return Workers(count, "as many as there are cores for them")


def refuse_uncounted(settings: Settings, place: Place, *, shared: bool) -> None:
    """Raise SettingsInvalid for limits that workers which share no store could not keep, whatever `workers` says."""
    problems = [] if shared or place.workers == 1 else uncounted(settings)
    if problems:
        raise SettingsInvalid(
            [Problem(problem.key, f"{problem.message}, and start anew") for problem in problems]
        )


def described(settings: Settings, workers: Workers) -> str:
    """How many would serve on this machine, and what each may have of it, as people read it."""
    count = workers.count
    if count == 1:
        return f"Workers: 1 ({workers.why})."
    place, upstream, edge = Place(count - 1, count), settings.upstream, settings.edge
    clients = (
        f"{place.part(edge.max_connections)} of {edge.max_connections} clients"
        if edge.max_connections
        else "as many clients as its file limit has room for"
    )
    apart = (
        " They count nothing together: credentials that have limits are refused, and GET /gateway/usage says nothing."
        if settings.redis_url is None
        else ""
    )
    return (
        f"Workers: {count} ({workers.why}). Each may have {clients}, {place.part(upstream.max_connections)} of "
        f"{upstream.max_connections} connections to an upstream, and {body_memory_bytes(settings, place) >> 20} MiB "
        f"of bodies.{apart}"
    )


def body_memory_bytes(settings: Settings, place: Place, root: Path = _ROOT) -> int:
    """What one worker's bodies may occupy in memory: its part of what is set, else of a quarter of what there is."""
    if settings.edge.body_memory_bytes:
        return place.part(settings.edge.body_memory_bytes)
    part, own = place.part(machine_memory_bytes(root) // 4), own_memory_bytes()
    return part if own is None else min(part, own // 4)


def narrow(settings: Settings, workers: int, root: Path = _ROOT) -> str | None:
    """Why a worker's part of the memory is too small for a body that one process alone would take; None: it is not."""
    edge = settings.edge
    alone, least = (
        share_of(body_memory_bytes(settings, place, root), edge.body_memory_share)
        for place in (Place(), Place(workers - 1, workers))
    )
    kinds = (
        ("a JSON body of edge.max_json_body_bytes", edge.max_json_body_bytes),
        ("a message of edge.max_websocket_message_bytes", edge.max_websocket_message_bytes),
    )
    for what, size_bytes in kinds:
        if least < min(size_bytes, alone):
            return (
                f"with {workers} workers a tenant's bodies may occupy {least} bytes in each, so {what} ({size_bytes}) "
                "is refused; raise edge.body_memory_bytes, or have fewer workers"
            )
    return None
