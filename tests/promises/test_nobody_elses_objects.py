"""Two tenants behind one upstream key: neither reaches, changes or learns of what the other has stored.

B knows every id of A's, and tries each at every place that the API has. What it is told is what it would be told of an
id that never was one, and the upstream is not asked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import pytest_asyncio

from gateway.operations.table import Operation
from tests.kit.asking import TABLE, form
from tests.kit.client import FORM, JSON
from tests.kit.one_account import (
    BELOW,
    KINDS,
    LISTS,
    Account,
    Stored,
    never_there,
    one_account,
    request_of,
    with_unknown,
    without_ids,
)
from tests.kit.redis import RedisServer, running_redis

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Situation:
    """Both have stored one of everything."""

    account: Account
    redis: RedisServer
    a: Stored
    b: Stored

    async def told(
        self, method: str, target: str, body: bytes | None = None, headers: str | None = None
    ) -> tuple[int, list[str], bytes, int]:
        """What B is told: status, names of header fields, body, and how often the upstream was asked for it."""
        account = self.account
        asked, sent = len(account.simulator.asked), len(account.bodies)
        answer = await account.ask("b", method, target, body, headers)
        reached = account.simulator.asked[asked:]
        for text in (*(seen.encode() for _, seen in reached), *account.bodies[sent:]):
            assert not any(object_id.encode() in text for object_id in self.foreign), (
                method,
                target,
                body,
                text,
            )
        names = sorted(name.lower() for name, _ in answer.fields)
        return answer.status, names, without_ids(answer.body, self.foreign), len(reached)

    @property
    def foreign(self) -> set[str]:
        """What is A's alone."""
        return self.a.ids - self.b.ids

    async def no_oracle(
        self, method: str, target: str, body: bytes | None = None, headers: str | None = None
    ) -> tuple[int, int]:
        """Fails unless B hears the same of A's ids and of such as never were; returns the status, and how often the
        upstream was asked.
        """
        foreign = await self.told(method, target, body, headers)
        unknown = await self.told(
            method,
            with_unknown(target.encode(), self.foreign).decode(),
            None if body is None else with_unknown(body, self.foreign),
            None if headers is None else with_unknown(headers.encode(), self.foreign).decode(),
        )
        # A form may have begun to go up when the field came that is refused; it has no end there.
        compared = 3 if headers == FORM else 4
        assert foreign[:compared] == unknown[:compared], (method, target, body)
        return foreign[0], foreign[3]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def situation() -> AsyncIterator[Situation]:
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis())
        account = await stack.enter_async_context(one_account(redis.url))
        yield Situation(account, redis, await account.made_by("a"), await account.made_by("b"))


def escaped(target: str, ids: Iterable[str]) -> str:
    """The same path with the first letter of each id as a percent escape."""
    steps = (f"%{ord(step[0]):X}{step[1:]}" if step in ids else step for step in target.split("/"))
    return "/".join(steps)


# In paths


@pytest.mark.parametrize("way", ["plainly", "percent-encoded", "as HEAD", "with a query"])
async def test_no_path_leads_to_what_is_anothers(situation: Situation, way: str) -> None:
    before = await situation.account.snapshot(situation.a)
    statuses = {}
    for operation in BELOW:
        method, target = operation.method, situation.a.target(operation.path)
        body, headers = request_of(operation, situation.b)
        match way:
            case "percent-encoded":
                target = escaped(target, situation.a.ids)
            case "as HEAD" if method == "GET":
                method = "HEAD"
            case "with a query":
                target += "?limit=2&order=asc&include[]=x"
        status, asked = await situation.no_oracle(method, target, body, headers)
        statuses[operation.id] = status, asked
    assert statuses == dict.fromkeys(statuses, (404, 0))
    assert len(statuses) >= 60
    assert await situation.account.snapshot(situation.a) == before


