"""Threads, messages and runs of the Assistants API: a run is played as its events, streamed or not."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

from gateway.simulator.call import Call, Event, Handler, JsonObject, Reply, as_json
from gateway.simulator.errors import ApiError
from gateway.simulator.kinds import KINDS
from gateway.simulator.store import Store, new_id, now
from gateway.simulator.wording import pieces, plain_text, simulated_answer, size

_DONE: Final[Event] = ("done", "[DONE]")
_INHERITED: Final = ("model", "instructions", "tools", "temperature", "top_p", "response_format")
# How long a run that nobody watches takes.
_RUN_PACES: Final = 10


async def create_thread(call: Call) -> Reply:
    return as_json(_new_thread(call.store, await call.body()))


async def create_message(call: Call) -> Reply:
    thread_id = call.params["thread_id"]
    call.store.get(f"/v1/threads/{thread_id}")
    return as_json(_new_message(call.store, thread_id, await call.body("role", "content")))


async def create_run(call: Call) -> Reply:
    body = await call.body("assistant_id")
    thread_id = call.params["thread_id"]
    call.store.get(f"/v1/threads/{thread_id}")
    for message in body.pop("additional_messages", None) or []:
        _new_message(call.store, thread_id, message)
    return _answer(call, body, _new_run(call.store, thread_id, body), [])


async def create_thread_and_run(call: Call) -> Reply:
    body = await call.body("assistant_id")
    _assistant(call.store, body)
    thread = _new_thread(call.store, body.pop("thread", None) or {})
    run = _new_run(call.store, thread["id"], body)
    return _answer(call, body, run, [("thread.created", thread)])


async def submit_tool_outputs(call: Call) -> Reply:
    body = await call.body("tool_outputs")
    run = call.store.get("/v1/threads/{thread_id}/runs/{run_id}".format_map(call.params))
    if run["status"] != "requires_action":
        raise ApiError(400, f"Runs in status '{run['status']}' do not accept tool outputs.")
    outputs = {output.get("tool_call_id"): output.get("output") for output in body["tool_outputs"]}
    step = _end_tool_calls(call.store, run, outputs)
    run |= {"status": "queued", "required_action": None}
    return _answer(call, body, run, [("thread.run.step.completed", step)])


def _answer(call: Call, body: JsonObject, run: JsonObject, before: list[Event]) -> Reply:
    """The run's events, or the run as it stands while it goes on by itself."""
    fresh = run["started_at"] is None
    opening: list[Event] = [*before, ("thread.run.created", run)] if fresh else before
    events = _play(call.store, run)
    if body.get("stream"):
        return call.events(chain(opening, events))
    call.later(_RUN_PACES, lambda: deque(events, maxlen=0))
    return as_json(run)


def _play(store: Store, run: JsonObject) -> Iterator[Event]:
    """Everything that happens in a run, done as it is told. A run cancelled meanwhile ends as cancelled."""
    yield "thread.run.queued", run
    if run["status"] == "queued":
        run |= {"status": "in_progress", "started_at": run["started_at"] or now()}
        yield "thread.run.in_progress", run
    path = f"/v1/threads/{run['thread_id']}/runs/{run['id']}/steps"
    names = [tool["function"].get("name") for tool in run["tools"] if "function" in tool]
    if run["status"] == "in_progress" and names and not store.all(path):
        yield from _call_tools(store, run, path, names)
        return
    if run["status"] == "in_progress":
        yield from _write_message(store, run, path)
    if run["status"] == "cancelled":
        yield "thread.run.cancelled", run
    yield _DONE


def _call_tools(store: Store, run: JsonObject, path: str, names: list[str]) -> Iterator[Event]:
    calls: list[JsonObject] = [
        {"id": new_id("call_"), "type": "function", "function": {"name": name, "arguments": "{}"}}
        for name in names
    ]
    shown = [call | {"function": {**call["function"], "output": None}} for call in calls]
    step = _new_step(store, run, path, {"type": "tool_calls", "tool_calls": shown})
    yield "thread.run.step.created", step
    yield "thread.run.step.in_progress", step
    action = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": calls}}
    run |= {"status": "requires_action", "required_action": action}
    yield "thread.run.requires_action", run
    yield _DONE


