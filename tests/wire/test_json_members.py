"""Where members stand, however they are written, and setting one without touching another byte."""

import json  # noqa: TID251 - another implementation to compare with

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.json_members import members, place_of

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-9, 99), st.text(max_size=5), st.floats(0, 1))
NAMES = st.one_of(st.sampled_from(["model", "n", "stream", "store", "session", "x"]), st.text(max_size=4))
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(NAMES, v, max_size=3)), max_leaves=8
)


@st.composite
def spelled_out(draw) -> tuple[bytes, list[tuple[str, object]]]:
    """A JSON object written by hand: repeated names, escapes and blanks wherever JSON allows them."""
    pairs = draw(st.lists(st.tuples(NAMES, VALUES), max_size=5))
    blank = st.sampled_from(["", "", " ", "\n\t", "\r"])

    def name(text: str) -> str:
        at = draw(st.integers(0, 20))
        return "".join(
            f"\\u{ord(c):04{draw(st.sampled_from('xX'))}}"
            if i == at and ord(c) < 0x10000
            else json.dumps(c)[1:-1]
            for i, c in enumerate(text)
        )

    def value(v: object) -> str:
        return draw(blank) + json.dumps(v, ensure_ascii=draw(st.booleans())) + draw(blank)

    written = [f'{draw(blank)}"{name(n)}"{draw(blank)}:{value(v)}' for n, v in pairs]
    return (draw(blank) + "{" + ",".join(written) + "}" + draw(blank)).encode(), pairs


@settings(max_examples=150, deadline=None)
@given(spelled_out())
def test_members_are_found_as_they_were_written(case):
    body, pairs = case
    found = list(members(body))
    assert [member.name for member in found] == [name for name, _ in pairs]
    for member, (_, value) in zip(found, pairs, strict=True):
        assert json.loads(body[member.value_from : member.value_to]) == value


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{}", b'{"model":"m"}'),
        (b' {\n} ', b' {"model":"m"\n} '),
        (b'{ "n" : 1.50 }', b'{"model":"m", "n" : 1.50 }'),
        (b'{"a":1,"model" : null ,"b":2}', b'{"a":1,"model" : "m" ,"b":2}'),
        (b'{"mod\\u0065l":null}', b'{"mod\\u0065l":"m"}'),
        (b'{"a":{"model":"x"},"b":"\\u0061"}', b'{"model":"m","a":{"model":"x"},"b":"\\u0061"}'),
        (b'{"a":"}{","model":["x",{"y":"]"}],"b":[]}', b'{"a":"}{","model":"m","b":[]}'),
        (b"", b'{"model":"m"}'),
    ],
)  # fmt: skip
def test_one_member_is_set_and_every_other_byte_kept(before, after):
    begin, end, raw = place_of(before, "model").filled(b'"m"')
    assert before[:begin] + raw + before[end:] == after
