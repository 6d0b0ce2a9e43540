"""Two tenants on one upstream account, each with one stored object of every kind, made through the gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from gateway.operations.stored_kinds import StoredKinds
from gateway.operations.table import Operation
from tests.kit.asking import TABLE, Simulator, form, running_simulator
from tests.kit.client import FORM, JSON, RawAnswer, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.waiting import found

ACCOUNT_KEY = "sk-one-account-for-all"
CHAT = "/v1/chat/completions"
KINDS = StoredKinds.load()

BELOW = [operation for operation in TABLE if KINDS.place_of(operation).parent is not None]
"""All operations whose path begins with a stored object."""

LISTS = [operation for operation in TABLE if KINDS.place_of(operation).lists is not None]

_LINE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o","messages":[]}}\n'
_WORDS = {"type": "message", "role": "user", "content": "of {tenant}"}

# In their order: what others refer to comes first. The path of what is made, and what is sent.
_MAKINGS: tuple[tuple[str, str, object], ...] = (
    ("createFile", "/v1/files/{file_id}", [("purpose", b"batch"), ("file", _LINE)]),
    (
        "createUpload",
        "/v1/uploads/{upload_id}",
        {"filename": "a", "purpose": "batch", "bytes": 4, "mime_type": "text/x"},
    ),
    ("createVectorStore", "/v1/vector_stores/{vector_store_id}", {"file_ids": ["{file_id}"]}),
    (
        "createVectorStoreFileBatch",
        "/v1/vector_stores/{vector_store_id}/file_batches/{batch_id}",
        {"file_ids": ["{file_id}"]},
    ),
    ("createContainer", "/v1/containers/{container_id}", {"name": "of {tenant}"}),
    ("createContainerFile", "/v1/containers/{container_id}/files/{file_id}", [("file", b"of a tenant")]),
    ("createConversation", "/v1/conversations/{conversation_id}", {"items": [_WORDS]}),
    ("createResponse", "/v1/responses/{response_id}", {"model": "gpt-4o", "input": "of {tenant}"}),
    (
        "createChatCompletion",
        "/v1/chat/completions/{completion_id}",
        {"model": "gpt-4o", "store": True, "messages": [{"role": "user", "content": "of {tenant}"}]},
    ),
    ("createVideo", "/v1/videos/{video_id}", {"model": "sora-2", "prompt": "of {tenant}"}),
    ("createAssistant", "/v1/assistants/{assistant_id}", {"model": "gpt-4o", "name": "of {tenant}"}),
    ("createThread", "/v1/threads/{thread_id}", {"messages": [{"role": "user", "content": "of {tenant}"}]}),
    (
        "createMessage",
        "/v1/threads/{thread_id}/messages/{message_id}",
        {"role": "user", "content": "of {tenant}"},
    ),
    ("createRun", "/v1/threads/{thread_id}/runs/{run_id}", {"assistant_id": "{assistant_id}"}),
    (
        "createBatch",
        "/v1/batches/{batch_id}",
        {"input_file_id": "{file_id}", "endpoint": CHAT, "completion_window": "24h"},
    ),
)

# What else an operation needs beside the ids in its path, where `{}` will not do.
_BODIES: dict[str, object] = {
    "createResponse": {"model": "gpt-4o", "input": "x"},
    "createChatCompletion": {"model": "gpt-4o", "messages": []},
    "createConversationItems": {"items": [_WORDS]},
    "createVideoRemix": {"prompt": "x"},
    "createThreadAndRun": {"assistant_id": "{assistant_id}"},
    "createVectorStoreFile": {"file_id": "{file_id}"},
    "updateVectorStoreFileAttributes": {"attributes": {"x": 1}},
    "searchVectorStore": {"query": "x"},
    "completeUpload": {"part_ids": []},
    "submitToolOuputsToRun": {"tool_outputs": []},
    **{
        operation_id: body
        for operation_id, _, body in _MAKINGS
        if isinstance(body, dict) and operation_id not in ("createResponse", "createChatCompletion")
    },
}


@dataclass
class Stored:
    """The ids of what one tenant has stored, by the templates of paths."""

    tenant: str
    by_template: dict[str, str] = field(default_factory=dict)
    more: set[str] = field(default_factory=set)
    """Ids that no path ends with: items of answers, files of batches."""

    @property
    def ids(self) -> set[str]:
        """All of them."""
        return {*self.by_template.values(), *self.more}

    def target(self, template: str, *, but: Stored | None = None) -> str:
        """A path with the tenant's ids; `but`: what the path begins with is that one's."""
        filled = template
        for number, parameter in enumerate(re.finditer(r"\{\w+\}", template)):
            whose = but if but is not None and number == 0 else self
            filled = filled.replace(parameter[0], whose.by_template[template[: parameter.end()]], 1)
        return filled

    def body(self, document: object) -> bytes:
        """A document with the tenant's ids where it says `{file_id}` and the like."""
        names = {template.rpartition("/")[2]: named for template, named in reversed(self.by_template.items())}
        names["{tenant}"] = self.tenant
        return re.sub(r"\{\w+\}", lambda said: names[said[0]], orjson.dumps(document).decode()).encode()

    def of_kind(self, kind: str) -> str:
        """The id of an object of this kind."""
        path = KINDS[kind].path
        return self.by_template["item" if path is None else path]


