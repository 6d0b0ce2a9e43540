"""Who names what is not theirs hears the API's own words for that place, which are data of the kind."""

from __future__ import annotations

import pytest

from gateway.operations.stored_kinds import StoredKinds
from gateway.policy.unknown_objects import unavailable, unknown
from gateway.wire.body_facts import Reference

KINDS = StoredKinds.load()


@pytest.mark.parametrize(
    ("kind", "member", "status", "param", "code"),
    [
        ("file", "", 404, "id", None),
        ("file", "file_ids", 404, "file_ids", None),
        ("batch", "", 404, None, None),
        ("vector_store", "vector_store_ids", 404, "vector_store_ids", None),
        ("response", "", 404, None, None),
        ("response", "previous_response_id", 400, "previous_response_id", "previous_response_not_found"),
        ("response", "comparison_response_id", 404, "comparison_response_id", None),
        ("item", "item_reference", 404, "input", None),
        ("file", "after", 400, "after", None),
        ("chat_completion", "before", 400, "before", None),
    ],
)
def test_the_answer_is_that_of_the_place(
    kind: str, member: str, status: int, param: str | None, code: str | None
) -> None:
    told = unknown(Reference(kind, "x-1", member))

    document = told.document()
    assert (told.status, document["param"], document["code"]) == (status, param, code)
    assert document["type"] == "invalid_request_error"
    assert "x-1" in str(document["message"])
    assert "{" not in str(document["message"])


def test_items_that_nobody_has_are_refused_with_the_cure() -> None:
    assert "store: false" in unknown(Reference("item", "msg_1", "item_reference")).message


def test_only_kinds_with_lists_have_cursors() -> None:
    for kind in KINDS.kinds.values():
        assert ("after" in kind.unknown_as) is kind.is_listed


def test_of_what_was_named_no_more_is_shown_than_an_id_has_and_nothing_that_is_no_ascii() -> None:
    message = unknown(Reference("file", "é" * 600, "")).message

    assert message.count("?") == 128
    assert message.isascii()


def test_a_registry_that_is_away_is_told_without_its_reasons() -> None:
    refusal = unavailable(OSError("redis.internal refused"))

    assert refusal.status == 503
    assert "redis" not in str(refusal.document())
    assert refusal.detail == "redis.internal refused"
