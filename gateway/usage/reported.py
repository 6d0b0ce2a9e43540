"""What an answer used, read from the answer itself while it goes by.

Usage stands in a member `usage`, on its own or inside `response`, under a handful of names that mean the
same; which operation was called does not matter. Reading never fails: what cannot be read is not known, and
then there is an estimate from what went by.
"""

from enum import StrEnum
from itertools import compress
from operator import add
from typing import Any, NamedTuple

import orjson

from gateway.wire.sse import SseEvent

BYTES_PER_LLM_TOKEN = 4
"""Of text, where nobody has counted."""

_MAX_EXACT = 2**53
_IMAGE_EVENTS = ("image_generation.completed", "image_edit.completed")
COUNTED_ELSEWHERE = frozenset(
    name.encode() for name in ("b64_json", "url", "duration", "thread.run.step", *_IMAGE_EVENTS)
)
"""Strings of the answers whose usage stands not, or not only, in their own member `usage`."""

_REALTIME_EVENTS = ("response.done", "conversation.item.input_audio_transcription.completed")


class Usage(NamedTuple):
    """What one or more answers used. Counts are of LLM tokens where no other unit is named.

    A tuple, because whatever counts adds all its numbers at once.
    """

    input: int = 0
    """LLM tokens of what was sent."""

    cached_input: int = 0
    """Those of `input` that the upstream had in a cache."""

    cache_write: int = 0
    """Those of `input` that the upstream put into a cache."""

    output: int = 0
    """LLM tokens of the answer."""

    reasoning: int = 0
    """Those of `output` that were thought and not said."""

    total: int = 0
    """LLM tokens in all."""

    input_audio: int = 0
    """Those of `input` that are audio."""

    output_audio: int = 0
    """Those of `output` that are audio."""

    images: int = 0
    """Images that were made."""

    audio_seconds: float = 0.0
    """Seconds of audio that were transcribed or translated."""

    characters: int = 0
    """Characters that were spoken, which only the request says."""

    web_searches: int = 0
    """Calls of the web search tool."""

    file_searches: int = 0
    """Calls of the file search tool."""

    code_sessions: int = 0
    """Containers in which the code interpreter tool ran."""

    long_context: int = 0
    """Answers to more than 272,000 LLM tokens of `input`, which cost more."""

    video_seconds: int = 0
    """Seconds of video that were made."""

    tier: str = ""
    """The service tier that answered, `batch` in a batch; empty where nobody said."""

    estimated: bool = False
    """Whether nobody reported it, so that it was estimated."""

    def amounts(self) -> dict[str, float | str]:
        """What was used, by kind, in their order; a kind that was not used is absent."""
        return dict(compress(zip(Usage._fields, self, strict=True), self))

    def __add__(self, other: "Usage") -> "Usage":  # type: ignore[override]  # kinds are added, not joined
        added = Usage(*map(add, self[:_NUMBERS], other[:_NUMBERS]))
        return added._replace(tier=self.tier or other.tier, estimated=self.estimated or other.estimated)


_NUMBERS = Usage._fields.index("tier")

KINDS = tuple(kind for kind in Usage._fields[:_NUMBERS] if kind != "total")
"""The kinds that metrics show; the log has `total`, `tier` and `estimated` beside them."""

COUNTED = tuple({"audio_seconds": "milliseconds"}.get(kind, kind) for kind in KINDS)
"""What is counted of them, in whole numbers."""


class Known(StrEnum):
    """What is known of what an exchange used."""

    REPORTED = "reported"
    """The upstream said it."""

    ESTIMATED = "estimated"
    """Nobody said it, so that it was estimated."""

    UNREPORTED = "unreported"
    """Nobody said it, and nobody estimates it: the tenant is not metered."""


NOTHING_USED = Usage()


def from_json(body: bytes) -> Usage | None:
    """The usage that a whole JSON answer reports; None when it reports none."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return _from_answer(answer) if type(answer) is dict else None


def from_sse_event(event: SseEvent) -> Usage | None:
    """The usage that one event of a stream reports; None when it reports none."""
    return from_json(event.data)


def from_realtime_event(text: bytes) -> Usage | None:
    """The usage that one server event of a realtime session adds; None when it adds none."""
    if b'"usage"' not in text or (b"response.done" not in text and b"transcription.completed" not in text):
        return None
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return _from_answer(event) if type(event) is dict and event.get("type") in _REALTIME_EVENTS else None


def _from_answer(answer: dict[str, Any]) -> Usage | None:
    get = answer.get
    if get("object") == "thread.run.step":
        return None  # part of the usage of its run
    reported = get("usage")
    if reported is None and isinstance(response := get("response"), dict):
        reported = response.get("usage")
    usage = from_usage_object(reported) if isinstance(reported, dict) else NOTHING_USED
    if "type" in answer or "data" in answer or "text" in answer:
        # They may say that something was used which does not stand in the member `usage`.
        if images := _images(answer):
            usage = usage._replace(images=images)
        if not usage.audio_seconds and "text" in answer:
            usage = usage._replace(audio_seconds=seconds_of(get("duration")))
    return usage if isinstance(reported, dict) or usage != NOTHING_USED else None


def from_usage_object(reported: dict[str, Any]) -> Usage:
    """Read a `usage` object by whichever of the API's names it uses; what makes no sense counts as nothing."""
    get = reported.get
    sent, said, total = get("prompt_tokens"), get("completion_tokens"), get("total_tokens", 0)
    if sent is None:
        sent = get("input_tokens", 0)
    if said is None:
        said = get("output_tokens", 0)
    if (
        type(sent) is not int
        or type(said) is not int
        or type(total) is not int
        or not 0 <= sent | said | total <= _MAX_EXACT  # no bit that the largest lacks, and no sign
    ):
        sent, said, total = _count(sent), _count(said), _count(total)
    cached = heard = reasoning = spoken = 0
    before = get("prompt_tokens_details") or get("input_tokens_details") or get("input_token_details")
    if type(before) is dict and any(before.values()):
        cached, heard = _count(before.get("cached_tokens")), _count(before.get("audio_tokens"))
    after = get("completion_tokens_details") or get("output_tokens_details") or get("output_token_details")
    if type(after) is dict and any(after.values()):
        reasoning, spoken = _count(after.get("reasoning_tokens")), _count(after.get("audio_tokens"))
    seconds = seconds_of(get("seconds")) if get("type") == "duration" else 0.0
    return tuple.__new__(  # as Usage(…), without its frame
        Usage,
        (
            sent,
            cached,
            0,
            said,
            reasoning,
            total or sent + said,
            heard,
            spoken,
            0,
            seconds,
            0,
            0,
            0,
            0,
            0,
            0,
            "",
            False,
        ),
    )


def _images(answer: dict[str, Any]) -> int:
    if answer.get("type") in _IMAGE_EVENTS:
        return 1
    data = answer.get("data")
    if "object" in answer or not isinstance(data, list):
        return 0
    return sum(isinstance(item, dict) and ("b64_json" in item or "url" in item) for item in data)


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