async def test_below_what_is_ones_own_nothing_of_anothers_is_found(situation: Situation) -> None:
    before = await situation.account.snapshot(situation.a)
    for operation in BELOW:
        if operation.path.count("{") < 2:
            continue
        target = situation.a.target(operation.path, but=situation.b)
        body, headers = request_of(operation, situation.b)
        account = situation.account
        answer = await account.ask("b", operation.method, target, body, headers)
        # What stands below decides; of one list the simulator asks only for what is above.
        assert answer.status == 404 or operation.id == "listFilesInVectorStoreBatch", (operation.id, answer)
        assert b"of a" not in answer.body
        assert not any(
            quoted.encode() in answer.body for quoted in situation.foreign - set(target.split("/"))
        )
    assert await situation.account.snapshot(situation.a) == before


async def test_whoever_has_stored_it_reaches_all_of_it(situation: Situation) -> None:
    account = situation.account
    last = await account.made_by("a")
    order = sorted(
        BELOW, key=lambda o: (o.object_action == "delete", o.path.count("{") == 1, -o.path.count("{"))
    )
    for operation in order:
        body, headers = request_of(operation, last)
        asked = len(account.simulator.asked)
        answer = await account.ask("a", operation.method, last.target(operation.path), body, headers)
        assert len(account.simulator.asked) > asked, (operation.id, answer)
        assert answer.status in (200, 400), (operation.id, answer)  # 400: cancelling what has ended, and such
        if operation.object_action != "update":
            assert answer.status == 200, (operation.id, answer)


# In bodies

NAMING: list[tuple[str, str]] = [
    (kind.name, member)
    for kind in KINDS.kinds.values()
    for member in kind.named_by
    if member != "item_reference"
]
"""Kinds, and the members of bodies by which they are named."""


def is_part(operation: Operation, member: str) -> bool:
    """Whether it names a part of the object with which the path begins, which decides."""
    parent = KINDS.place_of(operation).parent
    return parent is not None and member in parent.below


def shapes(kind: str, member: str, object_id: str) -> dict[str, dict[str, Any]]:
    """Bodies that name one, by where they do."""
    plural = member.endswith("s")
    value: Any = [object_id] if plural else object_id
    said = {member: value}
    found = {
        "beside": said,
        "in a tool": {"tools": [{"type": "x", **said}]},
        "in an input item": {"input": [{"role": "user", "content": [{"type": "input_file", **said}]}]},
        "deeply nested": {"x": [[{"y": [{"z": [[[said]]]}]}]]},
        "among others": {"x": [1, None, "y", {"y": 1.5}, said, {"z": True}]},
        "in an attachment": {"attachments": [{"tools": [{"type": "x"}], **said}]},
        "in tool resources": {"tool_resources": {"file_search": said, "code_interpreter": said}},
        "in a session": {"session": {"type": "realtime", **said}},
        "in a response": {"response": said},
    }
    if not plural:
        found["as an object"] = {member: {"id": object_id}}
    if kind == "file":
        found["of a container"] = {"tools": [{"container": {"type": "auto", **said}}]}
        found["as a part"] = {"messages": [{"role": "user", "content": [{"type": "file", "file": said}]}]}
    return found


ITEMS: dict[str, dict[str, Any]] = {
    "as a reference": {"input": [{"type": "item_reference", "id": "{}"}]},
    "without a type": {"input": [{"id": "{}"}]},
    "of type null": {"input": [{"type": None, "id": "{}"}]},
    "with content": {"input": [{"type": "item_reference", "id": "{}", "content": "x"}]},
    "a reasoning without content": {"input": [{"type": "reasoning", "id": "{}", "summary": []}]},
    "an image without a result": {"input": [{"type": "image_generation_call", "id": "{}"}]},
    "of a conversation": {"items": [{"type": "item_reference", "id": "{}"}]},
}

ALL_SHAPES = ("createResponse", "createChatCompletion", "createThreadAndRun")

TAKE_JSON = [
    operation
    for operation in TABLE
    if "application/json" in operation.request_types
    and not operation.is_administration
    and not operation.is_session
    and KINDS.place_of(operation).closed is None
    and (operation.is_contained or operation.object_kind != "none")
]


def sent_along(operation: Operation, stored: Stored) -> dict[str, Any]:
    """What else the body has: what is B's own, and a model where one is wanted."""
    body, headers = request_of(operation, stored)
    document: dict[str, Any] = orjson.loads(body) if body and headers == JSON else {}
    return {"model": "gpt-4o", "input": "x", **document}


