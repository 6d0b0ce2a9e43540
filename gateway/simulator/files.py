"""What is done with stored files: uploads in parts, batches, vector stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

import orjson

from gateway.simulator.call import Call, Handler, JsonObject, Reply, as_json
from gateway.simulator.chat import completion, text_completion
from gateway.simulator.errors import ApiError
from gateway.simulator.forms import Content
from gateway.simulator.kinds import KINDS
from gateway.simulator.responses import response
from gateway.simulator.store import Store, new_id, now
from gateway.simulator.vectors import embeddings, moderation

_FILES: Final = "/v1/files"
_BATCHES: Final = "/v1/batches"
_STORES: Final = "/v1/vector_stores"
# How long a batch stays in each of its two stages.
_BATCH_STAGE_PACES: Final = 10

_ENDPOINTS: Final[dict[str, Callable[[JsonObject], JsonObject]]] = {
    "/v1/chat/completions": completion,
    "/v1/completions": text_completion,
    "/v1/embeddings": embeddings,
    "/v1/moderations": moderation,
    "/v1/responses": response,
}


def new_file(store: Store, content: Content, purpose: str) -> JsonObject:
    fields = {"bytes": content.length_bytes, "filename": content.filename, "purpose": purpose}
    made = store.create(_FILES, KINDS["file"], fields)
    store.keep(f"{_FILES}/{made['id']}", content)
    return made


async def complete_upload(call: Call) -> Reply:
    """The parts become a file, in the order in which they are named."""
    body = await call.body("part_ids")
    path = "/v1/uploads/{upload_id}".format_map(call.params)
    upload = call.store.get(path)
    if upload["status"] != "pending":
        raise ApiError(400, f"Upload has status '{upload['status']}'.")
    parts = [_part(call.store, f"{path}/parts/{part_id}") for part_id in body["part_ids"]]
    content = Content.joined(upload["filename"], upload["mime_type"], parts)
    if content.length_bytes != upload["bytes"]:
        message = f"Expected {upload['bytes']} bytes, but the parts have {content.length_bytes}."
        raise ApiError(400, message, param="part_ids")
    upload |= {"status": "completed", "file": new_file(call.store, content, upload["purpose"])}
    return as_json(upload)


def _part(store: Store, path: str) -> Content:
    store.get(path)
    return store.content(path) or Content.of("part", "application/octet-stream", b"")


async def create_batch(call: Call) -> Reply:
    body = await call.body("input_file_id", "endpoint", "completion_window")
    file = call.store.get(f"{_FILES}/{body['input_file_id']}")
    if file["purpose"] != "batch":
        raise ApiError(400, "The input file must have the purpose 'batch'.", param="input_file_id")
    if body["endpoint"] not in _ENDPOINTS:
        raise ApiError(400, f"Batches know no endpoint '{body['endpoint']}'.", param="endpoint")
    batch = call.store.create(_BATCHES, KINDS["batch"], body)
    call.later(_BATCH_STAGE_PACES, partial(_begin_batch, batch))
    call.later(2 * _BATCH_STAGE_PACES, partial(_end_batch, call.store, batch))
    return as_json(batch)


def _begin_batch(batch: JsonObject) -> None:
    if batch["status"] == "validating":
        batch |= {"status": "in_progress", "in_progress_at": now()}


def _end_batch(store: Store, batch: JsonObject) -> None:
    """Answer every line of the input file into an output file; a cancelled batch answers none."""
    if batch["status"] == "cancelling":
        batch |= {"status": "cancelled", "cancelled_at": now()}
    if batch["status"] != "in_progress":
        return
    content = store.content(f"{_FILES}/{batch['input_file_id']}")
    lines = [_answered(line, batch["endpoint"]) for line in (content.kept if content else b"").splitlines()]
    output = b"".join(orjson.dumps(line) + b"\n" for line in lines)
    file = new_file(store, Content.of("output.jsonl", "application/jsonl", output), "batch_output")
    answers = [line["response"]["body"] for line in lines if line["response"] is not None]
    failed = len(lines) - len(answers)
    counts = {"total": len(lines), "completed": len(answers), "failed": failed}
    done = {"status": "completed", "completed_at": now(), "finalizing_at": now()}
    model = next((answer["model"] for answer in answers), None)
    batch |= done | {"output_file_id": file["id"], "request_counts": counts, "model": model}
    batch["usage"] = _used(answers)


def _used(answers: Iterable[JsonObject]) -> JsonObject:
    """What a batch used, in its own words whatever its endpoint calls it."""
    read = written = 0
    for answer in answers:
        usage = answer.get("usage") or {}
        read += usage.get("input_tokens", usage.get("prompt_tokens", 0))
        written += usage.get("output_tokens", usage.get("completion_tokens", 0))
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": read + written,
    }


def _answered(line: bytes, endpoint: str) -> JsonObject:
    answered: JsonObject = {"id": new_id("batch_req_"), "custom_id": None, "response": None, "error": None}
    try:
        request = orjson.loads(line)
        answered["custom_id"] = request["custom_id"]
        body = _ENDPOINTS[endpoint](request["body"])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        return answered | {
            "error": {"code": "invalid_request", "message": f"This line is not a request: {error!r}"}
        }
    return answered | {"response": {"status_code": 200, "request_id": new_id("req_"), "body": body}}


async def create_vector_store(call: Call) -> Reply:
    body = await call.body()
    made = call.store.create(_STORES, KINDS["vector_store"], body | {"file_counts": _counts(0)})
    _add_files(call.store, made, body.get("file_ids") or [])
    return as_json(made)


async def create_vector_store_file(call: Call) -> Reply:
    body = await call.body("file_id")
    owner = _vector_store(call)
    return as_json(_add_files(call.store, owner, [body["file_id"]], body)[0])


async def create_file_batch(call: Call) -> Reply:
    body = await call.body()
    owner = _vector_store(call)
    named = body.get("files") or [{"file_id": file_id} for file_id in body.get("file_ids") or []]
    _add_files(call.store, owner, [file["file_id"] for file in named])
    counts = _counts(len(named))
    fields = {"vector_store_id": owner["id"], "file_counts": counts}
    kind = KINDS["vector_store_file_batch"]
    return as_json(call.store.create(f"{_STORES}/{owner['id']}/file_batches", kind, fields))


async def search_vector_store(call: Call) -> Reply:
    """Every file is found, none was read."""
    body = await call.body("query")
    owner = _vector_store(call)
    query = body["query"]
    hits = [
        {
            "file_id": file["id"],
            "filename": call.store.get(f"{_FILES}/{file['id']}")["filename"],
            "score": 0.5,
            "attributes": file["attributes"],
            "content": [{"type": "text", "text": f"Simulated search result for: {query}"}],
        }
        for file in call.store.all(f"{_STORES}/{owner['id']}/files")[: body.get("max_num_results") or 10]
    ]
    head = {"object": "vector_store.search_results.page", "has_more": False, "next_page": None}
    return as_json(head | {"search_query": query if isinstance(query, list) else [query], "data": hits})


def _vector_store(call: Call) -> JsonObject:
    return call.store.get(f"{_STORES}/{call.params['vector_store_id']}")


def _add_files(
    store: Store, owner: JsonObject, file_ids: list[str], fields: JsonObject | None = None
) -> list[JsonObject]:
    added = []
    for file_id in file_ids:
        size_bytes = store.get(f"{_FILES}/{file_id}")["bytes"]
        given = (fields or {}) | {"vector_store_id": owner["id"], "usage_bytes": size_bytes}
        added.append(
            store.create(f"{_STORES}/{owner['id']}/files", KINDS["vector_store_file"], given, id=file_id)
        )
        owner["usage_bytes"] += size_bytes
    owner["file_counts"] = _counts(owner["file_counts"]["total"] + len(added))
    return added


def _counts(completed: int) -> JsonObject:
    return {"in_progress": 0, "completed": completed, "failed": 0, "cancelled": 0, "total": completed}


HANDLERS: Final[dict[str, Handler]] = {
    "completeUpload": complete_upload,
    "createBatch": create_batch,
    "createVectorStore": create_vector_store,
    "createVectorStoreFile": create_vector_store_file,
    "createVectorStoreFileBatch": create_file_batch,
    "searchVectorStore": search_vector_store,
}
