"""One document, one meaning: what two parsers could read differently is refused."""

import json  # noqa: TID251 - the other parser

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.strict_json import strict_object


@pytest.mark.parametrize(
    "document",
    [
        b"{}",
        b' {"a" : 1 , "b" : [ {"a":1}, {"a":2} ] } ',
        b'{"a":"b:c","d":"\\":\\"","e\\\\":":"}',
        b'{"a":{"a":{"a":1}}}',
        b'{"":0,"\\u0000":1,"caf\xc3\xa9":2}',
    ],
)
def test_object_with_distinct_members_is_read_as_json_says(document: bytes) -> None:
    assert strict_object(document) == json.loads(document)


@pytest.mark.parametrize(
    "document",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":1,"b":{"c":1,"c":2}}',
        b'{"a":[[{"c":1,"\\u0063":2}]]}',
        b'{"\\n":1,"\\u000a":2}',
        b'{"\xc3\xa9":1,"\\u00e9":2}',
    ],
)
def test_member_named_twice_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match="twice"):
        strict_object(document)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'"a"',
        b"null",
        b"{",
        b"{}{}",
        b"{} x",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1e999}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":1 /* b */}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\n"}',
        b'{"a":' * 5000,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_what_is_not_one_plain_json_object_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError):
        strict_object(document)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text('ab:"\\{}[],é\n', max_size=6),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text('ab:"\\', max_size=3), children, max_size=4)
    ),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text('ab:"\\{', max_size=4), VALUES, max_size=5), st.booleans())
def test_every_encoded_object_is_accepted(value: dict[str, object], ascii_only: bool) -> None:
    assert strict_object(json.dumps(value, ensure_ascii=ascii_only, indent=1).encode()) == value


@settings(max_examples=300, deadline=None)
@given(st.text('ab:"\\{é', max_size=4), VALUES, VALUES)
def test_every_doubled_member_is_refused(name: str, first: object, second: object) -> None:
    plain = orjson.dumps(name)
    escaped = b'"' + b"".join(b"\\u%04x" % ord(character) for character in name) + b'"'
    for again in (plain, escaped):
        with pytest.raises(ValueError, match="twice"):
            strict_object(b"{%b:%b,%b:%b}" % (plain, orjson.dumps(first), again, orjson.dumps(second)))