@pytest.mark.parametrize(("kind", "member"), NAMING)
async def test_no_member_of_a_body_leads_to_what_is_anothers(
    situation: Situation, kind: str, member: str
) -> None:
    before = await situation.account.snapshot(situation.a)
    verdicts = {}
    for operation in TAKE_JSON:
        target = situation.b.target(operation.path)
        also = sent_along(operation, situation.b)
        for shape, naming in shapes(kind, member, situation.a.of_kind(kind)).items():
            if operation.id not in ALL_SHAPES and shape not in ("beside", "deeply nested"):
                continue
            if is_part(operation, member):
                continue
            verdict = await situation.no_oracle("POST", target, orjson.dumps(also | naming), JSON)
            verdicts[operation.id, shape] = verdict
    reached = {place: told for place, told in verdicts.items() if told[1]}
    assert reached == {}
    assert {status for status, _ in verdicts.values()} <= {400, 403, 404}
    assert await situation.account.snapshot(situation.a) == before


@pytest.mark.parametrize("shape", ITEMS)
@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/compact", "/v1/responses/input_tokens"])
async def test_no_item_leads_to_what_is_anothers(situation: Situation, path: str, shape: str) -> None:
    text = orjson.dumps({"model": "gpt-4o", "input": "x", **ITEMS[shape]}).replace(
        b"{}", situation.a.of_kind("item").encode()
    )
    status, asked = await situation.no_oracle("POST", path, text, JSON)
    assert (status, asked) == (404, 0)
    own = text.replace(situation.a.of_kind("item").encode(), situation.b.of_kind("item").encode())
    answer = await situation.account.ask("b", "POST", path, own)
    assert answer.status == 200, answer


async def test_whoever_has_stored_it_names_it_in_bodies(situation: Situation) -> None:
    b = situation.b
    for naming in (
        {"previous_response_id": b.of_kind("response")},
        {"conversation": b.of_kind("conversation")},
        {"conversation": {"id": b.of_kind("conversation")}},
        {"tools": [{"type": "file_search", "vector_store_ids": [b.of_kind("vector_store")]}]},
        {"tools": [{"type": "code_interpreter", "container": b.of_kind("container")}]},
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": b.of_kind("file")}]}]},
    ):
        body = {"model": "gpt-4o", "input": "x"} | naming
        answer = await situation.account.ask("b", "POST", "/v1/responses", body)
        assert answer.status == 200, (naming, answer)


# In forms

FORMS = [
    operation
    for operation in TABLE
    if "multipart/form-data" in operation.request_types
    and not operation.is_administration
    and KINDS.place_of(operation).closed is None
    and operation.is_contained
]


@pytest.mark.parametrize(("kind", "member"), [one for one in NAMING if one[1] not in ("video", "container")])
async def test_no_field_of_a_form_leads_to_what_is_anothers(
    situation: Situation, kind: str, member: str
) -> None:
    object_id = situation.a.of_kind(kind).encode()
    verdicts = {}
    for operation in FORMS:
        if is_part(operation, member):
            continue
        for field in (member, f"{member}[]", f"x[{member}]", f"image[][{member}]"):
            parts = [("model", b"gpt-4o"), (field, object_id), ("purpose", b"batch"), ("file", b"x")]
            target = situation.b.target(operation.path)
            verdicts[operation.id, field] = await situation.no_oracle("POST", target, form(*parts), FORM)
    assert {place: told for place, told in verdicts.items() if told[1] and told[0] < 400} == {}
    assert {status for status, _ in verdicts.values()} <= {400, 403, 404}


# In queries and header fields


