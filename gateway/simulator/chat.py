"""Chat completions and text completions, as JSON and as server-sent events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from gateway.simulator.answering import Answer, Choice, Question, Tool, ToolCall, answer_to
from gateway.simulator.call import Call, Event, Handler, JsonObject, Reply, as_json
from gateway.simulator.store import new_id, now
from gateway.simulator.wording import pieces, plain_text, size

_COLLECTION: Final = "/v1/chat/completions"
_MAX_CHOICES: Final = 128


def completion(body: JsonObject) -> JsonObject:
    """The whole answer to a chat request."""
    return _completion(body, answer_to(_question(body)))


def text_completion(body: JsonObject) -> JsonObject:
    """The whole answer to a completions request: one choice per prompt and `n`."""
    prompts = body["prompt"]
    choices: list[JsonObject] = []
    # A prompt may also be a list of numbers, or a list of such lists.
    many = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    for prompt in prompts if many else [prompts]:
        answer = answer_to(Question(plain_text(prompt), most_pieces=_most_pieces(body)))
        choices += [
            {
                "text": answer.text,
                "index": len(choices) + n,
                "logprobs": None,
                "finish_reason": _reason(answer),
            }
            for n in range(_choices(body))
        ]
    written = sum(len(pieces(choice["text"])) for choice in choices)
    head = _head("cmpl-", "text_completion", body)
    return head | {"choices": choices, "usage": _usage(plain_text(prompts), written)}


async def create_chat_completion(call: Call) -> Reply:
    body = await call.body("model", "messages")
    answer = answer_to(_question(body))
    whole = _completion(body, answer)
    if body.get("store"):
        kept = whole | {"metadata": body.get("metadata") or {}}
        call.store.put(_COLLECTION, kept)
        for index, message in enumerate(body["messages"]):
            named = {"id": f"{kept['id']}-{index}"} | message
            call.store.put(f"{_COLLECTION}/{kept['id']}/messages", named)
    return call.events(_chat_events(whole, answer, body)) if body.get("stream") else as_json(whole)


async def create_completion(call: Call) -> Reply:
    body = await call.body("model", "prompt")
    answer = text_completion(body)
    return call.events(_text_events(answer, body)) if body.get("stream") else as_json(answer)


def _completion(body: JsonObject, answer: Answer) -> JsonObject:
    message: JsonObject = {
        "role": "assistant",
        "content": None if answer.calls else answer.text,
        "refusal": None,
        "annotations": [],
    }
    choices = [
        {
            "index": index,
            "message": message | ({"tool_calls": _tool_calls(answer)} if answer.calls else {}),
            "logprobs": None,
            "finish_reason": _reason(answer),
        }
        for index in range(_choices(body))
    ]
    usage = _usage(plain_text(body["messages"]), answer.size * len(choices))
    return _head("chatcmpl-", "chat.completion", body) | {"choices": choices, "usage": usage}


def _tool_calls(answer: Answer) -> list[JsonObject]:
    return [_tool_call(call, "".join(call.pieces)) | {"id": new_id("call_")} for call in answer.calls]


def _tool_call(call: ToolCall, text: str) -> JsonObject:
    if call.tool.takes_text:
        return {"type": "custom", "custom": {"name": call.tool.name, "input": text}}
    return {"type": "function", "function": {"name": call.tool.name, "arguments": text}}


def _question(body: JsonObject) -> Question:
    """What a chat request asks for."""
    messages = body["messages"]
    last = messages[-1] if messages else {}
    return Question(
        plain_text(messages[-1:]),
        [tool for tool in map(_tool, body.get("tools") or ()) if tool],
        _choice(body.get("tool_choice")),
        answers_call=last.get("role") in ("tool", "function"),
        parallel=body.get("parallel_tool_calls") is not False,
        schema=_schema(body.get("response_format")),
        most_pieces=_most_pieces(body),
    )


def _tool(given: Any) -> Tool | None:
    match given:
        case {"type": "function", "function": {"name": str(name), **rest}}:
            return Tool(name, rest.get("parameters"))
        case {"type": "custom", "custom": {"name": str(name)}}:
            return Tool(name, takes_text=True)
    return None


def _choice(given: Any) -> Choice:
    match given:
        case "none" | "auto" | "required":
            return Choice(given)
        case {"type": "function", "function": {"name": str(name)}} | {
            "type": "custom",
            "custom": {"name": str(name)},
        }:
            return Choice("required", (name,))
        case {"type": "allowed_tools", "allowed_tools": {"mode": str(mode), "tools": list(tools)}}:
            return Choice(mode, tuple(tool.name for tool in map(_tool, tools) if tool))
    return Choice()


def _schema(given: Any) -> Any:
    match given:
        case {"type": "json_schema", "json_schema": {**described}}:
            return described.get("schema") or {}
        case {"type": "json_object"}:
            return {}
    return None


def _chat_events(whole: JsonObject, answer: Answer, body: JsonObject) -> Iterator[Event]:
    head = whole | {"object": "chat.completion.chunk"}

    def choice(index: int, delta: JsonObject, reason: str | None = None) -> JsonObject:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}

    def call_delta(index: int, **delta: Any) -> JsonObject:
        return {"tool_calls": [{"index": index} | delta]}

    choices = whole["choices"]
    opening = {"role": "assistant", "content": None if answer.calls else ""}
    chunks = [choice(c["index"], opening) for c in choices]
    for said in answer.said:
        chunks += [choice(c["index"], {"content": said}) for c in choices]
    for n, call in enumerate(answer.calls):
        for c in choices:
            begun = _tool_call(call, "") | {"id": c["message"]["tool_calls"][n]["id"]}
            chunks.append(choice(c["index"], call_delta(n, **begun)))
        kind, member = ("custom", "input") if call.tool.takes_text else ("function", "arguments")
        for piece in call.pieces:
            chunks += [choice(c["index"], call_delta(n, **{kind: {member: piece}})) for c in choices]
    chunks += [choice(c["index"], {}, c["finish_reason"]) for c in choices]
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


def _most_pieces(body: JsonObject) -> int | None:
    """The most that the answer may have; what is not positive is no limit, as other servers have it."""
    most = body.get("max_completion_tokens") or body.get("max_tokens") or 0
    return most if most > 0 else None


def _reason(answer: Answer) -> str:
    """Why it ended."""
    if answer.was_cut:
        return "length"
    return "tool_calls" if answer.calls else "stop"


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


def _usage(prompt: str, answered: int) -> JsonObject:
    """The answer counts one per piece, so that a stream has as many pieces as its usage says."""
    asked = size(prompt)
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
