"""Caps are the machine's: its workers' parts of them are the whole together."""

from __future__ import annotations

import pytest

from gateway.app.place import ALONE, Place


@pytest.mark.parametrize("workers", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("whole", [64, 100, 1000, 10_001, 2**30 + 5])
def test_parts_are_the_whole_together_and_nearly_equal(workers: int, whole: int) -> None:
    parts = [Place(index, workers).part(whole) for index in range(workers)]
    assert sum(parts) == whole
    assert max(parts) - min(parts) <= 1


def test_each_worker_has_at_least_one_of_a_cap_below_their_number() -> None:
    assert [Place(index, 4).part(2) for index in range(4)] == [1, 1, 1, 1]


def test_a_process_alone_has_the_whole() -> None:
    assert ALONE.part(1) == 1
    assert ALONE.part(2**40) == 2**40
