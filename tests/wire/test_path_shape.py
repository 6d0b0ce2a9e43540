"""The shape of a path that no operation names."""

from __future__ import annotations

import tracemalloc

from gateway.wire.path_shape import path_shape


def test_long_paths_are_shown_alike_and_nothing_is_kept_of_them() -> None:
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(600):
            assert path_shape(f"/v1/things/{number}{'x' * 8000}?key={'s' * 8000}") == "/v1/things/*"
        # They are 9.6 MB; what other threads of these tests allocate meanwhile is counted with them.
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_query_makes_no_other_path() -> None:
    assert path_shape("/v1/things?a=b") == path_shape("/v1/things?c=d") == "/v1/things"
