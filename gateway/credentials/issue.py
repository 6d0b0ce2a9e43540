"""Issuing credentials: nothing that a gateway with the same settings would refuse."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.credentials import jws
from gateway.credentials.claims import VERSION_CLAIM
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import KeyProblem
from gateway.credentials.principal import CredentialError, Principal
from gateway.credentials.verifier import Verifier
from gateway.operations.scopes import ScopeProblem, Vocabulary, expand, groups_first, is_scope
from gateway.operations.table import OperationTable
from gateway.settings.settings import Credentials


@dataclass(frozen=True, slots=True)
class Issued:
    """A new credential, and whom it makes of its bearer."""

    credential: str = field(repr=False)
    principal: Principal
    words: tuple[str, ...]
    """What it says that it grants: groups and patterns, and the scopes that are in none of them."""


@dataclass(frozen=True, slots=True)
class IssuedCredential:
    """What is remembered of a credential: everything but the credential. Times in unix seconds."""

    id: str
    tenant: str
    subject: str
    scopes: tuple[str, ...]
    """As it says them: groups and patterns first, then scopes."""

    models: tuple[str, ...] | None
    key: str
    """The kid of the key that signed it."""

    issued_at: int
    expires_at: int

    @property
    def principal(self) -> Principal:
        """Whom it makes of its bearer, as far as that is remembered."""
        return Principal(
            tenant=self.tenant,
            subject=self.subject,
            scopes=frozenset(self.scopes),
            credential_id=self.id,
            issued_at=self.issued_at,
            expires_at=self.expires_at,
            models=self.models,
        )


def issue(
    ring: KeyRing,
    accepted: Credentials,
    *,
    tenant: str,
    subject: str,
    scopes: Collection[str],
    ttl_seconds: int,
    models: Sequence[str] | None = None,
    limits: Mapping[str, int] | None = None,
    vocabulary: Vocabulary | None = None,
    clock: Callable[[], float] = time.time,
) -> Issued:
    """Sign a new credential with the ring's signing key, such that it is `accepted`.

    `scopes` are scopes, patterns and groups, which stay what they are: the credential names the version of the table by
    which they are meant. One of scopes alone names none. `vocabulary`: None: that of the package. ValueError says why
    it would be refused. Raises KeyProblem when no key signs.
    """
    vocabulary = vocabulary or OperationTable.load().vocabulary
    try:
        words = _concise(scopes, vocabulary)
    except ScopeProblem as problem:
        raise ValueError(f"not issued: {problem}") from None
    key = ring.signing_key
    if key is None:
        raise KeyProblem("no key of the ring can sign")
    issued_at = int(clock())
    claims: dict[str, object] = {
        "iss": accepted.issuer,
        "aud": accepted.audience,
        "sub": subject,
        "jti": secrets.token_hex(16),
        "iat": issued_at,
        "exp": issued_at + ttl_seconds,
        "tenant": tenant,
        "scope": " ".join(words),
    }
    if not all(map(is_scope, words)):
        claims[VERSION_CLAIM] = vocabulary.version
    if models is not None:
        claims["models"] = list(models)
    if limits:
        claims["limits"] = dict(limits)
    try:
        credential = jws.join(key, orjson.dumps(claims))
    except TypeError as error:  # orjson's way to refuse lone surrogates and huge numbers
        raise ValueError(f"not issued: {error}") from None
    verifier = Verifier(ring, accepted, vocabulary=vocabulary, clock=clock)
    try:
        return Issued(credential, verifier.verify(credential), words)
    except CredentialError as error:
        raise ValueError(f"not issued: {error.reason}") from None


def _concise(scopes: Iterable[str], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return what is granted in as few words as say it. Raises ScopeProblem for a pattern or group that is none."""
    words = groups_first(scopes)
    wide = [word for word in words if not is_scope(word)]
    granted = expand(wide, vocabulary.scopes)
    return (*wide, *(word for word in words if is_scope(word) and word not in granted))
