"""`gateway routes`: every operation, its path and the scope it needs."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli import drawing
from gateway.operations.scopes import expand
from gateway.operations.table import Operation, OperationTable


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("routes", help="print every operation, its path and its scope")
    command.add_argument(
        "word",
        nargs="?",
        metavar="WORD",
        help="only those with this in their id, path or scope, such as batches",
    )
    command.add_argument(
        "--scope",
        metavar="SCOPE",
        help="only what this scope opens, or a pattern such as 'files:*', or a group such as inference",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the table, sorted by path; exit code 1 where nothing is as asked for. Raises ScopeProblem."""
    table = OperationTable.load()
    scopes = table.scopes if options.scope is None else expand([options.scope], table.scopes)
    found = [operation for operation in table if operation.scope in scopes and _has(operation, options.word)]
    if options.json:
        drawing.document([dict(zip(_NAMES, _row(operation), strict=True)) for operation in found])
    elif found:
        drawing.listing([name.upper() for name in _NAMES], map(_row, found))
    else:
        within = "" if options.scope is None else f" under the scope {options.scope}"
        having = "" if options.word is None else f" with {options.word!r} in its id, path or scope"
        drawing.complain(f"there is no operation{within}{having}")
    return 0 if found else 1


_NAMES = ("operation", "method", "path", "scope")


def _row(operation: Operation) -> tuple[str, str, str, str]:
    return operation.id, operation.method, operation.path, operation.scope


def _has(operation: Operation, word: str | None) -> bool:
    return word is None or any(word.casefold() in text.casefold() for text in _row(operation))
