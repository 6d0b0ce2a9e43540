"""What bodies and fields name of the kinds that the registry knows: all of it, once, and nothing in two ways."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.operations.stored_kinds import StoredKinds
from gateway.policy.reading import Question, read_body
from gateway.policy.references import (
    LONGEST_ID,
    MOST_REFERENCES,
    Told,
    is_id,
    may_name,
    named_by,
    references_in,
    references_in_field,
)
from gateway.policy.stored_objects import may_be_named_in
from gateway.wire.body_facts import BodyFacts, Reference
from gateway.wire.request_fields import BodyRefused

KINDS = StoredKinds.load()
OWNED = Question(("model",), stored=True, owned=True)

NAMED: list[tuple[dict[str, Any], list[tuple[str, str, str]]]] = [
    ({"previous_response_id": "resp_1"}, [("response", "resp_1", "previous_response_id")]),
    ({"conversation": "conv_1"}, [("conversation", "conv_1", "conversation")]),
    ({"conversation": {"id": "conv_1"}}, [("conversation", "conv_1", "conversation")]),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, [("item", "msg_1", "item_reference")]),
    ({"input": [{"id": "msg_1"}]}, [("item", "msg_1", "item_reference")]),
    ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, [("item", "rs_1", "item_reference")]),
    ({"items": [{"type": None, "id": "msg_1"}]}, [("item", "msg_1", "item_reference")]),
    ({"input": [{"content": [{"type": "input_file", "file_id": "file-1"}]}]}, [("file", "file-1", "file_id")]),
    ({"messages": [{"content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, [("file", "file-1", "file_id")]),
    ({"file_ids": ["file-1", "file-2", "file-1"]}, [("file", "file-1", "file_ids"), ("file", "file-2", "file_ids")]),
    ({"files": [{"file_id": "file-1"}]}, [("file", "file-1", "file_id")]),
    ({"input_file_id": "file-1"}, [("file", "file-1", "input_file_id")]),
    ({"tools": [{"vector_store_ids": ["vs_1"]}]}, [("vector_store", "vs_1", "vector_store_ids")]),
    ({"tools": [{"container": "cntr_1"}]}, [("container", "cntr_1", "container")]),
    ({"tools": [{"container": {"type": "auto", "file_ids": ["file-1"]}}]}, [("file", "file-1", "file_ids")]),
    ({"environment": {"type": "x", "container_id": "cntr_1"}}, [("container", "cntr_1", "container_id")]),
    ({"video": {"id": "video_1"}}, [("video", "video_1", "video")]),
    ({"input_reference": {"file_id": "file-1"}}, [("file", "file-1", "file_id")]),
    ({"attachments": [{"file_id": "file-1", "tools": []}]}, [("file", "file-1", "file_id")]),
    ({"assistant_id": "asst_1", "thread": {"messages": []}}, [("assistant", "asst_1", "assistant_id")]),
    ({"file_search": {"vector_stores": [{"file_ids": ["file-1"]}]}}, [("file", "file-1", "file_ids")]),
    ({"diagnostics": {"comparison_response_id": "resp_1"}}, [("response", "resp_1", "comparison_response_id")]),
]  # fmt: skip
"""What is named, by kind, id and member."""


def told(body: object, question: Question = OWNED) -> BodyFacts:
    raw = body if isinstance(body, bytes) else orjson.dumps({"model": "m", **body})  # type: ignore[dict-item]
    return read_body(raw, question)


@pytest.mark.parametrize(("body", "named"), NAMED)
def test_all_that_is_named_is_a_reference_and_not_missed_by_the_search(
    body: dict[str, Any], named: list[tuple[str, str, str]]
) -> None:
    facts = told(body)

    assert sorted(facts.named.references) == sorted(named)
    assert (facts.named.stored, facts.named.fault) == (None, None)
    assert may_be_named_in(orjson.dumps(body))
    large = told(body | {"instructions": "x" * 70_000})
    assert sorted(large.named.references) == sorted(named), "whatever the size"


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"voice": "voice_1"}, "voice"),
        ({"audio": {"voice": {"id": "voice_1"}}}, "voice"),
        ({"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}, "audio"),
        (
            {"tools": [{"environment": {"skills": [{"type": "skill_reference", "skill_id": "s"}]}}]},
            "skill_id",
        ),
        ({"tools": [{"environment": {"skills": ["s"]}}]}, "skills"),
        ({"characters": [{"id": "char_1"}]}, "characters"),
        ({"characters": [{"id": "char_1", "name": "x", "content": "x"}]}, "characters"),
        ({"characters": ["char_1"]}, "characters"),
        ({"training_file": "file-1"}, "training_file"),
        ({"tools": [{"type": "mcp", "tunnel_id": "tunnel_1"}]}, "tunnel_id"),
        ({"something_of_tomorrow_id": "x"}, "something_of_tomorrow_id"),
        ({"source": {"type": "file_id", "id": "file-1"}}, "id"),
        ({"part_ids": ["part_1"]}, "part_ids"),
        ({"run_id": "run_1"}, "run_id"),
    ],
)
def test_what_is_of_no_kind_is_refused_by_its_name(body: dict[str, Any], member: str) -> None:
    facts = told(body)

    assert facts.named.stored == member
    assert facts.named.references == ()


def test_parts_of_an_owned_parent_are_its_affair_and_what_the_account_has_is_not() -> None:
    parts = ("part_ids", "message_id", "run_id", "batch_id")
    body = {"part_ids": ["part_1"], "run_id": "run_1", "batch_id": "vsfb_1", "file_id": "file-1"}

    facts = told(body, OWNED._replace(below=parts))

    assert facts.named.references == (Reference("file", "file-1", "file_id"),)
    assert facts.named.stored is None


def test_the_file_of_a_citation_is_the_containers_affair_there_alone() -> None:
    cited = {"type": "container_file_citation", "container_id": "cntr_1", "file_id": "cfile_1"}
    annotated = {"input": [{"type": "message", "content": [{"text": "x", "annotations": [cited]}]}]}
    elsewhere = [
        {"input": [{"type": "message", "content": [cited]}]},
        {"annotations": [cited | {"type": "file_citation"}]},
        {"annotations": [{"type": "container_file_citation", "file_id": "cfile_1"}]},
    ]

    assert [one.kind for one in told(annotated).named.references] == ["container"]
    for body in elsewhere:
        assert "file" in [one.kind for one in told(body).named.references], body


@pytest.mark.parametrize(
    "body",
    [
        {"store": True}, {"store": 1}, {"conversation": None, "previous_response_id": None},
        {"conversation": "none"}, {"metadata": {"file_id": "x"}}, {"video": "https://x.test/a.mp4"},
        {"input": [{"type": "message", "id": "msg_1", "role": "user", "content": "x"}]},
        {"items": [{"type": "function_call_output", "id": "fco_1", "call_id": "c_2", "output": ""}]},
        {"messages": [{"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]}]},
        {"tools": [{"parameters": {"properties": {"file_id": {"type": "string"}}}}]},
        {"voice": "alloy", "user_id": 7, "file_ids": []},
    ],
)  # fmt: skip
def test_what_refers_to_nothing_is_not_named(body: dict[str, Any]) -> None:
    named = told(body).named
    assert (named.references, named.stored, named.fault) == ((), None, None)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model":"m","file_id":"file-B","file_id":"file-A"}',
        rb'{"model":"m","file_id":"file-B","f\u0069le_id":"file-A"}',
        rb'{"model":"m","File_ID":"file-A"}',
        rb'{"model":"m","file_id":"file-B","FILE_ID":"file-A"}',
        '{"model":"m","\u017ftore":1,"file_id\u0000":"x","previou\u017f_response_id":"resp_A"}'.encode(),
        rb'{"model":"m","file_id":7}',
        rb'{"model":"m","file_id":true}',
        rb'{"model":"m","file_id":[["file-A"]]}',
        rb'{"model":"m","file_ids":["file-B",null,7]}',
        rb'{"model":"m","file_ids":["file-B",{"id":"file-A"}]}',
        rb'{"model":"m","conversation":{"id":["conv_A"]}}',
        rb'{"model":"m","input":[{"type":"item_reference","id":["msg_A"]}]}',
        rb'{"model":"m","input":[{"type":"item_reference","ID":"msg_A"}]}',
        b'{"model":"m","file_id":"file-A"} {"x":1}',
        b'{"model":"m","file_id":"file-\\ud83d"}',
        b'{"model":"m","fil\\udc00e_id":"file-A"}',
    ],
)
def test_whatever_two_readers_could_read_differently_is_refused(body: bytes) -> None:
    try:
        named = told(body).named
    except BodyRefused:
        return
    assert named.fault is not None or named.stored is not None


def test_a_byte_order_mark_and_escapes_hide_nothing() -> None:
    for body in (
        b'\xef\xbb\xbf{"model":"m","file_id":"file-A"}',
        rb'{"model":"m","\u0066\u0069le\u005fid":"file-A"}',
        rb'{"model":"m","file_id":"\u0066ile-A"}',
        b'{"model":"m",\n\t"file_id"\r\n :\t"file-A"}',
    ):
        assert told(body).named.references == (Reference("file", "file-A", "file_id"),)


def test_more_references_than_anybody_needs_are_refused_in_words() -> None:
    most = [f"file-{number}" for number in range(MOST_REFERENCES)]

    assert len(told({"file_ids": most}).named.references) == MOST_REFERENCES
    fault = told({"file_ids": [*most, "file-x"]}).named.fault
    assert fault is not None
    assert "2048" in fault.message


@pytest.mark.parametrize(
    ("text", "sound"),
    [
        ("file-abc_1.x:~", True), ("a" * LONGEST_ID, True), ("", False), ("a" * (LONGEST_ID + 1), False),
        ("file-A ", False), (" file-A", False), ("file-A\n", False), ("file-A\r\n", False), ("file-A\0", False),
        ("file%2dA", False), ("files/file-A", False), ("file-A?x", False), ("file-Å", False), ("ﬁle-A", False),
        ("file-A\u200b", False), ("..", False), ("~", False), ("a+b", False), ('a"b', False),
    ],
)  # fmt: skip
def test_ids_are_made_of_what_no_reader_makes_another_of(text: str, sound: bool) -> None:
    assert is_id(text) is sound


def test_an_overlong_id_stays_one_and_is_kept_short() -> None:
    (reference,) = told({"file_id": "a" * 100_000}).named.references

    assert not is_id(reference.id)
    assert len(reference.id) <= LONGEST_ID + 1


MEMBERS = st.sampled_from(sorted(set(KINDS.by_member) - {"item_reference"}))
IDS = st.from_regex(r"[a-z]{1,6}[-_][A-Za-z0-9]{1,12}", fullmatch=True).filter(
    lambda text: text not in ("auto", "none")
)
PLACES = st.lists(st.sampled_from(["tools", "content", "input", "thread", "x", "annotations"]), max_size=5)


@given(st.lists(st.tuples(MEMBERS, IDS, PLACES), max_size=8), st.booleans())
def test_wherever_it_stands_each_is_named_once(
    names: list[tuple[str, str, list[str]]], escaped: bool
) -> None:
    inner: list[object] = []
    for member, one_id, places in names:
        value: object = {member: [one_id, one_id] if member.endswith("_ids") else one_id}
        for place in places:
            value = {place: [value]}
        inner.append(value)
    raw = orjson.dumps({"model": "m", "of_tomorrow": inner})
    if escaped:
        raw = raw.replace(b"_id", b"\\u005fi\\u0064")

    named = told(raw).named

    wanted = {(KINDS.by_member[member].name, one, member) for member, one, _ in names}
    assert named.fault is None
    assert set(named.references) == wanted
    assert len(named.references) == len(wanted)


LEAVES = st.none() | st.text(max_size=8) | st.integers()
SOME_NAMES = st.sampled_from(["id", "ID", "type", "file_id", "File_id", "container", "input", "x"])
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SOME_NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=12), VALUES, max_size=4))
def test_no_text_under_a_name_of_a_kind_is_passed_over(document: dict[str, Any]) -> None:
    found = references_in(document)
    if found.stored is not None or found.fault is not None:
        return
    known = {one.id for one in found.references}
    pending: list[object] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            for name, inner in value.items():
                if name in ("parameters", "schema", "metadata"):
                    continue
                if name == "file_id" and isinstance(inner, str):
                    assert inner in known
                pending.append(inner)


@pytest.mark.parametrize(
    ("name", "kind", "plain"),
    [
        ("file_id", "file", True), ("image[][file_id]", "file", True), ("input_reference[file_id]", "file", True),
        ("video[id]", "video", True), ("video.id", "video", True), ("conversation[id]", "conversation", True),
        ("file_ids[]", "file", True), ("file_ids[0]", "file", False), ("File_ID", "file", False),
        ("container", "container", True), ("prompt[id]", None, True), ("unknown_id", None, True),
        ("file_id[x]", "file", False), ("Video[id]", "video", False), ("video[ID]", "video", False),
        ("items[][id]", "item", True),
    ],
)  # fmt: skip
def test_a_field_names_by_its_steps(name: str, kind: str | None, plain: bool) -> None:
    found = named_by(name)

    assert found is not None
    assert (found.kind, found.is_plain) == (kind, plain)


@pytest.mark.parametrize(
    "name",
    ["model", "prompt", "purpose", "video", "image[]", "metadata[customer_id]", "include[]", "call_id", "id"],
)
def test_a_field_that_names_nothing(name: str) -> None:
    assert named_by(name) is None


def test_what_a_body_wants_kept_and_has_made_inside_is_known() -> None:
    inside = ("tool_resources.file_search.vector_stores",)
    body = {"store": True, "tool_resources": {"file_search": {"vector_stores": [{}]}}}

    assert told(body, OWNED._replace(inside=inside)).makes_inside == inside
    assert told({"tool_resources": {}}, OWNED._replace(inside=inside)).makes_inside == ()
    assert told({"tool_resources": [1]}, OWNED._replace(inside=inside)).makes_inside == ()
    assert [told({"store": value}).store for value in (True, False, None, 1)] == [True, False, None, None]


@pytest.mark.parametrize(
    ("name", "is_file", "has_to_be_read"),
    [
        ("file_id", False, True), ("image[][file_id]", False, True), ("file_id", True, True),
        ("video", False, True), ("image[]", False, True), ("input_reference", False, True), ("mask", False, True),
        ("video", True, False), ("image[]", True, False), ("prompt", False, False), ("purpose", False, False),
    ],
)  # fmt: skip
def test_a_part_of_a_form_is_read_that_names_something_or_could_hold_what_does(
    name: str, is_file: bool, has_to_be_read: bool
) -> None:
    assert may_name(name, is_file) is has_to_be_read


@pytest.mark.parametrize(
    ("name", "text", "references"),
    [
        ("file_id", "file-1", [("file", "file-1", "file_id")]),
        ("image[][file_id]", "file-1", [("file", "file-1", "file_id")]),
        ("video[id]", "video_1", [("video", "video_1", "video")]),
        ("video", '{"id": "video_1"}', [("video", "video_1", "video")]),
        ("video", '\ufeff \r\n{"id": "video_1"}', [("video", "video_1", "video")]),
        ("image[]", '[{"file_id": "file-1"}]', [("file", "file-1", "file_id")]),
        ("input_reference", '{"file_id": "file-1"}', [("file", "file-1", "file_id")]),
        ("video", "https://example.test/video_1", []),
        ("image", "anything", []),
        ("file_id", "", [("file", "", "file_id")]),
    ],
)
def test_a_field_names_by_its_name_or_by_the_json_that_it_holds(
    name: str, text: str, references: list[tuple[str, str, str]]
) -> None:
    found = references_in_field(name, text)

    assert (found.stored, found.fault) == (None, None)
    assert sorted(found.references) == [Reference(*one) for one in references]


@pytest.mark.parametrize(
    ("name", "text", "param"),
    [
        ("File_ID", "file-1", "file_id"),
        ("file_ids[0]", "file-1", "file_ids"),
        ("image", '{"file_id": "file-1", "file_id": "file-2"}', "image"),
        ("image", '{"file_id": ', "image"),
        ("image", '{"File_ID": "file-1"}', "file_id"),
        ("video", "video_1", "video"),
    ],
)
def test_a_field_that_could_be_read_in_two_ways_is_refused(name: str, text: str, param: str) -> None:
    fault = references_in_field(name, text).fault

    assert fault is not None
    assert fault.param == param


def test_a_field_of_no_kind_is_refused_unless_the_path_decides_about_it() -> None:
    assert references_in_field("part_ids[]", "part_1").stored == "part_ids"
    assert references_in_field("part_ids[]", "part_1", ("part_ids",)) == Told()
    assert references_in_field("image", '{"part_ids": ["part_1"]}', ("part_ids",)) == Told()


def test_the_id_in_a_field_that_is_too_long_is_none_and_never_the_beginning_of_it() -> None:
    (reference,) = references_in_field("file_id", "f" * (LONGEST_ID + 9)).references

    assert not is_id(reference.id)
    assert len(reference.id) == LONGEST_ID + 1
