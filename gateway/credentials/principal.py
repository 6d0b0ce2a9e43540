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

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CredentialMissing(CredentialError):
    pass


class CredentialMalformed(CredentialError):
    pass


class CredentialTooLong(CredentialMalformed):
    """It has so many bytes, and so many are read at most."""

    def __init__(self, has_bytes: int, most_bytes: int) -> None:
        super().__init__(f"longer than {most_bytes} bytes")
        self.has_bytes = has_bytes
        self.most_bytes = most_bytes


class CredentialNotAccepted(CredentialError):
    pass


class CredentialUndecided(CredentialError):
    """`retry_after_seconds`: until the keys are asked for again."""

    def __init__(self, reason: str, *, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class CredentialExpired(CredentialError):
    pass


class CredentialRevoked(CredentialError):
    pass
