"""How many series there may be in all: whoever scrapes keeps each of them, and one that is made is made for good.

When room gets scarce new series go by less particular names. The operation goes first: where it is the only label,
which is that of histograms, once half of the room is taken, for whoever asks for every operation that there is would
fill nearly all of it with buckets; beside other labels once no more than a tenth is left. So every tenant, model and
code still gets its own. When there is none any more, a new series is counted in the one of its instrument that has
`other` for all its labels; for those room is kept from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

MOST_SERIES = 20_000
"""As Prometheus counts them: each bucket of a histogram is one."""

OTHER = "other"
_GOES_FIRST = "operation"
_RECOUNT_AFTER = 200
"""Series; to look again how many there are is not for every one of them."""


class SeriesRoom:
    """The room for the series of one process, or of all on one page."""

    def __init__(self, most: int = MOST_SERIES, *, recount: Callable[[], int] | None = None) -> None:
        """`recount` says how many there really are, where more were foreseen than may have come of it."""
        self.most = most
        self.taken = 0
        self.folded: Callable[[], None] = _nothing
        """Told of each series that gets a less particular name."""

        self._kept = 0
        self._recount = recount
        self._recounted = -_RECOUNT_AFTER

    def keep(self, lines: int) -> None:
        """Keep room for the one series of an instrument to which others are folded; so many are one of its."""
        self._kept += lines

    def named(
        self,
        labels: Sequence[str],
        values: tuple[str, ...],
        lines: int,
        is_there: Callable[[tuple[str, ...]], bool],
    ) -> tuple[str, ...]:
        """The values of these labels by which a new series of so many lines is to be known.

        `is_there` says of others whether there is such a series already.
        """
        if not labels:
            self.taken += lines
            return values
        has_operation = _GOES_FIRST in labels
        is_more = has_operation and len(labels) > 1
        if self._takes(lines, self.most // (10 if is_more else 2) if has_operation else 0):
            return values
        self.folded()
        if is_more:
            less = tuple(
                OTHER if label == _GOES_FIRST else value for label, value in zip(labels, values, strict=True)
            )
            if is_there(less) or self._takes(lines, 0):
                return less
        others = (OTHER,) * len(labels)
        if not is_there(others):
            self._kept -= lines
            self.taken += lines
        return others

    def _takes(self, lines: int, spared: int) -> bool:
        most = self.most - self._kept - spared
        if (
            self.taken + lines > most
            and self._recount is not None
            and self.taken - self._recounted >= _RECOUNT_AFTER
        ):
            self.taken = self._recounted = self._recount()
        if self.taken + lines > most:
            return False
        self.taken += lines
        return True


def _nothing() -> None:
    pass
