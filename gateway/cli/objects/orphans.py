"""`gateway objects orphans`: what was perhaps made and never recorded.

An intent is noted before the upstream is asked to make something, and forgotten when what it made has been recorded, or
it made nothing. One that is left belongs to an exchange whose gateway died in between: of kinds that the upstream lists
what appeared there about then, and is nobody's, may be it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from gateway.cli import drawing
from gateway.cli.drawing import shown
from gateway.cli.objects.asking import Asked, add, answered
from gateway.cli.objects.upstream_lists import Listed, ListUnread, listed_since
from gateway.cli.options import date, duration, in_words
from gateway.objects.store import Intent, Named, Scope

_BEFORE_SECONDS = 60.0
"""Clocks differ, and upstreams cut their seconds off."""

_AFTER_SECONDS = 900.0
_DEFAULT_SECONDS = 900
"""A younger intent may well belong to an exchange that runs."""


class Orphan(NamedTuple):
    """An intent that is left, and what may have come of it."""

    scope: Scope
    intent: Intent
    found: list[Listed]
    unread: str | None
    """Why the upstream's list does not say."""


def add_to(actions: Any) -> None:
    """Add the command."""
    command = add(
        actions,
        "orphans",
        _orphans,
        help="find what was made and never recorded, because a gateway died in between",
        description="Names exchanges of which nobody knows whether they made something, and what the upstream lists "
        "that appeared about then and is nobody's. Asks the upstream as the tenant does. "
        "Exits with 1 where there are any.",
    )
    command.add_argument("tenant", nargs="?", metavar="TENANT", help="whose; without it, everybody's")
    command.add_argument(
        "--older-than",
        type=duration,
        default=_DEFAULT_SECONDS,
        metavar="TIME",
        help=f"only those that began so long ago (default: {in_words(_DEFAULT_SECONDS)})",
    )
    command.add_argument("--forget", action="store_true", help="forget them, once they have been said")
    command.add_argument("--json", action="store_true", help="for programs")


def _orphans(options: argparse.Namespace) -> int:
    async def work(asked: Asked) -> int:
        until = time.time() - options.older_than
        found = list[Orphan]()
        for scope in await asked.scopes(options.tenant, options.storage):
            intents = [intent async for intent in asked.store.intents(scope) if intent.at <= until]
            for kind, some in groupby(sorted(intents, key=_kind_and_time), key=lambda intent: intent.kind):
                found += await _of_kind(asked, scope, kind, list(some))
        if options.json:
            drawing.document([_document(orphan) for orphan in found])
        else:
            _say(found)
        if options.forget:
            for orphan in found:
                await asked.store.forget_intent(orphan.scope, orphan.intent.exchange_id)
        return 1 if found else 0

    return answered(options, work)


async def _of_kind(asked: Asked, scope: Scope, kind_name: str, intents: list[Intent]) -> list[Orphan]:
    kind = asked.kinds.kinds.get(kind_name)
    policy = asked.policies.get(scope.tenant)
    why = None
    if kind is None or kind.list_path is None:
        why = "the upstream has no list of these"
    elif policy is None:
        why = "the configuration has no such tenant any more, and so no way to ask"
    if kind is None or kind.list_path is None or policy is None:
        return [Orphan(scope, intent, [], why) for intent in intents]
    try:
        listed = await listed_since(
            asked.settings.upstream,
            policy,
            kind.list_path,
            min(intent.at for intent in intents) - _BEFORE_SECONDS,
        )
    except ListUnread as unread:
        return [Orphan(scope, intent, [], str(unread)) for intent in intents]
    named = [Named(kind.name, one.id) for one in listed]
    owners = await asked.owners(scope.storage, named)
    free = [one for one, its in zip(listed, owners, strict=True) if not its]
    return [
        Orphan(
            scope,
            intent,
            [one for one in free if -_BEFORE_SECONDS <= one.created_at - intent.at <= _AFTER_SECONDS],
            None,
        )
        for intent in intents
    ]


def _say(orphans: Iterable[Orphan]) -> None:
    rows = [
        (
            shown(orphan.scope.tenant),
            shown(orphan.intent.subject),
            orphan.intent.kind,
            date(orphan.intent.at),
            shown(orphan.intent.exchange_id),
            orphan.unread or ", ".join(shown(one.id) for one in orphan.found) or "nothing that is nobody's",
        )
        for orphan in orphans
    ]
    if not rows:
        drawing.say("Nothing is left of which nobody knows whether it made something.")
        return
    drawing.listing(("tenant", "subject", "kind", "began", "exchange", "what appeared about then"), rows)
    drawing.say(
        "What belongs to one of them is given to it by: gateway objects adopt TENANT KIND ID. The exchange's id "
        "stands in the log. --forget has those that are settled left out."
    )


def _document(orphan: Orphan) -> dict[str, Any]:
    return {
        "tenant": orphan.scope.tenant,
        "storage": orphan.scope.storage,
        **orphan.intent._asdict(),
        "found": [one._asdict() for one in orphan.found],
        "unread": orphan.unread,
    }


def _kind_and_time(intent: Intent) -> tuple[str, float]:
    return intent.kind, intent.at
