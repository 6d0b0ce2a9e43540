"""Issuing credentials: nothing that a gateway with the same settings would refuse."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.credentials import jws
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import KeyProblem
from gateway.credentials.principal import CredentialError, Principal
from gateway.credentials.verifier import Verifier
from gateway.settings.settings import Credentials


@dataclass(frozen=True, slots=True)
class Issued:
    """A new credential, and whom it makes of its bearer."""

    credential: str = field(repr=False)
    principal: Principal


@dataclass(frozen=True, slots=True)
class IssuedCredential:
    """What is remembered of a credential: everything but the credential. Times in unix seconds."""

    id: str
    tenant: str
    subject: str
    scopes: tuple[str, ...]
    models: tuple[str, ...] | None
    key: str
    """The kid of the key that signed it."""

    issued_at: int
    expires_at: int


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
    clock: Callable[[], float] = time.time,
) -> Issued:
    """Sign a new credential with the ring's signing key, such that it is `accepted`.

    `scopes` are plain scopes: patterns and groups go through `scopes.expand` first. ValueError says why it
    would be refused. Raises KeyProblem when no key signs.
    """
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
        "scope": " ".join(sorted(scopes)),
    }
    if models is not None:
        claims["models"] = list(models)
    if limits:
        claims["limits"] = dict(limits)
    try:
        credential = jws.join(key, orjson.dumps(claims))
    except TypeError as error:  # orjson's way to refuse lone surrogates and huge numbers
        raise ValueError(f"not issued: {error}") from None
    verifier = Verifier(ring, accepted, clock=clock)
    try:
        return Issued(credential, verifier.verify(credential))
    except CredentialError as error:
        raise ValueError(f"not issued: {error.reason}") from None
