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


def when(name: str, *, replaceable: bool) -> str:
    """When a change of a setting that is not followed takes effect; `replaceable`: there are workers to replace."""
    field = Settings.model_fields.get(name)
    if replaceable and (field is None or AT_START not in field.metadata):
        return "at the next restart of the workers (gateway restart)"
    return "at the next start"
