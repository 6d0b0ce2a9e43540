"""What gateways do, shown once: listings for people and pipes, one document for programs."""

from __future__ import annotations

from typing import Any

from gateway.cli import drawing
from gateway.cli.top.concerns import concerns
from gateway.cli.top.readings import Reading
from gateway.cli.top.sections import GATEWAYS, SECTIONS
from gateway.cli.top.tables import gateway_of, tables_of


def document(readings: list[Reading], unix_seconds: float) -> dict[str, Any]:
    """What programs read; the shape is interface (docs/operations/top.md)."""
    together = tables_of(readings)
    return {
        "time": unix_seconds,
        "concerns": [concern._asdict() for concern in concerns(readings, together)],
        "together": together,
        "gateways": [
            {
                "url": reading.now.url,
                "instance": None if reading.state is None else reading.state["instance"],
                "problem": reading.now.problem,
                "ready": reading.state is not None and reading.state["ready"],
                "version": None if reading.state is None else reading.state["version"],
                "started": None if reading.state is None else reading.state["started"],
                "seconds": reading.seconds,
                "tables": tables_of([reading]),
            }
            for reading in readings
        ],
    }


def show(readings: list[Reading]) -> None:
    """Print it, table after table, what is wrong first."""
    together = tables_of(readings)
    gateways = [gateway_of(reading) for reading in readings]
    for concern in concerns(readings, together):
        drawing.say(
            f"{'! ' if concern.is_bad else '- '}{drawing.shown(concern.who)} {drawing.shown(concern.what)}"
        )
    for section in (GATEWAYS, *(section for section in SECTIONS if section is not GATEWAYS)):
        rows = section.rows(together, gateways)
        if rows:
            print()
            drawing.listing(
                [column.head for column in section.columns],
                [[column.text(row) for column in section.columns] for row in rows],
            )
