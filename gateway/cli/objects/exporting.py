"""`gateway objects export`: whose stored objects are, as lines that `import` takes.

Each line is a document: `tenant`, `storage`, `kind`, and some of its objects. Of kinds that upstreams list these are
`entries`, each the id and the second of its creation; of the others `digests`, each one in hexadecimal and the last day
(since 1970) on which it counts, 0 for ever. No id can be read from a digest; an object is known by it all the same.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import orjson

from gateway.cli.drawing import remark
from gateway.cli.objects.asking import Asked, add, answered
from gateway.objects.store import Scope

_AT_ONCE = 500


def add_to(actions: Any) -> None:
    """Add the command."""
    command = add(
        actions,
        "export",
        _export,
        help="print whose stored objects are, for a backup",
        description="Prints lines of JSON that `import` takes. Of kinds that upstreams do not list (responses, their "
        "items, threads, …) there are digests alone: they say whose an object is to whoever has its id, and no id can "
        "be read from them.",
    )
    command.add_argument("tenant", nargs="?", metavar="TENANT", help="whose; without it, everybody's")


def _export(options: argparse.Namespace) -> int:
    async def work(asked: Asked) -> int:
        many = 0
        for scope in await asked.scopes(options.tenant, options.storage):
            for kind in asked.kinds.kinds.values():
                many += await (_entries if kind.is_listed else _digests)(asked, scope, kind.name)
        sys.stdout.flush()
        remark(f"{many:,} objects")
        return 0

    return answered(options, work)


async def _entries(asked: Asked, scope: Scope, kind: str) -> int:
    """Oldest first: whoever imports them has those of one second in the same order."""
    last, many = None, 0
    while page := await asked.store.page(scope, kind, after=last, ascending=True, count=_AT_ONCE):
        _write(scope, kind, "entries", [(entry.id, int(entry.created_at)) for entry in page])
        last, many = page[-1], many + len(page)
    return many


async def _digests(asked: Asked, scope: Scope, kind: str) -> int:
    many = 0
    async for some in asked.store.digests(scope, kind):
        for at in range(0, len(some), _AT_ONCE):
            portion = [(digest.hex(), day) for digest, day in some[at : at + _AT_ONCE]]
            _write(scope, kind, "digests", portion)
        many += len(some)
    return many


def _write(scope: Scope, kind: str, what: str, objects: list[tuple[str, int]]) -> None:
    line = {"tenant": scope.tenant, "storage": scope.storage, "kind": kind, what: objects}
    sys.stdout.write(orjson.dumps(line).decode() + "\n")
