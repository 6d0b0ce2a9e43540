"""What is asked and what is answered: sizes and shapes as the API has them.

How an answer is to be stands in the text of the request, which every gateway passes on:
`bench:events=80,every_us=50000`, `bench:chunked=1000000`, `bench:length=1000000`.
"""

from __future__ import annotations

import re

STAMP = re.compile(rb'"@(\d{19});')
"""In an event: when the upstream sent it, nanoseconds of the monotonic clock."""

_WISH = re.compile(rb"bench:([a-z_]+)=(\d+)(?:,([a-z_]+)=(\d+))?")

CHAT, EMBEDDINGS, SPEECH, TRANSCRIPTIONS, REALTIME = (
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/audio/speech",
    "/v1/audio/transcriptions",
    "/v1/realtime?model=gpt-realtime",
)


def chat(wish: str = "", *, model: str = "gpt-4o-mini") -> str:
    """A small chat request; with `wish`, a streamed one."""
    stream = ',"stream":true' if wish else ""
    return (
        f'{{"model":"{model}","messages":[{{"role":"system","content":"You are a helpful assistant."}},'
        f'{{"role":"user","content":"Write a short poem about reverse proxies, please, and keep it under forty '
        f'words. {wish}"}}],"temperature":0.7,"max_tokens":128{stream}}}'
    )


def events(count: int, every_seconds: float) -> str:
    """The wish for a stream: so many events, the first one interval after the head."""
    return f"bench:events={count},every_us={round(every_seconds * 1e6)}"


def silence() -> str:
    """The wish for a stream with one event and no end."""
    return "bench:silent=1"


def embeddings(*, model: str = "text-embedding-3-small") -> str:
    """A request that is answered with 30 KB of JSON."""
    return f'{{"model":"{model}","input":"The quick brown fox jumped over the lazy dog","encoding_format":"float"}}'


def speech(answer_bytes: int, *, chunked: bool = True, model: str = "tts-1") -> str:
    """A request that is answered with so many bytes of audio, chunked or of stated length."""
    framing = "chunked" if chunked else "length"
    return f'{{"model":"{model}","input":"bench:{framing}={answer_bytes}","voice":"alloy"}}'


def wishes(body: bytes) -> dict[bytes, int]:
    """What the text of a request asks for."""
    found = _WISH.search(body)
    if found is None:
        return {}
    name, value, second, other = found.groups()
    return {name: int(value)} | ({second: int(other)} if second else {})


def head(content_type: str, framing: str) -> bytes:
    """The head of an answer."""
    return (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{framing}\r\n"
        "x-request-id: req_0123456789abcdef\r\nopenai-processing-ms: 42\r\nopenai-version: 2020-10-01\r\n\r\n"
    ).encode()


def whole(body: bytes, content_type: str = "application/json") -> bytes:
    """An answer of stated length."""
    return head(content_type, f"Content-Length: {len(body)}") + body


CHAT_ANSWER = whole(
    b"""{
  "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
  "object": "chat.completion",
  "created": 1741569952,
  "model": "gpt-4o-mini-2024-07-18",
  "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello! How can I assist you today?", \
"refusal": null, "annotations": []}, "logprobs": null, "finish_reason": "stop"}],
  "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29, \
"prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0}},
  "service_tier": "default",
  "system_fingerprint": "fp_fc9f1d7035"
}
"""
)


def embeddings_answer() -> bytes:
    """30 KB, as one vector of 1,536 numbers has."""
    numbers = ", ".join(f"{((n * 7919) % 2000 - 1000) / 12345.678:.15f}" for n in range(1536))
    return whole(
        b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[' + numbers.encode() + b"]}],"
        b'"model":"text-embedding-3-small","usage":{"prompt_tokens":9,"total_tokens":9}}'
    )


EVENTS_HEAD = head("text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
CHUNKED_AUDIO_HEAD = head("audio/mpeg", "Transfer-Encoding: chunked")

_BEFORE_STAMP = (
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_fc9f1d7035",'
    b'"choices":[{"index":0,"delta":{"content":"@'
)
_BEHIND_STAMP = b';"},"logprobs":null,"finish_reason":null}]'


def chunk(piece: bytes) -> bytes:
    """The piece as one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(piece), piece)


def _event_form(*, usage_asked: bool) -> bytes:
    """An event without its stamp of 19 digits; where usage was asked for, each says that there is none yet."""
    event = _BEFORE_STAMP + b"%019d" + _BEHIND_STAMP + (b',"usage":null}\n\n' if usage_asked else b"}\n\n")
    return b"%x\r\n%s\r\n" % (len(event % 0), event)


EVENT_FORM = _event_form(usage_asked=False)
EVENT_FORM_WITH_USAGE = _event_form(usage_asked=True)
EVENTS_END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
USAGE_EVENT = chunk(
    b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_fc9f1d7035","choices":[],'
    b'"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}\n\n'
)

CHUNK_BYTES = 16384
SOUND = bytes(range(256)) * (CHUNK_BYTES // 256)
"""What audio and files consist of."""


def received(body_bytes: int) -> bytes:
    """The answer to an upload: how much arrived."""
    return whole(
        b'{"text":"bytes=%d","usage":{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59}}'
        % body_bytes
    )
