"""What commands print in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int | None = None) -> Iterator[str]:
    """Lines in columns; the first `left` of them (all) flush left, the others, which are numbers, flush right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = (
            cell.ljust(width) if left is None or column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def shown(name: str) -> str:
    """A name of somebody's choice, such that a terminal shows it and does nothing else."""
    return name if name.isprintable() else ascii(name)
