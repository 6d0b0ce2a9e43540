"""Texts of others, such that whoever shows them does nothing else."""

from __future__ import annotations

TEXT_LIMIT = 256


def cut(text: str, limit: int = TEXT_LIMIT) -> str:
    """As much of a text as may be in a line."""
    return text if len(text) <= limit else text[:limit] + "…"


def harmless(text: str) -> str:
    """A text without characters that a terminal, a viewer or a splitter of lines would act upon."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def short(text: str | None) -> str | None:
    """A text of somebody else's, cut and harmless."""
    return None if text is None else harmless(cut(text))
