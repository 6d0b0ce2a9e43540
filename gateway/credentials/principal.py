"""Who calls, and the ways in which a credential fails to say so.

CredentialError
├── CredentialMissing       none was sent
├── CredentialMalformed     it does not have the form of a credential
│   └── CredentialTooLong   longer than is read
├── CredentialNotAccepted   it has, but we do not accept it
├── CredentialUndecided     the keys of its issuer cannot be had now, so nobody can tell
├── CredentialExpired       accepted once; said only when signature and all other claims are right
└── CredentialRevoked       withdrawn by the operator; said under the same condition
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Check(StrEnum):
    """Which check a credential failed; a metric label, so a closed set."""

    MISSING = "missing"
    """None was sent."""

    MALFORMED = "malformed"
    """It does not have the form of a credential, or more than one was sent."""

    UPSTREAM_KEY = "upstream_key"
    """A key of the API behind the gateway was sent in its place."""

    TOO_LONG = "too_long"
    """It is longer than is read."""

    ISSUER = "issuer"
    """Nobody trusts who says to have issued it."""

    HEADER = "header"
    """Its header names no key, has another type, or members that change what a signature means."""

    KEY = "key"
    """The key that it names is none of its issuer's: retired, or of another deployment."""

    ALGORITHM = "algorithm"
    """It is not signed in the way of that key, or in one that its issuer may not use."""

    SIGNATURE = "signature"
    """The signature is not that key's."""

    AUDIENCE = "audience"
    """It is meant for somebody else."""

    TENANT = "tenant"
    """It names no tenant, or one that its issuer may not speak for."""

    SUBJECT = "subject"
    """Its subject is none that its issuer may vouch for here."""

    CLAIMS = "claims"
    """Another claim is missing, or says what cannot be."""

    LIFETIME = "lifetime"
    """It lives for longer than credentials may, or expires before it is issued."""

    NOT_YET = "not_yet"
    """It counts later: a clock is wrong, or it was sent too early."""

    EXPIRED = "expired"
    """Its time is over."""

    REVOKED = "revoked"
    """The operator has withdrawn it."""

    NO_KEYS = "no_keys"
    """The keys of its issuer cannot be had, so nobody can tell."""

    NO_SESSION = "no_session"
    """A secret for realtime sessions, and this is none."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls and what they may do, as a verified credential says it. Times in unix seconds."""

    tenant: str
    subject: str
    scopes: frozenset[str]
    credential_id: str
    """Its `jti`; for a credential without one `sha256:` and a digest of what was signed."""

    issued_at: float
    expires_at: float
    models: tuple[str, ...] | None = None
    """Names and patterns as of model_patterns.py; None: whatever the tenant may use."""

    limits: Mapping[str, int] | None = field(default=None, hash=False)
    """Limits of its own, by name of the dimension, below those of the tenant."""

    issuer: str = ""
    """The `iss` that vouches for it."""

    key_id: str = ""
    """The key of that issuer that signed."""

    scope_version: int | None = None
    """The version of the operation table by which its groups and patterns are meant; None: it has none of ours."""

    session_seconds: float = 0.0
    """How long a WebSocket may last that was opened in time, even past the expiry."""


class CredentialError(Exception):
    """A request without a credential that counts. `reason` is for the log, never for the answer."""

    check: Check
    """What it failed."""

    def __init__(self, reason: str, check: Check | None = None) -> None:
        """`check`: narrower than of its kind."""
        super().__init__(reason)
        self.reason = reason
        if check is not None:
            self.check = check


class CredentialMissing(CredentialError):
    check = Check.MISSING


class CredentialMalformed(CredentialError):
    check = Check.MALFORMED


class CredentialTooLong(CredentialMalformed):
    """It has so many bytes, and so many are read at most."""

    check = Check.TOO_LONG

    def __init__(self, has_bytes: int, most_bytes: int) -> None:
        super().__init__(f"longer than {most_bytes} bytes")
        self.has_bytes = has_bytes
        self.most_bytes = most_bytes


class CredentialNotAccepted(CredentialError):
    check = Check.CLAIMS


class CredentialUndecided(CredentialError):
    """`retry_after_seconds`: until the keys are asked for again."""

    check = Check.NO_KEYS

    def __init__(self, reason: str, *, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class CredentialExpired(CredentialError):
    check = Check.EXPIRED


class CredentialRevoked(CredentialError):
    check = Check.REVOKED
