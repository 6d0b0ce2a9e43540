"""A body that was read: what goes up and what was read in it change together or not at all."""

from __future__ import annotations

import orjson

from gateway.wire import request_fields
from gateway.wire.request_body import RequestBody


def read(raw: bytes) -> RequestBody:
    return RequestBody(raw, request_fields.read(raw))


def test_a_member_that_is_set_stands_in_the_bytes_and_in_what_was_read() -> None:
    before = read(b'{ "n" : 1, "stream":true}')

    after = before.with_member("model", b'"m"')

    assert after.raw == b'{"model":"m", "n" : 1, "stream":true}'
    assert after.fields is not None
    assert after == read(after.raw)
    assert (after.fields.model, after.fields.document["model"]) == ("m", "m")
    assert before == read(b'{ "n" : 1, "stream":true}'), "the first value is as it was"


def test_a_body_that_nobody_read_is_changed_all_the_same() -> None:
    assert RequestBody(b'{"a":1}').with_member("b", b"[2]") == RequestBody(b'{"b":[2],"a":1}')


def test_an_empty_body_becomes_an_object() -> None:
    after = read(b"").with_member("model", b'"m"')

    assert orjson.loads(after.raw) == {"model": "m"}
