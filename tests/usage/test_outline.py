"""What is kept of a document as it goes by says what the whole document says, however that is cut."""

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.usage.answers import report_of
from gateway.usage.outline import EventOutliner, Outliner

USAGE = {"prompt_tokens": 8, "completion_tokens": "3", "total_tokens": 11.0}
RESPONSE = {
    "input_tokens": 300_000, "output_tokens": 5, "total_tokens": 300_005,
    "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 7},
}  # fmt: skip
CALLS = [
    {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": '"usage":{'}},
    {"type": "web_search_call", "status": "completed", "action": {"type": "open_page"}},
    {"type": "image_generation_call", "status": "completed", "result": "A" * 3000},
    {"type": "image_generation_call", "status": "completed", "result": None},
    {"type": "code_interpreter_call", "container_id": "c1", "code": '{[\\"', "outputs": [{"logs": "}"}]},
    {"type": "code_interpreter_call", "container_id": "c1"},
    {"type": "file_search_call", "queries": ["x"], "results": [{"usage": USAGE}]},
    {"type": "message", "content": [{"type": "output_text", "text": 'he said \\"usage":{}'}]},
]
OWN = {"usage": USAGE, "response": {"usage": USAGE}, "data": [{"url": "u"}], "output": CALLS}
"""What a tenant may have sent to be echoed."""


class Members(list):
    """An object as its members stand: names may be there twice."""

    def __repr__(self) -> str:
        return f"{{{', '.join(name for name, _ in self)}}}"


NAMES = st.sampled_from(
    [
        *(
            "usage",
            "usage",
            "response",
            "object",
            "data",
            "type",
            "text",
            "duration",
            "output",
            "item",
            "action",
        ),
        *(
            "service_tier",
            "tool_usage",
            "web_search",
            "num_requests",
            "x_groq",
            "model",
            "choices",
            "metadata",
        ),
        *(
            "b64_json",
            "url",
            "result",
            "status",
            "container_id",
            'us"age',
            "\\",
            "total_tokens",
            "input_tokens",
        ),
    ]
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 99),
        st.just({"service_tier": "x" * 2000, "usage": USAGE}),
        st.floats(0, 9),
        st.sampled_from([USAGE, RESPONSE, CALLS, OWN, [], {}]),
        st.sampled_from(
            [
                *(
                    "thread.run.step",
                    "list",
                    "image_edit.completed",
                    "response.output_item.done",
                    "12.5",
                    "flex",
                ),
                *(
                    'a "usage":{"total_tokens":7}',
                    "\\",
                    '\\"',
                    "x" * 2000,
                    "web_search_call",
                    "]}",
                    '"[{',
                    "é",
                ),
                *(
                    "file_search_call",
                    "image_generation_call",
                    "completed",
                    "failed",
                    "gpt-4o-search-preview",
                ),
            ]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.lists(st.tuples(NAMES, inner), max_size=5).map(Members)
    ),
    max_leaves=12,
)
DOCUMENTS = st.lists(st.tuples(NAMES, VALUES), max_size=7).map(Members)


def written(value: object, blanks: bytes = b"", escape: bool = False) -> bytes:
    if isinstance(value, Members):
        members = [text(n, escape) + blanks + b":" + blanks + written(v, blanks, escape) for n, v in value]
        return b"{" + blanks + (blanks + b"," + blanks).join(members) + blanks + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(written(inner, blanks, escape) for inner in value) + b"]"
    return text(value, escape) if isinstance(value, str) else orjson.dumps(value)


def text(value: str, escape: bool) -> bytes:
    quoted = orjson.dumps(value)
    return quoted.replace(b"g", b"\\u0067") if escape else quoted


def outlined(document: bytes, cuts: list[int], kind: type[Outliner | EventOutliner] = Outliner) -> Any:
    outliner = kind()
    for a, b in itertools.pairwise(sorted({0, len(document), *(cut % (len(document) + 1) for cut in cuts)})):
        outliner.feed(document[a:b])
    return report_of(outliner.finish())


@settings(max_examples=400, deadline=None)
@example(Members([("output", [Members([("type", [])])])]), b"", False, [])
@given(
    DOCUMENTS,
    st.sampled_from([b"", b" ", b"\n\t"]),
    st.booleans(),
    st.lists(st.integers(0, 2**20), max_size=8),
)
def test_an_outline_says_what_the_document_says(document, blanks, escape, cuts):
    raw = written(document, blanks, escape)
    said = report_of(orjson.loads(raw))
    assert outlined(raw, cuts) == said
    assert outlined(raw, list(range(len(raw)))) == said
    in_an_event = b": hello\nevent: x\ndata: " + raw.replace(b"\n", b"\ndata:") + b"\n\n"
    assert outlined(in_an_event, cuts, EventOutliner) == said
    assert outlined(in_an_event, list(range(len(in_an_event))), EventOutliner) == said


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60), st.lists(st.sampled_from(list('{}[]":,\\ux1 \n')), max_size=60).map("".join)
    ),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_what_is_no_json_is_read_alike_however_it_is_cut(scrap, cuts):
    raw = b'{"usage":{"total_tokens":7},' + (scrap if isinstance(scrap, bytes) else scrap.encode())
    assert outlined(raw, cuts) == outlined(raw, [])
    assert outlined(raw, list(range(len(raw)))) == outlined(raw, [])


@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_byte_order_mark_in_front_is_passed_over_once(step):
    mark, document = b"\xef\xbb\xbf", b'{"usage":{"total_tokens":7}}'
    for raw, kept in ((mark + document, {"usage": {"total_tokens": 7}}), (mark[:2] + document, None)):
        outliner = Outliner()
        for at in range(0, len(raw), step):
            outliner.feed(raw[at : at + step])
        assert outliner.finish() == kept


LOGPROBS = [
    {
        "token": "}",
        "bytes": [125],
        "top_logprobs": [{"token": '"', "bytes": [34]}, {"token": "\\", "bytes": []}],
    }
] * 400


@pytest.mark.parametrize("step", [61, 1000, 65_536])
@pytest.mark.parametrize(
    "unasked",
    [LOGPROBS, [[0.125] * 1536] * 9, "a \"quoted\" [word] {\n\\" * 900, [["[" * 300] * 9], OWN, [OWN] * 99],
    ids=["logprobs", "vectors", "text", "brackets in texts", "a tenant's own", "a list of them"],
)  # fmt: skip
def test_what_nobody_asks_for_is_leapt_over_to_its_end(unasked, step):
    deep: object = unasked
    for _ in range(7):
        deep = {"x": [deep]}
    for between in (unasked, deep):
        raw = orjson.dumps({"metadata": between, "response": {"instructions": between, "usage": RESPONSE}})
        assert outlined(raw, list(range(0, len(raw), step))) == report_of({"usage": RESPONSE})


def test_of_a_long_list_a_bounded_part_is_kept():
    raw = orjson.dumps({"output": [{"x": 1}, *CALLS] * 3000, "usage": RESPONSE})
    outliner = Outliner()
    outliner.feed(raw)
    kept = outliner.finish()
    assert kept is not None
    assert len(kept["output"]) == 1024
    report = report_of(kept)
    assert report is not None
    assert report.usage.total == 300_005
