"""What the comparison with peers has measured, and how two of its figures are compared.

`python -m tests.benchmarks.compare --out docs/performance.json` writes cells: what one peer did in one round of one
work. Figures of different rounds are never set against each other, since the machine was another one then: a ratio or
a difference is formed within a round, and its median and its spread over the rounds are what is told. Cells that
others disturbed are kept in the file and left out here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

FILE = Path(__file__).with_name("performance.json")

DIRECT, GATEWAY, UNLIMITED, ENVOY, HAPROXY = "direct", "gateway", "unlimited", "envoy", "haproxy"
"""Names of peers that mean something here. `direct` is none: the client asks the upstream. `unlimited` is the gateway
without limits and without metering."""

Values = Mapping[tuple[str, int], float]
"""A figure by run and round."""


@dataclass(frozen=True)
class Cell:
    """What one peer did in one round of one work."""

    run: str
    work: str
    variant: str
    """What was different: "" nothing, "tls" TLS towards the upstream, "callers" many credentials in turn."""

    peer: str
    round: int
    figures: Mapping[str, float] = field(default_factory=dict)
    disturbed: str = ""
    """What disturbed it; such a cell counts for nothing."""

    failed: str = ""
    """What went wrong; such a cell has no figures."""


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of some rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None of none."""
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1], len(found)) if found else None


@dataclass(frozen=True)
class Peer:
    """Who was measured."""

    label: str
    version: str
    does: str


@dataclass(frozen=True)
class Measured:
    """All cells of a file, and about whom and where they tell."""

    baseline: str
    peers: Mapping[str, Peer]
    machine: Mapping[str, str]
    cells: tuple[Cell, ...]

    @classmethod
    def load(cls, file: Path = FILE) -> Measured:
        """What a file holds."""
        found: dict[str, Any] = orjson.loads(file.read_bytes())
        return cls(
            found["baseline"],
            {name: Peer(**peer) for name, peer in found["peers"].items()},
            found["machine"],
            tuple(Cell(**cell) for cell in found["cells"]),
        )

    def save(self, file: Path) -> None:
        """Write it so that it is read again, one line to a cell."""
        cells = ",\n  ".join(_line(_without_empty(cell)) for cell in self.cells)
        peers = ",\n  ".join(f"{_line(name)}: {_line(peer)}" for name, peer in self.peers.items())
        file.write_text(
            f'{{\n "baseline": {_line(self.baseline)},\n "machine": {_line(self.machine)},\n'
            f' "peers": {{\n  {peers}\n }},\n "cells": [\n  {cells}\n ]\n}}\n',
            encoding="utf-8",
        )

    def with_newer(self, newer: Measured, *, keep: bool = False) -> Measured:
        """These and newer cells, which replace all of the same work and variant, unless those are kept."""
        replaced = set() if keep else {(cell.work, cell.variant) for cell in newer.cells}
        kept = tuple(cell for cell in self.cells if (cell.work, cell.variant) not in replaced)
        return Measured(
            newer.baseline,
            {**self.peers, **newer.peers},
            newer.machine,
            tuple(sorted(kept + newer.cells, key=_order)),
        )

    def undisturbed(self) -> Measured:
        """The same, as if nothing had been disturbed."""
        return replace(self, cells=tuple(replace(cell, disturbed="") for cell in self.cells))

    def names(self) -> list[str]:
        """The peers of which there is a cell, in the order of the file."""
        told = {cell.peer for cell in self.cells}
        return [name for name in self.peers if name in told]

    def values(self, work: str, figure: str, peer: str, variant: str = "") -> Values:
        """A figure of every round that nobody disturbed."""
        return {
            (cell.run, cell.round): cell.figures[figure]
            for cell in self.cells
            if (cell.work, cell.variant, cell.peer) == (work, variant, peer)
            and not cell.disturbed
            and figure in cell.figures
        }

    def over_direct(self, work: str, figure: str, peer: str, variant: str = "") -> Values:
        """What a peer adds to a figure, round by round. Never less than nothing."""
        return paired(
            self.values(work, figure, peer, variant),
            self.values(work, figure, DIRECT, variant),
            lambda theirs, direct: max(0.0, theirs - direct),
        )

    def ratio(self, work: str, figure: str, peer: str, variant: str = "") -> Values:
        """A figure as a multiple of the baseline's, round by round."""
        return divided(
            self.values(work, figure, peer, variant), self.values(work, figure, self.baseline, variant)
        )

    def failure(self, work: str, peer: str, variant: str = "") -> str:
        """What went wrong, if it did."""
        return next(
            (
                cell.failed
                for cell in self.cells
                if (cell.work, cell.variant, cell.peer) == (work, variant, peer) and cell.failed
            ),
            "",
        )


def paired(first: Values, second: Values, combined: Callable[[float, float], float]) -> Values:
    """Two figures combined, in the rounds that have both."""
    return {at: combined(first[at], second[at]) for at in first if at in second}


def divided(first: Values, second: Values) -> Values:
    """One figure as a multiple of another, in the rounds that have both and where the other is something."""
    return paired(first, {at: value for at, value in second.items() if value > 0}, lambda a, b: a / b)


def _order(cell: Cell) -> tuple[str, str, str, int]:
    return cell.work, cell.variant, cell.run, cell.round


def _without_empty(cell: Cell) -> dict[str, object]:
    return {name: value for name, value in vars(cell).items() if value not in ("", {}) or name == "variant"}


def _line(value: object) -> str:
    return orjson.dumps(value).decode()
