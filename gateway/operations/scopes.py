"""Scopes: their syntax, and what patterns and groups mean, now and at every version of the operation table.

A scope is `resource:verb`, the resource in dotted parts: `chat.completions:write`. Each exists since a version of
the table, and so does what a group grants. A credential that holds patterns or groups names the version at which it
was issued, and they mean what they meant then: what is added later is never granted behind anybody's back.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property

OTHERS_USAGE = "usage:read"
"""What it takes to be told of the usage of the tenant's other subjects. No operation needs it."""

# Granted by name: a pattern reaches these only when it spells the same beginning. So `*` and `*:read` never
# include them, `org.*` and `unlisted:*` do what they say, and `realtime:*` does not mint.
BY_NAME_ONLY = ("org.", "unlisted:", "realtime:mint", OTHERS_USAGE)

# By the version of the table since which a group grants them. Nothing is ever taken away: what is to mean less has
# another name.
GROUPS: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "inference": {
        1: (
            "audio.speech:write",
            "audio.transcriptions:write",
            "chat.completions:write",
            "completions:write",
            "embeddings:write",
            "images:write",
            "models:read",
            "moderations:write",
            "realtime:write",
            "responses:write",
        ),
        2: (
            "classify:write",
            "decisions:write",
            "infill:write",
            "messages:write",
            "pooling:write",
            "rerank:write",
            "score:write",
            "tokenize:write",
        ),
    },
    "assistants": {1: ("assistants:*", "files:*", "runs:*", "threads:*", "vector_stores:*")},
    "read-only": {1: ("*:read",)},
}
EVERYTHING = "*"
"""The pattern of all that is not granted by name only."""

_NAME = r"[a-z][a-z0-9_-]*"
_SCOPE = re.compile(rf"{_NAME}(?:\.{_NAME})*:{_NAME}")
_PATTERN = re.compile(rf"(?P<resource>\*|{_NAME}(?:\.{_NAME})*(?:\.\*)?)(?::(?P<verb>\*|{_NAME}))?")
MAX_SCOPE_CHARACTERS = 64


class ScopeProblem(ValueError):
    """Scopes that cannot be granted. `problems` lists every one of them."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def is_scope(text: str) -> bool:
    """Whether this is one scope, without wildcard, of at most 64 characters."""
    return len(text) <= MAX_SCOPE_CHARACTERS and _SCOPE.fullmatch(text) is not None


def is_word(text: str) -> bool:
    """Whether this may stand in a credential beside a version: a scope, a pattern, or what could be a group's name."""
    return is_scope(text) or (len(text) <= MAX_SCOPE_CHARACTERS and _PATTERN.fullmatch(text) is not None)


def parse(claim: str) -> frozenset[str]:
    """Read a `scope` claim: one or more scopes with one space between them; raises ScopeProblem."""
    scopes = claim.split(" ")
    if not all(map(is_scope, scopes)):
        raise ScopeProblem("scope must be scopes with one space between them")
    return frozenset(scopes)


def parse_words(claim: str) -> frozenset[str]:
    """Read a `scope` claim that has a version: scopes, patterns and groups, some of which may mean nothing here."""
    words = claim.split(" ")
    if not all(map(is_word, words)):
        raise ScopeProblem("scope must be scopes, patterns and groups with one space between them")
    return frozenset(words)


