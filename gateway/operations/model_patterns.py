"""Which models a list of names and patterns allows. `*` stands for any text, nothing else is special.

Tenants, issuers and credentials spell their models alike, and one rule reads them all.
"""

from collections.abc import Iterable, Sequence


def allows(patterns: Iterable[str], model: str) -> bool:
    """Whether one of the patterns is, or matches, this exact model name; case counts."""
    return any(_matches(pattern, model) for pattern in patterns)


def narrowed(claimed: Sequence[str], ceiling: Sequence[str]) -> tuple[str, ...]:
    """Return patterns for the models that both lists allow.

    Never more; less only where two patterns overlap and neither contains the other (`a*` and `*b`).
    """
    within = [pattern for pattern in claimed if allows(ceiling, pattern)]
    around = [pattern for pattern in ceiling if allows(claimed, pattern)]
    return tuple(dict.fromkeys([*within, *around]))


def closest(patterns: Iterable[str], text: str) -> str | None:
    """The pattern that speaks most closely of a text: the text itself, else the longest that matches."""
    matching = [pattern for pattern in patterns if allows((pattern,), text)]
    if text in matching:
        return text
    return max(matching, key=len, default=None)


def _matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the text; of a text that is itself a pattern, whether it contains it.

    Linear, where a regular expression could be made to backtrack.
    """
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    end = len(text) - len(last)
    if end < len(first) or not text.startswith(first) or not text.endswith(last):
        return False
    position = len(first)
    for part in middle:
        found = text.find(part, position, end)
        if found < 0:
            return False
        position = found + len(part)
    return True
