"""Reading the claims of a credential: where each stands, and what it may be. Pure; wrong ones are refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.credentials.principal import CredentialNotAccepted
from gateway.limits.terms import Dimension, Quota

MAX_NAME_CHARACTERS = 256
MAX_SUBJECT_CHARACTERS = 512
"""Of a subject of another issuer: what Kubernetes calls a service account can have 339."""

VERSION_CLAIM = "scope_version"
"""The version of the operation table by which groups and patterns in `scope` are meant. Credentials of ours that hold
scopes alone have none, as those of gateways that knew of no version."""

ClaimPath = tuple[str, ...]
"""The members to follow from the top of the claims."""

Claims = Mapping[str, object]

ABSENT = object()
"""What stands where there is no such claim."""


def claim_path(name: str | ClaimPath) -> ClaimPath:
    """Read the name of a claim: a list is the way; of a text, dots lead into nested claims, but a URI is one claim."""
    if not isinstance(name, str):
        return name
    return (name,) if ":" in name or "/" in name else tuple(name.split("."))


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Which claim says what."""

    tenant: ClaimPath = ("tenant",)
    subject: ClaimPath = ("sub",)
    scopes: ClaimPath | None = ("scope",)
    """None: its credentials name no scopes; each gets all that it may be granted."""

    models: ClaimPath = ("models",)


def claim_at(claims: Claims, path: ClaimPath) -> object:
    """Return what stands at the end of a path, or ABSENT."""
    value: object = claims
    for member in path:
        if not isinstance(value, dict) or member not in value:
            return ABSENT
        value = value[member]
    return value


def spelled(path: ClaimPath) -> str:
    """A path as it is told."""
    return ".".join(path)


def read_name(value: object, path: ClaimPath, most: int = MAX_NAME_CHARACTERS) -> str:
    """Read a name that is safe in a log line: printable, so no control, direction or line characters."""
    if not isinstance(value, str) or not 0 < len(value) <= most or not value.isprintable():
        raise CredentialNotAccepted(f"{spelled(path)} is not 1 to {most} printable characters")
    return value


def read_words(value: object, path: ClaimPath) -> list[str]:
    """Read a list of texts, or one text in which spaces separate them."""
    words = value.split(" ") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CredentialNotAccepted(f"{spelled(path)} is neither a text nor a list of texts")
    return words


def read_version(claims: Claims) -> int | None:
    """The version of the table that a credential of ours names."""
    if VERSION_CLAIM not in claims:
        return None
    version = claims[VERSION_CLAIM]
    if type(version) is not int or version < 1:
        raise CredentialNotAccepted(f"{VERSION_CLAIM} is not a version")
    return version


def read_limits(claims: Claims) -> Mapping[str, int] | None:
    """Read limits that can be kept; one that cannot must not be passed over."""
    if "limits" not in claims:
        return None
    value = claims["limits"]
    if not isinstance(value, dict) or not all(type(capacity) is int for capacity in value.values()):
        raise CredentialNotAccepted("limits is not an object of whole numbers")
    try:
        for name, capacity in value.items():
            Quota(Dimension(name), capacity, key="")
    except ValueError:
        raise CredentialNotAccepted("limits has a name or a number that is not a limit's") from None
    return MappingProxyType(value)
