"""How long the answers of one model have been: a mean and a spread that forget, and the longest of late. Pure.

In LLM tokens of output, one answer each. Where several gateways know of some, what each has seen since it last told is
joined into one; `lua/learn.lua` does that in Redis by the same rule.
"""

from __future__ import annotations

from math import sqrt

EXPECTED_OUTPUT = 1000
"""Of an answer where nothing is known."""

WINDOW = 32
"""About so many of the latest answers make the mean and the spread."""

KEPT = 1 - 1 / WINDOW
"""What is kept of what was known, at each further answer."""

LEAST_GUESS = EXPECTED_OUTPUT // 4
_SPREADS = 0.5
"""Standard deviations above the mean. tests/usage/test_guesses.py says what each choice would cost."""

_LONGEST_IS_AT_MOST = 16
"""Guesses that the longest answer of late may have."""

FORGOTTEN_BY_HALF_SECONDS = 3600.0
"""The longest counts for half as much after this time, however many came since."""

MOST_LEARNED = 1_000_000
"""Whoever reports a longer answer is mistaken, and nobody is to guess by it."""


class Lengths:
    """How long answers have been, as far as that has been seen."""

    __slots__ = (
        *("count", "last_at", "longest", "longest_at", "seen", "squares", "total"),
        *("_guess", "_looked_at"),
    )

    def __init__(
        self,
        seen: float = 0,
        count: float = 0.0,
        total: float = 0.0,
        squares: float = 0.0,
        longest: float = 0.0,
        longest_at: float = 0.0,
        last_at: float = 0.0,
    ) -> None:
        self.seen = seen
        """Answers in all."""

        self.count = count
        """Those of which something is kept, each for what is kept of it; so with their total, and their squares'."""

        self.total = total
        self.squares = squares
        self.longest = longest
        self.longest_at = longest_at
        """When it was, in unix seconds, as `last_at` is of the last one."""

        self.last_at = last_at
        self._guess: int | None = EXPECTED_OUTPUT
        """None until it is asked for: there is one more answer oftener than anybody has to guess."""

        self._looked_at = 0.0

    @property
    def mean(self) -> float:
        """Of the last answers; 0 where there were none."""
        return self.total / self.count if self.count else 0.0

    def add(self, length: int, now: float) -> None:
        """Know of one more answer."""
        # As `join` does of one, without the powers: every answer comes by here.
        self.seen += 1
        self.count = self.count * KEPT + 1.0
        self.total = self.total * KEPT + length
        self.squares = self.squares * KEPT + length * length
        if length >= self.longest or length >= self._longest_of_late(now):
            self.longest, self.longest_at = length, now
        if now > self.last_at:
            self.last_at = now
        self._guess, self._looked_at = None, now

    def join(self, later: Lengths, now: float) -> None:
        """Know of what has been seen elsewhere, as if all of it had come later."""
        kept = KEPT**later.seen
        self.seen += later.seen
        self.count = self.count * kept + later.count
        self.total = self.total * kept + later.total
        self.squares = self.squares * kept + later.squares
        if later.longest >= self._longest_of_late(later.longest_at):
            self.longest, self.longest_at = later.longest, later.longest_at
        self.last_at = max(self.last_at, later.last_at)
        self.look(now)

    def numbers(self) -> tuple[float, float, float, float, float, float, float]:
        """All that is known, as it is told."""
        return (
            *(self.seen, self.count, self.total, self.squares),
            *(self.longest, self.longest_at, self.last_at),
        )

    def look(self, now: float) -> None:
        """Guess anew."""
        self._guess, self._looked_at = None, now

    @property
    def guess(self) -> int:
        """What one more answer is expected to have, as of the last `add`, `join` or `look`.

        Half a deviation above the mean of the last answers and one of EXPECTED_OUTPUT; no less than a sixteenth of the
        longest of late, whatever came since, and a quarter of EXPECTED_OUTPUT; no more than anything that has been.
        """
        if self._guess is not None:
            return self._guess
        count = self.count + 1
        mean = (self.total + EXPECTED_OUTPUT) / count
        variance = (self.squares + EXPECTED_OUTPUT * EXPECTED_OUTPUT) / count - mean * mean
        guess = mean + _SPREADS * sqrt(variance) if variance > 0.0 else mean
        least = max(LEAST_GUESS, self._longest_of_late(self._looked_at) / _LONGEST_IS_AT_MOST)
        self._guess = int(min(max(guess, least), max(self.longest, EXPECTED_OUTPUT)))
        return self._guess

    def _longest_of_late(self, now: float) -> float:
        age_seconds = max(0.0, now - self.longest_at)
        return float(self.longest * 0.5 ** (age_seconds / FORGOTTEN_BY_HALF_SECONDS))
