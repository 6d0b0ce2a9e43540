"""What was measured, as people read it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from statistics import median
from typing import Any

from gateway.cli.drawing import listing, say, shown

_COSTS = {
    "request": ("a small JSON request, saturated", "µs", "requests/s"),
    "event": ("an event of a stream", "µs", "events/s"),
    "answer_megabyte": ("a MB of a large answer", "µs", "MB/s"),
    "upload_megabyte": ("a MB of an upload", "µs", "MB/s"),
}
_DISTURBED_US = 20_000.0


def show(found: Mapping[str, Any]) -> None:
    """Print the report of one measurement."""
    extent = found["extent"]
    say(f"Tenant {shown(found['tenant'])}: {found['configuration']}.")
    say(
        f"Upstream: embedded{', with TLS' if found['tls'] else ''}. Python {platform.python_version()}, "
        f"aiohttp {version('aiohttp')}, uvloop {version('uvloop')}."
    )
    if not found["own_core"]:
        say(
            "There is one core only: the gateway shares it with what asks and what answers. Latencies are theirs too."
        )
    print()
    _costs(found["cpu_us"])
    print()
    _latencies(found, streams=extent["streams"])
    print()
    memory = found["memory_bytes"]
    say(
        f"Memory: {memory['rest'] / 1e6:.0f} MB at rest, {memory['silent_stream'] / 1024:.0f} KiB for a silent stream, "
        f"{memory['idle_connection'] / 1024:.0f} KiB for an idle connection "
        f"(of {extent['silent']:,} and {extent['idle']:,}). "
        f"Start: {found['start_seconds']:.2f} s."
    )
    print()
    _areas(found["request_areas"], median(found["cpu_us"]["request"]))
    print()
    _without_limits(found["cpu_us"]["request"], found["request_cpu_us_without_limits"])
    _warnings(found)


def _costs(costs: Mapping[str, Sequence[float]]) -> None:
    rows = []
    for name, rounds in costs.items():
        what, unit, rate = _COSTS[name]
        middle = median(rounds)
        rows.append(
            [
                what,
                f"{_number(middle)} {unit}",
                _between(rounds),
                f"{_number(1e6 / middle if middle else 0.0)} {rate}",
            ]
        )
    listing(["What it costs", "CPU", "rounds", "one core has"], rows, left=1)


def _latencies(found: Mapping[str, Any], *, streams: int) -> None:
    requests = found["latency_us"]
    rate = requests["gateway"]["per_second"]
    pairs = {
        f"a small JSON request, at {rate:.0f} a second": (
            requests["direct"]["latency"],
            requests["gateway"]["latency"],
        ),
        f"an event, {streams} streams × 20 a second": (
            found["event_delay_us"]["direct"],
            found["event_delay_us"]["gateway"],
        ),
        "the first event of a stream, sent after 50 ms": (
            found["first_event_us"]["direct"],
            found["first_event_us"]["gateway"],
        ),
    }
    rows = [
        [
            what,
            *(_milliseconds(max(0.0, through[part] - direct[part])) for part in ("p50", "p99")),
            f"{_milliseconds(direct['p50'])} / {_milliseconds(direct['p99'])}",
        ]
        for what, (direct, through) in pairs.items()
    ]
    listing(["What it adds", "p50", "p99", "direct p50 / p99"], rows, left=1)


def _areas(rounds: Sequence[Mapping[str, float]], request_us: float) -> None:
    names = sorted(
        {name for each in rounds for name in each},
        key=lambda name: -median(each.get(name, 0.0) for each in rounds),
    )
    rows = []
    for name in names:
        parts = [each.get(name, 0.0) for each in rounds]
        middle = median(parts)
        rows.append(
            [
                name,
                f"{middle:.0%}",
                f"{min(parts):.0%}–{max(parts):.0%}",
                f"{_number(middle * request_us)} µs",
            ]
        )
    listing(["What costs what, of a small JSON request", "part", "rounds", "CPU"], rows, left=1)
    say("(found by looking; system calls count where they are made, or as the event loop's)")


def _without_limits(whole: Sequence[float], without: Sequence[float]) -> None:
    saved = [with_limits - bare for with_limits, bare in zip(whole, without, strict=True)]
    say(
        f"Without limits a small JSON request costs {_number(median(without))} µs: limits, and the metering that only "
        f"they need, cost {_number(median(saved))} µs ({_between(saved)})."
    )


def _warnings(found: Mapping[str, Any]) -> None:
    late = max(found["slip_us"]["p99"], found["latency_us"]["gateway"]["late"]["p99"])
    if late > _DISTURBED_US:
        say(
            f"Disturbed: this machine was late by up to {_milliseconds(late)}. Measure when nothing else runs."
        )
    for problem in found["problems"]:
        say(f"Went wrong: {problem}")


def _between(rounds: Sequence[float]) -> str:
    return f"{_number(min(rounds))}–{_number(max(rounds))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}"


def _milliseconds(microseconds: float) -> str:
    return f"{microseconds / 1000:.2f} ms"
