"""Where halves of characters stand in JSON, and as what readers have them."""

from __future__ import annotations

import json  # noqa: TID251 (the lenient reader)
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.half_characters import readings


@pytest.mark.parametrize(
    ("text", "replaced", "dropped"),
    [
        (rb"\ud83d", rb"\ufffd", rb""),
        (rb"a\uDE00b", rb"a\ufffdb", rb"ab"),
        (rb"\ud83d\ud83d\ude00", rb"\ufffd\ud83d\ude00", rb"\ud83d\ude00"),
        (rb"\ud83d\ude00\ude00", rb"\ud83d\ude00\ufffd", rb"\ud83d\ude00"),
        (rb"\\\ud83d", rb"\\\ufffd", rb"\\"),
        (rb"\n\ud83d\\ud83d", rb"\n\ufffd\\ud83d", rb"\n\\ud83d"),
    ],
)
def test_halves_are_told_from_whole_characters_and_from_backslashes(
    text: bytes, replaced: bytes, dropped: bytes
) -> None:
    assert readings(text) == (replaced, dropped)


@pytest.mark.parametrize(
    "text", [rb"", rb"\ud83d\ude00", rb"\\ud83d", rb"\u00e9", rb"ud83d", rb"\ud83", rb"\u\ud800d800"]
)
def test_where_there_is_none_nothing_is_read_anew(text: bytes) -> None:
    assert readings(text) is None


@given(st.text(st.characters(codec=None), max_size=30))
def test_what_is_read_is_what_a_lenient_parser_reads(text: str) -> None:
    document = json.dumps(text).encode()
    found = readings(document)
    halves = [
        c for c in text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if c == "\ufffd"
    ]
    if found is None:
        assert orjson.loads(document) == json.loads(document)
        return
    assert halves
    assert len(found.replaced) == len(document)
    as_utf16 = json.loads(document).encode("utf-16-le", "surrogatepass")
    assert orjson.loads(found.dropped) == as_utf16.decode("utf-16-le", "ignore")


def test_time_is_linear() -> None:
    def seconds(document: bytes) -> float:
        began = time.process_time()
        readings(document)
        return time.process_time() - began

    for text in (b"\\", b"\\ud800", b"\\\\", b"\\ud83d\\ude00"):
        small = min(seconds(text * 20_000) for _ in range(3))
        assert min(seconds(text * 80_000) for _ in range(2)) < 12 * max(small, 0.0005)
