"""`gateway routes`: every operation, its path and the scope it needs."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.operations.table import OperationTable


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "routes", help="print every operation, its path and its scope", allow_abbrev=False
    )
    command.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print the table, sorted by path."""
    table = OperationTable.load()
    width = max(len(operation.id) for operation in table)
    breadth = max(len(operation.path) for operation in table)
    for operation in table:
        print(
            f"{operation.id:<{width}}  {operation.method:<6} {operation.path:<{breadth}}  {operation.scope}"
        )
    return 0
