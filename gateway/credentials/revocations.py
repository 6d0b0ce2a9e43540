"""Revocations: which credentials the operator has withdrawn. Pure; stores keep them in Redis or in a file.

A revocation names one credential by its id, or everything of a tenant or of one of its subjects that is dated
before a moment. Clocks of issuers may be ahead, by as much as a credential's date may be in the future: `moment_for`
takes that in. It is kept until nothing that it names could still be valid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson

from gateway.credentials.principal import Principal

_FORMS = ({"credential", "until"}, {"tenant", "before", "until"}, {"tenant", "subject", "before", "until"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One withdrawal: of a credential, or else of all that a tenant (and subject) had `before`.

    Times in whole unix seconds.
    """

    credential: str | None = None
    tenant: str | None = None
    subject: str | None = None
    before: int | None = None
    until: int

    def members(self) -> dict[str, object]:
        """Return it as it is written down."""
        named = {name: getattr(self, name) for name in ("credential", "tenant", "subject", "before", "until")}
        return {name: value for name, value in named.items() if value is not None}

    def encode(self) -> bytes:
        """Return the one spelling in which stores keep it."""
        return orjson.dumps(self.members())

    @classmethod
    def read(cls, members: object) -> Revocation:
        """Take what `members` gave; raises ValueError for anything else."""
        if not isinstance(members, Mapping) or set(members) not in _FORMS:
            raise ValueError("a revocation has credential and until; or tenant, before, until, maybe subject")
        for name, value in members.items():
            wanted = int if name in ("before", "until") else str
            if type(value) is not wanted:
                raise ValueError(f"{name} of a revocation is not of the right type")
        return cls(**members)


def moment_for(now: float, leeway_seconds: float) -> int:
    """The `before` of what revokes all that anybody can have issued until now, in whole unix seconds."""
    return math.floor(now + leeway_seconds) + 1


class RevocationsUnavailable(Exception):
    """The store cannot say, or keep, what is revoked. The message is for logs and operators."""


class RevocationList:
    """The revocations in force in this process. `check` is for the hot path: three look-ups."""

    def __init__(self) -> None:
        self._entries: frozenset[Revocation] = frozenset()
        self._credentials: frozenset[str] = frozenset()
        # For each, everything issued before this is revoked.
        self._tenants: dict[str, int] = {}
        self._subjects: dict[tuple[str, str], int] = {}
        self._next_end: float = math.inf

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, principal: Principal) -> bool:
        """Whether this credential has been revoked."""
        tenant, issued_at = principal.tenant, principal.issued_at
        return (
            principal.credential_id in self._credentials
            or issued_at < self._tenants.get(tenant, 0)
            or issued_at < self._subjects.get((tenant, principal.subject), 0)
        )

    def before(self, tenant: str, subject: str) -> int:
        """The moment from which on credentials of this subject may be dated; 0 where nothing is revoked."""
        return max(self._tenants.get(tenant, 0), self._subjects.get((tenant, subject), 0))

    def replace(self, entries: Iterable[Revocation], now: float) -> None:
        """Let these be in force instead, but for those that have ended; `now` in unix seconds."""
        self._entries = frozenset(entry for entry in entries if entry.until > now)
        self._next_end = min((entry.until for entry in self._entries), default=math.inf)
        self._credentials = frozenset(entry.credential for entry in self._entries if entry.credential)
        self._tenants, self._subjects = {}, {}
        for entry in sorted(self._entries, key=lambda entry: entry.before or 0):  # the latest one counts
            if entry.tenant is None or entry.before is None:
                continue
            if entry.subject is None:
                self._tenants[entry.tenant] = entry.before
            else:
                self._subjects[entry.tenant, entry.subject] = entry.before

    @property
    def entries(self) -> frozenset[Revocation]:
        """All that is in force."""
        return self._entries

    def expire(self, now: float) -> None:
        """Let go of what has ended."""
        if now >= self._next_end:
            self.replace(self._entries, now)


class RevocationStore(Protocol):
    """Where revocations are kept for all processes. Its methods raise RevocationsUnavailable."""

    async def changed(self) -> frozenset[Revocation] | None:
        """Return all of them when they may have changed since the last call, None when they have not."""

    async def add(self, revocation: Revocation) -> None:
        """Keep one more; known to every process that follows the store within two seconds."""

    async def close(self) -> None:
        """Let go of the store."""
