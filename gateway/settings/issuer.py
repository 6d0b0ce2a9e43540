"""What an operator can set about another issuer whose credentials count here: a table `[issuers.NAME]`.

Nothing that widens trust has a default: which tenants an issuer may speak for and which scopes it may grant
must be written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, PlainValidator, model_validator

from gateway.settings.kept_file import KeptFile
from gateway.settings.section import TENANT_ID, Section

Name = Annotated[str, Field(min_length=1, max_length=256)]
AlgorithmName = Literal["EdDSA", "ES256", "RS256", "HS256"]
TypeName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


def is_loopback(host: str) -> bool:
    """Whether a host can only be this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _jwks_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.fragment:
        raise ValueError("expected an absolute https URL")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("keys come by https only (http is for this machine's own addresses)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL of public keys holds no login")
    return value


def _claim_name(value: object) -> str | tuple[str, ...]:
    names = value if isinstance(value, list | tuple) else (value,)
    if not 0 < len(names) <= _MOST_STEPS or not all(
        isinstance(name, str) and 0 < len(name) <= 256 for name in names
    ):
        raise ValueError("expected the name of a claim, or a list of the names that lead to it")
    return value if isinstance(value, str) else tuple(names)


_MOST_STEPS = 16
ClaimName = Annotated[str | tuple[str, ...], PlainValidator(_claim_name)]
ScopesClaim = Annotated[
    str | tuple[str, ...], PlainValidator(lambda value: value if value == "" else _claim_name(value))
]


class IssuerClaims(Section):
    """Which claim says what. Dots lead into nested claims; a name with ':' or '/' is one claim; a list of names leads
    into nested claims whatever those are called, as `["kubernetes.io", "namespace"]`."""

    tenant: ClaimName = "tenant"
    """Names the tenant."""

    subject: ClaimName = "sub"
    """Names the subject."""

    scopes: ScopesClaim = "scope"
    """Scopes, patterns and groups, a list or text with spaces between. Empty: credentials name none, each gets all of
    `scopes`."""

    models: ClaimName = "models"
    """A list, or text with spaces between; a credential without it gets all of `models`."""


class IssuerSettings(Section):
    """Another issuer, how its credentials are read, and the most that it may grant."""

    issuer: Name
    """Its `iss`, exactly."""

    audience: Name
    """The `aud` its credentials must have; not one that other services accept too."""

    audience_lists: bool = True
    """Whether `aud` may be a list that names others beside `audience`, as that of many login servers is."""

    jwks_url: Annotated[str, AfterValidator(_jwks_url)] | None = None
    """Where its public keys are: https, fetched in the background, no redirects."""

    jwks_file: KeptFile | None = None
    """A JWK Set; the only place where an HMAC secret may stand."""

    jwks: tuple[dict[str, JsonValue], ...] | None = Field(default=None, repr=False)
    """Public keys as JWKs, written down here."""

    jwks_stale_seconds: float = Field(default=24 * 3600.0, ge=600, le=30 * 86400)
    """How long the last good key set counts while the URL fails or answers nonsense."""

    algorithms: tuple[AlgorithmName, ...] = ("EdDSA", "ES256", "RS256")
    """Signatures that count."""

    types: tuple[TypeName, ...] = ("JWT", "at+jwt", "JOSE", "absent")
    """Accepted `typ`, in any case and with or without `application/`; `absent`: it may be missing."""

    require_jti: bool = False
    """Without a `jti` a credential can only be revoked with all others of its subject, or by its digest."""

    max_lifetime_seconds: float = Field(default=86400.0, gt=0, le=90 * 86400)
    """From issue to expiry, at most."""

    session_seconds: float = Field(default=0.0, ge=0, le=86400)
    """How long a WebSocket may last that was opened in time, even when its credential expires meanwhile; 0: to the
    expiry. `upstream.websocket_timeout_seconds` binds in any case."""

    claims: IssuerClaims = IssuerClaims()

    tenant: str | None = None
    """The tenant of all its credentials, whatever they say."""

    tenants: tuple[str, ...] = ()
    """The tenants that its credentials may name; `*`: any."""

    scopes: tuple[str, ...]
    """The most it may grant: scopes, patterns and groups."""

    models: tuple[Name, ...] | None = None
    """The most it may grant: names and `*` patterns; default: whatever the tenant may use."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems = [text for _, text in incomplete(dict(self))]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def incomplete(issuer: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What an issuer's table lacks or has twice, whatever else is wrong with it: the fields it is about, and why."""
    sources = [name for name in ("jwks_url", "jwks_file", "jwks") if issuer.get(name) is not None]
    if len(sources) != 1:
        yield "jwks_url jwks_file jwks", "exactly one of jwks_url, jwks_file and jwks says where its keys are"
    tenant = issuer.get("tenant")
    if (tenant is None) == (not issuer.get("tenants")):
        yield (
            "tenant tenants",
            "either tenant (all credentials are this tenant's) or tenants (those they may name)",
        )
    if isinstance(tenant, str) and not TENANT_ID.fullmatch(tenant):
        yield "tenant", "tenant is not a tenant id"
    for name in ("scopes", "algorithms", "types"):
        if issuer.get(name) in ((), []):
            yield name, f"{name} must not be empty"
    algorithms = issuer.get("algorithms")
    if isinstance(algorithms, list | tuple) and "HS256" in algorithms and issuer.get("jwks_file") is None:
        yield "jwks_file", "HS256 needs jwks_file: a secret is neither fetched nor part of the configuration"
