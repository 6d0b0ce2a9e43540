"""What would run a model unnamed is found at any depth, and a search by bytes misses nothing of it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.operations.table import OperationTable
from gateway.policy.reading import Question, read_body
from gateway.policy.unnamed_models import may_run_unnamed, unnamed_in
from gateway.wire.strict_json import hides_names

RUNNERS = OperationTable.load().runners
EVERYTHING = Question(models=True)

KINDS = sorted(
    RUNNERS.types | RUNNERS.tools_without | {"text", "Image_Generation", "image_generation_2026", "new"}
)
NAMES = sorted(
    RUNNERS.members
    | RUNNERS.stored
    | {"tools", "Tools", "tool_choice", "x", "item", "model", "type", "id", "svg"}
)
VALUES = st.recursive(
    st.sampled_from([*KINDS, None, "", "good", "svg", "cosine"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, "output_format", "evaluation_metric"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4), st.booleans())
def test_a_search_by_bytes_misses_nothing(document: dict[str, object], indented: bool) -> None:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 if indented else 0)
    if unnamed_in(document):
        assert may_run_unnamed(body) or hides_names(body)


@pytest.mark.parametrize(
    "body",
    [
        {
            "model": "m",
            "messages": [{"role": "user", "content": [{"type": "text", "text": "tools and models"}]}],
        },
        {"model": "m", "tools": [{"type": "function", "function": {"parameters": {"type": "object"}}}]},
        {"model": "m", "tools": [{"type": "web_search_preview_2025_03_11"}], "prompt": "a picture"},
    ],
)
def test_usual_bodies_are_searched_and_not_walked_through(body: dict[str, object]) -> None:
    assert not may_run_unnamed(orjson.dumps(body))
    assert unnamed_in(body) == ()


@pytest.mark.parametrize(
    "body",
    [
        b'{"tools":[{"type":"image_generation","type":"function"}]}',
        b'{"tools":[{"type":"image_generation"}],"tools":[]}',
        b'{"tools":[{"type":"sculpture","type":"function"}]}',
        b'{"prompt":{"id":"pmpt_1"},"prompt":"x"}',
        rb'{"tools":[{"type":"im\u0061ge_generation"}]}',
        rb'{"to\u006fls":[{"type":"image_generation"}]}',
        b'{"tools"\n:\t[ {"type" : "sculpture"} ] }',
        rb'{"tools":[{"type":"function\t"}]}',
        b'{"tools":[{"type":"' + b"function" * 20 + b'"}]}',
    ],
)
def test_what_is_written_twice_or_in_disguise_is_seen(body: bytes) -> None:
    named = read_body(body, EVERYTHING).named
    assert named.unnamed or named.fault is not None


def test_few_are_told_of_and_all_are_short() -> None:
    found = unnamed_in({"x" * 5000: [{"type": "score_model"}] * 5000})
    assert 1 <= len(found) <= 2
    assert all(len(member) <= 200 for member in found)


def test_a_deep_document_is_walked_without_recursion() -> None:
    document: dict[str, object] = {"type": "score_model"}
    for _ in range(1000):
        document = {"x": document}
    assert len(unnamed_in(document)) == 1
