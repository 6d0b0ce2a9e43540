"""Which of an issuer's subjects count, and what each gets: patterns, looked up part by part. Pure.

What decides between two patterns that match is the first part in which they differ: there the part itself comes before
one with a `*`, of those the longest text before the `*` and then behind it, and `**` comes last. So no two patterns
match one subject with nothing to choose between them, whatever the order in which they were written.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from gateway.settings.subjects import REST, parts_of

_PLAIN = re.compile(r"[!-~]+")
_NEVER_PLAIN = frozenset("%\\")
_ENDS = frozenset(":/")


@dataclass(frozen=True, slots=True)
class Grant:
    """The most that an issuer may grant to some subjects."""

    pattern: str
    """Which; empty: all, for the issuer tells none apart."""

    tenant: str | None
    """Whose they are; None: a claim says it."""

    scopes: frozenset[str] | None
    """None: whatever the issuer may grant, and a credential has to name its own."""

    models: tuple[str, ...] | None
    """Names and patterns; None: whatever the tenant may use."""


@dataclass(slots=True)
class _Place:
    """What patterns say that begin alike."""

    parts: dict[str, _Place] = field(default_factory=dict)
    before: dict[str, _Behind] = field(default_factory=dict)
    """Parts with a `*`, by the text before it."""

    before_lengths: list[int] = field(default_factory=list)
    """How long those texts are; ascending, each once."""

    here: Grant | None = None
    below: Grant | None = None


@dataclass(slots=True)
class _Behind:
    """Parts with a `*`, by the text behind it."""

    places: dict[str, _Place] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)


class Subjects:
    """The grants of one issuer by pattern, made once; a look-up takes as long for ten thousand as for ten."""

    def __init__(self, grants: Iterable[Grant]) -> None:
        self._root = _Place()
        self._patterns: list[str] = []
        for grant in grants:
            self._add(grant)

    def __len__(self) -> int:
        return len(self._patterns)

    def grant(self, subject: str) -> Grant | None:
        """What a subject gets; None: nothing, for no pattern matches it."""
        parts = parts_of(subject)
        return _found(self._root, parts, 0) if parts else None

    def nearest(self, subject: str) -> tuple[str, str] | None:
        """Of a subject that none matches: the pattern that goes along with it for longest, and where they part."""
        wanted = parts_of(subject)
        best: tuple[int, str, str] | None = None
        for pattern in self._patterns:
            parts = parts_of(pattern)
            alike = 0
            while alike < min(len(parts), len(wanted)) and _matches(parts[alike], wanted[alike]):
                alike += 1
            if best is None or alike > best[0]:
                best = alike, pattern, parts[alike] if alike < len(parts) else ""
        return None if best is None else best[1:]

    def _add(self, grant: Grant) -> None:
        self._patterns.append(grant.pattern)
        place = self._root
        *parts, last = parts_of(grant.pattern)
        for part in parts if last == REST else (*parts, last):
            place = _place_of(place, part)
        if last == REST:
            place.below = grant
        else:
            place.here = grant


def _place_of(place: _Place, part: str) -> _Place:
    before, star, behind = part.partition("*")
    if not star:
        return place.parts.setdefault(part, _Place())
    if before not in place.before:
        place.before[before] = _Behind()
        _note(place.before_lengths, len(before))
    followed = place.before[before]
    if behind not in followed.places:
        followed.places[behind] = _Place()
        _note(followed.lengths, len(behind))
    return followed.places[behind]


def _note(lengths: list[int], length: int) -> None:
    if length not in lengths:
        insort(lengths, length)


def _found(place: _Place, parts: list[str], position: int) -> Grant | None:
    """What the rest of a subject gets; each place is looked at once at most."""
    if position == len(parts):
        return place.here
    part = parts[position]
    for following in _following(place, part):
        grant = _found(following, parts, position + 1)
        if grant is not None:
            return grant
    if place.below is not None and _is_plain("".join(parts[position:])):
        return place.below
    return None


def _following(place: _Place, part: str) -> Iterator[_Place]:
    """Where a part leads, the most exact first."""
    exact = place.parts.get(part)
    if exact is not None:
        yield exact
    for length in reversed(place.before_lengths):
        followed = place.before.get(part[:length]) if length < len(part) else None
        if followed is None:
            continue
        for behind_length in reversed(followed.lengths):
            end = len(part) - behind_length
            if end > length and _is_star(part[length:end]):
                following = followed.places.get(part[end:])
                if following is not None:
                    yield following


def _matches(pattern: str, part: str) -> bool:
    before, star, behind = pattern.partition("*")
    if not star:
        return pattern == part
    middle = part[len(before) : len(part) - len(behind)]
    return part.startswith(before) and part.endswith(behind) and _is_star(middle)


def _is_star(text: str) -> bool:
    return _is_plain(text) and _ENDS.isdisjoint(text)


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None and _NEVER_PLAIN.isdisjoint(text)
