"""Pages of lists are cut up and put together again without a changed byte; what is ambiguous is no page."""

from __future__ import annotations

import json  # noqa: TID251 - another implementation to compare with
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.list_pages import find_object, read_page

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
IDS = st.text("abcXYZ019-_", min_size=1, max_size=6)


@st.composite
def pages(draw: st.DrawFn) -> tuple[bytes, list[dict[str, Any]]]:
    """A page as some server writes it, and its entries."""
    ids = draw(st.lists(IDS, unique=True, max_size=6))
    entries = [{**draw(st.dictionaries(st.text(max_size=6), JSON, max_size=3)), "id": one} for one in ids]
    document = {
        "object": "list",
        "data": entries,
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": draw(st.booleans()),
    }
    names = draw(st.permutations(list(document)))
    document = {name: document[name] for name in names}
    separators = draw(st.sampled_from([(",", ":"), (", ", ": ")]))
    text = json.dumps(
        document,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 2])),
        separators=separators,
    )
    return text.encode("utf-8"), entries


@given(pages())
def test_a_page_with_all_its_entries_is_the_page_that_came(page: tuple[bytes, list[dict[str, Any]]]) -> None:
    document, entries = page
    read = read_page(document)
    assert read is not None
    kept = [(entry.id, entry.raw) for entry in read.entries]
    assert [orjson.loads(raw) for _, raw in kept] == entries
    assert read.envelope.around(kept, has_more=read.has_more) == document


@given(pages(), st.data())
def test_entries_that_are_kept_keep_their_bytes(
    page: tuple[bytes, list[dict[str, Any]]], data: st.DataObject
) -> None:
    document, entries = page
    read = read_page(document)
    assert read is not None
    chosen = [entry for entry in read.entries if data.draw(st.booleans())]
    written = read.envelope.around([(entry.id, entry.raw) for entry in chosen], has_more=False)
    ids = [entry.id for entry in chosen]
    assert orjson.loads(written) == {
        "object": "list",
        "data": [entry for entry in entries if entry["id"] in ids],
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": False,
    }
    assert all(entry.raw in written and entry.raw in document for entry in chosen)


def test_members_that_may_tell_of_others_do_not_pass() -> None:
    read = read_page(
        b'{"total": 7, "object": "list", "next": "/v1/files?after=theirs", "data": [{"id": "a"}], "has_more": true}'
    )
    assert read is not None
    assert read.envelope.around([], has_more=False) == b'{"object": "list", "data": [], "has_more": false}'


def test_a_list_that_does_not_page_stays_one() -> None:
    read = read_page(b'{"data":[{"id":"a"},{"id":"b"}],"object":"list"}')
    assert read is not None
    assert not read.envelope.pages
    assert (
        read.envelope.around([("b", b'{"id":"b"}')], has_more=True)
        == b'{"data":[{"id":"b"}],"object":"list"}'
    )


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"data": {}}',
        b'{"data": [], "data": [{"id": "a"}]}',
        b'{"data": [], "d\\u0061ta": [{"id": "a"}]}',
        b'{"data": [], "has_more": true, "has_more": false}',
        b'{"data": [], "has_more": "yes"}',
        b'{"data": [], "has_more": null}',
        b'{"data": [{"name": "a"}]}',
        b'{"data": [{"id": 7}]}',
        b'{"data": ["a"]}',
        b'{"data": [{"id": "mine", "id": "theirs"}]}',
        b'{"data": [{"id": "mine", "i\\u0064": "theirs"}]}',
    ],
)
def test_what_could_be_read_in_two_ways_is_no_page(document: bytes) -> None:
    assert read_page(document) is None


def test_an_id_further_in_is_none_of_the_entry() -> None:
    read = read_page(b'{"data": [{"id": "a", "file": {"id": "b"}, "text": "\\"id\\""}]}')
    assert read is not None
    assert [entry.id for entry in read.entries] == ["a"]


@pytest.mark.parametrize("document", [b"", b"7", b"{}", b'{"id": 7}', b'{"id": "a", "id": "b"}'])
def test_what_is_no_object_with_one_id_is_none(document: bytes) -> None:
    assert find_object(document) is None


def test_an_object_is_kept_without_what_stands_around_it() -> None:
    document = b'\n{"id": "a", "created": 12}\r\n'
    found = find_object(document)
    assert found is not None
    object_id, begin, end = found
    assert (object_id, document[begin:end]) == ("a", b'{"id": "a", "created": 12}')