def expand(requested: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """Turn scopes, patterns and groups into scopes; raises ScopeProblem listing all that grant nothing.

    Patterns: `*`, `*:read`, `files:*`, `audio.*` (every verb below audio), `org.*:read`.
    """
    granted: set[str] = set()
    problems: list[str] = []
    for wanted in requested:
        scopes = _meant(wanted, known, GROUPS)
        if not scopes:
            problems.append(_unknown(wanted, known))
        granted |= scopes
    if problems:
        raise ScopeProblem(*problems)
    return frozenset(granted)


@dataclass(frozen=True)
class Vocabulary:
    """All scopes, and what scopes, patterns and groups mean at any version of the table. Pure."""

    since: Mapping[str, int]
    """By scope, the version since which it exists. The first is 1."""

    groups: Mapping[str, Mapping[int, tuple[str, ...]]] = field(default_factory=lambda: GROUPS)

    @cached_property
    def version(self) -> int:
        """The newest version: the one at which something was added last."""
        of_groups = (since for patterns in self.groups.values() for since in patterns)
        return max(1, *self.since.values(), *of_groups)

    @cached_property
    def scopes(self) -> tuple[str, ...]:
        """All of them, sorted."""
        return tuple(sorted(self.since))

    def at(self, version: int) -> frozenset[str]:
        """The scopes that existed at a version; of one that is yet to come, those of today."""
        return frozenset(scope for scope, since in self.since.items() if since <= version)

    def meaning(self, words: Iterable[str], version: int | None = None) -> frozenset[str]:
        """Return what words grant by the table of that version; None: by the newest. What means nothing grants nothing.

        A version that is yet to come means here what is known here: never more than it says there, for versions only
        ever add.
        """
        version = self.version if version is None else version
        known = self.at(version)
        granted: set[str] = set()
        for word in set(words):
            granted |= _meant(word, known, self.groups, version)
        return frozenset(granted)

    def folded(self, scopes: Collection[str], version: int | None = None) -> tuple[list[str], list[str]]:
        """Return the groups, `*` among them, that scopes hold whole, as they were at a version; and what is in none."""
        whole = [
            (name, meant)
            for name in (EVERYTHING, *self.groups)
            if (meant := self.meaning([name], version)) and meant.issubset(scopes)
        ]
        if whole and whole[0][0] == EVERYTHING:  # it has all the others in it
            del whole[1:]
        rest = set(scopes).difference(*(meant for _, meant in whole))
        return [name for name, _ in whole], sorted(rest)


def groups_first(words: Iterable[str]) -> list[str]:
    """Return words in the order in which people read them: groups and patterns first, then scopes."""
    return sorted(set(words), key=lambda word: (is_scope(word), word))


def _meant(
    word: str,
    known: Collection[str],
    groups: Mapping[str, Mapping[int, tuple[str, ...]]],
    version: int | None = None,
) -> set[str]:
    """Return the known scopes that a scope, pattern or group grants; none for what is none of these."""
    of_group = groups.get(word)
    if of_group is None:
        return set(_matching(word, known))
    patterns = (
        pattern for since, some in of_group.items() if version is None or since <= version for pattern in some
    )
    return {scope for pattern in patterns for scope in _matching(pattern, known)}


def _matching(pattern: str, known: Collection[str]) -> list[str]:
    """Return the known scopes that a scope or pattern grants; none for what is neither."""
    if pattern in known:
        return [pattern]
    parts = _PATTERN.fullmatch(pattern)
    if parts is None or "*" not in pattern:
        return []
    resource, verb = parts["resource"], parts["verb"] or "*"
    return [scope for scope in known if _grants(pattern, resource, verb, scope)]


def _grants(pattern: str, resource: str, verb: str, scope: str) -> bool:
    if any(scope.startswith(name) and not pattern.startswith(name) for name in BY_NAME_ONLY):
        return False
    scope_resource, _, scope_verb = scope.partition(":")
    if verb not in ("*", scope_verb):
        return False
    if resource.endswith("*"):
        return scope_resource.startswith(resource[:-1])
    return scope_resource == resource


def _unknown(wanted: str, known: Collection[str]) -> str:
    said = f"{wanted!r} matches no scope" if "*" in wanted else f"{wanted!r} is no scope"
    near = _nearest(wanted, known)
    return f"{said}; did you mean {near!r}?" if near else said


def _nearest(wanted: str, known: Collection[str]) -> str | None:
    """What was probably meant: a longer name that begins with the same part, or what is spelt alike."""
    resource, _, verb = wanted.partition(":")
    longer = sorted(
        scope for scope in known if scope.startswith(f"{resource}.") and scope.endswith(f":{verb}")
    )
    if longer and "*" not in wanted:
        return longer[0]
    resources = {scope.partition(":")[0] for scope in known}
    candidates = [*known, *GROUPS, *(f"{name}:*" for name in resources), "*:read", "*:write"]
    return next(iter(get_close_matches(wanted, candidates, n=1)), None)
