"""Answers that report usage, one of every kind that the API has, and what a gateway has counted."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.usage.counters import COUNTERS, periods_since
from tests.kit.asking import form
from tests.kit.client import FORM, JSON
from tests.kit.gateway import Gateway

EVENTS = b"text/event-stream; charset=utf-8"
PICTURE = base64.b64encode(random.Random(1).randbytes(1_200_000)).decode()


@dataclass(frozen=True)
class Kind:
    """A request, the upstream's answer to it, and what must be counted of it (what is not named: nothing)."""

    name: str
    operation: str
    target: str
    request: bytes
    answer: bytes
    counts: Mapping[str, int]
    model: str = ""
    headers: str = JSON
    content_type: bytes = b"application/json"
    added: bytes = field(default=b"", repr=False)
    """What the upstream only sends because it was asked to, and the client must not see."""


def sse(*events: tuple[str | None, object]) -> bytes:
    """A stream of events; text is sent as it is."""
    lines = []
    for name, data in events:
        text = data.encode() if isinstance(data, str) else orjson.dumps(data)
        lines.append((b"event: %b\n" % name.encode() if name else b"") + b"data: " + text + b"\n\n")
    return b"".join(lines)


def typed(name: str, **members: object) -> bytes:
    """An event of a stream whose events say their type in their data too."""
    return sse((name, {"type": name, **members}))


def _chat_chunk(text: str) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None}


