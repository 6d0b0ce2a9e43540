"""What an answer used, read from the answer itself while it goes by.

Usage stands in a member `usage`, on its own or inside `response`, under a handful of names that mean the
same; which operation was called does not matter. Reading never fails: what cannot be read is not known, and
then there is an estimate from what went by.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import orjson

from gateway.wire.sse import SseEvent

BYTES_PER_LLM_TOKEN = 4
"""Of text, where nobody has counted."""

_MAX_EXACT = 2**53
_BEFORE = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_AFTER = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_DETAILS = frozenset((*_BEFORE, *_AFTER))
_IMAGE_EVENTS = ("image_generation.completed", "image_edit.completed")
COUNTED_ELSEWHERE = frozenset(
    name.encode() for name in ("b64_json", "url", "duration", "thread.run.step", *_IMAGE_EVENTS)
)
"""Strings of the answers whose usage stands not, or not only, in their own member `usage`."""

_REALTIME_EVENTS = ("response.done", "conversation.item.input_audio_transcription.completed")


def _kind(unused: float = 0, *, counter: str | None = "") -> Any:
    """A kind of usage, with what counters call it: the same where nothing is said; None: it is not counted."""
    return field(default=unused, metadata={"counter": counter})


@dataclass(slots=True)
class Usage:
    """What one or more answers used. Counts are of LLM tokens where no other unit is named.

    Nobody changes one that another has; frozen, it would cost each answer five times as much.
    """

    input: int = _kind()
    """LLM tokens of what was sent."""

    cached_input: int = _kind()
    """Those of `input` that the upstream had in a cache."""

    output: int = _kind()
    """LLM tokens of the answer."""

    reasoning: int = _kind(counter=None)
    """Those of `output` that were thought and not said."""

    total: int = 0
    """LLM tokens in all."""

    input_audio: int = _kind()
    """Those of `input` that are audio."""

    output_audio: int = _kind()
    """Those of `output` that are audio."""

    images: int = _kind()
    """Images that were made."""

    audio_seconds: float = _kind(0.0, counter="milliseconds")
    """Seconds of audio that were transcribed or translated."""

    characters: int = _kind()
    """Characters that were spoken, which only the request says."""

    estimated: bool = False
    """Whether nobody reported it, so that it was estimated."""

    @property
    def milliseconds(self) -> int:
        """`audio_seconds` as stores count them."""
        return round(self.audio_seconds * 1000)

    def amounts(self) -> dict[str, float]:
        """What was used, by kind, in their order; a kind that was not used is absent.

        One by one: every exchange is asked, and most kinds are not used. A test holds that none is forgotten.
        """
        found: dict[str, float] = {}
        if self.input:
            found["input"] = self.input
        if self.cached_input:
            found["cached_input"] = self.cached_input
        if self.output:
            found["output"] = self.output
        if self.reasoning:
            found["reasoning"] = self.reasoning
        if self.total:
            found["total"] = self.total
        if self.input_audio:
            found["input_audio"] = self.input_audio
        if self.output_audio:
            found["output_audio"] = self.output_audio
        if self.images:
            found["images"] = self.images
        if self.audio_seconds:
            found["audio_seconds"] = self.audio_seconds
        if self.characters:
            found["characters"] = self.characters
        if self.estimated:
            found["estimated"] = self.estimated
        return found

    def __add__(self, other: "Usage") -> "Usage":
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Usage(**{**sums, "estimated": self.estimated or other.estimated})


KINDS = tuple(kind.name for kind in fields(Usage) if "counter" in kind.metadata)
"""The kinds that metrics show; the log has `total` and `estimated` beside them."""

COUNTED = tuple(
    kind.metadata["counter"] or kind.name
    for kind in fields(Usage)
    if kind.metadata.get("counter") is not None
)
"""What is counted of them, by attributes of Usage that are whole numbers."""


def from_json(body: bytes) -> Usage | None:
    """The usage that a whole JSON answer reports; None when it reports none."""
    return _from_answer(_parse(body))


def from_sse_event(event: SseEvent) -> Usage | None:
    """The usage that one event of a stream reports; None when it reports none."""
    return _from_answer(_parse(event.data))


def from_realtime_event(text: bytes) -> Usage | None:
    """The usage that one server event of a realtime session adds; None when it adds none."""
    if b'"usage"' not in text or (b"response.done" not in text and b"transcription.completed" not in text):
        return None
    event = _parse(text)
    return _from_answer(event) if event.get("type") in _REALTIME_EVENTS else None


def _parse(document: bytes) -> dict[str, Any]:
    try:
        parsed = orjson.loads(document)
    except orjson.JSONDecodeError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _from_answer(answer: dict[str, Any]) -> Usage | None:
    if answer.get("object") == "thread.run.step":
        return None  # part of the usage of its run
    reported = answer.get("usage")
    if reported is None and isinstance(response := answer.get("response"), dict):
        reported = response.get("usage")
    usage = from_usage_object(reported) if isinstance(reported, dict) else Usage()
    if images := _images(answer):
        usage = replace(usage, images=images)
    if not usage.audio_seconds and "text" in answer:
        usage = replace(usage, audio_seconds=seconds_of(answer.get("duration")))
    return None if not isinstance(reported, dict) and usage == Usage() else usage


def from_usage_object(reported: dict[str, Any]) -> Usage:
    """Read a `usage` object by whichever of the API's names it uses; what makes no sense counts as nothing."""
    get = reported.get
    sent, said = get("prompt_tokens"), get("completion_tokens")
    if sent is None:
        sent = get("input_tokens")
    if said is None:
        said = get("output_tokens")
    input_count, output_count = _count(sent), _count(said)
    usage = Usage(input_count, 0, output_count, 0, _count(get("total_tokens")) or input_count + output_count)
    if not _DETAILS.isdisjoint(reported):
        before, after = _first(reported, _BEFORE), _first(reported, _AFTER)
        usage.cached_input, usage.input_audio = (
            _detail(before, "cached_tokens"),
            _detail(before, "audio_tokens"),
        )
        usage.reasoning, usage.output_audio = (
            _detail(after, "reasoning_tokens"),
            _detail(after, "audio_tokens"),
        )
    if get("type") == "duration":
        usage.audio_seconds = seconds_of(get("seconds"))
    return usage


def _images(answer: dict[str, Any]) -> int:
    if answer.get("type") in _IMAGE_EVENTS:
        return 1
    data = answer.get("data")
    if "object" in answer or not isinstance(data, list):
        return 0
    return sum(isinstance(item, dict) and ("b64_json" in item or "url" in item) for item in data)


def _first(reported: dict[str, Any], names: tuple[str, ...]) -> object:
    for name in names:
        if reported.get(name) is not None:
            value: object = reported[name]
            return value
    return None


def _detail(details: object, name: str) -> int:
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _count(value: object) -> int:
    return value if type(value) is int and 0 <= value <= _MAX_EXACT else 0


def seconds_of(value: object) -> float:
    """A duration; verbose transcriptions write it as a string."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 <= seconds <= _MAX_EXACT else 0.0
