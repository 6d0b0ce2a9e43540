"""What a tenant's limits are as rate limits of its project, which the upstream keeps model by model. Pure.

Here a limit is for all models together, or for those that a pattern names. Each model at the upstream gets the smallest
that applies to it, so the upstream never refuses what would be within all of them for lack of that, and caps what gets
past the gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from gateway.limits.terms import Dimension
from gateway.operations.model_patterns import allows
from gateway.settings.limits import Limits

_KEPT_UPSTREAM = (
    Dimension.REQUESTS_PER_MINUTE,
    Dimension.REQUESTS_PER_DAY,
    Dimension.TOKENS_PER_MINUTE,
    Dimension.IMAGES_PER_MINUTE,
    Dimension.AUDIO_MEGABYTES_PER_MINUTE,
    Dimension.BATCH_INPUT_TOKENS_PER_DAY,
)


def too_high(limits: Limits, row: Mapping[str, Any]) -> dict[str, int]:
    """What of a model's rate limits has to become less; a limit that the model does not have stays away."""
    return {name: capacity for name, capacity in _changes(limits, row).items() if capacity < row[name]}


def too_low(limits: Limits, row: Mapping[str, Any]) -> dict[str, int]:
    """What could become more: once lowered, or all that the organization has."""
    return {name: capacity for name, capacity in _changes(limits, row).items() if capacity > row[name]}


def alike(
    rows: Iterable[dict[str, Any]], changes: Callable[[dict[str, Any]], dict[str, int]]
) -> Iterator[tuple[list[dict[str, Any]], dict[str, int]]]:
    """The models of which the same becomes the same, with what that is."""
    found: dict[tuple[tuple[str, int, int], ...], list[dict[str, Any]]] = {}
    for row in rows:
        if change := changes(row):
            found.setdefault(tuple((name, row[name], n) for name, n in change.items()), []).append(row)
    for changed, some in found.items():
        yield some, {name: n for name, _, n in changed}


def not_kept(limits: Limits, rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What the upstream cannot be told of these limits, in words; the gateway keeps it all the same."""
    rows = list(rows)
    tables = {"": limits, **limits.models}
    lost = {name for table in tables.values() for name in table.capacities() if name not in _KEPT_UPSTREAM}
    for dimension in sorted(lost):
        yield f"{dimension.value}: the upstream knows no such limit"
    if limits.subjects:
        yield "limits of subjects: the upstream does not know them"
    for pattern, table in tables.items():
        matching = [row for row in rows if not pattern or allows((pattern,), str(row.get("model")))]
        if rows and not matching and table.capacities():
            yield f"limits of {pattern}: the project has no such model"
            continue
        for dimension in table.capacities():
            if (
                dimension in _KEPT_UPSTREAM
                and rows
                and all(row.get(dimension.value) is None for row in matching)
            ):
                yield f"{dimension.value}{_of(pattern)}: the project has it for no such model"


def in_words(limits: Limits) -> str:
    """What can be told to the upstream; empty where nothing can."""
    tables = {"": limits, **limits.models}
    return ", ".join(
        f"{dimension.value} = {capacity}{_of(pattern)}"
        for pattern, table in tables.items()
        for dimension, capacity in table.capacities().items()
        if dimension in _KEPT_UPSTREAM
    )


def _changes(limits: Limits, row: Mapping[str, Any]) -> dict[str, int]:
    wanted = _wanted(limits, str(row.get("model")))
    return {name: capacity for name, capacity in wanted.items() if isinstance(row.get(name), int)}


def _wanted(limits: Limits, model: str) -> dict[str, int]:
    wanted: dict[str, int] = {}
    for table in (limits, *(of for pattern, of in limits.models.items() if allows((pattern,), model))):
        for dimension, capacity in table.capacities().items():
            if dimension in _KEPT_UPSTREAM:
                wanted[dimension.value] = min(capacity, wanted.get(dimension.value, capacity))
    return wanted


def _of(pattern: str) -> str:
    return f" of {pattern}" if pattern else ""
