"""What an answer reports of its usage, by the places that each kind of answer has for it and by no other.

Usage stands in a member `usage` of the answer, or of the `response` that an event is about, under a handful of names
that mean the same; which operation was called does not matter. Images, and calls of tools that are billed by the
call, are counted where they stand. A member of that name anywhere else is the tenant's own, and says nothing.
Reading never fails: what cannot be read is not known.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson

from gateway.usage.reported import LONG_CONTEXT, Usage
from gateway.wire.sse import SseEvent

_MAX_EXACT = 2**53
_DECIMAL = re.compile(r"[0-9]{1,16}(?:\.0*)?")
_LONGEST_TIER = 32
_IMAGE_EVENTS = ("image_generation.completed", "image_edit.completed")
_ITEM_EVENT = "response.output_item.done"
_PARTS = (*_IMAGE_EVENTS, _ITEM_EVENT)
_REALTIME_EVENTS = ("response.done", "conversation.item.input_audio_transcription.completed")
SEARCH_MODEL = "-search-"
"""In the names of models of chat that search the web for every answer."""

_CALLS = ("image_generation_call", "web_search_call", "file_search_call", "code_interpreter_call")
"""Items of an output that cost something beside its LLM tokens. No set: a server may say anything, unhashable too."""

COUNTED_ELSEWHERE = frozenset(
    name.encode()
    for name in (
        "b64_json", "url", "duration", "thread.run", "thread.run.step", "output", "response", "service_tier",
        *_IMAGE_EVENTS, _ITEM_EVENT,
    )
)  # fmt: skip
"""Strings of the answers whose usage stands not, or not only, in their own member `usage`, and of those that have
objects of their tenants in them: the end of one that breaks off amid these could look like its own."""

Outline = Mapping[str, "Outline | tuple[Outline] | None"]

_BEFORE: Final[Outline] = dict.fromkeys(
    ("cached_tokens", "audio_tokens", "cache_write_tokens", "cache_creation_tokens")
)
_AFTER: Final[Outline] = dict.fromkeys(("reasoning_tokens", "audio_tokens"))
_USAGE: Final[Outline] = {
    **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens")),
    **dict.fromkeys(("prompt_tokens_details", "input_tokens_details", "input_token_details"), _BEFORE),
    **dict.fromkeys(("completion_tokens_details", "output_tokens_details", "output_token_details"), _AFTER),
    **dict.fromkeys(("cache_read_input_tokens", "prompt_cache_hit_tokens", "cache_creation_input_tokens")),
    **dict.fromkeys(("type", "seconds")),
}
_OF_OTHERS = frozenset(
    ("cache_read_input_tokens", "prompt_cache_hit_tokens", "cache_creation_input_tokens", "seconds")
)
"""Names in a usage that few have: what other servers call caches, and durations."""

_USES_MORE = frozenset(("type", "data", "text", "output"))
"""Members that may say that something was used which does not stand in the member `usage`."""

_SAYS_MORE = _USES_MORE | {"message", "response", "tokens_predicted", "x_groq"}
"""These, and members in which the usage may stand."""

_NUMBERS = ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens", "seconds")
_ITEM: Final[Outline] = {
    **dict.fromkeys(("type", "status", "container_id", "result")),
    "action": {"type": None},
}
ANSWER: Final[Outline] = {
    "usage": _USAGE,
    "x_groq": {"usage": _USAGE},
    "output": (_ITEM,),
    "tool_usage": {"web_search": {"num_requests": None}},
    "service_tier": None,
}
OUTLINE: Final[Outline] = {
    **ANSWER,
    "response": ANSWER,
    "message": {"usage": _USAGE},
    "item": _ITEM,
    "data": ({"b64_json": None, "url": None},),
    **dict.fromkeys(("object", "type", "model", "text", "duration", "tokens_evaluated", "tokens_predicted")),
}
"""All that is looked at in an answer: objects by their members, lists by their items, None for other values."""


class Report(NamedTuple):
    """What one event of an answer says to have been used."""

    usage: Usage
    is_part: bool
    """Whether it is about one image, or one item, of an answer that may have several."""


def from_json(body: bytes) -> Usage | None:
    """The usage that a whole JSON answer reports; None when it reports none."""
    try:
        return usage_of(orjson.loads(body))
    except orjson.JSONDecodeError:
        return None


def from_sse_event(event: SseEvent) -> Report | None:
    """What one event of a stream reports; None when it reports nothing."""
    try:
        return report_of(orjson.loads(event.data))
    except orjson.JSONDecodeError:
        return None


def from_realtime_event(text: bytes) -> Usage | None:
    """The usage that one server event of a realtime session adds; None when it adds none."""
    if b'"usage"' not in text or (b"response.done" not in text and b"transcription.completed" not in text):
        return None
    try:
        return of_realtime_event(orjson.loads(text))
    except orjson.JSONDecodeError:
        return None


def of_realtime_event(event: Any) -> Usage | None:
    """The usage that one server event of a realtime session adds, when it has been parsed."""
    return usage_of(event) if type(event) is dict and event.get("type") in _REALTIME_EVENTS else None


def report_of(event: Any) -> Report | None:
    """What a parsed event of a stream reports; its outline says the same."""
    usage = usage_of(event)
    return None if usage is None else Report(usage, event.get("type") in _PARTS)


def usage_of(answer: Any) -> Usage | None:
    """The usage that a parsed answer, or event, reports; its outline says the same."""
    if type(answer) is not dict:
        return None
    get = answer.get
    if get("object") == "thread.run.step":
        return None  # part of the usage of its run
    reported, tier = get("usage"), get("service_tier")
    if not _SAYS_MORE.isdisjoint(answer):
        response = of_event if type(of_event := get("response")) is dict else answer
        tier = response.get("service_tier")
        if type(reported) is not dict:
            reported = _elsewhere(answer, response)
        if not _USES_MORE.isdisjoint(answer):
            usage = from_usage_object(reported, tier) if type(reported) is dict else None
            return _with_others(usage, answer, response)
    usage = from_usage_object(reported, tier) if type(reported) is dict else None
    if usage is not None and type(model := get("model")) is str and SEARCH_MODEL in model:
        return usage._replace(web_searches=1)
    return usage


def _elsewhere(answer: Mapping[str, Any], response: Mapping[str, Any]) -> object:
    """The usage of an answer, or event, that has it not in its own member of that name."""
    for place in (response, answer.get("x_groq")):
        if type(place) is dict and type(reported := place.get("usage")) is dict:
            return reported
    if type(begun := answer.get("message")) is dict and type(reported := begun.get("usage")) is dict:
        return reported | {"output_tokens": 0}  # when a message starts, nothing of it has been written
    if "tokens_predicted" in answer:  # llama.cpp's own, which has no object for it
        return {
            "prompt_tokens": answer.get("tokens_evaluated"),
            "completion_tokens": answer["tokens_predicted"],
        }
    return None


def from_usage_object(reported: dict[str, Any], tier: object = "") -> Usage | None:
    """Read a `usage` object by whichever of the API's names it uses; None where no number in it makes sense.

    `tier`: what the answer says of the service tier that served it, which may be anything.
    """
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
    cached = stored = heard = reasoning = spoken = 0
    seconds = 0.0
    before = get("prompt_tokens_details") or get("input_tokens_details") or get("input_token_details")
    if type(before) is dict and any(before.values()):
        cached, heard = _count(before.get("cached_tokens")), _count(before.get("audio_tokens"))
        stored = _count(before.get("cache_write_tokens")) or _count(before.get("cache_creation_tokens"))
    after = get("completion_tokens_details") or get("output_tokens_details") or get("output_token_details")
    if type(after) is dict and any(after.values()):
        reasoning, spoken = _count(after.get("reasoning_tokens")), _count(after.get("audio_tokens"))
    if not _OF_OTHERS.isdisjoint(reported):
        cached = cached or _count(get("cache_read_input_tokens")) or _count(get("prompt_cache_hit_tokens"))
        stored = stored or _count(get("cache_creation_input_tokens"))
        if "prompt_tokens" not in reported and not total:
            # As Anthropic has it: what went through a cache is not in the sum of the rest.
            sent += _count(get("cache_read_input_tokens")) + _count(get("cache_creation_input_tokens"))
        if get("type") == "duration":
            seconds = seconds_of(get("seconds"))
    if not (sent and said and total):
        # Not all of them are said: of a sum and a part the other part is known.
        if total > sent and not said and sent:
            said = total - sent
        elif total > said and not sent and said:
            sent = total - said
        if not (sent or said or total or cached or heard or reasoning or spoken or seconds) and not _says(
            reported
        ):
            return None
        total = total or sent + said
    if type(tier) is not str or len(tier) > _LONGEST_TIER:
        tier = ""  # as _tier does, without its frame
    return tuple.__new__(  # as Usage(…), without its frame
        Usage,
        (
            sent, cached, stored, said, reasoning, total, heard, spoken, 0, seconds, 0, 0, 0, 0,
            1 if sent > LONG_CONTEXT else 0, 0, tier, False,
        ),
    )  # fmt: skip


def _says(reported: Mapping[str, Any]) -> bool:
    """Whether there is a number, if only 0."""
    return any(_number(reported.get(name)) is not None for name in _NUMBERS)


def _tier(said: object) -> str:
    return said if type(said) is str and len(said) <= _LONGEST_TIER else ""


def _with_others(usage: Usage | None, answer: Mapping[str, Any], response: Mapping[str, Any]) -> Usage | None:
    """Add what was used and does not stand in the member `usage`."""
    kind = answer.get("type")
    images, searches, file_searches, sessions = 0, 0, 0, 0
    if kind in _IMAGE_EVENTS:
        images = 1
    elif kind == _ITEM_EVENT:
        images, searches, file_searches, sessions = _called([answer.get("item")])
    elif type(output := response.get("output")) is list:
        images, searches, file_searches, sessions = _called(output)
        searches = _searches(response.get("tool_usage"), searches)
    elif type(data := answer.get("data")) is list and "object" not in answer:
        images = sum(type(item) is dict and ("b64_json" in item or "url" in item) for item in data)
    seconds = seconds_of(answer.get("duration")) if "text" in answer else 0.0
    if not (images or searches or file_searches or sessions or seconds):
        return usage
    usage = usage or Usage(tier=_tier(response.get("service_tier")))
    return usage._replace(
        images=images,
        audio_seconds=usage.audio_seconds or seconds,
        web_searches=searches,
        file_searches=file_searches,
        code_sessions=sessions,
    )


def _called(items: Sequence[Any]) -> tuple[int, int, int, int]:
    """Images that tools made, searches of the web and of files, and containers that ran code."""
    images = searches = file_searches = 0
    containers = set()
    for item in items:
        if (
            type(item) is not dict
            or type(kind := item.get("type")) is not str
            or kind not in _CALLS
            or item.get("status") == "failed"
        ):
            continue
        match kind:
            case "image_generation_call" if item.get("result"):
                images += 1
            case "web_search_call":
                # To open a page that was found, or to search in it, costs nothing.
                action = item.get("action")
                searches += type(action) is not dict or action.get("type") in (None, "search")
            case "file_search_call":
                file_searches += 1
            case "code_interpreter_call":
                container = item.get("container_id")
                containers.add(container if type(container) is str else None)
    return images, searches, file_searches, len(containers)


def _searches(tool_usage: Any, counted: int) -> int:
    """Searches of the web: as many as the upstream bills, where it says that."""
    said = tool_usage.get("web_search") if type(tool_usage) is dict else None
    billed = _number(said.get("num_requests")) if type(said) is dict else None
    return counted if billed is None else billed


def _number(value: Any) -> int | None:
    """A whole number, however it is written; None for what makes no sense."""
    if type(value) is str:
        value = float(value) if _DECIMAL.fullmatch(value) else None
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= _MAX_EXACT else None


def _count(value: Any) -> int:
    return _number(value) or 0


def seconds_of(value: object) -> float:
    """A duration; verbose transcriptions write it as a string."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0.0
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return seconds if 0 <= seconds <= _MAX_EXACT else 0.0
