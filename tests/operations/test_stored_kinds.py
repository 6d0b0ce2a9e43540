"""Every operation on what is stored is a kind's place, makes something, lists, or is closed with its reason."""

from __future__ import annotations

import re

import pytest

from gateway.operations.stored_kinds import StoredKinds, purpose_of
from gateway.operations.table import Operation, OperationTable

TABLE = OperationTable.load()
KINDS = StoredKinds.load()
SHARED = [operation for operation in TABLE if operation.is_shared_state and not operation.is_administration]

# What is made below an object, which decides about it, and what is made by its parts.
BELOW = {
    *("createMessage", "createRun", "createVectorStoreFile", "createVectorStoreFileBatch", "addUploadPart"),
    *("createConversationItems", "createContainerFile"),
}


@pytest.mark.parametrize("operation", SHARED, ids=lambda operation: operation.id)
def test_every_operation_on_what_is_stored_has_its_place(operation: Operation) -> None:
    place = KINDS.place_of(operation)

    assert not place.is_nothing
    open_ones = place.parent is not None or place.lists is not None or bool(place.makes)
    assert open_ones != (place.closed is not None)
    if place.closed is not None:
        assert "keeps no record" not in place.closed, "a reason of its own"
    if place.parent is not None:
        assert place.parent.path is not None
        assert operation.path.startswith(place.parent.path)
        assert place.parameter == re.findall(r"{(\w+)}", operation.path)[0]


def test_what_is_created_is_recorded_or_has_a_parent_or_is_closed() -> None:
    creations = {operation.id for operation in SHARED if operation.object_action == "create"}
    recorded = {one for one in creations if purpose_of(KINDS.place_of(TABLE.by_id(one)).makes)}
    closed = {one for one in creations if KINDS.place_of(TABLE.by_id(one)).closed is not None}

    assert creations - recorded - closed == BELOW
    for one in BELOW:
        assert KINDS.place_of(TABLE.by_id(one)).parent is not None


def test_lists_of_the_account_are_those_of_kinds_or_are_closed() -> None:
    for operation in SHARED:
        if operation.object_action == "list" and "{" not in operation.path:
            place = KINDS.place_of(operation)
            assert (place.lists is None) is (place.closed is not None), operation.id


def test_the_data_names_operations_and_members_that_there_are() -> None:
    for operation_id in KINDS.making_operations:
        assert TABLE.by_id(operation_id).id == operation_id
    paths = {operation.path for operation in TABLE}
    for kind in KINDS.kinds.values():
        assert kind.path is None or any(path.startswith(kind.path) for path in paths), kind.name
        assert kind.list_path is None or kind.list_path in paths, kind.name
        assert kind.named_by == tuple(name.casefold() for name in kind.named_by)
        assert set(kind.leaves) <= KINDS.kinds.keys(), kind.name
        assert set(kind.unknown_as) <= {*kind.named_by, "after", "before"}, kind.name
        for words in (kind.unknown, *kind.unknown_as.values()):
            assert "{id}" in words.message
            assert words.status in (400, 404)
    assert KINDS.closed_members.keys().isdisjoint(KINDS.by_member)


def test_no_two_kinds_are_named_by_one_member() -> None:
    names = [name for kind in KINDS.kinds.values() for name in kind.named_by]

    assert len(names) == len(set(names))


def test_ids_are_found_in_what_the_operation_itself_has_made_or_what_is_its_own() -> None:
    """Never in echoes: a derived id comes from a place that no request fills."""
    derived = {
        (making.kind.name, ".".join(way))
        for operation_id in KINDS.making_operations
        for making in KINDS.place_of(TABLE.by_id(operation_id)).makes
        if making.is_derived
        for way in making.at
    }

    assert derived == {
        ("file", "file.id"), ("file", "output_file_id"), ("file", "error_file_id"),
        ("file", "data.[].output_file_id"), ("file", "data.[].error_file_id"),
        ("item", "output.[].id"), ("item", "data.[].id"), ("container", "output.[].container_id"),
        ("container", "output.[].environment.container_id"),
        ("vector_store", "tool_resources.file_search.vector_store_ids.[]"),
    }  # fmt: skip


def test_the_member_that_names_what_is_unknown_is_the_param_and_of_items_their_place_is() -> None:
    kinds = StoredKinds.load()
    assert kinds["file"].unknown_by(None).param == "id"
    assert kinds["file"].unknown_by("file_ids").param == "file_ids"
    assert kinds["thread"].unknown_by("thread_id").param == "thread_id"
    assert kinds["item"].unknown_by("item_reference").param == "input"
    assert kinds["response"].unknown_by("previous_response_id").code == "previous_response_not_found"