@pytest.mark.parametrize(("kind", "member"), [one for one in NAMING if one[1] != "video"])
async def test_no_parameter_of_a_query_leads_to_what_is_anothers(
    situation: Situation, kind: str, member: str
) -> None:
    object_id = situation.a.of_kind(kind)
    verdicts = {}
    for operation in (*BELOW, *LISTS, TABLE.by_id("createResponse"), TABLE.by_id("createFile")):
        if operation.object_action in ("delete", "update") or is_part(operation, member):
            continue
        target = situation.b.target(operation.path)
        body, headers = request_of(operation, situation.b)
        for query in (f"{member}={object_id}", f"{member}[]={object_id}", f"limit=1&x[{member}]={object_id}"):
            verdict = await situation.no_oracle(operation.method, f"{target}?{query}", body, headers)
            verdicts[operation.id, query] = verdict
    assert {place: told for place, told in verdicts.items() if told[1]} == {}
    assert {status for status, _ in verdicts.values()} <= {400, 403, 404}


@pytest.mark.parametrize("cursor", ["after", "before"])
async def test_no_cursor_of_a_list_leads_to_what_is_anothers(situation: Situation, cursor: str) -> None:
    verdicts = {}
    for operation in LISTS:
        kind = KINDS.place_of(operation).lists
        assert kind is not None
        object_id = situation.a.of_kind(kind.name)
        for query in (f"{cursor}={object_id}", f"limit=1&order=asc&{cursor}={object_id}"):
            target = f"{operation.path}?{query}"
            verdicts[operation.id, query] = await situation.no_oracle("GET", target)
    assert {told[0] for told in verdicts.values()} <= {400, 404}, verdicts
    assert {told[1] for told in verdicts.values()} == {0}


async def test_lists_have_what_is_ones_own_whatever_they_are_asked_for(situation: Situation) -> None:
    for operation in LISTS:
        kind = KINDS.place_of(operation).lists
        assert kind is not None
        for query in (
            "",
            "?limit=100",
            "?order=asc",
            "?limit=1&order=desc",
            "?purpose=batch",
            "?model=gpt-4o",
        ):
            answer = await situation.account.ask("b", "GET", operation.path + query)
            assert answer.status == 200, (operation.id, answer)
            listed = {one["id"] for one in orjson.loads(answer.body)["data"]}
            assert not listed & situation.foreign, operation.id
            assert not any(object_id.encode() in answer.body for object_id in situation.foreign), operation.id
        listed = set(
            re.findall(
                r'"id": ?"([^"]+)"', (await situation.account.ask("b", "GET", operation.path)).body.decode()
            )
        )
        assert situation.b.of_kind(kind.name) in listed, operation.id


@pytest.mark.parametrize(
    "name",
    ["X-File-Id", "OpenAI-Conversation", "Idempotency-Key", "X-Stainless-Id", "Cookie", "Prefer", "Range"],
)
async def test_no_header_field_leads_to_what_is_anothers(situation: Situation, name: str) -> None:
    account = situation.account
    for kind in KINDS.kinds.values():
        object_id = situation.a.of_kind(kind.name)
        for value in (object_id, never_there(object_id)):
            answer = await account.ask("b", "GET", "/v1/files", headers=f"{name}: {value}\r\n")
            assert not any(one.encode() in answer.body for one in situation.foreign)
            assert answer.status == 200


# What it costs, which tells as well


def commands(redis: RedisServer) -> int:
    """Scripts that the store has run."""
    said = redis.command("INFO", "commandstats")
    return sum(map(int, re.findall(r"cmdstat_evalsha:calls=(\d+)", said)))


async def test_anothers_object_makes_no_more_work_than_nobodys(situation: Situation) -> None:
    """As many calls to the store, and none upstream; `tests/benchmarks/oracles.py` compares times."""
    rounds = 100
    for kind in ("file", "response", "thread", "vector_store"):
        path = KINDS[kind].path
        assert path is not None
        foreign = situation.a.target(path)
        unknown = foreign.replace(situation.a.of_kind(kind), never_there(situation.a.of_kind(kind)))
        spent = []
        for target in (foreign, unknown):
            before = commands(situation.redis)
            for _ in range(rounds):
                assert (await situation.told("GET", target))[0] == 404
            spent.append(commands(situation.redis) - before)
        # One each, and what the gateway does beside requests, a few times a second.
        assert all(rounds <= calls <= rounds + 20 for calls in spent), (kind, spent)


# What was forgotten elsewhere


