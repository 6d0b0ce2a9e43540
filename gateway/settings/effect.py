"""When a change of the settings takes effect: at once, when workers are replaced, or at a start.

Of gathered settings, as they stand: who merges them may be of an older release than who judges them, and keeps what it
does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from inspect import isclass
from typing import Any

from pydantic import BaseModel

from gateway.settings.section import AT_START, FOLLOWED
from gateway.settings.settings import Settings

_MOST_NAMED = 20
"""Tenants that are named of those that have changed in one way."""


def followed(now: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What is in force after a reload: of the new settings those that are followed, all others as they are now.

    Both are settings that can be judged.
    """
    return _followed(now, new, Settings)


def _followed(now: Mapping[str, Any], new: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    merged = dict(now)
    for name, field in model.model_fields.items():
        if FOLLOWED in field.metadata:
            merged.pop(name, None)
            if name in new:
                merged[name] = new[name]
        elif isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            merged[name] = _followed(now.get(name, {}), new.get(name, {}), field.annotation)
    return merged


def restarted(now: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What is in force once workers have been replaced: the new settings, but for those that wait for a start."""
    waiting = {name for name, field in Settings.model_fields.items() if AT_START in field.metadata}
    return {name: value for name, value in new.items() if name not in waiting} | {
        name: value for name, value in now.items() if name in waiting
    }


def tenant_changes(now: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Which tenants a reload has added, changed and removed, as it is told: `added: a, b; changed: c`; empty: none."""
    changes = {
        "added": [name for name in new if name not in now],
        "changed": [name for name in new if name in now and new[name] != now[name]],
        "removed": [name for name in now if name not in new],
    }
    return "; ".join(f"{what}: {_listed(names)}" for what, names in changes.items() if names)


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(sorted(names)[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def when(name: str, *, replaceable: bool) -> str:
    """When a change of a setting that is not followed takes effect; `replaceable`: there are workers to replace."""
    field = Settings.model_fields.get(name)
    if replaceable and (field is None or AT_START not in field.metadata):
        return "at the next restart of the workers (gateway restart)"
    return "at the next start"
