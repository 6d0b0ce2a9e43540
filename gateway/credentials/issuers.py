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
from types import MappingProxyType
from typing import Protocol

from gateway.credentials.jws import SignedMessage
from gateway.credentials.keys import FOREIGN_KID, KID, Algorithm, Key
from gateway.credentials.principal import Check, CredentialExpired, CredentialNotAccepted, Principal
from gateway.limits.terms import Dimension, Quota
from gateway.operations.model_patterns import narrowed
from gateway.operations.scopes import ScopeProblem, Vocabulary, is_scope, parse_words
from gateway.operations.scopes import parse as parse_scopes
from gateway.settings.section import TENANT_ID

MAX_NAME_CHARACTERS = 256

_MOST_PATTERNS = 64
"""In the scopes of another issuer: each is held against all scopes, while nobody else is served."""

VERSION_CLAIM = "scope_version"
"""The version of the operation table by which groups and patterns in `scope` are meant. Credentials of ours that hold
scopes alone have none, as those of gateways that knew of no version."""

TYPES = frozenset({"jwt", "at+jwt"})
UNTYPED = ""
"""In a set of types: the header may also have no `typ`, or an empty one."""

ANY_TENANT = "*"

# `crit` and `b64` change what a signature means; the others bring a key along.
_REFUSED_HEADER_MEMBERS = frozenset({"crit", "b64", "jku", "jwk", "x5u", "x5c"})

ClaimPath = tuple[str, ...]
"""The members to follow from the top of the claims."""

Claims = Mapping[str, object]


