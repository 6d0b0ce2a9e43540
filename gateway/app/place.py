"""Which of a machine's workers this process is, and what of the machine is its part."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """One worker's place among those of its machine: all work on one configuration, whose caps are the machine's."""

    index: int = 0
    """Its slot, from 0 on; the successor of a worker has its place."""

    workers: int = 1
    """How many slots there are."""

    def part(self, whole: int) -> int:
        """This worker's part of a cap of the machine's, at least 1.

        All parts together are the whole, unless there is less than 1 for each.
        """
        each, rest = divmod(whole, self.workers)
        return max(1, each + (self.index < rest))


ALONE = Place()
"""The place of a process that has the machine to itself."""
