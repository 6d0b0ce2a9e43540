"""The shape of a path that no operation names: for the log, which must hold neither ids nor secrets. Pure."""

from __future__ import annotations

import re
from functools import lru_cache

_WORDS = re.compile(r"(?:v[0-9]{1,2}|[A-Za-z]{1,20}(?:[-_.][A-Za-z]{1,20}){0,3})")
"""What stands in a path by somebody's design: words, and versions. Ids and secrets have digits, or are longer."""

_MOST_SEGMENTS = 8
_REMEMBERED = 512
_MOST_REMEMBERED = 256
"""Characters of a path that is kept: anybody may ask for long ones, and each time for another."""

_ANY, _MORE = "*", "…"


def path_shape(target: str) -> str:
    """The words of a request target's path, `*` for every other segment, and none behind the eighth; no query."""
    path = target.partition("?")[0]
    return _remembered(path) if len(path) <= _MOST_REMEMBERED else _shape(path)


def _shape(path: str) -> str:
    segments = path.split("/", _MOST_SEGMENTS + 1)
    shown = [
        segment if not segment or _WORDS.fullmatch(segment) else _ANY
        for segment in segments[: _MOST_SEGMENTS + 1]
    ]
    if len(segments) > _MOST_SEGMENTS + 1:
        shown.append(_MORE)
    return "/".join(shown)


_remembered = lru_cache(maxsize=_REMEMBERED)(_shape)
