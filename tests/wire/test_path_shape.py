"""The shape of a path that no operation names."""

from __future__ import annotations

import tracemalloc

from gateway.wire.path_shape import path_shape


def test_long_paths_are_shown_alike_and_nothing_is_kept_of_them() -> None:
    ours = [tracemalloc.Filter(True, source) for source in (__file__, path_shape.__code__.co_filename)]
    tracemalloc.start()
    try:
        for number in range(600):
            assert path_shape(f"/v1/things/{number}{'x' * 8000}?key={'s' * 8000}") == "/v1/things/*"
        # Other threads of these tests allocate meanwhile, in other modules.
        kept = tracemalloc.take_snapshot().filter_traces(ours).statistics("filename")
        assert sum(one.size for one in kept) < 500_000
    finally:
        tracemalloc.stop()


def test_a_query_makes_no_other_path() -> None:
    assert path_shape("/v1/things?a=b") == path_shape("/v1/things?c=d") == "/v1/things"
