"""What stored objects say of their usage once they are final, kind by kind. Pure.

Sources: the API's reference of each object. A batch's `usage` is that of all its requests, a fine-tuning job has
`trained_tokens`, a video `seconds`, the run of an eval `per_model_usage`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.usage.answers import ANSWER, Outline, from_usage_object, report_of, seconds_of
from gateway.usage.late_work import NOTHING_USED, Shown
from gateway.usage.reported import Usage

OBJECTS: Mapping[str, str] = {
    "response": "response",
    "run": "thread.run",
    "batch": "batch",
    "fine_tuning_job": "fine_tuning.job",
    "video": "video",
    "eval_run": "eval.run",
}
"""What each kind calls itself in its member `object`."""

_OBJECT: Final[Outline] = {
    **ANSWER,
    **dict.fromkeys(
        ("background", "created_at", "id", "model", "object", "seconds", "status", "trained_tokens")
    ),
    "per_model_usage": (
        dict.fromkeys(("model_name", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens")),
    ),
}
OUTLINE: Final[Outline] = {**_OBJECT, "data": (_OBJECT,), "response": _OBJECT}
"""All that is looked at in an answer: an object by itself, those of a list, the one that an event is about."""

_UNFINISHED = frozenset(
    {
        *("queued", "in_progress", "requires_action", "cancelling", "validating", "finalizing"),
        *("validating_files", "running", "paused", "pausing", "resuming", "pending", "processing"),
    }
)
"""States in which what is shown may still grow. What has failed or was cancelled has used what it shows."""

_MOST_ID = 512
_MOST_MODELS = 64


def objects_in(document: object) -> list[dict[str, Any]]:
    """The objects that a whole answer or event may show: itself, those of its list, the one that the event is about."""
    if not isinstance(document, dict):
        return []
    data = document.get("data")
    objects = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    response = document.get("response")
    return [document, *objects, *([response] if isinstance(response, dict) else [])]


def id_of(document: Mapping[str, Any], kind: str) -> str | None:
    """The id of an object of this kind; None where it is none."""
    object_id = document.get("id")
    if not isinstance(object_id, str) or not 0 < len(object_id) <= _MOST_ID:
        return None
    return object_id if document.get("object", OBJECTS[kind]) == OBJECTS[kind] else None


def shown_by(document: Mapping[str, Any], kind: str) -> Shown | None:
    """The usage that an object shows; None where it is of another kind, not final, or says nothing."""
    object_id = id_of(document, kind)
    status = document.get("status")
    if object_id is None or not isinstance(status, str) or status in _UNFINISHED:
        return None
    by_model = tuple(
        (model, usage) for model, usage in _READERS[kind](document) if usage[:-2] != NOTHING_USED[:-2]
    )
    if not by_model:
        return None
    made_at = document.get("created_at")
    return Shown(
        kind,
        object_id,
        made_at if isinstance(made_at, int | float) and not isinstance(made_at, bool) else None,
        by_model,
        _name(document.get("model")),
        in_background=kind != "response" or document.get("background") is True,
    )


_Models = list[tuple[str, Usage]]


def _of_answer(document: Mapping[str, Any]) -> _Models:
    report = report_of(document)
    return [] if report is None else [("", report.usage)]


def _of_batch(document: Mapping[str, Any]) -> _Models:
    return [(_name(document.get("model")), _reported(document.get("usage"), "batch"))]


def _of_training(document: Mapping[str, Any]) -> _Models:
    trained = document.get("trained_tokens")
    return [("", _reported({"input_tokens": trained, "output_tokens": 0, "total_tokens": trained}))]


def _of_video(document: Mapping[str, Any]) -> _Models:
    if document.get("status") != "completed":
        return []
    return [("", Usage(video_seconds=round(seconds_of(document.get("seconds")))))]


def _of_eval(document: Mapping[str, Any]) -> _Models:
    models = document.get("per_model_usage")
    if not isinstance(models, list):
        return []
    return [
        (_name(one.get("model_name")), _reported(_details(one)))
        for one in models[:_MOST_MODELS]
        if isinstance(one, dict)
    ]


def _details(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of an eval's model, as any other is written."""
    return {**usage, "prompt_tokens_details": {"cached_tokens": usage.get("cached_tokens")}}


def _reported(usage: object, tier: str = "") -> Usage:
    """That of many answers together, of which none may have been to a long context."""
    found = from_usage_object(usage, tier) if isinstance(usage, dict) else None
    return found._replace(long_context=0) if found else NOTHING_USED


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


_READERS: Mapping[str, Callable[[Mapping[str, Any]], _Models]] = {
    "response": _of_answer,
    "run": _of_answer,
    "batch": _of_batch,
    "fine_tuning_job": _of_training,
    "video": _of_video,
    "eval_run": _of_eval,
}
