"""`gateway objects list|show|adopt|disown|acknowledge`, and where the others are."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gateway.cli import drawing
from gateway.cli.drawing import shown
from gateway.cli.objects import exporting, importing, orphans
from gateway.cli.objects.asking import Asked, add, answered, kind_of, lines_of_input
from gateway.cli.options import date
from gateway.objects.keys import is_id
from gateway.objects.store import Entry, Made, Named, Scope

_AT_ONCE = 1000


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser(
        "objects", help="say whose stored objects are, save that and bring it back (needs Redis)"
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    command = add(
        actions,
        "list",
        _list,
        help="count what tenants have, or list one tenant's objects of a kind",
        description="Counts what each tenant has, by kind. With a tenant and --kind it lists them, newest first.",
    )
    command.add_argument("tenant", nargs="?", metavar="TENANT", help="whose; without it, everybody's")
    command.add_argument("--kind", help="only this kind: file, batch, response and so on")
    command.add_argument("--json", action="store_true", help="for programs")
    command = add(actions, "show", _show, help="say whose an object is")
    command.add_argument("id", metavar="ID", help="its id, as the upstream gave it")
    command.add_argument("--kind", help="only if it is of this kind")
    command.add_argument("--json", action="store_true", help="for programs")
    for name, run, words, description in (
        (
            "adopt",
            _adopt,
            "make a tenant the owner of objects that nobody owns",
            "Makes a tenant the owner of objects that the upstream has: such as were made before there was a "
            "gateway, or that orphans has found. One that is another's is refused, unless --from says whose.",
        ),
        ("disown", _disown, "have objects be nobody's again; the upstream keeps them", ""),
    ):
        command = add(actions, name, run, help=words, description=description or f"{words.capitalize()}.")
        command.add_argument("tenant", metavar="TENANT", help="whose they are to be, or were")
        command.add_argument("kind", metavar="KIND", help="what they are: file, batch, response and so on")
        command.add_argument(
            "id",
            nargs="*",
            metavar="ID",
            help="without one, lines of standard input: an id each, and behind it the second of its creation, if known",
        )
        if name == "adopt":
            command.add_argument(
                "--from", dest="owner", metavar="TENANT", help="who has them now, and loses them"
            )
    command = add(
        actions,
        "acknowledge",
        _acknowledge,
        help="say that it is known that Redis has lost what it had",
        description="Says that it is known that Redis has lost whose objects were, and that nothing more will be "
        "brought back. What is unknown stays closed; the alert ends.",
    )
    command.add_argument("tenant", nargs="?", metavar="TENANT", help="whose; without it, everybody's")
    exporting.add_to(actions)
    importing.add_to(actions)
    orphans.add_to(actions)


def _list(options: argparse.Namespace) -> int:
    kind = None if options.kind is None else kind_of(options.kind)

    async def counts(asked: Asked) -> int:
        kinds = [kind] if kind else list(asked.kinds.kinds.values())
        rows = [
            (scope.tenant, scope.storage, one.name, many)
            for scope in await asked.scopes(options.tenant, options.storage)
            for one in kinds
            if (many := await asked.store.count(scope, one.name))
        ]
        if options.json:
            names = ("tenant", "storage", "kind", "objects")
            drawing.document([dict(zip(names, row, strict=True)) for row in rows])
        elif rows:
            cells = [(*map(shown, row[:3]), f"{row[3]:,}") for row in rows]
            drawing.listing(("tenant", "storage", "kind", "objects"), cells, left=3)
        else:
            drawing.say("Nobody has any.")
        return 0

    async def entries(asked: Asked) -> int:
        scope = await asked.scope(options.tenant, options.storage)
        last, found = None, list[Entry]()
        while page := await asked.store.page(
            scope, options.kind, after=last, ascending=False, count=_AT_ONCE
        ):
            found += page
            last = page[-1]
        if options.json:
            drawing.document([{"id": entry.id, "created_at": int(entry.created_at)} for entry in found])
        elif found:
            drawing.listing(("id", "created"), [(shown(entry.id), date(entry.created_at)) for entry in found])
        else:
            drawing.say(f"{shown(options.tenant)} has none.")
        return 0

    one_by_one = kind is not None and kind.is_listed and options.tenant is not None
    return answered(options, entries if one_by_one else counts)


def _show(options: argparse.Namespace) -> int:
    kinds = None if options.kind is None else [kind_of(options.kind)]

    async def work(asked: Asked) -> int:
        named = [Named(kind.name, options.id) for kind in kinds or asked.kinds.kinds.values()]
        found = [
            {"tenant": scope.tenant, "storage": scope.storage, "kind": one.kind, "created_at": created}
            for scope in await asked.scopes(storage=options.storage)
            for one, owns in zip(named, await asked.store.look(scope, named), strict=True)
            if owns
            for created in [await _created(asked, scope, one)]
        ]
        if options.json:
            drawing.document(found)
        elif found:
            rows = [
                (
                    shown(str(one["tenant"])),
                    shown(str(one["storage"])),
                    str(one["kind"]),
                    "" if one["created_at"] is None else date(float(str(one["created_at"]))),
                )
                for one in found
            ]
            drawing.listing(("tenant", "storage", "kind", "created"), rows)
        else:
            drawing.say(f"{shown(options.id)} is nobody's, as far as the registry knows.")
        return 0 if found else 1

    return answered(options, work)


async def _created(asked: Asked, scope: Scope, one: Named) -> int | None:
    """When it was made; None of a kind of which digests alone are kept."""
    if not asked.kinds[one.kind].is_listed:
        return None
    entry = await asked.store.find(scope, one.kind, one.id)
    return None if entry is None else int(entry.created_at)


def _adopt(options: argparse.Namespace) -> int:
    kind = kind_of(options.kind)

    async def work(asked: Asked) -> int:
        scope = await asked.scope(options.tenant, options.storage)
        former = None if options.owner is None else await asked.scope(options.owner, scope.storage)
        adopted = refused = 0
        for made in _portions(_given(options.id, kind.name)):
            named = [Named(kind.name, one.id) for one in made]
            free = list[Made]()
            for one, owners in zip(made, await asked.owners(scope.storage, named), strict=True):
                others = [owner for owner in owners if owner not in (scope.tenant, options.owner)]
                if others:
                    refused += 1
                    drawing.complain(f"{shown(one.id)} is {shown(others[0])}'s: --from says that it loses it")
                else:
                    free.append(one)
            adopted += await asked.store.record(scope, free)
            if former is not None and former != scope:
                await asked.store.free(former, [Named(kind.name, one.id) for one in free])
        drawing.say(f"{shown(scope.tenant)} has {_many(adopted, 'object')} more at {shown(scope.storage)}.")
        return 1 if refused else 0

    return answered(options, work)


def _disown(options: argparse.Namespace) -> int:
    kind = kind_of(options.kind)

    async def work(asked: Asked) -> int:
        scope = await asked.scope(options.tenant, options.storage)
        given = freed = 0
        for made in _portions(_given(options.id, kind.name)):
            given += len(made)
            freed += await asked.store.free(scope, [Named(kind.name, one.id) for one in made])
        drawing.say(f"{shown(scope.tenant)} has {_many(freed, 'object')} less at {shown(scope.storage)}.")
        if freed < given:
            drawing.remark(f"of {_many(given, 'object')} it had {freed:,}")
        return 0 if freed == given else 1

    return answered(options, work)


def _acknowledge(options: argparse.Namespace) -> int:
    async def work(asked: Asked) -> int:
        acknowledged = 0
        for scope in await asked.scopes(options.tenant, options.storage):
            before = await asked.store.begin(scope, recorded=None)
            if before.lost_since is None:
                continue
            await asked.store.begin(scope, recorded=None, acknowledged=True)
            acknowledged += 1
            drawing.say(
                f"{shown(scope.tenant)} at {shown(scope.storage)}: what was there before {date(before.lost_since)} is "
                "known to be gone."
            )
        if not acknowledged:
            drawing.say("Nothing is known to be lost.")
        return 0

    return answered(options, work)


def _given(ids: Sequence[str], kind: str) -> Iterator[Made]:
    """The objects that a command is about. Raises ValueError."""
    now = time.time()
    for line in ids or lines_of_input("an id on each line"):
        words = line.split()
        if not words:
            continue
        try:
            created = float(words[1]) if len(words) > 1 else now
        except ValueError:
            raise ValueError(f"{words[1]!r} is no second of a creation") from None
        if not is_id(words[0]):
            raise ValueError(f"{words[0][:32]!r} is no id")
        yield Made(kind, words[0], created)


def _portions(made: Iterable[Made]) -> Iterator[list[Made]]:
    portion = list[Made]()
    for one in made:
        portion.append(one)
        if len(portion) == _AT_ONCE:
            yield portion
            portion = []
    if portion:
        yield portion


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
