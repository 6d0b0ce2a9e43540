"""Issuers: whose signature counts here, how their claims are read, and the most that each may grant.

The gateway's own key ring is one issuer; others stand beside it, each with keys of its own. The rules are
those of RFC 8725. Our own issuer is held to the letter: `aud` is our audience alone, times are whole seconds.

Another issuer's credentials speak to other services too. Its `aud` may be a list in which ours is one, unless the
operator says otherwise: whoever stands behind another door could replay here what opens that one. Scopes that mean
nothing here or go beyond what it may grant are left out; everything else that is wrong is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Protocol

from gateway.credentials.claims import (
    ABSENT,
    MAX_NAME_CHARACTERS,
    MAX_SUBJECT_CHARACTERS,
    ClaimNames,
    Claims,
    claim_at,
    read_limits,
    read_name,
    read_version,
    read_words,
    spelled,
)
from gateway.credentials.jws import SignedMessage
from gateway.credentials.keys import FOREIGN_KID, KID, Algorithm, Key
from gateway.credentials.principal import Check, CredentialExpired, CredentialNotAccepted, Principal
from gateway.credentials.spiffe import trust_domain_of
from gateway.credentials.subjects import Grant, Subjects
from gateway.operations.model_patterns import narrowed
from gateway.operations.scopes import ScopeProblem, Vocabulary, is_scope, parse_words
from gateway.operations.scopes import parse as parse_scopes
from gateway.settings.section import TENANT_ID

_MOST_PATTERNS = 64
"""In the scopes of another issuer: each is held against all scopes, while nobody else is served."""

TYPES = frozenset({"jwt", "at+jwt"})
UNTYPED = ""
"""In a set of types: the header may also have no `typ`, or an empty one."""

ANY_TENANT = "*"

# `crit` and `b64` change what a signature means; the others bring a key along.
_REFUSED_HEADER_MEMBERS = frozenset({"crit", "b64", "jku", "jwk", "x5u", "x5c"})


class Keys(Protocol):
    """Where the keys of one issuer are looked up."""

    def get(self, kid: str) -> Key | None:
        """Return the key of this kid, at once. Raises CredentialUndecided while nobody knows which keys there are."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that another issuer may grant."""

    tenants: frozenset[str]
    """Tenant ids; with ANY_TENANT among them, all."""

    scopes: frozenset[str]
    models: tuple[str, ...] | None = None
    """Names and patterns; None: whatever the tenant may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuer:
    """One issuer and everything that its credentials are held to. Without a ceiling it is our own."""

    name: str
    """Its `iss`, exactly."""

    audience: str
    keys: Keys = field(repr=False)
    vocabulary: Vocabulary = field(repr=False)
    ceiling: Ceiling | None = None
    audience_lists: bool = False
    """Whether `aud` may name others beside our audience."""

    algorithms: frozenset[Algorithm] = frozenset(Algorithm)
    types: frozenset[str] = TYPES
    """Accepted `typ`, in lower case and without `application/`."""

    claims: ClaimNames = field(default_factory=ClaimNames)
    tenant: str | None = None
    """The tenant of all its credentials; None: a claim says which."""

    subjects: Subjects | None = None
    """What its subjects get, where it tells them apart; no other counts then."""

    trust_domain: str | None = None
    """Its credentials are JWT-SVIDs of this SPIFFE trust domain, which need neither `iss` nor `iat`."""

    id_required: bool = True
    """Whether a credential must have a `jti`, by which alone it can be told from others of its subject."""

    max_lifetime_seconds: float
    session_seconds: float = 0.0

    def principal(
        self, message: SignedMessage, claims: Claims, *, now: float, leeway_seconds: float
    ) -> Principal:
        """Return whom a message speaks for, whose unproved claims name this issuer.

        Raises CredentialNotAccepted, or CredentialExpired for one that is right in every other way.
        """
        key = self.signer(message)
        self._check_audience(claims.get("aud"))
        self._check_trust_domain(claims.get("sub"))
        subject = self._subject(claims)
        grant = self.grant(subject)
        issued_at, expires_at = self._times(claims)
        principal = Principal(
            tenant=self._tenant(claims, grant),
            subject=subject,
            scopes=self._scopes(claims, grant),
            credential_id=self._credential_id(message, claims),
            issued_at=issued_at,
            expires_at=expires_at,
            models=self._models(claims, grant),
            limits=read_limits(claims) if self.ceiling is None else None,
            scope_version=read_version(claims) if self.ceiling is None else None,
            issuer=self.name,
            key_id=key.kid,
            session_seconds=self.session_seconds,
        )
        if "iat" not in claims:
            if not expires_at - now <= self.max_lifetime_seconds + leeway_seconds:
                raise CredentialNotAccepted(
                    f"there is no iat, and exp is not within {self.max_lifetime_seconds} seconds from now",
                    Check.LIFETIME,
                )
        elif not 0 < expires_at - issued_at <= self.max_lifetime_seconds:
            raise CredentialNotAccepted(
                f"exp is not within {self.max_lifetime_seconds} seconds after iat", Check.LIFETIME
            )
        elif issued_at > now + leeway_seconds:
            raise CredentialNotAccepted("iat is in the future", Check.NOT_YET)
        if "nbf" in claims and self._seconds(claims, "nbf") > now + leeway_seconds:
            raise CredentialNotAccepted("nbf is in the future", Check.NOT_YET)
        if now >= expires_at + leeway_seconds:
            raise CredentialExpired("expired")
        return principal

    def remaining(self, principal: Principal) -> Principal:
        """Return what is left of a principal for which this issuer vouched once, by what it may say now.

        Raises CredentialNotAccepted when nothing is.
        """
        if self.keys.get(principal.key_id) is None:
            raise CredentialNotAccepted(f"kid {principal.key_id} is no key of the issuer any more", Check.KEY)
        most = self.ceiling
        if most is None:
            return principal
        grant = self.grant(principal.subject)
        if not self._speaks_for(principal.tenant, grant):
            raise CredentialNotAccepted(
                "its tenant is one that the issuer may not speak for any more", Check.TENANT
            )
        models = principal.models
        if grant.models is not None:
            models = grant.models if models is None else narrowed(models, grant.models)
        return replace(
            principal,
            scopes=principal.scopes & (most.scopes if grant.scopes is None else grant.scopes),
            models=models,
            session_seconds=self.session_seconds,
        )

    def grant(self, subject: str) -> Grant:
        """What a subject gets at most; raises CredentialNotAccepted for one that does not count."""
        if self.subjects is None:
            return Grant("", self.tenant, None, None if self.ceiling is None else self.ceiling.models)
        grant = self.subjects.grant(subject)
        if grant is None:
            raise CredentialNotAccepted(
                f"no pattern of the issuer's subjects matches {subject}", Check.SUBJECT
            )
        return grant

    def signer(self, message: SignedMessage) -> Key:
        """Return the key of this issuer that signed a message; raises CredentialNotAccepted."""
        key = self._key(message.header)
        if not key.verifies(message.signed, message.signature):
            raise CredentialNotAccepted(f"the signature is not that of key {key.kid}", Check.SIGNATURE)
        return key

    def _key(self, header: Mapping[str, object]) -> Key:
        """Return the one key that a header may be verified by."""
        refused = _REFUSED_HEADER_MEMBERS.intersection(header)
        if refused:
            raise CredentialNotAccepted(f"the header has {' '.join(sorted(refused))}", Check.HEADER)
        kid = header.get("kid")
        if not isinstance(kid, str) or not (KID if self.ceiling is None else FOREIGN_KID).fullmatch(kid):
            raise CredentialNotAccepted("kid is not the name of a key", Check.HEADER)
        media_type = header.get("typ", UNTYPED)
        if not isinstance(media_type, str) or short_type(media_type) not in self.types:
            raise CredentialNotAccepted(
                "typ is none of those that this issuer's credentials may have", Check.HEADER
            )
        key = self.keys.get(kid)
        if key is None:
            raise CredentialNotAccepted(f"kid {kid} is no key of the issuer", Check.KEY)
        if key.algorithm not in self.algorithms:
            raise CredentialNotAccepted(f"alg {key.algorithm} is not allowed for the issuer", Check.ALGORITHM)
        if header.get("alg") != key.algorithm:
            raise CredentialNotAccepted(
                f"alg is not {key.algorithm}, the algorithm of key {kid}", Check.ALGORITHM
            )
        return key

    def _check_audience(self, audience: object) -> None:
        if audience in (self.audience, [self.audience]):
            return
        if not self.audience_lists:
            raise CredentialNotAccepted("aud is not this audience alone", Check.AUDIENCE)
        if not isinstance(audience, list) or self.audience not in audience:
            raise CredentialNotAccepted("aud is not this audience", Check.AUDIENCE)

    def _subject(self, claims: Claims) -> str:
        most = MAX_NAME_CHARACTERS if self.ceiling is None else MAX_SUBJECT_CHARACTERS
        return read_name(claim_at(claims, self.claims.subject), self.claims.subject, most)

    def _check_trust_domain(self, subject: object) -> None:
        if self.trust_domain is not None and trust_domain_of(subject) != self.trust_domain:
            raise CredentialNotAccepted(
                f"sub is no SPIFFE id of a workload in {self.trust_domain}", Check.SUBJECT
            )

    def _times(self, claims: Claims) -> tuple[float, float]:
        """When it was issued, and when it expires. Where the former may be missing it is the earliest that can be, so
        that no revocation is escaped."""
        if self.trust_domain is None or "iat" in claims:
            return self._seconds(claims, "iat"), self._seconds(claims, "exp")
        expires_at = self._seconds(claims, "exp")
        return expires_at - self.max_lifetime_seconds, expires_at

    def _seconds(self, claims: Claims, claim: str) -> float:
        """Read a moment: whole seconds of ours, of others whatever RFC 7519 calls a NumericDate."""
        value = claims.get(claim)
        if type(value) is int:  # True is an int to isinstance
            return value
        if self.ceiling is None or type(value) is not float:
            whole = "whole " if self.ceiling is None else ""
            raise CredentialNotAccepted(f"{claim} is not {whole}unix seconds")
        return value

    def _tenant(self, claims: Claims, grant: Grant) -> str:
        if grant.tenant is not None:
            return grant.tenant
        path = self.claims.tenant
        value = claim_at(claims, path)
        if not isinstance(value, str) or not TENANT_ID.fullmatch(value):
            raise CredentialNotAccepted(f"{spelled(path)} is not a tenant id", Check.TENANT)
        if not self._speaks_for(value, grant):
            raise CredentialNotAccepted(
                f"{spelled(path)} is a tenant that the issuer may not speak for", Check.TENANT
            )
        return value

    def _speaks_for(self, tenant: str, grant: Grant) -> bool:
        if grant.tenant is not None:
            return tenant == grant.tenant
        return self.ceiling is None or not self.ceiling.tenants.isdisjoint((tenant, ANY_TENANT))

    def _credential_id(self, message: SignedMessage, claims: Claims) -> str:
        if self.id_required or "jti" in claims:
            return read_name(claims.get("jti"), ("jti",))
        # Of what was signed: of some signatures anyone can make another that is valid too.
        return f"sha256:{sha256(message.signed).hexdigest()[:32]}"

    def _scopes(self, claims: Claims, grant: Grant) -> frozenset[str]:
        if self.ceiling is None:
            return self._own_scopes(claims)
        path = self.claims.scopes
        most = self.ceiling.scopes if grant.scopes is None else grant.scopes
        value = ABSENT if path is None else claim_at(claims, path)
        if path is None or (value is ABSENT and grant.scopes is not None):
            return most
        words = frozenset(read_words(value, path))
        if sum("*" in word for word in words) > _MOST_PATTERNS:
            raise CredentialNotAccepted(f"{spelled(path)} has more than {_MOST_PATTERNS} patterns")
        return most & self.vocabulary.meaning(words)

    def _own_scopes(self, claims: Claims) -> frozenset[str]:
        """Read what we granted: scopes, or beside the version of the table, by which they are meant, groups too."""
        value, version = claims.get("scope"), read_version(claims)
        if not isinstance(value, str):
            raise CredentialNotAccepted("scope is not a string")
        try:
            if version is None:
                return parse_scopes(value)
            words = parse_words(value)
        except ScopeProblem as problem:
            raise CredentialNotAccepted(str(problem)) from None
        return self.vocabulary.meaning(words, version).union(filter(is_scope, words))

    def _models(self, claims: Claims, grant: Grant) -> tuple[str, ...] | None:
        path, most = self.claims.models, grant.models
        value = claim_at(claims, path)
        if value is ABSENT:
            return most
        if self.ceiling is None and not isinstance(value, list):
            raise CredentialNotAccepted("models is not a list")
        models = tuple(read_name(model, path) for model in read_words(value, path))
        return models if most is None else narrowed(models, most)


def short_type(media_type: str) -> str:
    """Return a `typ` as it is compared: RFC 7515 lets `application/` be left out."""
    return media_type.lower().removeprefix("application/")