def _end_tool_calls(store: Store, run: JsonObject, outputs: dict[str, str]) -> JsonObject:
    step = store.all(f"/v1/threads/{run['thread_id']}/runs/{run['id']}/steps")[-1]
    calls = [
        call | {"function": call["function"] | {"output": outputs.get(call["id"])}}
        for call in step["step_details"]["tool_calls"]
    ]
    details = {"type": "tool_calls", "tool_calls": calls}
    step |= {"status": "completed", "completed_at": now(), "step_details": details, "usage": _usage("", 0)}
    return step


def _write_message(store: Store, run: JsonObject, path: str) -> Iterator[Event]:
    messages = f"/v1/threads/{run['thread_id']}/messages"
    asked = [plain_text(m) for m in store.all(messages) if m["role"] == "user"]
    said = pieces(simulated_answer(asked[-1] if asked else ""))
    body = {"role": "assistant", "content": [], "status": "in_progress"}
    owner = {"assistant_id": run["assistant_id"], "run_id": run["id"]}
    message = _new_message(store, run["thread_id"], body | owner)
    creation = {"type": "message_creation", "message_creation": {"message_id": message["id"]}}
    step = _new_step(store, run, path, creation)
    yield "thread.run.step.created", step
    yield "thread.run.step.in_progress", step
    yield "thread.message.created", message
    yield "thread.message.in_progress", message
    for piece in said:
        part = {"index": 0, "type": "text", "text": {"value": piece, "annotations": []}}
        delta = {"id": message["id"], "object": "thread.message.delta", "delta": {"content": [part]}}
        yield "thread.message.delta", delta
    usage = _usage(" ".join(asked), len(said))
    done = {"status": "completed", "completed_at": now()}
    message |= done | {"content": _text_parts("".join(said))}
    yield "thread.message.completed", message
    step |= done | {"usage": usage}
    yield "thread.run.step.completed", step
    if run["status"] != "cancelled":
        run |= done | {"usage": usage, "expires_at": None}
        yield "thread.run.completed", run


def _new_thread(store: Store, body: JsonObject) -> JsonObject:
    messages = body.pop("messages", None) or []
    thread = store.create("/v1/threads", KINDS["thread"], body)
    for message in messages:
        _new_message(store, thread["id"], message)
    return thread


def _new_message(store: Store, thread_id: str, body: JsonObject) -> JsonObject:
    content = body["content"]
    if isinstance(content, str):
        content = _text_parts(content)
    else:
        content = [_text_parts(part["text"])[0] if part["type"] == "text" else part for part in content]
    fields = body | {"thread_id": thread_id, "content": content}
    return store.create(f"/v1/threads/{thread_id}/messages", KINDS["message"], fields)


def _text_parts(text: str) -> list[JsonObject]:
    return [{"type": "text", "text": {"value": text, "annotations": []}}]


def _assistant(store: Store, body: JsonObject) -> JsonObject:
    return store.get(f"/v1/assistants/{body['assistant_id']}")


def _new_run(store: Store, thread_id: str, body: JsonObject) -> JsonObject:
    assistant = _assistant(store, body)
    inherited: dict[str, Any] = {name: assistant[name] for name in _INHERITED}
    inherited["instructions"] = inherited["instructions"] or ""
    asked = {name: value for name, value in body.items() if value is not None and name != "stream"}
    fields = inherited | asked | {"thread_id": thread_id}
    return store.create(f"/v1/threads/{thread_id}/runs", KINDS["run"], fields)


def _new_step(store: Store, run: JsonObject, path: str, details: JsonObject) -> JsonObject:
    fields = {name: run[name] for name in ("thread_id", "assistant_id")} | {"run_id": run["id"]}
    fields |= {"type": details["type"], "status": "in_progress", "step_details": details}
    return store.create(path, KINDS["run_step"], fields)


def _usage(asked: str, answered: int) -> JsonObject:
    read = size(asked)
    return {"prompt_tokens": read, "completion_tokens": answered, "total_tokens": read + answered}


HANDLERS: Final[dict[str, Handler]] = {
    "createThread": create_thread,
    "createMessage": create_message,
    "createRun": create_run,
    "createThreadAndRun": create_thread_and_run,
    "submitToolOuputsToRun": submit_tool_outputs,
}
