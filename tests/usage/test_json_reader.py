"""A large JSON answer is read from its end, and says what it would if it were parsed whole."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.answers import from_json
from gateway.usage.deltas import Deltas
from gateway.usage.json_reader import JsonReader
from gateway.usage.reported import Usage

USAGE = {"prompt_tokens": 8, "completion_tokens": 3, "total_tokens": 11}
VECTOR = [0.125] * 1000


def read(document: bytes, cut: int = 0) -> tuple[Usage | None, int]:
    reader = JsonReader(Deltas)
    for piece in (document[:cut], document[cut:]):
        if piece:
            reader.feed(piece)
    return reader.finish(), reader.deltas.estimate()


def parsed_whole(document: bytes) -> tuple[Usage | None, int]:
    usage, deltas = from_json(document), Deltas()
    deltas.add_document(document)
    return usage, deltas.estimate()


class Members(list):
    """An object as its members stand: names may be there twice."""

    def __repr__(self) -> str:
        return f"{{{', '.join(name for name, _ in self)}}}"


def objects(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(st.tuples(NAMES, values), max_size=5).map(Members)


NAMES = st.sampled_from(
    [
        *(
            "usage",
            "usage",
            'us"age',
            '"usage":{"total_tokens":5}',
            "response",
            "object",
            "data",
            "type",
            "text",
        ),
        *(
            "duration",
            "b64_json",
            "url",
            "vector",
            "content",
            "total_tokens",
            "prompt_tokens",
            "usage\\",
            "\\",
        ),
    ]
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.integers(-3, 99),
        st.just(USAGE),
        st.sampled_from(
            [
                *("thread.run.step", "list", "image_edit.completed", 'a "usage":{"total_tokens":7}', "usage"),
                *(',"usage":{"total_tokens":7}}', "\\", '\\"usage\\":{}', "12.5", "x" * 3000, "b64_json"),
            ]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), objects(inner)),
    max_leaves=9,
)


def written(value: object, blanks: bytes = b"", escape: bool = False) -> bytes:
    if isinstance(value, Members):
        members = [text(n, escape) + blanks + b":" + written(v, blanks, escape) for n, v in value]
        return b"{" + blanks + (blanks + b"," + blanks).join(members) + blanks + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(written(inner, blanks, escape) for inner in value) + b"]"
    return text(value, escape) if isinstance(value, str) else orjson.dumps(value)


def text(value: str, escape: bool) -> bytes:
    written = orjson.dumps(value)
    return written.replace(b"g", b"\\u0067") if escape else written


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=6).map(Members),
    st.sampled_from([b"", b" ", b"\n\t"]),
    st.booleans(),
    st.integers(0, 4000),
)
def test_every_document_says_what_it_says_when_it_is_parsed_whole(document, blanks, escape, cut):
    for padded in (
        document,
        Members([("vector", VECTOR), *document]),
        Members([*document, ("usage", USAGE)]),
    ):
        raw = written(padded, blanks, escape)
        assert read(raw, cut) == parsed_whole(raw)


@pytest.mark.parametrize(
    "end",
    [
        b'"usage":{"total_tokens":7}}',
        b'"usage" : {"total_tokens":7} , "x":{"y":[1,"}"]} }\n',
        b'"usage":{"total_tokens":1},"usage":{"total_tokens":7}}',
        b'"a":{"usage":{"total_tokens":7}}}',
        b'"a":[{"usage":{"total_tokens":7}}]}',
        b'"response":{"usage":{"total_tokens":7}}}',
        b'"usage":null,"response":{"usage":{"total_tokens":7}}}',
        b'"usage":{"total_tokens":7},"response":{"usage":{"total_tokens":9}}}',
        b'"usage":{"total_tokens":7},"a":{"usage":{"total_tokens":9}}}',
        b'"usage":{"total_tokens":7},"usag\\u0065":{"total_tokens":9}}',
        b'"usage":{"total_tokens":7},"object":"thread.run.step"}',
        b'"object":"thread.run.st\\u0065p","usage":{"total_tokens":7}}',
        b'"usage":{"total_tokens":7},"x":"\\"usage\\":{}}',
        b'"x\\"usage":{"total_tokens":7}}',
        b'"x":"usage"}',
        b'"usage":[1]}',
        b'"usage":7}',
        b'"usage":{}}',
        b'"usage":{"total_tokens":7}',
        b'"usage":{"total_tokens":7}}}',
        b'"usage":{"total_tokens":7,"x":"%b"}}' % (b"x" * 5000),
        b'"data":[{"url":"u"}],"usage":{"total_tokens":7}}',
        b'"data":[{"b64_json":"u"},{"b64_json":"u"}],"usage":{"total_tokens":7}}',
        b'"type":"image_edit.completed","usage":{"total_tokens":7}}',
        b'"text":"t","duration":2.5,"usage":{"total_tokens":7}}',
        b'"usage":{"type":"duration","seconds":3}}',
        b'%b"usage":{"total_tokens":7}}' % (b'"n":"","data":[{"url":"u"}],' * 300),
    ],
    ids=lambda end: repr(end)[2:50],
)
def test_adversarial_ends(end):
    document = b'{"vector":' + orjson.dumps(VECTOR) + b"," + end

    assert read(document) == parsed_whole(document)


@pytest.mark.parametrize("text", [b"", rb"a \"quoted\" word,\nand a line\\"])
def test_of_a_large_document_only_the_end_is_parsed(text):
    """What is wrong in front of it shows that nobody has looked."""
    document = b'{"text":"' + text + b'","vector":[' + b"0.125,,," * 500 + b'],"usage":{"total_tokens":7}}'

    assert read(document)[0] == Usage(total=7)


@pytest.mark.parametrize("kind", ["response", "thread.run"])
@pytest.mark.parametrize("size", [3000, 100_000])
def test_what_a_tenant_sent_is_no_report_where_an_answer_breaks_off_behind_it(kind, size):
    own = {"parameters": {"properties": {"usage": {"total_tokens": 1}}, "required": []}}
    document = orjson.dumps({"id": "x" * size, "object": kind, "tools": [own]})

    assert read(document[: document.index(b',"required"')])[0] is None
