"""What answers say was made is found where the data says, and nowhere else; so it is by the outline of a large one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.objects.store import Made
from gateway.operations.stored_kinds import StoredKinds
from gateway.operations.table import OperationTable
from gateway.policy.makings import applying, is_not_found, made_in, outline_of, reduced
from gateway.policy.reading import Question, read_body
from gateway.wire.body_facts import BodyFacts

TABLE, KINDS = OperationTable.load(), StoredKinds.load()
NOW = 1_800_000_000.0
INSIDE = "tool_resources.file_search.vector_stores"
QUESTION = Question(("model",), inside=(INSIDE,))


def facts(**body: object) -> BodyFacts:
    return read_body(orjson.dumps(body), QUESTION)


def made(
    operation: str, document: object, request: BodyFacts | None = None, *, in_event: bool = False
) -> list[Made]:
    makes = applying(KINDS.place_of(TABLE.by_id(operation)), request or facts())
    found = list(made_in(makes, document, now=NOW, in_event=in_event))
    outlined = reduced(orjson.dumps(document), outline_of(makes, in_events=in_event))
    assert list(made_in(makes, outlined, now=NOW, in_event=in_event)) == found, "so does its outline"
    return found


@pytest.mark.parametrize(
    ("operation", "request_says", "kinds"),
    [
        ("createResponse", {}, {"response", "item", "container"}),
        ("createResponse", {"store": True}, {"response", "item", "container"}),
        ("createResponse", {"store": None}, {"response", "item", "container"}),
        ("createResponse", {"store": False}, {"container"}),
        ("getResponse", {}, {"item", "container"}),
        ("cancelResponse", {}, {"item", "container"}),
        ("createChatCompletion", {}, set()),
        ("createChatCompletion", {"store": False}, set()),
        ("createChatCompletion", {"store": True}, {"chat_completion"}),
        ("createThread", {}, {"thread"}),
        ("createThread", {"tool_resources": {"file_search": {"vector_store_ids": ["vs_1"]}}}, {"thread"}),
        (
            "createThread",
            {"tool_resources": {"file_search": {"vector_stores": [{}]}}},
            {"thread", "vector_store"},
        ),
        ("modifyThread", {}, set()),
    ],
)
def test_what_may_have_been_made_depends_on_what_the_request_says(
    operation: str, request_says: dict[str, Any], kinds: set[str]
) -> None:
    makes = applying(KINDS.place_of(TABLE.by_id(operation)), facts(**request_says))

    assert {making.kind.name for making in makes} == kinds


def test_an_object_has_its_own_times_and_what_it_names_those_of_its_end() -> None:
    file = {"id": "file-1", "created_at": 1_700_000_000, "expires_at": 1_700_086_400, "completed_at": 5}
    batch = {
        "created_at": 1_700_000_000,
        "completed_at": 1_700_000_900,
        "expires_at": 1_700_086_400,
        "output_file_id": "file-2",
        "error_file_id": None,
    }

    assert made("createFile", file) == [Made("file", "file-1", 1_700_000_000.0, 1_700_086_400.0)]
    assert made("retrieveBatch", batch) == [Made("file", "file-2", 1_700_000_900.0, None)], (
        "that is the batch's"
    )


@pytest.mark.parametrize("created_at", [None, "1700000000", True, -1, 0, 2.0**36])
def test_what_says_no_time_was_made_now(created_at: object) -> None:
    assert made("createFile", {"id": "file-1", "created_at": created_at}) == [Made("file", "file-1", NOW)]


def test_what_never_expires_by_its_members_does_not_whatever_they_say() -> None:
    batch = {"id": "batch_1", "created_at": 1_700_000_000, "expires_at": 1_700_086_400}

    assert made("createBatch", batch) == [Made("batch", "batch_1", 1_700_000_000.0, None)]


@pytest.mark.parametrize("object_id", ["", None, 7, ["file-1"], {"id": "file-1"}, "f" * 513])
def test_what_is_no_id_names_nothing(object_id: object) -> None:
    assert made("createFile", {"id": object_id}) == []


@pytest.mark.parametrize("document", [None, [], "file-1", 7, {}, {"data": {"id": "file-1"}}])
def test_what_is_no_such_object_says_nothing(document: object) -> None:
    assert made("createFile", document) == []
    assert made("listBatches", document) == []


def test_every_element_on_a_way_through_lists_counts() -> None:
    listed = {
        "data": [
            {"output_file_id": "file-1", "error_file_id": "file-2"},
            None,
            {},
            {"output_file_id": "file-3"},
        ]
    }
    response = {
        "id": "resp_1",
        "created_at": 1_700_000_000,
        "output": [{"id": "msg_1"}, {"id": "ci_1", "container_id": "cntr_1"}],
    }

    assert sorted(one.id for one in made("listBatches", listed)) == ["file-1", "file-2", "file-3"]
    assert sorted((one.kind, one.id) for one in made("createResponse", response)) == [
        ("container", "cntr_1"),
        ("item", "ci_1"),
        ("item", "msg_1"),
        ("response", "resp_1"),
    ]


def test_events_say_it_elsewhere_than_documents() -> None:
    event = {
        "type": "response.created",
        "id": "evt_1",
        "response": {"id": "resp_1", "created_at": 1_700_000_000},
    }

    assert made("createResponse", event, in_event=True) == [Made("response", "resp_1", 1_700_000_000.0)]
    assert made("createFile", {"id": "file-1"}, in_event=True) == []


def test_a_list_that_a_request_filled_itself_counts_only_where_more_was_asked_for() -> None:
    document = {"id": "thread_1", "tool_resources": {"file_search": {"vector_store_ids": ["vs_1", "vs_2"]}}}
    asked = facts(tool_resources={"file_search": {"vector_stores": [{}], "vector_store_ids": ["vs_1"]}})

    assert {one.kind for one in made("createThread", document)} == {"thread"}
    assert sorted(one.id for one in made("createThread", document, asked)) == ["thread_1", "vs_1", "vs_2"]


@pytest.mark.parametrize(
    ("document", "is_it"),
    [
        ({"error": {"message": "No such File object: x", "type": "invalid_request_error"}}, True),
        ({"error": {"message": "not here", "code": "404"}}, True),
        ({"error": {"message": None}}, False),
        ({"error": {}}, False),
        ({"error": "not here"}, False),
        ({"message": "no route matched"}, False),
        ([], False),
        (None, False),
    ],
)
def test_the_api_says_that_it_does_not_have_something_by_an_error_with_words(
    document: object, is_it: bool
) -> None:
    assert is_not_found(document) is is_it
