"""A body that was taken in: what goes up has its changes in their places, and every other byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.json_members import Change, place_of
from gateway.wire.request_body import RequestBody


def cut(raw: bytes, size: int) -> RequestBody:
    return RequestBody(tuple(raw[at : at + size] for at in range(0, len(raw), size)))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{ "n" : 1, "stream":true}', b'{"b":2,"model":"m", "n" : 1, "stream":true}'),
        (b'{"b":"old","n":1,"model": null }', b'{"b":2,"n":1,"model": "m" }'),
        (b'{"n":1,"model": null }', b'{"b":2,"n":1,"model": "m" }'),
    ],
)
def test_members_that_are_set_stand_in_their_places(before: bytes, after: bytes, size: int) -> None:
    body = cut(before, size)

    changed = body.changed(place_of(before, "model").filled(b'"m"'))
    changed = changed.changed(place_of(before, "b").filled(b"2"))

    assert b"".join(changed.pieces()) == after
    assert changed.length == len(after)
    assert b"".join(body.pieces()) == before, "the first value is as it was"


def test_an_empty_body_becomes_an_object() -> None:
    for body in (RequestBody(), RequestBody((b"",))):
        changed = body.changed(place_of(b"", "model").filled(b'"m"'))

        assert b"".join(changed.pieces()) == b'{"model":"m"}'
        assert (body.length, changed.length) == (0, 13)


@given(st.binary(max_size=30), st.integers(1, 9), st.lists(st.integers(0, 30), max_size=6), st.data())
def test_what_was_not_changed_goes_up_as_it_came(
    raw: bytes, size: int, places: list[int], data: st.DataObject
) -> None:
    marks = sorted(min(place, len(raw)) for place in places)
    changes = [
        Change(begin, end, data.draw(st.binary(max_size=4)))
        for begin, end in zip(marks[::2], marks[1::2], strict=False)
    ]
    expected = raw
    for begin, end, put in reversed(changes):
        expected = expected[:begin] + put + expected[end:]
    body = cut(raw, size)
    for change in changes:
        body = body.changed(change)

    if len({change.begin for change in changes}) == len(changes):
        assert b"".join(body.pieces()) == expected
    assert body.length == len(expected)