@dataclass
class Account:
    """One upstream account, a gateway before it, and what its tenants `a` and `b` have stored there."""

    simulator: Simulator
    gateway: Gateway
    bodies: list[bytes]
    """Of the requests with JSON that the upstream was sent."""

    clients: dict[str, RawClient] = field(default_factory=dict)

    async def ask(
        self, tenant: str, method: str, target: str, body: object = None, headers: str | None = None
    ) -> RawAnswer:
        """The answer to one request of a tenant's."""
        if body is not None and not isinstance(body, bytes):
            body = orjson.dumps(body)
        if headers is None:
            headers = "" if body is None else JSON
        client = self.clients.get(tenant)
        if client is None:
            gateway = self.gateway
            credential = gateway.credential(tenant=tenant)
            client = await RawClient.connect(gateway.host, gateway.port, credential)
            self.clients[tenant] = client
        answer = await client.request(method, target, body, headers=headers)
        if not answer.clean_end or (answer.get("connection") or "").lower() == "close":
            await self.clients.pop(tenant).close()
        return answer

    async def close(self) -> None:
        for client in self.clients.values():
            await client.close()
        self.clients.clear()

    async def made_by(self, tenant: str) -> Stored:
        """Have a tenant make one of every kind."""
        stored = Stored(tenant)
        for operation_id, template, sent in _MAKINGS:
            operation = TABLE.by_id(operation_id)
            body, headers = _sent(stored, sent)
            answer = await self.ask(tenant, "POST", stored.target(operation.path), body, headers)
            made = orjson.loads(answer.body)
            assert answer.status == 200, (operation_id, made)
            stored.by_template[template] = made["id"]
            if operation_id == "createResponse":
                stored.by_template["item"] = made["output"][0]["id"]
        below = stored.by_template
        below["/v1/vector_stores/{vector_store_id}/files/{file_id}"] = below["/v1/files/{file_id}"]
        items = await self._first(tenant, stored, "/v1/conversations/{conversation_id}/items")
        below["/v1/conversations/{conversation_id}/items/{item_id}"] = items
        steps = "/v1/threads/{thread_id}/runs/{run_id}/steps"
        below[steps + "/{step_id}"] = await found(lambda: self._first(tenant, stored, steps))

        async def output() -> str:
            answer = await self.ask(tenant, "GET", stored.target("/v1/batches/{batch_id}"))
            batch = orjson.loads(answer.body)
            return str(batch["output_file_id"] or batch["error_file_id"] or "")

        stored.more.add(await found(output))
        return stored

    async def _first(self, tenant: str, stored: Stored, template: str) -> str:
        """The id of the first object of a list below one of the tenant's."""
        listed = orjson.loads((await self.ask(tenant, "GET", stored.target(template))).body)
        return str(listed["data"][0]["id"]) if listed["data"] else ""

    async def snapshot(self, stored: Stored) -> dict[str, tuple[int, bytes]]:
        """All of a tenant's that can be read, as the upstream itself answers it."""
        seen: dict[str, tuple[int, bytes]] = {}
        key = {"Authorization": f"Bearer {ACCOUNT_KEY}"}
        base = self.simulator.base_url.removesuffix("/v1")
        async with aiohttp.ClientSession(base, headers=key) as upstream:
            for operation in BELOW:
                if operation.method == "GET":
                    async with upstream.get(stored.target(operation.path)) as answer:
                        seen[operation.id] = answer.status, await answer.read()
        return seen


def _sent(stored: Stored, sent: object) -> tuple[bytes | None, str]:
    if isinstance(sent, list):
        return form(*sent), FORM
    return stored.body(sent), JSON


def request_of(operation: Operation, stored: Stored) -> tuple[bytes | None, str]:
    """What an operation is sent along, with the ids of whoever has stored these."""
    if operation.id == "addUploadPart":
        return form(("data", b"of A"), file_at=0), FORM
    if operation.id == "createContainerFile":
        return form(("file", b"more")), FORM
    if operation.method != "POST" or not operation.request_types:
        return None, ""
    return stored.body(_BODIES.get(operation.id, {})), JSON


def never_there(object_id: str) -> str:
    """An id of the same form that never was one's: the last half of it the other way round."""
    half = len(object_id) // 2
    turned = object_id[:half] + object_id[half:][::-1]
    return turned if turned != object_id else object_id[:-1] + ("0" if object_id[-1] != "0" else "1")


def with_unknown(text: bytes, ids: Iterable[str]) -> bytes:
    """The same text with ids that never were any in place of these."""
    for object_id in sorted(ids, key=len, reverse=True):
        text = text.replace(object_id.encode(), never_there(object_id).encode())
    return text


def without_ids(text: bytes, ids: Iterable[str]) -> bytes:
    """The same text whether it quotes one of these or what never was there."""
    for object_id in sorted(ids, key=len, reverse=True):
        text = text.replace(object_id.encode(), b"<id>").replace(never_there(object_id).encode(), b"<id>")
    return text


@asynccontextmanager
async def one_account(redis_url: str | None, **settings: Any) -> AsyncIterator[Account]:
    """A gateway whose tenants `a` and `b` share one account; nobody has stored anything yet."""
    bodies: list[bytes] = []
    async with running_simulator(keys=[ACCOUNT_KEY], bodies=bodies) as simulator:
        shared: dict[str, Any] = {
            "upstream": {"base_url": simulator.base_url, "api_key": ACCOUNT_KEY},
            "tenants": {"a": EVERY_SCOPE, "b": EVERY_SCOPE},
            **({} if redis_url is None else {"redis_url": redis_url}),
        }
        async with running_gateway(**shared | settings) as gateway:
            account = Account(simulator, gateway, bodies)
            try:
                yield account
            finally:
                await account.close()
