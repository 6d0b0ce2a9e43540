"""Chat completions and text completions, as JSON and as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gateway.simulator.call import Call, Event, Handler, JsonObject, Reply, as_json
from gateway.simulator.store import new_id, now
from gateway.simulator.wording import pieces, plain_text, simulated_answer, size

_COLLECTION: Final = "/v1/chat/completions"
_MAX_CHOICES: Final = 128


def completion(body: JsonObject) -> JsonObject:
    """The whole answer to a chat request."""
    messages = body["messages"]
    said, reason = _answer(plain_text(messages[-1:]), body)
    choice: JsonObject = {
        "message": {"role": "assistant", "content": said, "refusal": None, "annotations": []},
        "logprobs": None,
        "finish_reason": reason,
    }
    choices = [{"index": index, **choice} for index in range(_choices(body))]
    head = _head("chatcmpl-", "chat.completion", body)
    return head | {"choices": choices, "usage": _usage(plain_text(messages), said, len(choices))}


def text_completion(body: JsonObject) -> JsonObject:
    """The whole answer to a completions request: one choice per prompt and `n`."""
    prompts = body["prompt"]
    choices: list[JsonObject] = []
    # A prompt may also be a list of numbers, or a list of such lists.
    many = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    for prompt in prompts if many else [prompts]:
        said, reason = _answer(plain_text(prompt), body)
        choices += [
            {"text": said, "index": len(choices) + n, "logprobs": None, "finish_reason": reason}
            for n in range(_choices(body))
        ]
    said = " ".join(choice["text"] for choice in choices)
    head = _head("cmpl-", "text_completion", body)
    return head | {"choices": choices, "usage": _usage(plain_text(prompts), said, 1)}


async def create_chat_completion(call: Call) -> Reply:
    body = await call.body("model", "messages")
    answer = completion(body)
    if body.get("store"):
        kept = answer | {"metadata": body.get("metadata") or {}}
        call.store.put(_COLLECTION, kept)
        for index, message in enumerate(body["messages"]):
            named = {"id": f"{kept['id']}-{index}"} | message
            call.store.put(f"{_COLLECTION}/{kept['id']}/messages", named)
    return call.events(_chat_events(answer, body)) if body.get("stream") else as_json(answer)


async def create_completion(call: Call) -> Reply:
    body = await call.body("model", "prompt")
    answer = text_completion(body)
    return call.events(_text_events(answer, body)) if body.get("stream") else as_json(answer)


def _chat_events(answer: JsonObject, body: JsonObject) -> Iterator[Event]:
    head = answer | {"object": "chat.completion.chunk"}

    def choice(index: int, delta: JsonObject, reason: str | None = None) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    chunks = [choice(c["index"], {"role": "assistant", "content": ""}) for c in answer["choices"]]
    for said in pieces(answer["choices"][0]["message"]["content"]):
        chunks += [choice(c["index"], {"content": said}) for c in answer["choices"]]
    chunks += [choice(c["index"], {}, c["finish_reason"]) for c in answer["choices"]]
    return _chunks(head, chunks, body)


def _text_events(answer: JsonObject, body: JsonObject) -> Iterator[Event]:
    chunks = []
    for choice in answer["choices"]:
        chunks += [choice | {"text": said, "finish_reason": None} for said in pieces(choice["text"])]
        chunks.append(choice | {"text": ""})
    return _chunks(answer, chunks, body)


def _chunks(head: JsonObject, choices: list[JsonObject], body: JsonObject) -> Iterator[Event]:
    """One event per choice; asked for usage, every event has the member and a last one has the value."""
    usage = head["usage"]
    with_usage = (body.get("stream_options") or {}).get("include_usage")
    head = {name: value for name, value in head.items() if name != "usage"}
    if with_usage:
        head["usage"] = None
    for choice in choices:
        yield None, head | {"choices": [choice]}
    if with_usage:
        yield None, head | {"choices": [], "usage": usage}
    yield None, "[DONE]"


def _answer(prompt: str, body: JsonObject) -> tuple[str, str]:
    """The answer's text within the caller's limit, and why it ended."""
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    whole = pieces(simulated_answer(prompt))
    if limit is None or limit >= len(whole):
        return "".join(whole), "stop"
    return "".join(whole[:limit]), "length"


def _choices(body: JsonObject) -> int:
    return min(int(body.get("n") or 1), _MAX_CHOICES)


def _head(prefix: str, name: str, body: JsonObject) -> JsonObject:
    return {
        "id": new_id(prefix),
        "object": name,
        "created": now(),
        "model": body["model"],
        "service_tier": "default",
        "system_fingerprint": "simulator",
    }


def _usage(prompt: str, said: str, choices: int) -> JsonObject:
    """The answer counts one per piece, so that a stream has as many pieces as its usage says."""
    asked, answered = size(prompt), len(pieces(said)) * choices
    details: dict[str, Any] = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}
    return {
        "prompt_tokens": asked,
        "completion_tokens": answered,
        "total_tokens": asked + answered,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": details | {"reasoning_tokens": 0, "audio_tokens": 0},
    }


HANDLERS: Final[dict[str, Handler]] = {
    "createChatCompletion": create_chat_completion,
    "createCompletion": create_completion,
}