class Keys(Protocol):
    """Where the keys of one issuer are looked up."""

    def get(self, kid: str) -> Key | None:
        """Return the key of this kid, at once. Raises CredentialUndecided while nobody knows which keys there are."""


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
    """None: its credentials name no scopes; each gets all that the issuer may grant."""

    models: ClaimPath = ("models",)


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

    claims: ClaimNames = ClaimNames()
    tenant: str | None = None
    """The tenant of all its credentials; None: a claim says which."""

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
        principal = Principal(
            tenant=self._tenant(claims),
            subject=_name(_claim(claims, self.claims.subject), self.claims.subject),
            scopes=self._scopes(claims),
            credential_id=self._credential_id(message, claims),
            issued_at=(issued_at := self._seconds(claims, "iat")),
            expires_at=(expires_at := self._seconds(claims, "exp")),
            models=self._models(claims),
            limits=_limits(claims) if self.ceiling is None else None,
            scope_version=_version(claims) if self.ceiling is None else None,
            issuer=self.name,
            key_id=key.kid,
            session_seconds=self.session_seconds,
        )
        if not 0 < expires_at - issued_at <= self.max_lifetime_seconds:
            raise CredentialNotAccepted(
                f"exp is not within {self.max_lifetime_seconds} seconds after iat", Check.LIFETIME
            )
        if issued_at > now + leeway_seconds:
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
        if not self._speaks_for(principal.tenant):
            raise CredentialNotAccepted(
                "its tenant is one that the issuer may not speak for any more", Check.TENANT
            )
        models = principal.models
        if most.models is not None:
            models = most.models if models is None else narrowed(models, most.models)
        return replace(
            principal,
            scopes=principal.scopes & most.scopes,
            models=models,
            session_seconds=self.session_seconds,
        )

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

    def _seconds(self, claims: Claims, claim: str) -> float:
        """Read a moment: whole seconds of ours, of others whatever RFC 7519 calls a NumericDate."""
        value = claims.get(claim)
        if type(value) is int:  # True is an int to isinstance
            return value
        if self.ceiling is None or type(value) is not float:
            whole = "whole " if self.ceiling is None else ""
            raise CredentialNotAccepted(f"{claim} is not {whole}unix seconds")
        return value

    def _tenant(self, claims: Claims) -> str:
        if self.tenant is not None:
            return self.tenant
        path = self.claims.tenant
        value = _claim(claims, path)
        if not isinstance(value, str) or not TENANT_ID.fullmatch(value):
            raise CredentialNotAccepted(f"{_spelled(path)} is not a tenant id", Check.TENANT)
        if not self._speaks_for(value):
            raise CredentialNotAccepted(
                f"{_spelled(path)} is a tenant that the issuer may not speak for", Check.TENANT
            )
        return value

    def _speaks_for(self, tenant: str) -> bool:
        if self.tenant is not None:
            return tenant == self.tenant
        return self.ceiling is None or not self.ceiling.tenants.isdisjoint((tenant, ANY_TENANT))

    def _credential_id(self, message: SignedMessage, claims: Claims) -> str:
        if self.id_required or "jti" in claims:
            return _name(claims.get("jti"), ("jti",))
        # Of what was signed: of some signatures anyone can make another that is valid too.
        return f"sha256:{sha256(message.signed).hexdigest()[:32]}"

    def _scopes(self, claims: Claims) -> frozenset[str]:
        if self.ceiling is None:
            return self._own_scopes(claims)
        path = self.claims.scopes
        if path is None:
            return self.ceiling.scopes
        words = frozenset(_words(_claim(claims, path), path))
        if sum("*" in word for word in words) > _MOST_PATTERNS:
            raise CredentialNotAccepted(f"{_spelled(path)} has more than {_MOST_PATTERNS} patterns")
        return self.ceiling.scopes & self.vocabulary.meaning(words)

    def _own_scopes(self, claims: Claims) -> frozenset[str]:
        """Read what we granted: scopes, or beside the version of the table, by which they are meant, groups too."""
        value, version = claims.get("scope"), _version(claims)
        if not isinstance(value, str):
            raise CredentialNotAccepted("scope is not a string")
        try:
            if version is None:
                return parse_scopes(value)
            words = parse_words(value)
        except ScopeProblem as problem:
            raise CredentialNotAccepted(str(problem)) from None
        return self.vocabulary.meaning(words, version).union(filter(is_scope, words))

    def _models(self, claims: Claims) -> tuple[str, ...] | None:
        path = self.claims.models
        value = _claim(claims, path)
        most = None if self.ceiling is None else self.ceiling.models
        if value is _ABSENT:
            return most
        if self.ceiling is None and not isinstance(value, list):
            raise CredentialNotAccepted("models is not a list")
        models = tuple(_name(model, path) for model in _words(value, path))
        return models if most is None else narrowed(models, most)


_ABSENT = object()


def _claim(claims: Claims, path: ClaimPath) -> object:
    """Return what stands at the end of a path, or _ABSENT."""
    value: object = claims
    for member in path:
        if not isinstance(value, dict) or member not in value:
            return _ABSENT
        value = value[member]
    return value


def _spelled(path: ClaimPath) -> str:
    return ".".join(path)


def short_type(media_type: str) -> str:
    """Return a `typ` as it is compared: RFC 7515 lets `application/` be left out."""
    return media_type.lower().removeprefix("application/")


def _name(value: object, path: ClaimPath) -> str:
    """Read a name that is safe in a log line: printable, so no control, direction or line characters."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS or not value.isprintable():
        raise CredentialNotAccepted(
            f"{_spelled(path)} is not 1 to {MAX_NAME_CHARACTERS} printable characters"
        )
    return value


def _words(value: object, path: ClaimPath) -> list[str]:
    """Read a list of texts, or one text in which spaces separate them."""
    words = value.split(" ") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CredentialNotAccepted(f"{_spelled(path)} is neither a text nor a list of texts")
    return words


def _version(claims: Claims) -> int | None:
    if VERSION_CLAIM not in claims:
        return None
    version = claims[VERSION_CLAIM]
    if type(version) is not int or version < 1:
        raise CredentialNotAccepted(f"{VERSION_CLAIM} is not a version")
    return version


def _limits(claims: Claims) -> Mapping[str, int] | None:
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
