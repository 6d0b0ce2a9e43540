"""What the simulator says, and how it counts what was said. Pure."""

from __future__ import annotations

import re
from typing import Any, Final

_QUOTED_CHARACTERS: Final = 200
_PIECE: Final = re.compile(r"\s*\S+")


def simulated_answer(prompt: str) -> str:
    """An answer that says what it is, and quotes the beginning of what was asked."""
    return f"Simulated answer to: {prompt[:_QUOTED_CHARACTERS]} — written by a simulator; no model was asked."


def pieces(text: str, limit: int | None = None) -> list[str]:
    """The text word by word, at most `limit` of them; joined they are the text."""
    found = _PIECE.findall(text)
    return found if limit is None else found[:limit]


def size(text: str) -> int:
    """About what a model would count as usage: one for every four characters."""
    return 1 + len(text) // 4


def plain_text(content: Any) -> str:
    """The text in what the API takes as content: a string, parts, messages, results of calls, or lists of them."""
    match content:
        case str():
            return content
        case {"text": str(text)} | {"text": {"value": str(text)}} | {"transcript": str(text)}:
            return text
        case {"content": inner} | {"output": inner}:
            return plain_text(inner)
        case list():
            return " ".join(filter(None, map(plain_text, content)))
        case _:
            return ""
