"""What models wrote in an event of a stream, or in a whole answer, whatever its members are called. Pure.

Servers have many names for what a model says, thinks, or has a tool do, so that none is looked for: of a delta every
text counts but those that say what it is. Sound is written in base64, and counts by its length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from gateway.usage.reported import BYTES_PER_LLM_TOKEN

SOUND_BYTES_PER_LLM_TOKEN = 3200
"""Of base64: models speak 20 LLM tokens a second, which as pcm16 at 24 kHz has 64,000 bytes of it."""

_NOT_WRITTEN = frozenset(
    (
        *("annotations", "b64_json", "call_id", "created_at", "encrypted_content", "expires_at"),
        *("finish_reason", "format", "id", "index", "item_id", "logprobs", "model", "object", "obfuscation"),
        *("partial_image_b64", "phase", "result", "role", "signature", "status", "stop_reason"),
        *("tool_call_id", "type"),
    )
)
"""Members that say what a text is, where it belongs or how it was found, pictures, and padding."""

_ANYWHERE = ("content", "text", "message", "response", "completion", "generated_text")
"""Where servers have it whose events are not like the API's."""


class Written(NamedTuple):
    """How many texts, and their bytes in UTF-8, whatever way they were spelled; of sound as many as it is worth."""

    texts: int
    size_bytes: int


def in_event(data: bytes) -> Written | None:
    """What an event adds; None where it is no JSON."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    sizes: list[int] = []
    if type(event) is not dict:
        return Written(0, 0)
    if "delta" in event or "choices" in event:
        if type(kind := event.get("type")) is str and kind.endswith("audio.delta"):
            _add_sound(event.get("delta"), sizes)
            _add_sound(event.get("audio"), sizes)
        else:
            _add_texts(event.get("delta"), sizes)
        _add_choices(event.get("choices"), sizes)
    elif "type" not in event and "object" not in event:
        for name in _ANYWHERE:
            _add_texts(event.get(name), sizes)
    elif "audio" in event:
        _add_sound(event["audio"], sizes)
    return Written(len(sizes), sum(sizes))


def in_answer(document: bytes) -> Written | None:
    """What a whole answer has; None where it is no JSON."""
    try:
        answer = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    sizes: list[int] = []
    if type(answer) is dict:
        _add_choices(answer.get("choices"), sizes)
        _add_texts(answer.get("output"), sizes)
        for name in _ANYWHERE:
            _add_texts(answer.get(name), sizes)
    return Written(len(sizes), sum(sizes))


def text_bytes(spelled: bytes) -> int:
    """How many bytes a text has that stands so between two quotes."""
    if spelled.find(b"\\") < 0:
        return len(spelled)
    try:
        return len(orjson.loads(b'"' + spelled + b'"').encode())
    except orjson.JSONDecodeError:
        return len(spelled)


def _add_choices(choices: object, sizes: list[int]) -> None:
    for choice in choices if type(choices) is list else ():
        if type(choice) is dict:
            for name in ("delta", "message", "text"):
                _add_texts(choice.get(name), sizes)


def _add_texts(value: object, sizes: list[int]) -> None:
    pending: list[Any] = [value]
    while pending:
        value = pending.pop()
        if type(value) is str:
            if value:
                sizes.append(len(value) if value.isascii() else len(value.encode()))
        elif type(value) is list:
            pending += value
        elif type(value) is dict:
            for name, inner in value.items():
                if name == "audio":
                    _add_spoken(inner, sizes, pending)
                elif name not in _NOT_WRITTEN:
                    pending.append(inner)


def _add_spoken(audio: object, sizes: list[int], pending: list[Any]) -> None:
    """Sound as chat has it: with what is said in it."""
    if type(audio) is dict:
        _add_sound(audio.get("data"), sizes)
        pending.append({name: inner for name, inner in audio.items() if name != "data"})
    else:
        _add_sound(audio, sizes)


def _add_sound(sound: object, sizes: list[int]) -> None:
    if type(sound) is str and sound:
        sizes.append(-(-len(sound) * BYTES_PER_LLM_TOKEN // SOUND_BYTES_PER_LLM_TOKEN))
