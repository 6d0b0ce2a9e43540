"""What whoever looks has chosen to see: which table, in which order, of what. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.cli.top.sections import SECTIONS, TENANTS, Column, Section

HELP = (
    ("q", "quit"),
    ("s S", "sort by the next column, or the one before"),
    ("r", "the other way round"),
    ("/", "show only rows with a text in them: tenant, model, upstream, request id, code, …; Esc shows all"),
    ("1 … 8", "one table alone: " + ", ".join(section.name for section in SECTIONS)),
    ("0", "all of them"),
    ("j k", "down and up in one table, as the arrows do"),
    ("i", "the next gateway alone, and at last all of them"),
    ("space", "hold still, or go on"),
    ("?", "this help"),
)
_ENDS, _ERASES, _GIVES_UP = frozenset("\r\n"), frozenset("\x7f\b"), "\x1b"
_MOST_FILTER = 100


class Choices:
    """What has been chosen so far, by keys."""

    def __init__(self) -> None:
        self.alone: Section | None = None
        """The table that is shown alone."""

        self.gateway: int | None = None
        """Which gateway is shown alone, of those that were named."""

        self.filter = ""
        self.types = False
        """Whether keys are the text of a filter."""

        self.holds = False
        self.helps = False
        self.quits = False
        self.first = 0
        """The first row that is shown of a table alone."""

        self._sorted: dict[str, tuple[int, bool]] = {}

    def press(self, key: str, *, gateways: int) -> None:
        """A key was pressed; `gateways` is how many there are to choose from."""
        if self.types:
            self._type(key)
            return
        match key:
            case "q":
                self.quits = True
            case "?":
                self.helps = not self.helps
            case " ":
                self.holds = not self.holds
            case "/":
                self.types, self.helps = True, False
            case "\x1b":
                if not self.helps:
                    self.filter = ""
                self.helps = False
            case "s" | "S":
                self._turn(1 if key == "s" else -1)
            case "r":
                at, reversed_ = self._sorted.get(self.chosen.name, (-1, False))
                self._sorted[self.chosen.name] = at, not reversed_
            case "i":
                following = 0 if self.gateway is None else self.gateway + 1
                self.gateway = following if following < gateways and gateways > 1 else None
            case "j" | "\x1b[B":
                self.first += 1
            case "k" | "\x1b[A":
                self.first = max(0, self.first - 1)
            case "0":
                self.alone, self.first = None, 0
            case _ if key.isascii() and key.isdigit() and int(key) <= len(SECTIONS):
                self.alone, self.first = SECTIONS[int(key) - 1], 0

    @property
    def chosen(self) -> Section:
        """The table that keys are about."""
        return self.alone or TENANTS

    def sorted_by(self, section: Section) -> tuple[Column | None, bool]:
        """The column by which it is sorted, None as it comes; and whether the other way round."""
        at, reversed_ = self._sorted.get(section.name, (-1, False))
        return (section.columns[at] if at >= 0 else None), reversed_

    def of(self, section: Section, rows: Sequence[Any]) -> list[Any]:
        """The rows that are to be seen, in their order."""
        text = self.filter.casefold()
        seen = [row for row in rows if not text or section.has(row, text)]
        column, reversed_ = self.sorted_by(section)
        if column is not None:
            seen.sort(key=column.by, reverse=not column.is_up)
        return seen[::-1] if reversed_ else seen

    def _turn(self, step: int) -> None:
        section = self.chosen
        at, _ = self._sorted.get(section.name, (-1, False))
        # One of them is the order in which they come.
        self._sorted[section.name] = (at + 1 + step) % (len(section.columns) + 1) - 1, False

    def _type(self, key: str) -> None:
        if key in _ENDS:
            self.types = False
        elif key == _GIVES_UP:
            self.types, self.filter = False, ""
        elif key in _ERASES:
            self.filter = self.filter[:-1]
        elif key == "\x15":  # Ctrl-U
            self.filter = ""
        elif key.isprintable() and len(self.filter) < _MOST_FILTER:
            self.filter += key