CHAT_USAGE = {
    "prompt_tokens": 19,
    "completion_tokens": 10,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 3},
    "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 2},
}
CHAT_COUNTS = {
    "input": 19,
    "cached_input": 8,
    "output": 10,
    "reasoning": 4,
    "input_audio": 3,
    "output_audio": 2,
}
RESPONSE_USAGE = {
    "input_tokens": 36,
    "input_tokens_details": {"cached_tokens": 30},
    "output_tokens": 87,
    "output_tokens_details": {"reasoning_tokens": 64},
    "total_tokens": 123,
}
RESPONSE_COUNTS = {"input": 36, "cached_input": 30, "output": 87, "reasoning": 64}
PLAIN_USAGE = {"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19}
PLAIN_COUNTS = {"input": 12, "output": 7}
IMAGE_USAGE = {
    "input_tokens": 50,
    "output_tokens": 544,
    "total_tokens": 594,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}
HEARD_USAGE = {
    "type": "tokens",
    "input_tokens": 14,
    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
    "output_tokens": 45,
    "total_tokens": 59,
}
HEARD_COUNTS = {"input": 14, "input_audio": 14, "output": 45}

TOOLS_USAGE = {
    "input_tokens": 300_000,
    "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 2000},
    "output_tokens": 90,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 300_090,
}
TOOLS_COUNTS = {
    "input": 300_000,
    "cached_input": 100,
    "cache_write": 2000,
    "output": 90,
    "long_context": 1,
    "images": 1,
    "web_searches": 2,
    "file_searches": 1,
    "code_sessions": 1,
}
_OWN = {"usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}}
"""What a tenant has sent, and gets back."""

_ITEMS: list[dict[str, Any]] = [
    {"type": "reasoning", "id": "rs", "summary": []},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
    {"type": "web_search_call", "status": "completed", "action": {"type": "open_page", "url": "u"}},
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "y"}},
    {"type": "web_search_call", "status": "failed", "action": {"type": "search", "query": "z"}},
    {"type": "file_search_call", "status": "completed", "queries": ["x"], "results": [_OWN]},
    {"type": "code_interpreter_call", "status": "completed", "container_id": "c1", "code": '"usage":{}'},
    {"type": "code_interpreter_call", "status": "completed", "container_id": "c1", "code": ""},
    {"type": "image_generation_call", "status": "completed", "result": "iVBO" * 300},
    {"type": "function_call", "name": "f", "arguments": orjson.dumps(_OWN).decode()},
    {"type": "message", "content": [{"type": "output_text", "text": '{"usage":{"total_tokens":1}}'}]},
]
_ECHO = {
    "object": "response",
    "instructions": '"usage":{"total_tokens":1}',
    "metadata": _OWN | {"a": "]}"},
    "tools": [{"type": "function", "name": "f", "parameters": {"properties": _OWN, "required": ["usage"]}}],
    "text": {"format": {"type": "json_schema", "schema": _OWN}},
}
_TOOLS = {**_ECHO, "status": "completed", "service_tier": "flex", "output": _ITEMS, "usage": TOOLS_USAGE}
_PICTURES = [
    {**item, "result": PICTURE} if item["type"] == "image_generation_call" else item for item in _ITEMS
]
_DONE = (None, "[DONE]")
_ADDED = (None, {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": CHAT_USAGE})
_TEXT = sse((None, _chat_chunk("Hel")), (None, _chat_chunk('lo "usage"')), (None, _chat_chunk(" there.done")))


def _body(**members: object) -> bytes:
    return orjson.dumps(members)


_RUN = {"id": "run_1", "object": "thread.run", "status": "completed", "usage": PLAIN_USAGE}
_STEP = {"id": "step_1", "object": "thread.run.step", "status": "completed", "usage": PLAIN_USAGE}
_WAITING = {**_RUN, "status": "queued", "usage": None}
_MESSAGE = {"object": "thread.message.delta", "delta": {"content": [{"text": {"value": "Hello"}}]}}


def _chat_stream(name: str, model: str, answer: bytes, counts: Mapping[str, int]) -> Kind:
    asked = _body(model=model, stream=True, stream_options={"include_usage": True}, messages=[])
    target = "/v1/chat/completions"
    return Kind(name, "createChatCompletion", target, asked, answer, counts, model, content_type=EVENTS)


def _responses(name: str, counts: Mapping[str, int], **members: object) -> Kind:
    asked, answer = _body(model="gpt-4.1", input="Hi"), _body(**{"object": "response", **members})
    return Kind(name, "createResponse", "/v1/responses", asked, answer, counts, "gpt-4.1")


def _responses_stream(name: str, counts: Mapping[str, int], *events: bytes) -> Kind:
    asked, answer = _body(model="gpt-4.1", input="Hi", stream=True), b"".join(events)
    return Kind(
        name, "createResponse", "/v1/responses", asked, answer, counts, "gpt-4.1", content_type=EVENTS
    )


def _images(name: str, model: str, data: object, counts: Mapping[str, int], **members: object) -> Kind:
    asked, answer = _body(model=model, prompt="A cat", n=2), _body(created=1, data=data, **members)
    return Kind(name, "createImage", "/v1/images/generations", asked, answer, counts, model)


def _image_stream(name: str, partial: str, final: str) -> Kind:
    asked = _body(model="gpt-image-1", prompt="A cat", stream=True)
    answer = typed("image_generation.partial_image", b64_json=partial)
    answer += typed("image_generation.completed", b64_json=final, usage=IMAGE_USAGE)
    target, counts = "/v1/images/generations", {"images": 1, "input": 50, "output": 544}
    return Kind(name, "createImage", target, asked, answer, counts, "gpt-image-1", content_type=EVENTS)


KINDS = (
    Kind(
        "chat",
        "createChatCompletion",
        "/v1/chat/completions",
        _body(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}]),
        _body(object="chat.completion", choices=[], usage=CHAT_USAGE),
        CHAT_COUNTS,
        "gpt-4o",
    ),
    Kind(
        "chat stream that was not asked for usage",
        "createChatCompletion",
        "/v1/chat/completions",
        _body(model="gpt-4o", stream=True, messages=[{"role": "user", "content": "Hi"}]),
        _TEXT + sse(_ADDED, _DONE),
        CHAT_COUNTS,
        "gpt-4o",
        content_type=EVENTS,
        added=sse(_ADDED),
    ),
    _chat_stream("chat stream that was asked for usage", "gpt-4o", _TEXT + sse(_ADDED, _DONE), CHAT_COUNTS),
    Kind(
        "completions",
        "createCompletion",
        "/v1/completions",
        _body(model="gpt-3.5-turbo-instruct", prompt="Say"),
        _body(object="text_completion", choices=[{"text": "Hello"}], usage=PLAIN_USAGE),
        PLAIN_COUNTS,
        "gpt-3.5-turbo-instruct",
    ),
    Kind(
        "completions stream",
        "createCompletion",
        "/v1/completions",
        _body(model="gpt-3.5-turbo-instruct", prompt="Say", stream=True),
        sse((None, {"choices": [{"text": "Hello"}]}), _ADDED, _DONE),
        CHAT_COUNTS,
        "gpt-3.5-turbo-instruct",
        content_type=EVENTS,
        added=sse(_ADDED),
    ),
    Kind(
        "embeddings",
        "createEmbedding",
        "/v1/embeddings",
        _body(model="text-embedding-3-small", input=["one", "two"]),
        _body(
            object="list",
            data=[{"object": "embedding", "embedding": [0.25] * 20_000}] * 2,
            usage={"prompt_tokens": 4, "total_tokens": 4},
        ),
        {"input": 4},
        "text-embedding-3-small",
    ),
    _responses("responses", RESPONSE_COUNTS, status="completed", output=[], usage=RESPONSE_USAGE),
    _responses_stream(
        "responses stream",
        RESPONSE_COUNTS,
        typed("response.created", response={"usage": None}),
        typed("response.output_text.delta", delta="Hello"),
        typed("response.completed", response={"usage": RESPONSE_USAGE}),
    ),
    _responses_stream(
        "responses stream that is cut short",
        RESPONSE_COUNTS,
        typed("response.output_text.delta", delta="Hello"),
        typed("response.incomplete", response={"usage": RESPONSE_USAGE}),
    ),
    _images(
        "images that are linked",
        "dall-e-3",
        [{"url": "https://a.invalid/1"}, {"url": "https://a.invalid/2"}],
        {"images": 2},
    ),
    _images(
        "images in the answer, larger than what is kept of it",
        "gpt-image-1",
        [{"b64_json": PICTURE[:320_000]}] * 2,
        {"images": 2, "input": 50, "output": 544},
        usage=IMAGE_USAGE,
    ),
    _image_stream("image stream", "iVBO" * 200, "iVBO" * 400),
    Kind(
        "edited image",
        "createImageEdit",
        "/v1/images/edits",
        form(("model", b"gpt-image-1"), ("prompt", b"A hat"), ("file", b"\x89PNG" * 50)),
        _body(created=1, data=[{"b64_json": "iVBO"}], usage=IMAGE_USAGE),
        {"images": 1, "input": 50, "output": 544},
        "gpt-image-1",
        headers=FORM,
    ),
    Kind(
        "speech",
        "createSpeech",
        "/v1/audio/speech",
        _body(model="tts-1", input="Grüße!", voice="alloy"),
        b"\xff\xfb\x90\x00" * 3000,
        {"characters": 6},
        "tts-1",
        content_type=b"audio/mpeg",
    ),
    Kind(
        "transcription",
        "createTranscription",
        "/v1/audio/transcriptions",
        form(("file", b"RIFF" * 50), ("model", b"gpt-4o-transcribe")),
        _body(text="Hello", usage=HEARD_USAGE),
        HEARD_COUNTS,
        "gpt-4o-transcribe",
        headers=FORM,
    ),
    Kind(
        "transcription by the second",
        "createTranscription",
        "/v1/audio/transcriptions",
        form(("model", b"whisper-1"), ("file", b"RIFF" * 50)),
        _body(text="Hello", usage={"type": "duration", "seconds": 3.5}),
        {"milliseconds": 3500},
        "whisper-1",
        headers=FORM,
    ),
    Kind(
        "transcription stream",
        "createTranscription",
        "/v1/audio/transcriptions",
        form(("model", b"gpt-4o-transcribe"), ("stream", b"true"), ("file", b"RIFF" * 50)),
        sse(
            (None, {"type": "transcript.text.delta", "delta": "Hel"}),
            (None, {"type": "transcript.text.done", "text": "Hello", "usage": HEARD_USAGE}),
        ),
        HEARD_COUNTS,
        "gpt-4o-transcribe",
        headers=FORM,
        content_type=EVENTS,
    ),
    Kind(
        "translation, verbose",
        "createTranslation",
        "/v1/audio/translations",
        form(("model", b"whisper-1"), ("file", b"RIFF" * 50)),
        _body(task="translate", duration="8.47", text="Hello", segments=[]),
        {"milliseconds": 8470},
        "whisper-1",
        headers=FORM,
    ),
    Kind(
        "run stream",
        "createRun",
        "/v1/threads/thread_1/runs",
        _body(assistant_id="asst_1", stream=True, model="gpt-4o"),
        sse(
            ("thread.run.created", _WAITING),
            ("thread.message.delta", _MESSAGE),
            ("thread.run.step.completed", _STEP),
            ("thread.run.completed", _RUN),
            ("done", "[DONE]"),
        ),
        PLAIN_COUNTS,
        "gpt-4o",
        content_type=EVENTS,
    ),
    Kind(
        "outputs of tools",
        "submitToolOuputsToRun",
        "/v1/threads/thread_1/runs/run_1/submit_tool_outputs",
        _body(tool_outputs=[{"tool_call_id": "c", "output": "21"}], stream=True),
        sse(("thread.run.queued", _WAITING), ("thread.run.completed", _RUN), ("done", "[DONE]")),
        PLAIN_COUNTS,
        content_type=EVENTS,
    ),
    _responses("responses with tools", TOOLS_COUNTS, **_TOOLS),
    _responses(
        "responses with tools, larger than what is kept of it",
        TOOLS_COUNTS,
        **{**_TOOLS, "output": _PICTURES},
    ),
    _responses_stream(
        "responses stream with tools",
        TOOLS_COUNTS,
        typed("response.created", response={**_ECHO, "usage": None}),
        *[typed("response.output_item.done", output_index=at, item=item) for at, item in enumerate(_ITEMS)],
        typed("response.completed", response=_TOOLS),
    ),
    _responses_stream(
        "responses stream with partial images, and events larger than what is kept of them",
        TOOLS_COUNTS,
        typed("response.created", response={**_ECHO, "usage": None}),
        typed(
            "response.image_generation_call.partial_image",
            partial_image_index=0,
            partial_image_b64=PICTURE,
        ),
        typed("response.completed", response={**_TOOLS, "output": _PICTURES}),
    ),
    Kind(
        "chat of a server that writes numbers as it likes",
        "createChatCompletion",
        "/v1/chat/completions",
        _body(model="m", messages=[]),
        _body(
            object="chat.completion",
            choices=[{"message": {"content": "Hello"}}],
            usage={
                "prompt_tokens": "500",
                "completion_tokens": 7.0,
                "total_tokens": None,
                "prompt_tokens_details": {"cached_tokens": "8.0"},
                "cache_creation_input_tokens": 9,
            },
        ),
        {"input": 500, "output": 7, "cached_input": 8, "cache_write": 9},
        "m",
    ),
    _chat_stream(
        "chat stream that reports under a name of its server",
        "m",
        _TEXT + sse((None, {"choices": [], "x_groq": {"id": "r", "usage": PLAIN_USAGE}}), _DONE),
        PLAIN_COUNTS,
    ),
    _chat_stream(
        "chat stream whose later reports say nothing",
        "m",
        _TEXT
        + sse(
            _ADDED,
            (None, {"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}),
            (None, {"choices": [], "usage": {}}),
            _DONE,
        ),
        CHAT_COUNTS,
    ),
    Kind(
        "chat of a model that searches the web",
        "createChatCompletion",
        "/v1/chat/completions",
        _body(model="gpt-5-search-api", messages=[]),
        _body(model="gpt-5-search-api", choices=[{"message": {"content": "Hello"}}], usage=PLAIN_USAGE),
        {**PLAIN_COUNTS, "web_searches": 1},
        "gpt-5-search-api",
    ),
    _images(
        "linked images, more than what is kept",
        "dall-e-3",
        [{"url": "https://a.invalid/" + "a" * 40_000}] * 2,
        {"images": 2},
    ),
    _image_stream("image stream, larger than what is kept of its events", PICTURE, PICTURE),
    Kind(
        "long translation, verbose",
        "createTranslation",
        "/v1/audio/translations",
        form(("model", b"whisper-1"), ("file", b"RIFF" * 50)),
        _body(
            segments=[{"text": 'a "duration": 3', "duration": 4}] * 3000,
            text="Hello " * 9000,
            duration=1200.5,
        ),
        {"milliseconds": 1_200_500},
        "whisper-1",
        headers=FORM,
    ),
)


async def counted(gateway: Gateway, tenant: str = "acme") -> dict[tuple[str, str, str], dict[str, int]]:
    """What a gateway has counted, by subject, model and operation, of all tiers; counters that are 0 are left out."""
    now = time.time()
    reading = gateway.app.services.ledger.read(tenant, periods_since(now - 7200, now, hourly=True))
    found: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in [row async for rows in reading for row in rows]:
        counts = found.setdefault(row.entry[:3], {})
        for name, amount in zip(COUNTERS, row.counts, strict=True):
            if amount:
                counts[name] = counts.get(name, 0) + amount
    return found
