"""What models wrote is counted the same, however it is spelled and whatever it is called."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.usage.deltas import Deltas
from gateway.usage.event_reader import EventReader
from gateway.usage.written import SOUND_BYTES_PER_LLM_TOKEN, Written, in_answer, in_event

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.sampled_from(
    ["content", "reasoning", "thinking", "refusal", "musings", "role", "id", "obfuscation"]
)
DELTAS = st.dictionaries(NAMES, TEXTS | st.lists(TEXTS, max_size=3), max_size=4)
COUNTS_NOT = {"role", "id", "obfuscation"}


def spelled(value: Any, *, escape: bool, blank: str) -> str:
    """A value as JSON, every letter of it escaped or none."""
    if isinstance(value, str):
        units = value.encode("utf-16-be")
        if escape:
            return (
                '"'
                + "".join(f"\\u{units[at]:02x}{units[at + 1]:02X}" for at in range(0, len(units), 2))
                + '"'
            )
        return orjson.dumps(value).decode()
    if isinstance(value, list):
        return f"[{blank}" + f"{blank},".join(spelled(one, escape=escape, blank=blank) for one in value) + "]"
    if isinstance(value, dict):
        members = (
            f"{spelled(name, escape=escape, blank=blank)}{blank}:{blank}{spelled(one, escape=escape, blank=blank)}"
            for name, one in value.items()
        )
        return f"{{{blank}" + f"{blank},".join(members) + "}"
    return orjson.dumps(value).decode()


@given(DELTAS, st.booleans(), st.sampled_from(["", " ", "\t "]), st.booleans())
def test_every_spelling_of_a_delta_counts_the_same(
    delta: dict[str, str | list[str]], escape: bool, blank: str, chat: bool
) -> None:
    texts = [
        text
        for name, value in delta.items()
        if name not in COUNTS_NOT
        for text in ([value] if isinstance(value, str) else value)
        if text
    ]
    event = {"choices": [{"index": 0, "delta": delta}]} if chat else {"type": "x.delta", "delta": delta}
    expected = Written(len(texts), sum(len(text.encode()) for text in texts))

    assert in_event(spelled(event, escape=escape, blank=blank).encode()) == expected
    reader = EventReader(Deltas)
    reader.feed(b"data: " + spelled(event, escape=escape, blank=blank).encode() + b"\n\n")
    assert reader.finish() is None
    assert reader.deltas.estimate() == max(expected.texts, expected.size_bytes // 4)


@pytest.mark.parametrize(
    ("event", "llm_tokens"),
    [
        ({"type": "response.created", "response": {"instructions": "x" * 400}}, 0),
        ({"type": "response.output_text.done", "text": "x" * 400}, 0),
        ({"type": "response.image_generation_call.partial_image", "partial_image_b64": "x" * 400}, 0),
        ({"type": "speech.audio.delta", "audio": "A" * SOUND_BYTES_PER_LLM_TOKEN * 5}, 5),
        ({"content": "x" * 400, "stop": False}, 100),
        ({"choices": [{"message": {"content": "x" * 400}}]}, 100),
        ([], 0),
        ("x" * 400, 0),
    ],
)
def test_what_a_model_has_not_written_now_is_not_counted(event: Any, llm_tokens: int) -> None:
    written = in_event(orjson.dumps(event))
    assert written is not None
    assert written.size_bytes // 4 == llm_tokens


@pytest.mark.parametrize(
    ("answer", "llm_tokens"),
    [
        ({"choices": [{"message": {"content": "x" * 400, "reasoning": "y" * 400}}]}, 200),
        ({"output": [{"type": "message", "content": [{"type": "output_text", "text": "x" * 400}]}]}, 100),
        ({"output": [{"type": "image_generation_call", "result": "x" * 400}]}, 0),
        ({"object": "response", "instructions": "x" * 400, "output": []}, 0),
        ({"text": "x" * 400}, 100),
        ({"data": [{"b64_json": "x" * 400}]}, 0),
    ],
)
def test_an_answer_that_reports_nothing_is_worth_its_texts(answer: Any, llm_tokens: int) -> None:
    written = in_answer(orjson.dumps(answer))
    assert written is not None
    assert written.size_bytes // 4 == llm_tokens


def test_of_a_long_stream_no_text_is_free_and_little_is_kept() -> None:
    for name in ("content", "musings"):
        deltas = Deltas()
        for number in range(20_000):
            deltas.add(b'data: {"choices":[{"delta":{"%b":"word%d"}}]}\n\n' % (name.encode(), number % 10))
            assert deltas._kept_bytes <= 32 * 1024
        assert deltas.estimate() == 25_000
