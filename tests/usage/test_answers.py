"""Usage as each kind of answer reports it."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.answers import from_json, from_realtime_event, from_sse_event
from gateway.usage.reported import Usage
from gateway.wire.sse import SseEvent

CHAT = {
    "prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 2, "rejected_prediction_tokens": 1},
}  # fmt: skip
RESPONSES = {
    "input_tokens": 36, "input_tokens_details": {"cached_tokens": 12},
    "output_tokens": 87, "output_tokens_details": {"reasoning_tokens": 5}, "total_tokens": 123,
}  # fmt: skip
REALTIME = {
    "total_tokens": 275, "input_tokens": 127, "output_tokens": 148,
    "input_token_details": {"cached_tokens": 64, "text_tokens": 119, "audio_tokens": 8},
    "output_token_details": {"text_tokens": 36, "audio_tokens": 112},
}  # fmt: skip
SPEECH = {"input_tokens": 14, "output_tokens": 101, "total_tokens": 115}
CHAT_USAGE = Usage(
    input=19, output=10, total=29, cached_input=8, input_audio=3, reasoning=4, output_audio=2
)  # fmt: skip
RESPONSES_USAGE = Usage(input=36, cached_input=12, output=87, reasoning=5, total=123)
REALTIME_USAGE = Usage(input=127, output=148, total=275, cached_input=64, input_audio=8, output_audio=112)
SPEECH_USAGE = Usage(input=14, output=101, total=115)

ANSWERS = {
    "chat": ({"object": "chat.completion", "choices": [], "usage": CHAT}, CHAT_USAGE),
    "embeddings": (
        {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        Usage(input=8, total=8),
    ),
    "responses": ({"object": "response", "status": "completed", "usage": RESPONSES}, RESPONSES_USAGE),
    "run": (
        {"object": "thread.run", "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
        Usage(input=1, output=2, total=3),
    ),
    "run under way": ({"object": "thread.run", "usage": None}, None),
    "run step": ({"object": "thread.run.step", "usage": CHAT}, None),
    "images by url": ({"created": 1, "data": [{"url": "https://x"}, {"url": "https://y"}]}, Usage(images=2)),
    "images with usage": (
        {"created": 1, "data": [{"b64_json": "QUJD"}], "usage": {**SPEECH, "input_tokens_details": {}}},
        Usage(input=14, output=101, total=115, images=1),
    ),
    "transcription by LLM tokens": (
        {"text": "hi", "usage": {"type": "tokens", **SPEECH, "input_token_details": {"audio_tokens": 14}}},
        Usage(input=14, output=101, total=115, input_audio=14),
    ),
    "transcription by duration": (
        {"text": "hi", "usage": {"type": "duration", "seconds": 9.5}},
        Usage(audio_seconds=9.5),
    ),
    "verbose transcription": ({"text": "hi", "duration": "8.47", "segments": []}, Usage(audio_seconds=8.47)),
    "details alone": (
        {"usage": {"total_tokens": 7, "input_tokens_details": {"cached_tokens": 5}}},
        Usage(total=7, cached_input=5),
    ),
    "no total": ({"usage": {"input_tokens": 2, "output_tokens": 3}}, Usage(input=2, output=3, total=5)),
    "models": ({"object": "list", "data": [{"id": "gpt-4o"}]}, None),
    "batch": ({"object": "batch", "request_counts": {"total": 3}}, None),
    "nothing used": ({"usage": {"prompt_tokens": 0, "total_tokens": 0}}, Usage()),
}


@pytest.mark.parametrize(("answer", "usage"), ANSWERS.values(), ids=ANSWERS.keys())
def test_a_json_answer_reports_its_usage(answer, usage):
    assert from_json(orjson.dumps(answer)) == usage
    assert from_json(orjson.dumps(answer, option=orjson.OPT_INDENT_2)) == usage


EVENTS = {
    "last chat chunk": ("", {"object": "chat.completion.chunk", "choices": [], "usage": CHAT}, CHAT_USAGE),
    "chat chunk": ("", {"object": "chat.completion.chunk", "choices": [{}], "usage": None}, None),
    "response.created": ("response.created", {"response": {"usage": None}}, None),
    "transcript.text.done": (
        "transcript.text.done",
        {"type": "transcript.text.done", "text": "hi", "usage": SPEECH},
        SPEECH_USAGE,
    ),
    "speech.audio.done": ("speech.audio.done", {"type": "speech.audio.done", "usage": SPEECH}, SPEECH_USAGE),
    "image_generation.completed": (
        "image_generation.completed",
        {"type": "image_generation.completed", "b64_json": "QUJD", "usage": SPEECH},
        Usage(input=14, output=101, total=115, images=1),
    ),
    "thread.run.step.completed": (
        "thread.run.step.completed",
        {"object": "thread.run.step", "usage": CHAT},
        None,
    ),
    **{
        f"response.{ending}": (
            f"response.{ending}",
            {"type": f"response.{ending}", "response": {"object": "response", "usage": RESPONSES}},
            RESPONSES_USAGE,
        )
        for ending in ("completed", "incomplete", "failed")
    },
    **{
        f"thread.run.{ending}": (f"thread.run.{ending}", {"object": "thread.run", "usage": CHAT}, CHAT_USAGE)
        for ending in ("completed", "incomplete", "failed", "cancelled", "expired")
    },
}


@pytest.mark.parametrize(("name", "data", "usage"), EVENTS.values(), ids=EVENTS.keys())
def test_an_event_reports_its_usage(name, data, usage):
    report = from_sse_event(SseEvent(b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))))
    assert (report and report.usage) == usage


def test_realtime_responses_and_transcriptions_add_up_and_running_totals_do_not():
    done = orjson.dumps({"type": "response.done", "response": {"status": "cancelled", "usage": REALTIME}})
    assert from_realtime_event(done) == REALTIME_USAGE
    heard = {"type": "conversation.item.input_audio_transcription.completed", "transcript": "hi"}
    assert from_realtime_event(orjson.dumps({**heard, "usage": {"type": "duration", "seconds": 2}})) == Usage(
        audio_seconds=2.0
    )
    assert from_realtime_event(b'{"type":"session.usage.updated","usage":{"seconds":7}}') is None
    assert from_realtime_event(b'{"type":"response.done","response":{"usage":null}}') is None
    assert from_realtime_event(b'{"type":"response.audio.delta","delta":"QUJD"}') is None
    assert REALTIME_USAGE + REALTIME_USAGE + Usage(estimated=True, characters=5) == Usage(
        input=254, output=296, total=550, cached_input=128, input_audio=16, output_audio=224, characters=5,
        estimated=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    "usage",
    [
        b"[]", b'"many"', b"7", b'{"prompt_tokens":"9a"}', b'{"prompt_tokens":-9}', b'{"prompt_tokens":true}',
        b'{"total_tokens":1e300}', b'{"prompt_tokens":{"a":1}}', b'{"prompt_tokens_details":[1]}',
        b'{"type":"duration","seconds":"nan"}', b'{"type":"duration","seconds":-1}',
        b'{"type":"duration","seconds":"1e999"}', b'{"output_tokens":99999999999999999999}',
    ],
)  # fmt: skip
def test_what_makes_no_sense_counts_as_nothing(usage):
    assert from_json(b'{"usage":' + usage + b"}") in (None, Usage())


NAMES = [
    "usage", "response", "data", "type", "object", "text", "duration", "seconds", "b64_json",
    "total_tokens", "prompt_tokens", "input_tokens_details", "cached_tokens",
    "output", "item", "action", "container_id",
]  # fmt: skip
ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=5)),
    lambda v: st.one_of(
        st.lists(v, max_size=3),
        st.dictionaries(st.sampled_from(NAMES), v),
    ),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=40), ANYTHING.map(orjson.dumps)))
def test_reading_never_fails(document):
    report = from_sse_event(SseEvent(b"data: " + document))
    for usage in (from_json(document), report and report.usage, from_realtime_event(document)):
        assert usage is None or usage.total >= 0


@pytest.mark.parametrize("kind", [[], {}, 1, None])
def test_items_of_an_output_that_are_of_no_kind_count_as_nothing(kind: object) -> None:
    document = orjson.dumps({"output": [{"type": kind}, {"type": "file_search_call"}], "usage": RESPONSES})
    assert from_json(document) == RESPONSES_USAGE._replace(file_searches=1)


def test_every_kind_that_was_used_is_among_the_amounts_in_their_order() -> None:
    everything: dict[str, Any] = {name: number for number, name in enumerate(Usage._fields, 1)}

    assert list(Usage(**everything).amounts().items()) == list(everything.items())
    for name, number in everything.items():
        assert Usage(**{name: number}).amounts() == {name: number}
    assert Usage().amounts() == {}
