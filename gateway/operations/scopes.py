"""Scopes: their syntax, and how patterns and groups become scopes when a credential is issued.

A scope is `resource:verb`, the resource in dotted parts: `chat.completions:write`. A credential carries
scopes only; patterns exist at the moment of issuing, against the scopes known then, so that a scope added
later is never granted behind anybody's back.
"""

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches

OTHERS_USAGE = "usage:read"
"""What it takes to be told of the usage of the tenant's other subjects. No operation needs it."""

# Granted by name: a pattern reaches these only when it spells the same beginning. So `*` and `*:read` never
# include them, `org.*` and `unlisted:*` do what they say, and `realtime:*` does not mint.
BY_NAME_ONLY = ("org.", "unlisted:", "realtime:mint", OTHERS_USAGE)

GROUPS: dict[str, tuple[str, ...]] = {
    "inference": (
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
    "assistants": ("assistants:*", "files:*", "runs:*", "threads:*", "vector_stores:*"),
    "read-only": ("*:read",),
}

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


def parse(claim: str) -> frozenset[str]:
    """Read a `scope` claim: one or more scopes with one space between them; raises ScopeProblem."""
    scopes = claim.split(" ")
    if not all(map(is_scope, scopes)):
        raise ScopeProblem("scope must be scopes with one space between them")
    return frozenset(scopes)


def expand(requested: Iterable[str], known: Collection[str]) -> frozenset[str]:
    """Turn scopes, patterns and groups into scopes; raises ScopeProblem listing all that grant nothing.

    Patterns: `*`, `*:read`, `files:*`, `audio.*` (every verb below audio), `org.*:read`.
    """
    granted: set[str] = set()
    problems: list[str] = []
    for wanted in requested:
        scopes = [scope for pattern in GROUPS.get(wanted, (wanted,)) for scope in _matching(pattern, known)]
        if not scopes:
            problems.append(_unknown(wanted, known))
        granted.update(scopes)
    if problems:
        raise ScopeProblem(*problems)
    return frozenset(granted)


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
    if "*" in wanted:
        return f"{wanted!r} matches no scope"
    near = get_close_matches(wanted, [*known, *GROUPS], n=1)
    return f"{wanted!r} is no scope" + (f"; did you mean {near[0]!r}?" if near else "")
