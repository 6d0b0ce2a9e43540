"""The Responses API, as JSON and as server-sent events, and the conversations beside it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from gateway.simulator.call import Call, Event, Handler, JsonObject, Reply, as_json
from gateway.simulator.kinds import KINDS
from gateway.simulator.store import Store, new_id, now
from gateway.simulator.wording import pieces, plain_text, simulated_answer, size

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
    return _complete(_begun(body), body)


async def create_response(call: Call) -> Reply:
    body = await call.body("model", "input")
    begun = begin(call.store, body)
    if body.get("stream"):
        return call.events(events(begun, body))
    if begun["background"]:
        begun["status"] = "queued"
        call.later(10, partial(_complete, begun, body))
        return as_json(begun)
    return as_json(_complete(begun, body))


def begin(store: Store, body: JsonObject) -> JsonObject:
    """A response that begins, and is stored unless it asks not to be."""
    begun = _begun(body)
    if begun["store"]:
        store.put(_COLLECTION, begun)
        for item in _items(body["input"]):
            store.put(f"{_COLLECTION}/{begun['id']}/input_items", item)
    return begun


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


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _complete(begun: JsonObject, body: JsonObject, message: JsonObject | None = None) -> JsonObject:
    """Fill in, in place, what a response has when it is done; one that was cancelled stays so."""
    if begun["status"] == "cancelled":
        return begun
    said = _said(body)
    limit = begun["max_output_tokens"]
    cut = limit is not None and len(said) > limit
    begun["status"] = "incomplete" if cut else "completed"
    begun["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
    begun["output"] = [message or _message(said[:limit], begun["status"])]
    begun["usage"] = _usage(plain_text(body["input"]), "".join(said[:limit]))
    return begun


def _said(body: JsonObject) -> list[str]:
    given = body["input"]
    return pieces(simulated_answer(plain_text(given[-1:] if isinstance(given, list) else given)))


def events(begun: JsonObject, body: JsonObject) -> Iterator[Event]:
    """The events of a streamed response, numbered in order."""
    for number, (name, data) in enumerate(_story(begun, body)):
        yield name, {"type": name, "sequence_number": number} | data


def _story(begun: JsonObject, body: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    said = _said(body)[: begun["max_output_tokens"]]
    message = _message([], "in_progress")
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    yield "response.output_item.added", {"output_index": 0, "item": message}
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    yield "response.content_part.added", place | {"part": _part("")}
    for piece in said:
        yield "response.output_text.delta", place | {"delta": piece, "logprobs": []}
    text = "".join(said)
    message["content"] = [_part(text)]
    _complete(begun, body, message)
    message["status"] = begun["status"]
    yield "response.output_text.done", place | {"text": text, "logprobs": []}
    yield "response.content_part.done", place | {"part": _part(text)}
    yield "response.output_item.done", {"output_index": 0, "item": message}
    yield f"response.{begun['status']}", {"response": begun}


def _usage(asked: str, said: str) -> JsonObject:
    read, written = size(asked), len(pieces(said))
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
