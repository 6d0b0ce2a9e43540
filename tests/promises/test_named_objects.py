"""What a tenant names that is stored reaches the upstream only where it is its own, by whatever way it is named."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.objects.store import Made
from gateway.operations.stored_kinds import StoredKinds
from tests.kit.asking import TABLE, ask, assert_refused, error_of, form, verdict
from tests.kit.client import FORM, JSON, RawAnswer
from tests.kit.redis import RedisServer
from tests.promises.sharing import Shared, sharing
from tests.promises.test_recorded_first import answers

KINDS = StoredKinds.load()
OF_A, OF_B, NOBODYS = "of-a_1", "of-b_1", "of-nobody_1"
RESPONSES = "/v1/responses"


@pytest.fixture
async def named(redis: RedisServer) -> AsyncIterator[Shared]:
    """A and B have one object of every kind, which has the same id whatever the kind."""
    async with sharing(redis) as shared:
        for tenant, one in (("a", OF_A), ("b", OF_B)):
            made = [Made(kind, one, time.time()) for kind in KINDS.kinds]
            await shared.store.record(shared.scope(tenant), made)
        shared.upstream.plays(answers({"object": "whatever", "id": "made_1", "data": []}))
        shared.upstream.gate("answer").set()
        yield shared


async def asked(shared: Shared, method: str, target: str, body: object = None, **more: Any) -> RawAnswer:
    return await ask(shared.gateway, method, target, body, tenant="b", **more)


def plain(answer: RawAnswer, named: str) -> tuple[object, ...]:
    """What an answer tells, whichever object was named."""
    return answer.status, answer.body.replace(named.encode(), b"ID")


BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "previous response": (RESPONSES, {"previous_response_id": "{}"}),
    "conversation": (RESPONSES, {"conversation": "{}"}),
    "conversation object": (RESPONSES, {"conversation": {"id": "{}"}}),
    "item reference": (RESPONSES, {"input": [{"type": "item_reference", "id": "{}"}]}),
    "file of the input": (RESPONSES, {"input": [{"content": [{"type": "input_file", "file_id": "{}"}]}]}),
    "vector store": (RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": ["{}"]}]}),
    "container": (RESPONSES, {"tools": [{"type": "code_interpreter", "container": "{}"}]}),
    "files of a container": (RESPONSES, {"tools": [{"container": {"type": "auto", "file_ids": ["{}"]}}]}),
    "compacted response": ("/v1/responses/compact", {"previous_response_id": "{}"}),
    "counted response": ("/v1/responses/input_tokens", {"previous_response_id": "{}"}),
    "file of a message": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "{}"}}]}]},
    ),
    "files of a vector store": ("/v1/vector_stores", {"file_ids": ["{}"]}),
    "file of one's own vector store": (f"/v1/vector_stores/{OF_B}/files", {"file_id": "{}"}),
    "batch of files": (f"/v1/vector_stores/{OF_B}/file_batches", {"files": [{"file_id": "{}"}]}),
    "files of a new container": ("/v1/containers", {"name": "x", "file_ids": ["{}"]}),
    "file for one's own container": (f"/v1/containers/{OF_B}/files", {"file_id": "{}"}),
    "assistant": ("/v1/threads/runs", {"assistant_id": "{}"}),
    "assistant of a run": (f"/v1/threads/{OF_B}/runs", {"assistant_id": "{}"}),
    "attachment": (f"/v1/threads/{OF_B}/messages", {"content": "x", "attachments": [{"file_id": "{}"}]}),
    "resources": ("/v1/assistants", {"tool_resources": {"file_search": {"vector_store_ids": ["{}"]}}}),
    "edited video": ("/v1/videos/edits", {"video": {"id": "{}"}, "prompt": "x"}),
    "extended video": ("/v1/videos/extensions", {"video": {"id": "{}"}, "prompt": "x", "seconds": "4"}),
    "first frame": ("/v1/videos", {"input_reference": {"file_id": "{}"}, "prompt": "x"}),
    "edited image": ("/v1/images/edits", {"images": [{"file_id": "{}"}], "prompt": "x"}),
}  # fmt: skip


def filled(value: object, one: str) -> Any:
    """A body with an id in its place."""
    if isinstance(value, dict):
        return {name: filled(inner, one) for name, inner in value.items()}
    if isinstance(value, list):
        return [filled(inner, one) for inner in value]
    return one if value == "{}" else value


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_reaches_the_upstream_with_ones_own_and_tells_nothing_of_anothers(
    named: Shared, name: str
) -> None:
    target, template = BODIES[name]

    async def answer(one: str) -> RawAnswer:
        return await asked(named, "POST", target, {"model": "gpt-4o", "input": "x"} | filled(template, one))

    foreign, unknown = await answer(OF_A), await answer(NOBODYS)
    assert plain(foreign, OF_A) == plain(unknown, NOBODYS)
    assert foreign.status in (400, 404)
    assert error_of(foreign)["type"] == "invalid_request_error"
    assert named.upstream.requests == []
    assert (await answer(OF_B)).status == 200
    assert len(named.upstream.requests) == 1


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/v1/videos/edits", [("prompt", b"x"), ("video[id]", b"{}")]),
        ("/v1/videos/extensions", [("video[id]", b"{}"), ("prompt", b"x"), ("seconds", b"4")]),
        ("/v1/videos", [("prompt", b"x"), ("input_reference[file_id]", b"{}")]),
        ("/v1/videos", [("prompt", b"x"), ("input_reference", b'{"file_id":"{}"}')]),
        ("/v1/images/edits", [("model", b"m"), ("prompt", b"x"), ("image[][file_id]", b"{}")]),
        ("/v1/images/edits", [("model", b"m"), ("images", b'[{"file_id":"{}"}]'), ("prompt", b"x")]),
        (f"/v1/containers/{OF_B}/files", [("file_id", b"{}")]),
        (f"/v1/videos/{OF_B}/remix", [("prompt", b"x"), ("video_id", b"{}")]),
    ],
)
async def test_a_form_reaches_its_end_with_ones_own_alone(
    named: Shared, target: str, fields: list[tuple[str, bytes]]
) -> None:
    async def answer(one: str) -> RawAnswer:
        parts = [(name, text.replace(b"{}", one.encode())) for name, text in fields]
        return await asked(named, "POST", target, form(*parts), headers=FORM)

    foreign, unknown = await answer(OF_A), await answer(NOBODYS)
    assert plain(foreign, OF_A) == plain(unknown, NOBODYS)
    assert foreign.status == 404
    assert all(b"--edge--" not in sent.body for sent in named.upstream.requests)
    assert (await answer(OF_B)).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        [("Video[ID]", b"of-b_1")],
        [("video", b"of-a_1")],
        [("file_ids[0]", b"of-b_1")],
        [("prompt[id]", b"pmpt_1")],
        [("something_id", b"x")],
        [("characters", b'[{"id":"char_1"}]')],
        [("characters[0][id]", b"char_1")],
        [("input_reference", b'{"file_id":"of-b_1","file_id":"of-a_1"}')],
        [("input_reference", b'{"file_id":')],
        [("video[id]", b"of-b_1"), ("video[id]", b"of-a_1")],
        [("video[id]", b"of-b_1 ")],
        [("video[id]", b"")],
        [("video[id]", b"of-b\xff")],
    ],
)
async def test_a_form_that_could_be_read_in_two_ways_is_refused(
    named: Shared, fields: list[tuple[str, bytes]]
) -> None:
    answer = await asked(named, "POST", "/v1/videos/edits", form(("prompt", b"x"), *fields), headers=FORM)

    assert answer.status in (400, 403, 404)
    assert all(b"--edge--" not in sent.body for sent in named.upstream.requests)


async def test_a_file_that_is_called_as_what_names_one_is_refused(named: Shared) -> None:
    body = form(("prompt", b"x"), ("video[id]", b"of-b_1"), file_at=1)

    assert (await asked(named, "POST", "/v1/videos/edits", body, headers=FORM)).status == 400


@pytest.mark.parametrize(
    "more",
    [
        "; filename*=utf-8''x",
        '; filename=""',
        '; x="',
        "; x=y z",
        "; filename*=utf-8''x; x=y z",
        '; x="a;" filename="b"',
    ],
)
async def test_a_field_that_some_take_for_a_file_is_refused_where_it_could_name_something(
    named: Shared, more: str
) -> None:
    head = f'Content-Disposition: form-data; name="input_reference"{more}'
    body = form(("prompt", b"x"), ("input_reference", b'{"file_id":"of-a_1"}'))
    plain = b'Content-Disposition: form-data; name="input_reference"'
    assert plain in body
    answer = await asked(named, "POST", "/v1/videos", body.replace(plain, head.encode()), headers=FORM)

    assert (answer.status, error_of(answer)["code"]) == (400, "bad_form")
    assert all(b"of-a_1" not in sent.body for sent in named.upstream.requests)


@pytest.mark.parametrize("filename", ["x.png", 'x "y".png', "x;y.png", "ü.png"])
async def test_a_picture_is_a_file_however_it_is_called(named: Shared, filename: str) -> None:
    body = form(("prompt", b"x"), ("input_reference", b"{png"))
    head = f'name="input_reference"; filename="{filename}"'
    body = body.replace(b'name="input_reference"', head.encode())

    assert (await asked(named, "POST", "/v1/videos", body, headers=FORM)).status == 200


async def test_an_uploaded_video_is_a_file_like_any_other(named: Shared) -> None:
    body = form(("prompt", b"x"), ("video", b"\0" * 100_000), file_at=1)

    assert (await asked(named, "POST", "/v1/videos/edits", body, headers=FORM)).status == 200


PLACES = [
    operation
    for operation in TABLE
    if KINDS.place_of(operation).parent is not None and not operation.is_administration
]


def target_of(path: str, one: str) -> str:
    """A path whose parameters all are the same id."""
    steps = [one if step.startswith("{") else step for step in path.split("/")]
    return "/".join(steps)


@pytest.mark.parametrize("operation", PLACES, ids=lambda operation: operation.id)
async def test_a_path_reaches_the_upstream_where_it_begins_with_ones_own(
    named: Shared, operation: Any
) -> None:
    async def answer(one: str, *, escaped: bool = False) -> RawAnswer:
        spelled = f"%{ord(one[0]):x}{one[1:]}" if escaped else one
        body: object = (
            form(("x", b"x")) if operation.request_types == ("multipart/form-data",) else {"model": "m"}
        )
        if not operation.request_types:
            body = None
        headers = FORM if isinstance(body, bytes) else None
        target = target_of(operation.path, spelled)
        return await asked(named, operation.method, target, body, headers=headers)

    foreign, unknown = await answer(OF_A), await answer(NOBODYS)
    assert plain(foreign, OF_A) == plain(unknown, NOBODYS)
    assert plain(await answer(OF_A, escaped=True), OF_A) == plain(foreign, OF_A)
    place = KINDS.place_of(operation)
    assert place.parent is not None
    words = place.parent.unknown
    assert (foreign.status, error_of(foreign)["message"]) == (
        words.status,
        words.message.replace("{id}", OF_A),
    )
    assert named.upstream.requests == []
    own = await answer(OF_B)
    assert own.status == 200, own.body


@pytest.mark.parametrize(
    "spelling", ["of-b_1%20", "of-b_1%0a", "of-b_1%C3%A9", "of-b_1+", "of-b_1,x", "%7E%7E", "x" * 600]
)
async def test_a_path_with_what_is_no_id_is_unknown_or_refused(named: Shared, spelling: str) -> None:
    answer = await asked(named, "GET", f"/v1/files/{spelling}")

    assert answer.status in (400, 404)
    assert named.upstream.requests == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("file_id=of-a_1", 404), ("thread_id=of-a_1", 404), ("FILE_ID=of-a_1", 400), ("file_id[]=of-a_1", 404),
        ("x=1;thread_id=of-a_1", 404), ("%66ile_id=of-a_1", 404), ("conversation[id]=of-a_1", 404),
        ("something_id=x", 403), ("prompt[id]=x", 403), ("run_id=run_1", 200), ("limit=5&order=asc", 200),
        ("thread_id=of-b_1", 200), ("metadata[customer_id]=x", 200), ("include[]=x&include[]=y", 200),
        ("after=msg_1&before=msg_2", 200),
    ],
)  # fmt: skip
async def test_a_query_names_nothing_of_anothers(named: Shared, query: str, status: int) -> None:
    answer = await asked(named, "GET", f"/v1/threads/{OF_B}/messages?{query}")

    assert answer.status == status
    assert len(named.upstream.requests) == (1 if status == 200 else 0)


@pytest.mark.parametrize(
    "query",
    [
        "after=of-b_1&after=of-a_1", "after[]=of-a_1", "After=of-a_1", "after=of-b_1&%61fter=of-a_1",
        "limit=5;after=of-b_1&after=of-a_1", "after.x=of-a_1", "after=of-b_1&before=of-b_1&before=x",
        "after%20=of-a_1", "+after=of-a_1",
    ],
)  # fmt: skip
async def test_a_cursor_that_could_be_read_in_two_ways_is_refused(named: Shared, query: str) -> None:
    answer = await asked(named, "GET", f"/v1/files?{query}")

    assert answer.status == 400
    assert named.upstream.requests == []


@pytest.mark.parametrize("cursor", ["of-a_1", "of-nobody_1", "of-b_1+", "of-b_1%00", "x" * 600])
async def test_a_cursor_that_is_not_ones_own_is_unknown(named: Shared, cursor: str) -> None:
    answer = await asked(named, "GET", f"/v1/files?after={cursor}")

    assert answer.status == 400
    assert error_of(answer)["param"] == "after"
    assert "no object with id" in error_of(answer)["message"]
    assert named.upstream.requests == []


CLOSED = [
    operation
    for operation in TABLE
    if KINDS.place_of(operation).closed is not None
    and not operation.is_administration
    and operation.is_contained
    and not operation.is_unlisted
]


async def test_what_stays_closed_is_refused_with_its_reason(named: Shared) -> None:
    for operation in CLOSED:
        body = {"model": "m"} if operation.method in ("POST", "PUT", "PATCH") else None
        answer = await asked(named, operation.method, target_of(operation.path, OF_B), body)
        assert_refused(answer, 403, "shared_upstream")
        reason = KINDS.place_of(operation).closed
        assert reason is not None
        assert reason in error_of(answer)["message"], operation.id
    for method, target in (("GET", "/v1/brand/new"), ("POST", "/v1/files/search")):
        assert verdict(await asked(named, method, target)) == (403, "shared_upstream")
    assert named.upstream.requests == []


async def test_what_is_named_of_no_kind_is_refused_with_its_reason(named: Shared) -> None:
    for body, reason in (
        ({"prompt": {"id": "pmpt_1"}}, "prompts belong to everybody"),
        ({"tools": [{"environment": {"skills": [{"skill_id": "s"}]}}]}, "skills belong to everybody"),
        ({"of_tomorrow_id": "x"}, "keeps no record"),
    ):
        answer = await asked(named, "POST", RESPONSES, {"model": "m", "input": "x"} | body)
        assert_refused(answer, 403, "shared_upstream")
        assert reason in error_of(answer)["message"]
    assert named.upstream.requests == []


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/octet-stream", "application/x-www-form-urlencoded"]
)
async def test_a_body_under_another_name_is_read_all_the_same(named: Shared, content_type: str) -> None:
    body = b'{"model":"m","input":"x","previous_response_id":"of-a_1"}'
    answer = await asked(named, "POST", RESPONSES, body, headers=f"Content-Type: {content_type}\r\n")

    assert answer.status == 400
    answer = await asked(named, "POST", "/v1/files", b'{"file_id":"of-a_1"}', headers=JSON)
    assert answer.status == 404
    assert named.upstream.requests == []


async def test_large_bodies_are_read_elsewhere_and_judged_alike(named: Shared) -> None:
    for one, status in ((OF_A, 400), (NOBODYS, 400), (OF_B, 200)):
        body = {"model": "m", "input": "x" * 300_000, "previous_response_id": one}
        assert (await asked(named, "POST", RESPONSES, body)).status == status
    assert len(named.upstream.requests) == 1


@pytest.mark.parametrize("target", ["/v1/files", "/v1/batches", "/v1/vector_stores", "/v1/assistants"])
async def test_a_list_asked_for_by_head_tells_nothing_of_how_much_others_have(
    named: Shared, target: str
) -> None:
    """How long the upstream's own list is says how much everybody has."""
    answer = await asked(named, "HEAD", target)

    assert answer.get("content-length") != "45"


async def test_a_body_of_a_method_that_has_none_is_read_too(named: Shared) -> None:
    for method, target in (
        ("GET", "/v1/files"),
        ("DELETE", f"/v1/files/{OF_B}"),
        ("GET", f"/v1/threads/{OF_B}"),
    ):
        answer = await asked(named, method, target, {"thread_id": OF_A}, headers=JSON)
        assert answer.status == 404, method
    assert named.upstream.requests == []
