"""How much structure a document has: what stands in strings is none, wherever it is cut and however it is escaped."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire import json_structure
from gateway.wire.json_structure import Bounds, exceeds

DEFAULTS = Bounds(200_000, 2_000_000)
VALUES = st.recursive(
    st.one_of(st.integers(-9, 99), st.text(st.sampled_from('{}[]:,"\\ü \n'), max_size=12)),
    lambda v: st.one_of(
        st.lists(v, max_size=4),
        st.dictionaries(st.text(st.sampled_from('a"\\:{'), max_size=4), v, max_size=4),
    ),
    max_leaves=12,
)


def counted(value: object) -> tuple[int, int]:
    """Structures and commas of a parsed value, by its own structure."""
    if isinstance(value, dict):
        inner = [counted(member) for member in value.values()]
        return 1 + len(value) + sum(s for s, _ in inner), max(0, len(value) - 1) + sum(c for _, c in inner)
    if isinstance(value, list):
        inner = [counted(item) for item in value]
        return 1 + sum(s for s, _ in inner), max(0, len(value) - 1) + sum(c for _, c in inner)
    return 0, 0


@settings(max_examples=300, deadline=None)
@given(VALUES, st.integers(1, 9))
def test_every_bound_is_exact_in_bites_of_any_size(value: object, bite: int) -> None:
    structures, commas = counted(value)
    document = orjson.dumps(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_structure, "_BITE_BYTES", bite)

        assert not exceeds(document, Bounds(structures, commas))
        assert not structures or exceeds(document, Bounds(structures - 1, commas))
        assert not commas or exceeds(document, Bounds(structures, commas - 1))


def test_a_table_in_one_string_and_numbers_for_embeddings_have_little() -> None:
    table = {"model": "m", "input": 'a,b,1.5,"x",{},[]:\\\n' * 200_000}
    numbers = {"model": "m", "input": list(range(300_000))}

    assert orjson.dumps(table).count(b",") > 1_000_000
    assert not exceeds(orjson.dumps(table), DEFAULTS)
    assert not exceeds(orjson.dumps(numbers), DEFAULTS)


@pytest.mark.parametrize("filling", [b"{},", b'{"a":1},', b"[],", b"[" * 9 + b"]" * 9 + b","])
def test_too_much_is_found(filling: bytes) -> None:
    assert exceeds(b"[" + filling * 200_001 + b"1]", DEFAULTS)
    assert exceeds(b"[" + b"1," * 2_000_001 + b"1]", DEFAULTS)
    assert not exceeds(b"[" + filling * 11_000 + b"1," * 1_000_000 + b"1]", DEFAULTS)


def test_what_is_no_json_is_counted_as_well() -> None:
    for document in (b"", b'"', b"\\", b'"\\', b'""""', b"\\\\\\", b'{"a', b"\xff" * 10):
        assert not exceeds(document, DEFAULTS)
