"""Answers whose true usage is known, in parts: what is said, that it is over, what is reported."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import brotli
import orjson
import zstandard

from tests.kit.asking import form
from tests.kit.client import CHAT, FORM, JSON
from tests.kit.usage_answers import sse, typed

MAXIMUM = 900
"""LLM tokens that each request allows its answer; more than goes by in any that is left."""

_TEXTS = ["Grüße ", "日本 ", "plain", ' "quoted" and\n', "…", "é"] * 10
_LONG_TEXTS = ["word " * 50] * 160
_SOUND = "A" * 32_000

Report = Callable[[object], bytes]


@dataclass(frozen=True)
class Part:
    """What an answer says, and how many LLM tokens go by in it."""

    said: tuple[bytes, ...]
    went_by: int


@dataclass(frozen=True)
class Kind:
    """A kind of answer: what is asked, what is said, that it is over, and what was used."""

    name: str
    target: str
    request: bytes
    said: Part
    over: bytes
    """What says that the generation is over; empty where the answer has begun, and that says it."""

    report: Report
    """By a member `usage`, what reports it."""

    last: bytes = b""
    input: int = 1234
    output: int = 777
    other: Mapping[str, float] | None = None
    """What is used beside LLM tokens, in the words of the log."""

    headers: str = JSON
    content_type: bytes = b"text/event-stream"

    @property
    def streams(self) -> bool:
        return self.content_type == b"text/event-stream"

    @property
    def usage(self) -> dict[str, object]:
        """As chat has it, which is read wherever usage stands."""
        if not self.output:
            return {"prompt_tokens": self.input, "total_tokens": self.input}
        total = self.input + self.output
        return {"prompt_tokens": self.input, "completion_tokens": self.output, "total_tokens": total}

    def whole(self, usage: object) -> list[bytes]:
        """All of it, in events, with this member `usage`."""
        return [*self.said.said, self.over, self.report(usage), self.last]

    @property
    def prompt(self) -> int:
        """What the prompt is taken for: a quarter of the bytes of its texts, and of the names that are its own."""
        if self.headers == FORM:
            return 0
        return -(-_text_bytes(orjson.loads(self.request)) // 4)


def _text_bytes(document: Mapping[str, Any]) -> int:
    size = 0
    for value in document.values():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, str):
                size += len(inner.encode())
            elif isinstance(inner, dict):
                own = [name for name in inner if name not in ("role", "content")]
                size += sum(map(len, own)) + _text_bytes(inner)
    return size


def part(texts: Iterable[str], event: Callable[[str], bytes]) -> Part:
    """Texts in events: one LLM token each, or one for four bytes of all of them if that is more."""
    texts = list(texts)
    return Part(tuple(map(event, texts)), max(len(texts), sum(len(text.encode()) for text in texts) // 4))


def _written(texts: Iterable[str], begins: bytes, ends: bytes) -> Part:
    text = "".join(texts)
    return Part((begins + orjson.dumps(text) + ends,), len(text.encode()) // 4)


def _asked(**members: object) -> bytes:
    return orjson.dumps({"model": "m", **members})


def _chat_delta(delta: Mapping[str, object], **members: object) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return sse((None, {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **members}))


def _chat_event(text: str) -> bytes:
    return _chat_delta({"content": text})


def _in_chat(usage: object) -> bytes:
    return sse((None, {"id": "c", "choices": [], "usage": usage}))


def _in_response(usage: object) -> bytes:
    response = {"id": "resp_1", "object": "response", "status": "completed", "usage": usage}
    return typed("response.completed", response=response)


def _in_document(usage: object) -> bytes:
    return b',"usage":' + orjson.dumps(usage)


def _in_run(usage: object) -> bytes:
    # Without an id: every case is another run, and one of the same id would be counted once.
    run = {"object": "thread.run", "status": "completed", "usage": usage}
    return sse(("thread.run.completed", run))


_QUESTION = [{"role": "user", "content": "x" * 395}]
_FINISH = sse((None, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
_DONE = sse((None, "[DONE]"))
_CHAT = _asked(messages=_QUESTION, stream=True, max_tokens=MAXIMUM)
_RESPONSE = _asked(input="x" * 399, stream=True, max_output_tokens=MAXIMUM)
_HEARD = form(("file", b"RIFF" * 50), ("model", b"m"))


def _chat(name: str, said: Part, **members: Any) -> Kind:
    return Kind(name, CHAT, members.pop("request", _CHAT), said, _FINISH, _in_chat, _DONE, **members)


def _response(name: str, said: Part, over: bytes = b"") -> Kind:
    over = over or typed("response.output_text.done", text="all once more")
    return Kind(name, "/v1/responses", _RESPONSE, said, over, _in_response)


def _document(
    name: str, target: str, request: bytes, said: Part, report: Report = _in_document, **members: Any
) -> Kind:
    json = b"application/json"
    return Kind(name, target, request, said, b"", report, b"}", content_type=json, **members)


GENERATING = (
    _chat("chat stream", part(_TEXTS, _chat_event)),
    _chat(
        "chat stream that asks for usage",
        part(_TEXTS, lambda text: _chat_delta({"content": text}, usage=None)),
        request=_asked(
            messages=_QUESTION, stream=True, max_tokens=MAXIMUM, stream_options={"include_usage": True}
        ),
    ),
    _chat("chat stream that thinks", part(_TEXTS, lambda text: _chat_delta({"reasoning_content": text}))),
    _chat(
        "chat stream that calls a tool",
        part(
            _TEXTS,
            lambda text: _chat_delta({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
        ),
    ),
    _chat("chat stream under a name nobody knows", part(_TEXTS, lambda text: _chat_delta({"musing": text}))),
    _chat(
        "chat stream with padding",
        part(_TEXTS, lambda text: _chat_delta({"content": text}, obfuscation="x" * 40)),
    ),
    _chat(
        "chat stream that speaks",
        Part((_chat_delta({"audio": {"id": "a", "data": _SOUND, "transcript": "word " * 8}}),), 10 + 10),
    ),
    Kind(
        "completions stream",
        "/v1/completions",
        _asked(prompt="x" * 399, stream=True, max_tokens=MAXIMUM),
        part(_TEXTS, lambda text: sse((None, {"choices": [{"index": 0, "text": text}]}))),
        sse((None, {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})),
        _in_chat,
        _DONE,
    ),
    _response(
        "responses stream",
        part(_TEXTS, lambda text: typed("response.output_text.delta", item_id="i", delta=text)),
    ),
    _response(
        "responses stream that refuses",
        part(_TEXTS, lambda text: typed("response.refusal.delta", delta=text)),
        typed("response.refusal.done", refusal="all once more"),
    ),
    _response(
        "responses stream that thinks and calls",
        Part(
            tuple(
                typed(f"response.{kind}.delta", delta="word")
                for kind in ("reasoning_text", "reasoning_summary_text", "function_call_arguments") * 20
            ),
            60,
        ),
        typed("response.function_call_arguments.done", arguments="{}"),
    ),
    Kind(
        "run stream",
        "/v1/threads/thread_1/runs",
        _asked(assistant_id="a" * 7, instructions="x" * 392, stream=True, max_completion_tokens=MAXIMUM),
        part(
            _TEXTS,
            lambda text: sse(
                (
                    "thread.message.delta",
                    {"object": "thread.message.delta", "delta": {"content": [{"text": {"value": text}}]}},
                )
            ),
        ),
        sse(("thread.message.completed", {"object": "thread.message"})),
        _in_run,
        sse(("done", "[DONE]")),
    ),
    _document(
        "chat",
        CHAT,
        _asked(messages=_QUESTION, max_tokens=MAXIMUM),
        _written(_TEXTS, b'{"object":"chat.completion","choices":[{"message":{"content":', b"}}]"),
    ),
    _document(
        "completions",
        "/v1/completions",
        _asked(prompt="x" * 399, max_tokens=MAXIMUM),
        _written(_TEXTS, b'{"object":"text_completion","choices":[{"text":', b"}]"),
    ),
    _document(
        "responses",
        "/v1/responses",
        _asked(input="x" * 399, max_output_tokens=MAXIMUM),
        _written(_TEXTS, b'{"object":"response","output":[{"content":[{"text":', b"}]}]"),
    ),
)
"""What may be left or broken off, and what goes by in it."""

_WHOLE = Part((b"",), 0)

OTHERS = (
    _chat("long chat stream", part(_LONG_TEXTS, _chat_event)),
    _document(
        "embeddings",
        "/v1/embeddings",
        _asked(input=["x" * 200, "y" * 199]),
        Part((b'{"object":"list","data":[' + b",".join([b'{"embedding":[0.25,-1e-3]}'] * 40) + b"]",), 0),
        output=0,
    ),
    _document(
        "results of a reranking server",
        "/v1/embeddings",
        _asked(input="x" * 399),
        Part((b'{"results":[{"index":0,"relevance_score":0.5}]',), 0),
        lambda usage: b',"usage":{"total_tokens":1234}' if usage else b"",
        output=0,
    ),
    _document(
        "images",
        "/v1/images/generations",
        _asked(prompt="A cat", n=2),
        Part((b'{"created":1,"data":[' + b",".join([b'{"b64_json":"iVBO"}'] * 2) + b"]",), 0),
        other={"images": 2},
    ),
    Kind(
        "image stream, a partial one and the final one",
        "/v1/images/generations",
        _asked(prompt="A cat", stream=True, partial_images=1),
        Part((typed("image_generation.partial_image", b64_json="iVBO" * 200),), 0),
        b"",
        lambda usage: typed("image_generation.completed", b64_json="iVBO" * 400, usage=usage),
        other={"images": 1},
    ),
    _document(
        "transcription",
        "/v1/audio/transcriptions",
        _HEARD,
        Part((b'{"text":"Gr\xc3\xbc\xc3\x9fe"',), 0),
        headers=FORM,
    ),
    _document(
        "transcription by the second",
        "/v1/audio/transcriptions",
        _HEARD,
        Part((b'{"text":"Gr\xc3\xbc\xc3\x9fe"',), 0),
        lambda usage: b',"usage":{"type":"duration","seconds":3.5}' if usage else b"",
        input=0,
        output=0,
        other={"audio_seconds": 3.5},
        headers=FORM,
    ),
    Kind(
        "transcription stream",
        "/v1/audio/transcriptions",
        form(("model", b"m"), ("stream", b"true"), ("file", b"RIFF" * 50)),
        part(_TEXTS, lambda text: typed("transcript.text.delta", delta=text)),
        b"",
        lambda usage: typed("transcript.text.done", text="Hello", usage=usage),
        headers=FORM,
    ),
    Kind(
        "speech",
        "/v1/audio/speech",
        _asked(input="Grüße!", voice="alloy"),
        Part((b"\xff\xfb\x90\x00" * 300,), 0),
        b"",
        lambda _: b"",
        input=0,
        output=0,
        other={"characters": 6},
        content_type=b"audio/mpeg",
    ),
)
"""Of other kinds, what reports its usage in its end."""

SAYS_NOTHING: dict[str, object] = {
    "null": None,
    "empty": {},
    "nulls": {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None},
    "zeros": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    "no numbers": {"prompt_tokens": "many", "completion_tokens": [777], "total_tokens": True},
    "negative": {"prompt_tokens": -1234, "completion_tokens": -777, "total_tokens": -2011},
    "a text": "2011",
    "a list": [{"prompt_tokens": 1234}],
}
"""Members `usage` that say nothing."""

ALL_THE_SAME: dict[str, Callable[[Kind], object]] = {
    "floats": lambda kind: {name: float(str(number)) for name, number in kind.usage.items()},
    "texts": lambda kind: {name: str(number) for name, number in kind.usage.items()},
    "texts of floats": lambda kind: {name: f"{number}.0" for name, number in kind.usage.items()},
    "a sum and a part": lambda kind: {
        "total_tokens": kind.input + kind.output, "prompt_tokens": kind.input
    },
    "names of responses": lambda kind: {"input_tokens": kind.input, "output_tokens": kind.output},
    "parts without a sum": lambda kind: {"prompt_tokens": kind.input, "completion_tokens": kind.output},
}  # fmt: skip
"""Spellings of a member `usage` that says what was used."""


# How it comes


def _compressed(make: Callable[[], Any], flush: object) -> Callable[[list[bytes]], list[bytes]]:
    def encode(pieces: list[bytes]) -> list[bytes]:
        packer = make()
        packed = [packer.compress(piece) + packer.flush(flush) for piece in pieces]
        return [*packed, packer.flush()]

    return encode


def _by_brotli(pieces: list[bytes]) -> list[bytes]:
    packer = brotli.Compressor()
    return [*(packer.process(piece) + packer.flush() for piece in pieces), packer.finish()]


ENCODINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "identity": list,
    "gzip": _compressed(lambda: zlib.compressobj(wbits=31), zlib.Z_SYNC_FLUSH),
    "deflate": _compressed(zlib.compressobj, zlib.Z_SYNC_FLUSH),
    "br": _by_brotli,
    "zstd": _compressed(lambda: zstandard.ZstdCompressor().compressobj(), zstandard.COMPRESSOBJ_FLUSH_BLOCK),
}
"""Pieces of an answer, each packed so that it can be unpacked when it comes."""


def _amid_letters(events: list[bytes]) -> list[bytes]:
    """Cut where letters of more than one byte have their second."""
    answer = b"".join(events)
    places = [at for at, byte in enumerate(answer) if byte & 0xC0 == 0x80] or [len(answer) // 2]
    return [answer[a:b] for a, b in zip([0, *places], [*places, len(answer)], strict=True)]


def _by_seven(events: list[bytes]) -> list[bytes]:
    answer = b"".join(events)
    return [answer[at : at + 7] for at in range(0, len(answer), 7)]


SPLITS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "whole": lambda events: [b"".join(events)],
    "event by event": lambda events: [event for event in events if event],
    "seven bytes each": _by_seven,
    "amid letters": _amid_letters,
}
"""Events of an answer in the pieces in which they come."""

PAIRS = (
    *(("identity", split) for split in SPLITS),
    *((encoding, "event by event") for encoding in ENCODINGS if encoding != "identity"),
    ("gzip", "amid letters"),
    ("deflate", "whole"),
    ("br", "seven bytes each"),
    ("zstd", "amid letters"),
)
"""Of encodings and splits, each with some of the others."""


def packed(events: list[bytes], encoding: str, split: str) -> list[bytes]:
    """The pieces in which they come."""
    return [piece for piece in ENCODINGS[encoding](SPLITS[split](events)) if piece]
