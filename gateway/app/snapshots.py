"""What one process has counted, as bytes for another: all numbers, and the names of those that are new.

A snapshot says of itself what its instruments are, so that a supervisor of an older release can show what a newer
worker counts. It is `_HEAD` and then parts: `_PART`, a JSON array of the description, the place of its first series
and the names of its last series, and the numbers. Numbers are there in all snapshots and make each of them complete;
names are told once, of which series they are is told by their number: so snapshots may come in any order, but none
may be lost. Exemplars stand in the description, where who does not know them passes them over, and are told once too.
"""

from __future__ import annotations

import asyncio
import re
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import orjson

from gateway.exchange.instruments import Description, Exemplar, Instrument, Kind, Registry, Rule

_HEAD = struct.Struct("<4sQI")
"""The mark, the number of the snapshot, and how long all parts are."""

_MARK = b"gws1"
_PART = struct.Struct("<II")
_BITE = 500
"""Series that are looked at in one turn of the loop: some 0.1 ms, half a millisecond where all are new."""

_MOST_ID = 64
"""Characters of the id in an exemplar: OpenMetrics allows for twice as many."""

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class SnapshotUnreadable(Exception):
    """These bytes are no snapshot, or not a whole one."""


class Snapshots:
    """Takes them of one registry, a bite at a turn of the loop."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._descriptions: dict[str, bytes] = {}
        self._told: dict[str, int] = {}
        """Of how many series of an instrument the names have been told."""

        self._number = 0
        self._one_at_a_time = asyncio.Lock()

    async def take(self) -> bytes:
        """What has been counted by now. The loop is held for less than a millisecond at a time.

        What is returned must reach whoever adds it up: the names in it will not be told again.
        """
        async with self._one_at_a_time:
            parts, told = [], dict[str, int]()
            for part, instrument, end in self._parts():
                parts.append(part)
                told[instrument.description.name] = end
                await asyncio.sleep(0)
            # Not before all is there: whoever gives up waiting has lost nothing.
            self._number += 1
            self._told = told
            head = _HEAD.pack(_MARK, self._number, sum(map(len, parts)))
            return b"".join((head, *parts))

    def _parts(self) -> Iterator[tuple[bytes, Instrument, int]]:
        for instrument in tuple(self._registry.instruments):
            description = instrument.description
            told = self._told.get(description.name, 0)
            names = instrument.names()
            for first in range(0, len(names), _BITE):
                end = min(first + _BITE, len(names))
                values = instrument.values(first, end)
                new = names[max(first, told) : end]
                described = self._described(description, instrument.exemplars(first, end))
                header = orjson.dumps([orjson.Fragment(described), first, new])
                yield (
                    b"".join((_PART.pack(len(header), len(values)), header, values.tobytes())),
                    instrument,
                    end,
                )

    def _described(self, description: Description, exemplars: list[tuple[int, int, Exemplar]]) -> bytes:
        name = description.name
        if name not in self._descriptions:
            self._descriptions[name] = orjson.dumps(description)
        described = self._descriptions[name]
        if exemplars:
            described = b'%b,"exemplars":%b}' % (described[:-1], orjson.dumps(exemplars))
        return described


@dataclass(frozen=True, slots=True)
class Part:
    """Series of one instrument that follow each other."""

    description: Description
    first: int
    names: list[tuple[str, ...]]
    """Of the last of them."""

    values: array[float]
    exemplars: list[tuple[int, Exemplar]]
    """Of some of these series: which of the numbers, counted from the first of all, and the exemplar."""

    @property
    def end(self) -> int:
        """The place behind the last."""
        return self.first + len(self.values) // self.description.width


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot, read."""

    number: int
    """Of two of one process, the larger is the later."""

    parts: list[Part]
    unknown: list[str]
    """Instruments that another release has, and this one cannot make sense of."""


def read_snapshot(snapshot: bytes) -> Snapshot:
    """Read what `take` returned. Raises SnapshotUnreadable."""
    try:
        mark, number, length = _HEAD.unpack_from(snapshot)
        if mark != _MARK:
            raise ValueError("not a snapshot")
        if len(snapshot) != _HEAD.size + length:
            raise ValueError("not a whole one")
        parts, unknown, at = [], dict[str, None](), _HEAD.size
        while at < len(snapshot):
            header_bytes, count = _PART.unpack_from(snapshot, at)
            begin = at + _PART.size
            middle, at = begin + header_bytes, begin + header_bytes + 8 * count
            if at > len(snapshot):
                raise ValueError("cut off")
            described, first, names = orjson.loads(snapshot[begin:middle])
            values = array("d", snapshot[middle:at])
            try:
                description = _description(described)
            except (ValueError, TypeError, KeyError):
                unknown[str(described)[:80]] = None
                continue
            part = _part(description, first, names, values)
            part.exemplars.extend(_exemplars(part, described.get("exemplars")))
            parts.append(part)
    except (ValueError, TypeError, struct.error) as error:
        raise SnapshotUnreadable(str(error)) from None
    return Snapshot(number, parts, list(unknown))


def _description(described: Any) -> Description:
    labels, last = tuple(described["labels"]), tuple(described["last"])
    description = Description(
        described["name"],
        Kind(described["kind"]),
        str(described["documentation"]),
        labels,
        Rule(described["rule"]),
        last,
        tuple(map(float, described["bounds"])),
    )
    taken = {"le", "worker"} if description.kind is Kind.HISTOGRAM else {"worker"}
    taken = taken if description.rule is Rule.EACH else taken - {"worker"}
    names = description.name, *labels, *taken
    if len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise ValueError("not names")
    if not all(value is None or isinstance(value, str) for value in last) or (last and not labels):
        raise ValueError("not values of a label")
    bounds = description.bounds
    if not all(map(isfinite, bounds)) or list(bounds) != sorted(set(bounds)):
        raise ValueError("not bounds")
    return description


def _part(description: Description, first: Any, names: Any, values: array[float]) -> Part:
    series, rest = divmod(len(values), description.width)
    labels = len(description.labels) - bool(description.last)
    if not isinstance(first, int) or first < 0 or rest or len(names) > series:
        raise ValueError("numbers and names do not fit")
    for name in names:
        if len(name) != labels or not all(isinstance(value, str) for value in name):
            raise ValueError("names and labels do not fit")
    return Part(description, first, [tuple(name) for name in names], values, [])


def _exemplars(part: Part, told: Any) -> Iterator[tuple[int, Exemplar]]:
    """Those that make sense here: nothing that counts depends on them."""
    buckets = len(part.description.bounds) + 1
    for one in told if isinstance(told, list) else ():
        match one:
            case [
                int(series),
                int(bucket),
                [str(exchange), int() | float() as value, int() | float() as time],
            ]:
                if part.first <= series < part.end and 0 <= bucket < buckets and len(exchange) <= _MOST_ID:
                    yield series * part.description.width + bucket, (exchange, float(value), float(time))
