"""The Responses API, as JSON and as server-sent events, and the conversations beside it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from gateway.simulator.answering import Answer, Choice, Question, Tool, ToolCall, answer_to
from gateway.simulator.call import Call, Event, Handler, JsonObject, Reply, as_json
from gateway.simulator.kinds import KINDS
from gateway.simulator.store import Store, new_id, now
from gateway.simulator.wording import plain_text, size

_COLLECTION: Final = "/v1/responses"
_DEFAULTS: Final[JsonObject] = {
    "background": False,
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def response(body: JsonObject) -> JsonObject:
    """The whole, completed answer."""
    begun = _begun(body)
    return _complete(begun, body, answer_to(_question(begun, body)))


async def create_response(call: Call) -> Reply:
    body = await call.body("model", "input")
    begun, answer = begin(call.store, body)
    if body.get("stream"):
        return call.events(events(begun, body, answer))
    if begun["background"]:
        begun["status"] = "queued"
        call.later(10, partial(_complete, begun, body, answer))
        return as_json(begun)
    return as_json(_complete(begun, body, answer))


def begin(store: Store, body: JsonObject) -> tuple[JsonObject, Answer]:
    """A response that begins, stored unless it asks not to be, and its answer. Raises ApiError if there is none."""
    begun = _begun(body)
    answer = answer_to(_question(begun, body))
    if begun["store"]:
        store.put(_COLLECTION, begun)
        for item in _items(body["input"]):
            store.put(f"{_COLLECTION}/{begun['id']}/input_items", item)
    return begun, answer


def is_stored(store: Store, response_id: str) -> bool:
    return store.has(f"{_COLLECTION}/{response_id}")


async def count_input(call: Call) -> Reply:
    body = await call.body()
    return as_json({"object": "response.input_tokens", "input_tokens": size(plain_text(body.get("input")))})


async def create_conversation(call: Call) -> Reply:
    body = await call.body()
    items = body.pop("items", None) or []
    made = call.store.create("/v1/conversations", KINDS["conversation"], body)
    for item in _items(items):
        call.store.put(f"/v1/conversations/{made['id']}/items", item)
    return as_json(made)


async def create_items(call: Call) -> Reply:
    conversation = f"/v1/conversations/{call.params['conversation_id']}"
    call.store.get(conversation)
    items = _items((await call.body("items"))["items"])
    for item in items:
        call.store.put(f"{conversation}/items", item)
    return as_json({"object": "list", "data": items, "has_more": False} | _ends(items))


async def delete_item(call: Call) -> Reply:
    """The answer is the conversation, not the item."""
    conversation = f"/v1/conversations/{call.params['conversation_id']}"
    call.store.delete(f"{conversation}/items/{call.params['item_id']}")
    return as_json(call.store.get(conversation))


def _ends(items: list[JsonObject]) -> JsonObject:
    return {"first_id": items[0]["id"] if items else None, "last_id": items[-1]["id"] if items else None}


def _items(given: Any) -> list[JsonObject]:
    """What was sent as input, as the items that the API lists."""
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return [_item(item) for item in items if isinstance(item, dict)]


def _item(item: JsonObject) -> JsonObject:
    content = item.get("content")
    if isinstance(content, str):
        said_by_model = item.get("role") == "assistant"
        part: JsonObject = {"type": "output_text" if said_by_model else "input_text", "text": content}
        content = [part | {"annotations": []} if said_by_model else part]
    named = {"id": new_id("msg_"), "type": "message", "status": "completed"} | item
    return named | {"content": content} if content is not None else named


def _begun(body: JsonObject) -> JsonObject:
    head = {"id": new_id("resp_"), "object": "response", "created_at": now(), "status": "in_progress"}
    asked = {name: body[name] if body.get(name) is not None else value for name, value in _DEFAULTS.items()}
    conversation = body.get("conversation")
    if isinstance(conversation, str):
        conversation = {"id": conversation}
    return head | asked | {"model": body["model"], "conversation": conversation, "output": [], "usage": None}


def _message(said: list[str], status: str) -> JsonObject:
    content = [_part("".join(said))] if said else []
    return {
        "id": new_id("msg_"),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    }


def _call_item(call: ToolCall, status: str) -> JsonObject:
    """What asks for a call, its arguments still missing."""
    head = {"status": status, "call_id": new_id("call_"), "name": call.tool.name}
    if call.tool.takes_text:
        return {"id": new_id("ctc_"), "type": "custom_tool_call", "input": ""} | head
    return {"id": new_id("fc_"), "type": "function_call", "arguments": ""} | head


def _output(answer: Answer, status: str) -> list[JsonObject]:
    """The items of an answer, whole."""
    if not answer.calls:
        return [_message(answer.said, status)]
    items = [_call_item(call, status) for call in answer.calls]
    for item, call in zip(items, answer.calls, strict=True):
        item["input" if call.tool.takes_text else "arguments"] = "".join(call.pieces)
    return items


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _complete(
    begun: JsonObject, body: JsonObject, answer: Answer, output: list[JsonObject] | None = None
) -> JsonObject:
    """Fill in, in place, what a response has when it is done; one that was cancelled stays so."""
    if begun["status"] == "cancelled":
        return begun
    begun["status"] = "incomplete" if answer.was_cut else "completed"
    begun["incomplete_details"] = {"reason": "max_output_tokens"} if answer.was_cut else None
    begun["output"] = output or _output(answer, begun["status"])
    begun["usage"] = _usage(plain_text(body["input"]), answer.size)
    return begun


def _question(begun: JsonObject, body: JsonObject) -> Question:
    """What a request asks for."""
    given = body["input"]
    last = given[-1:] if isinstance(given, list) else given
    match last:
        case [{"type": str(kind)}]:
            answers_call = kind.endswith("_call_output")
        case _:
            answers_call = False
    return Question(
        plain_text(last),
        [tool for tool in map(_tool, begun["tools"]) if tool],
        _choice(begun["tool_choice"]),
        answers_call=answers_call,
        parallel=begun["parallel_tool_calls"],
        schema=_schema(begun["text"]),
        most_pieces=begun["max_output_tokens"],
    )


def _tool(given: Any) -> Tool | None:
    match given:
        case {"type": "function", "name": str(name), **rest}:
            return Tool(name, rest.get("parameters"))
        case {"type": "custom", "name": str(name)}:
            return Tool(name, takes_text=True)
    return None  # what the API does itself is not simulated


def _choice(given: Any) -> Choice:
    match given:
        case "none" | "auto" | "required":
            return Choice(given)
        case {"type": "function" | "custom", "name": str(name)}:
            return Choice("required", (name,))
        case {"type": "allowed_tools", "mode": str(mode), "tools": list(tools)}:
            return Choice(mode, tuple(tool.name for tool in map(_tool, tools) if tool))
    return Choice()


def _schema(text: Any) -> Any:
    match text:
        case {"format": {"type": "json_schema", **described}}:
            return described.get("schema") or {}
        case {"format": {"type": "json_object"}}:
            return {}
    return None


def events(begun: JsonObject, body: JsonObject, answer: Answer) -> Iterator[Event]:
    """The events of a streamed response, numbered in order."""
    for number, (name, data) in enumerate(_story(begun, body, answer)):
        yield name, {"type": name, "sequence_number": number} | data


def _story(begun: JsonObject, body: JsonObject, answer: Answer) -> Iterator[tuple[str, JsonObject]]:
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    status = "incomplete" if answer.was_cut else "completed"
    output: list[JsonObject] = []
    if answer.calls:
        for index, call in enumerate(answer.calls):
            yield from _calling(index, call, status, output)
    else:
        yield from _saying(answer, status, output)
    _complete(begun, body, answer, output)
    yield f"response.{begun['status']}", {"response": begun}


def _saying(answer: Answer, status: str, output: list[JsonObject]) -> Iterator[tuple[str, JsonObject]]:
    """The events of a message, which is then the output's."""
    message = _message([], "in_progress")
    yield "response.output_item.added", {"output_index": 0, "item": message}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    yield "response.content_part.added", place | {"part": _part("")}
    for piece in answer.said:
        yield "response.output_text.delta", place | {"delta": piece, "logprobs": []}
    message |= {"content": [_part(answer.text)], "status": status}
    output.append(message)
    yield "response.output_text.done", place | {"text": answer.text, "logprobs": []}
    yield "response.content_part.done", place | {"part": _part(answer.text)}
    yield "response.output_item.done", {"output_index": 0, "item": message}


def _calling(
    index: int, call: ToolCall, status: str, output: list[JsonObject]
) -> Iterator[tuple[str, JsonObject]]:
    """The events of a call, which is then the output's."""
    item = _call_item(call, "in_progress")
    name, member = (
        ("custom_tool_call_input", "input")
        if call.tool.takes_text
        else (
            "function_call_arguments",
            "arguments",
        )
    )
    place = {"item_id": item["id"], "output_index": index}
    yield "response.output_item.added", {"output_index": index, "item": item}
    for piece in call.pieces:
        yield f"response.{name}.delta", place | {"delta": piece}
    whole = {member: "".join(call.pieces)}
    item |= whole | {"status": status}
    output.append(item)
    named = {} if call.tool.takes_text else {"name": call.tool.name}
    yield f"response.{name}.done", place | whole | named
    yield "response.output_item.done", {"output_index": index, "item": item}


def _usage(asked: str, written: int) -> JsonObject:
    read = size(asked)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


HANDLERS: Final[dict[str, Handler]] = {
    "createResponse": create_response,
    "getInputTokenCounts": count_input,
    "createConversation": create_conversation,
    "createConversationItems": create_items,
    "deleteConversationItem": delete_item,
}
