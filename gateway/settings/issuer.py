"""What an operator can set about another issuer whose credentials count here: a table `[issuers.NAME]`.

Nothing that widens trust has a default: which tenants an issuer may speak for and which scopes it may grant
must be written down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, JsonValue, PlainValidator, model_validator

from gateway.settings.kept_file import KeptFile
from gateway.settings.section import TENANT_ID, Section
from gateway.settings.subjects import MOST_SUBJECTS, SubjectGrant, SubjectPattern

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

    issuer: Name | None = None
    """Its `iss`, exactly. Must be set, but where `spiffe_trust_domain` is."""

    spiffe_trust_domain: Annotated[str, Field(pattern=r"^[a-z0-9._-]{1,255}$")] | None = None
    """As `example.org`: its credentials are JWT-SVIDs, whose `sub` is the SPIFFE id of a workload in this trust domain.
    They need no `iss`, and no `iat`: then they may expire `max_lifetime_seconds` from now at most."""

    audience: Name
    """The `aud` its credentials must have; not one that other services accept too."""

    audience_lists: bool = True
    """Whether `aud` may be a list that names others beside `audience`, as that of many login servers is."""

    jwks_url: Annotated[str, AfterValidator(_jwks_url)] | None = None
    """Where its public keys are: https, fetched in the background, no redirects."""

    jwks_ca_file: KeptFile | None = None
    """Certificates to trust there in place of the system's (PEM); what the file holds is followed."""

    jwks_bearer_token_file: Path | None = None
    """A file with what opens that URL, sent as `Authorization: Bearer`; read for each fetch, for it may be rotated."""

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

    subjects: Annotated[dict[SubjectPattern, SubjectGrant], Field(max_length=MOST_SUBJECTS)] = Field(
        default_factory=dict
    )
    """By subject, exact or a pattern such as `system:serviceaccount:search:*`. With any, no other subject counts."""

    @property
    def name(self) -> str:
        """What the gateway calls it: its `iss`, or the trust domain of one that needs none."""
        return self.issuer or f"spiffe://{self.spiffe_trust_domain}"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        problems = [text for _, text in incomplete(dict(self))]
        if problems:
            raise ValueError("\n".join(problems))
        return self


def incomplete(issuer: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What an issuer's table lacks or has twice, whatever else is wrong with it: the fields it is about, and why."""
    if issuer.get("issuer") is None and issuer.get("spiffe_trust_domain") is None:
        yield "issuer spiffe_trust_domain", "issuer is missing: its `iss`, exactly"
    if issuer.get("spiffe_trust_domain") is not None and _claim_of_subject(issuer.get("claims")) != "sub":
        yield "spiffe_trust_domain claims", "spiffe_trust_domain is about `sub`: claims.subject must be that"
    sources = [name for name in ("jwks_url", "jwks_file", "jwks") if issuer.get(name) is not None]
    if len(sources) != 1:
        yield "jwks_url jwks_file jwks", "exactly one of jwks_url, jwks_file and jwks says where its keys are"
    url = issuer.get("jwks_url")
    for name in ("jwks_ca_file", "jwks_bearer_token_file"):
        if issuer.get(name) is not None and url is None:
            yield f"{name} jwks_url", f"{name} is of no use without jwks_url"
    if issuer.get("jwks_ca_file") is not None and isinstance(url, str) and url.startswith("http:"):
        yield "jwks_ca_file jwks_url", "jwks_ca_file is of no use for a jwks_url without https"
    yield from _whose(issuer)
    for name in ("scopes", "algorithms", "types"):
        if issuer.get(name) in ((), []):
            yield name, f"{name} must not be empty"
    algorithms = issuer.get("algorithms")
    if isinstance(algorithms, list | tuple) and "HS256" in algorithms and issuer.get("jwks_file") is None:
        yield "jwks_file", "HS256 needs jwks_file: a secret is neither fetched nor part of the configuration"


def _whose(issuer: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What is wrong with whose its credentials are."""
    tenant, tenants, subjects = issuer.get("tenant"), issuer.get("tenants"), issuer.get("subjects")
    own = {
        pattern: _member(grant, "tenant")
        for pattern, grant in (subjects.items() if isinstance(subjects, Mapping) else ())
    }
    if isinstance(tenant, str) and not TENANT_ID.fullmatch(tenant):
        yield "tenant", "tenant is not a tenant id"
    if tenant is not None and tenants:
        yield "tenant tenants", _EITHER
    elif tenant is None and not tenants:
        unsaid = next((pattern for pattern, said in own.items() if said is None), None)
        if not own:
            yield "tenant tenants", _EITHER
        elif unsaid is not None:
            yield (
                "tenant tenants subjects",
                f"whose {unsaid!r} of subjects is, is said nowhere: give it a tenant",
            )
    most = tenants if isinstance(tenants, list | tuple) else ()
    for pattern, said in own.items():
        if said is None or said in (tenant, *most) or "*" in most or not (tenant or most):
            continue
        yield (
            "tenant tenants subjects",
            f"subjects: {pattern!r} is given to {said!r}, and all that the issuer may speak for is "
            f"{tenant or ', '.join(map(str, most))}",
        )


_EITHER = (
    "either tenant (all credentials are this tenant's) or tenants (those they may name), unless each entry of subjects "
    "has a tenant"
)


def _member(table: object, name: str) -> object:
    """A member of a table that has been read, or is still as it was written."""
    return table.get(name) if isinstance(table, Mapping) else getattr(table, name, None)


def _claim_of_subject(claims: object) -> object:
    return "sub" if claims is None else _member(claims, "subject") or "sub"
