"""Text that matches a regular expression: always the same one, and short. Pure.

Python's own reading of the expression is walked, and nothing is matched: that can take for ever. What looks ahead or
behind is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

# There is no other reading of regular expressions in the standard library that does not warn of its end.
from re import _constants as words  # type: ignore[attr-defined]
from re import _parser as reading  # type: ignore[attr-defined]
from typing import Any, Final

_LETTERS: Final = "aA0 _-.@/:x" + "".join(map(chr, range(33, 127)))
_CATEGORIES: Final[dict[Any, Callable[[str], bool]]] = {
    words.CATEGORY_DIGIT: str.isdigit,
    words.CATEGORY_NOT_DIGIT: lambda char: not char.isdigit(),
    words.CATEGORY_SPACE: str.isspace,
    words.CATEGORY_NOT_SPACE: lambda char: not char.isspace(),
    words.CATEGORY_WORD: lambda char: char.isalnum() or char == "_",
    words.CATEGORY_NOT_WORD: lambda char: not (char.isalnum() or char == "_"),
}
_MOST_STEPS: Final = 10_000


def matching(pattern: str, fewest: int = 0) -> str:
    """Text in which the expression is found, of so many characters if it can be stretched. Raises ValueError."""
    try:
        read = reading.parse(pattern)
        text = _Walk().text(read, 0)
        return text if len(text) >= fewest else _Walk().text(read, fewest - len(text))
    except (re.error, RecursionError, OverflowError) as problem:
        raise ValueError(f"the simulator knows no text that matches {pattern[:100]!r}") from problem


@dataclass(slots=True)
class _Walk:
    """One text's making."""

    groups: dict[int, str] = field(default_factory=dict)
    steps: int = 0

    def text(self, read: Any, more: int) -> str:
        """What a parsed expression matches; repetitions that may go on are repeated so often more."""
        return "".join([self._one(kind, value, more) for kind, value in read])

    def _one(self, kind: Any, value: Any, more: int) -> str:
        self.steps += 1
        match kind:
            case words.LITERAL:
                return chr(value)
            case words.NOT_LITERAL:
                return next(char for char in _LETTERS if ord(char) != value)
            case words.ANY:
                return "a"
            case words.IN:
                return _member(value)
            case words.BRANCH:
                return self.text(value[1][0], more)
            case words.SUBPATTERN:
                number, _, _, inner = value
                text = self.text(inner, more)
                if number is not None:
                    self.groups[number] = text
                return text
            case words.GROUPREF:
                return self.groups.get(value, "")
            case words.MAX_REPEAT | words.MIN_REPEAT | words.POSSESSIVE_REPEAT:
                least, most, inner = value
                times = min(least + more, most)
                self.steps += times
                if self.steps > _MOST_STEPS:
                    raise ValueError("the simulator repeats nothing so often")
                return "".join([self.text(inner, 0) for _ in range(times)])
            case words.ATOMIC_GROUP:
                return self.text(value, more)
            case words.AT:
                return ""  # where it stands, not what it is
            case _:
                raise ValueError(f"the simulator does not understand {kind} in a pattern")


def _member(allowed: Any) -> str:
    """The first character that a class such as `[a-z0-9_]` has."""
    negated = allowed[0][0] is words.NEGATE
    for char in _candidates(allowed):
        if any(_is_in(char, kind, value) for kind, value in allowed) != negated:
            return char
    raise ValueError("the simulator knows no character of this class")


def _candidates(allowed: Any) -> str:
    first = ""
    for kind, value in allowed:
        if kind is words.LITERAL:
            first += chr(value)
        elif kind is words.RANGE:
            first += chr(value[0])
    return first + _LETTERS


def _is_in(char: str, kind: Any, value: Any) -> bool:
    match kind:
        case words.LITERAL:
            return bool(ord(char) == value)
        case words.RANGE:
            return bool(value[0] <= ord(char) <= value[1])
        case words.CATEGORY:
            return value in _CATEGORIES and bool(_CATEGORIES[value](char))
        case _:
            return False
