"""What commands show: listings, facts, documents for programs, and what went wrong.

On a terminal rich draws it: columns that fit its width, colours unless NO_COLOR is set. Into a pipe or a file goes the
same as plain lines, one for each row, however long: for grep and awk. rich is imported where it draws, for no command
that serves does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_GAP = 2
_READABLE = 16
"""Characters that a column needs for its cells to be read in several lines."""


def listing(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int | None = None) -> None:
    """Print rows in columns; the first `left` of them (all) flush left, the others, which are numbers, flush right.

    A head may have a second line. A terminal that is too narrow for columns gets each row as lines of its own.
    """
    rows = list(rows)
    left = len(head) if left is None else left
    if not sys.stdout.isatty():
        for line in _plain(head, rows, left=left):
            print(line)
        return
    console = _console(sys.stdout)
    if _needed(head, rows) <= console.width:
        _show(console, _columns(head, rows, left))
    else:
        _show(console, *_records(head, rows))


def facts(pairs: Iterable[tuple[str, str]], *, within: int = 0) -> None:
    """Print names and what is to be said of each, in two columns; names take `within` characters or more."""
    pairs = list(pairs)
    widest = max([within, *(len(name) + _GAP for name, _ in pairs)])
    if sys.stdout.isatty():
        _show(_console(sys.stdout), _pairs(pairs, widest))
        return
    for name, text in pairs:
        print(f"{name:<{widest}}{text}")


def say(text: str) -> None:
    """Print a sentence, broken between words where a terminal would break it anywhere."""
    if not sys.stdout.isatty():
        print(text)
        return
    from rich.text import Text

    _show(_console(sys.stdout), Text(text, overflow="fold"))


def document(content: object) -> None:
    """Print it as JSON, for programs."""
    import orjson  # what probe, which imports this module, has no time for

    print(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode())


def complain(*problems: str) -> None:
    """Say on standard error what is wrong, a line for each."""
    _say(problems, "bold red")


def remark(*notes: str) -> None:
    """Say on standard error what is good to know, a line for each."""
    _say(notes, "bold")


def shown(name: str) -> str:
    """A name of somebody's choice, such that a terminal shows it and does nothing else."""
    return name if name.isprintable() else ascii(name)


def _plain(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """The plain lines of a listing."""
    heads = [cell.split("\n") for cell in head]
    depth = max(map(len, heads))
    lines = [[cell[line] if line < len(cell) else "" for cell in heads] for line in range(depth)] + [*rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield (" " * _GAP).join(cells).rstrip()


def _say(texts: Iterable[str], style: str) -> None:
    if not sys.stderr.isatty():
        for text in texts:
            print(f"gateway: {text}", file=sys.stderr)
        return
    sys.stdout.flush()
    _show(_console(sys.stderr), _pairs([("gateway:", text) for text in texts], len("gateway: "), style))


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def _show(console: Console, *parts: RenderableType) -> None:
    """Print, without the blanks that rich fills lines up with: who copies a line has no use for them."""
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    for line in capture.get().splitlines():
        print(line.rstrip(), file=console.file)
    console.file.flush()


def _needed(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """How wide a terminal has to be for columns."""
    widths = (
        max(len(part) for cell in column for part in cell.split("\n"))
        for column in zip(head, *rows, strict=True)
    )
    return sum(min(width, _READABLE) + _GAP for width in widths) - _GAP


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column, cell in enumerate(head):
        drawn.add_column(Text(cell), justify="left" if column < left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _records(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[RenderableType]:
    names = [cell.replace("\n", ", ").removesuffix(", ") for cell in head]
    widest = max(map(len, names)) + _GAP
    for number, row in enumerate(rows):
        if number:
            yield ""
        yield _pairs([pair for pair in zip(names, row, strict=True) if pair[1]], widest)


def _pairs(pairs: Iterable[tuple[str, str]], widest: int, style: str = "bold") -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=0)
    grid.add_column(width=widest, no_wrap=True, style=style)
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(Text(name), Text(text))
    return grid
