"""Reading a body in a content coding, up to a bound."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from gateway.wire.codings import codings, decoded

TEXT = b'{"error":{"message":"no"}}' * 10
CODERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"br": brotli.compress,
    b"zstd": zstandard.compress,
}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([], ()),
        ([b""], ()),
        ([b"identity"], ()),
        ([b"GZip"], (b"gzip",)),
        ([b"identity, br ,"], (b"br",)),
        ([b"gzip", b"identity", b"br"], (b"gzip", b"br")),
    ],
)
def test_codings_are_those_of_all_values_in_their_order(
    values: list[bytes], found: tuple[bytes, ...]
) -> None:
    assert codings(values) == found


@pytest.mark.parametrize("coding", CODERS)
def test_text_is_read_up_to_its_bound_and_not_beyond(coding: bytes) -> None:
    body = CODERS[coding](TEXT)

    assert decoded(body, (coding,), most_bytes=len(TEXT)) == TEXT
    assert decoded(body, (coding,), most_bytes=len(TEXT) - 1) is None
    assert decoded(gzip.compress(body), (coding, b"gzip"), most_bytes=1000) == TEXT
    assert decoded(b"", (coding,), most_bytes=10) in (b"", None)


def test_every_member_and_frame_is_read() -> None:
    assert decoded(gzip.compress(b"one") + gzip.compress(b"two"), (b"gzip",), most_bytes=10) == b"onetwo"
    assert (
        decoded(zstandard.compress(b"one") + zstandard.compress(b"two"), (b"zstd",), most_bytes=10)
        == b"onetwo"
    )


@pytest.mark.parametrize("coding", CODERS)
def test_what_is_damaged_or_unknown_is_not_read(coding: bytes) -> None:
    assert decoded(b"\xff" + CODERS[coding](TEXT), (coding,), most_bytes=1000) is None
    assert decoded(TEXT, (coding,), most_bytes=1000) is None
    assert decoded(TEXT, (b"compress",), most_bytes=1000) is None
    assert decoded(TEXT, (coding,) * 4, most_bytes=1000) is None


@pytest.mark.parametrize("coding", CODERS)
def test_a_bomb_takes_no_more_memory_than_the_bound(coding: bytes) -> None:
    bomb = CODERS[coding](bytes(64 * 2**20))
    tracemalloc.start()
    try:
        assert decoded(bomb, (coding,), most_bytes=2**20) is None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 16 * 2**20
