"""`gateway limits guesses`: how long the answers of a tenant are expected to be, model by model."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gateway.cli import drawing
from gateway.cli.drawing import shown
from gateway.cli.options import add_settings, check_tenant, settings_from
from gateway.cli.stores import PATIENCE_SECONDS, counting_redis
from gateway.limits.store import StoreUnavailable
from gateway.operations.model_patterns import closest
from gateway.settings.settings import Settings
from gateway.usage.answer_lengths import Lengths
from gateway.usage.redis_lengths import RedisLengths
from gateway.usage.redis_wire import UsageWire

_OTHERWISE = "each gateway knows for itself how long answers were, and forgets it when it ends"


def add(actions: Any) -> None:
    """Add the action to those of `gateway limits`."""
    guesses = actions.add_parser("guesses", help="print how long answers are expected to be, by model")
    add_settings(guesses)
    guesses.add_argument("--tenant", required=True, help="whose answers")
    guesses.add_argument("--json", action="store_true", help="for programs")
    guesses.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    check_tenant(settings, options.tenant)
    with counting_redis(settings, otherwise=_OTHERWISE) as url:
        try:
            known = asyncio.run(_ask(url, settings.redis_prefix, options.tenant))
        except StoreUnavailable as unavailable:
            drawing.complain(f"Redis does not answer: {unavailable}")
            return 1
    found = list(_entries(settings, known))
    if options.json:
        drawing.document(found)
        return 0
    if not found:
        drawing.say(
            f"Nothing is known of answers of {options.tenant}: each is expected to have 1,000 LLM tokens."
        )
        return 0
    rows = [
        [
            shown(str(entry["model"])),
            str(entry["by"]),
            *(f"{entry[name]:,}" for name in ("guess", "mean", "longest", "answers")),
            f"{entry['last']}",
        ]
        for entry in found
    ]
    head = ("model", "by", "guess\nLLM tokens", "mean", "longest", "answers", "last")
    drawing.listing(head, rows, left=2)
    return 0


async def _ask(url: str, prefix: str, tenant: str) -> Mapping[str, Lengths]:
    store = RedisLengths(UsageWire(url, deadline_seconds=PATIENCE_SECONDS, prefix=prefix))
    try:
        return await store.learn(tenant, {})
    finally:
        await store.close()


def _entries(settings: Settings, known: Mapping[str, Lengths]) -> list[dict[str, object]]:
    """What is known of each model, those answered last first."""
    now = time.time()
    entries: list[dict[str, object]] = []
    for model, lengths in sorted(known.items(), key=lambda each: -each[1].last_at):
        lengths.look(now)
        pattern = closest(settings.expected_output, model)
        entries.append(
            {
                "model": model,
                "by": "answers" if pattern is None else "expected_output",
                "guess": lengths.guess if pattern is None else settings.expected_output[pattern],
                "mean": round(lengths.mean),
                "longest": round(lengths.longest),
                "answers": round(lengths.seen),
                "last": datetime.fromtimestamp(int(lengths.last_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )
    return entries