async def test_ids_are_checked_as_the_upstream_has_them(situation: Situation) -> None:
    """Nothing is encoded, so that nothing can be had by its raw name."""
    account, file_id = situation.account, situation.a.of_kind("file")
    answer = await account.ask("a", "GET", f"/v1/files/{file_id}")
    assert orjson.loads(answer.body)["id"] == file_id
    assert (await situation.told("GET", f"/v1/files/{file_id}"))[0] == 404


@pytest.mark.parametrize("stream", [False, True])
async def test_every_event_of_a_stream_may_be_the_first_to_say_what_is_made(
    situation: Situation, stream: bool
) -> None:
    account = situation.account
    body = {"model": "gpt-4o", "input": "x", "stream": stream}
    answer = await account.ask("a", "POST", "/v1/responses", body)
    [response_id] = set(re.findall(rb'"id": ?"(resp_\w+)"', answer.body))
    target = f"/v1/responses/{response_id.decode()}"
    assert (await account.ask("a", "GET", target)).status == 200
    assert (await situation.told("GET", target))[0] == 404


async def test_no_other_spelling_of_a_path_leads_there(situation: Situation) -> None:
    file_id = situation.a.of_kind("file")
    for target in (
        f"/v1/files/{file_id}/",
        f"/v1//files/{file_id}",
        f"/v1/Files/{file_id}",
        f"/v1/%66iles/{file_id}",
        f"/v1/files/../files/{file_id}",
        f"/v1/files/{file_id}%2Fcontent",
        f"/files/{file_id}",
        f"/openai/v1/files/{file_id}",
        f"/v1/files/{file_id};x",
        f"http://elsewhere/v1/files/{file_id}",
    ):
        status, _, _, asked = await situation.told("GET", target)
        assert status in (400, 403, 404), target
        assert asked == 0, target


async def test_what_a_batch_has_made_is_whose_the_batch_is(situation: Situation) -> None:
    account, [output] = situation.account, situation.a.more
    for target in (f"/v1/files/{output}", f"/v1/files/{output}/content"):
        assert (await account.ask("a", "GET", target)).status == 200
        assert (await situation.told("GET", target))[0] == 404
    listed = orjson.loads((await account.ask("a", "GET", "/v1/files")).body)["data"]
    assert output in {file["id"] for file in listed}, "its own list has it"
    [batch] = orjson.loads((await account.ask("b", "GET", "/v1/batches")).body)["data"]
    assert batch["id"] == situation.b.of_kind("batch")
    assert output not in {batch["output_file_id"], batch["error_file_id"]}


async def test_a_batch_whose_lines_name_anothers_objects_is_not_made(situation: Situation) -> None:
    account = situation.account
    body = {"model": "gpt-4o", "input": "x", "previous_response_id": situation.a.of_kind("response")}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/responses", "body": body}
    sent = form(("purpose", b"batch"), ("file", orjson.dumps(line) + b"\n"))
    file_id = orjson.loads((await account.ask("b", "POST", "/v1/files", sent, FORM)).body)["id"]
    batch = {"input_file_id": file_id, "endpoint": "/v1/responses", "completion_window": "24h"}
    before = len(account.bodies)
    answer = await account.ask("b", "POST", "/v1/batches", batch)
    assert answer.status in (400, 404), answer
    assert len(account.bodies) == before, "the upstream has made none"


async def test_a_file_of_a_completed_upload_is_whose_the_upload_is(situation: Situation) -> None:
    account = situation.account
    upload = {"filename": "a", "purpose": "batch", "bytes": 4, "mime_type": "text/x"}
    upload_id = orjson.loads((await account.ask("a", "POST", "/v1/uploads", upload)).body)["id"]
    part = await account.ask(
        "a", "POST", f"/v1/uploads/{upload_id}/parts", form(("data", b"of A"), file_at=0), FORM
    )
    parts = {"part_ids": [orjson.loads(part.body)["id"]]}
    done = await account.ask("a", "POST", f"/v1/uploads/{upload_id}/complete", parts)
    target = f"/v1/files/{orjson.loads(done.body)['file']['id']}"
    assert (await account.ask("a", "GET", target)).status == 200
    assert (await situation.told("GET", target))[0] == 404
