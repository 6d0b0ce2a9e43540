"""Credentials: who calls, proved by a signed JWT; issued, verified and explained by one set of rules.

    CredentialError
    ├── CredentialMissing       none was sent
    ├── CredentialMalformed     it does not have the form of a credential
    ├── CredentialNotAccepted   it has, but we do not accept it
    ├── CredentialExpired       accepted once; said only when signature and all other claims are right
    └── CredentialRevoked       withdrawn by the operator; said under the same condition

Before the signature has verified, what is wrong is malformed (the form, see jws.py) or not accepted (the
header); claims are read only afterwards. The rules are those of RFC 8725. `aud` must be our audience alone,
as a string or a list of one: a credential that also opens another door could be replayed here by whoever
stands behind it.
"""

import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

import orjson

from gateway import jws
from gateway.key_ring import KeyRing
from gateway.keys import KID, Key, KeyProblem
from gateway.scopes import ScopeProblem
from gateway.scopes import parse as parse_scopes
from gateway.strict_json import strict_object

MAX_CREDENTIAL_BYTES = 8192
MAX_LIFETIME_SECONDS = 90 * 86400
LEEWAY_SECONDS = 30
MAX_NAME_CHARACTERS = 256

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TYPES = frozenset({"jwt", "at+jwt"})
# `crit` and `b64` change what a signature means; the others bring a key along.
_REFUSED_HEADER_MEMBERS = frozenset({"crit", "b64", "jku", "jwk", "x5u", "x5c"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls and what they may do, as a verified credential says it. Times in unix seconds."""

    tenant: str
    subject: str
    scopes: frozenset[str]
    credential_id: str
    issued_at: float
    expires_at: float
    models: tuple[str, ...] | None = None


class CredentialError(Exception):
    """A request without a credential that counts. `reason` is for the log, never for the answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CredentialMissing(CredentialError):  # noqa: N818 (says what happened)
    pass


class CredentialMalformed(CredentialError):  # noqa: N818
    pass


class CredentialNotAccepted(CredentialError):  # noqa: N818
    pass


class CredentialExpired(CredentialError):  # noqa: N818
    pass


class CredentialRevoked(CredentialError):  # noqa: N818
    pass


def bearer_from(authorization_values: Sequence[str]) -> str:
    """Return the credential of the one `Authorization: Bearer …` header, not yet verified.

    An empty value and a bare "Bearer" count as missing: SDKs send them for an empty API key.
    """
    if len(authorization_values) > 1:
        raise CredentialMalformed(f"{len(authorization_values)} Authorization headers")
    scheme, _, credential = "".join(authorization_values).partition(" ")
    if not scheme:
        raise CredentialMissing("no Authorization header")
    if scheme.lower() != "bearer":
        raise CredentialMalformed("the scheme of Authorization is not Bearer")
    if not credential:
        raise CredentialMissing("Authorization has a scheme and nothing else")
    if any(character in credential for character in " ,\t"):
        raise CredentialMalformed("Authorization holds more than one credential")
    if credential.startswith("sk-"):
        raise CredentialMalformed(
            "an API key of the upstream (sk-…) was sent, not a credential of this gateway"
        )
    return credential


class Verifier:
    """Turns credentials into principals, by the keys of one ring, for one issuer and one audience.

    What has been verified is remembered until it expires, at most `cache_size` of them, the least recently
    used going first; only their SHA-256 is kept. `revoked` is asked every time, remembered or not, so a
    revocation needs no clearing; a change of keys does, and `use` does it. Not for use by several threads.
    """

    def __init__(
        self,
        ring: KeyRing,
        *,
        issuer: str,
        audience: str,
        leeway_seconds: float = LEEWAY_SECONDS,
        max_lifetime_seconds: float = MAX_LIFETIME_SECONDS,
        max_bytes: int = MAX_CREDENTIAL_BYTES,
        cache_size: int = 10_000,
        revoked: Callable[[Principal], bool] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring = ring
        self._issuer = issuer
        self._audience = audience
        self._leeway_seconds = leeway_seconds
        self._max_lifetime_seconds = max_lifetime_seconds
        self._max_bytes = max_bytes
        self._cache_size = cache_size
        self._revoked = revoked
        self._clock = clock
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()

    def use(self, ring: KeyRing) -> None:
        """Verify by these keys from now on, also what has been verified before."""
        self._ring = ring
        self.forget()

    def forget(self) -> None:
        """Verify everything afresh from now on."""
        self._verified.clear()

    def verify(self, credential: str) -> Principal:
        """Return who this is; raises one of the credential errors and nothing else."""
        if len(credential) > self._max_bytes:
            raise CredentialMalformed(f"longer than {self._max_bytes} bytes")
        try:
            compact = credential.encode("ascii")
        except UnicodeEncodeError:
            raise CredentialMalformed("not ASCII") from None
        digest = sha256(compact).digest()
        principal = self._verified.get(digest)
        if principal is None:
            principal = self._verify_afresh(compact)
            self._verified[digest] = principal
            if len(self._verified) > self._cache_size:
                self._verified.popitem(last=False)
        elif self._clock() >= principal.expires_at + self._leeway_seconds:
            del self._verified[digest]
            raise CredentialExpired("expired")
        else:
            self._verified.move_to_end(digest)
        if self._revoked is not None and self._revoked(principal):
            raise CredentialRevoked("revoked")
        return principal

    def _verify_afresh(self, compact: bytes) -> Principal:
        try:
            message = jws.split(compact)
        except ValueError as error:
            raise CredentialMalformed(str(error)) from None
        key = _key_for(message.header, self._ring)
        if not key.verifies(message.signed, message.signature):
            raise CredentialNotAccepted(f"the signature is not that of key {key.kid}")
        try:
            claims = strict_object(message.payload)
        except ValueError:
            raise CredentialNotAccepted("the payload is no JSON object with distinct members") from None
        return self._principal(claims)

    def _principal(self, claims: Mapping[str, object]) -> Principal:
        """Check every claim. Expiry comes last: it is said of a credential that is otherwise right."""
        if claims.get("iss") != self._issuer:
            raise CredentialNotAccepted("iss is not the issuer expected")
        if claims.get("aud") not in (self._audience, [self._audience]):
            raise CredentialNotAccepted("aud is not this audience alone")
        principal = Principal(
            tenant=_tenant(claims),
            subject=_name(claims, "sub"),
            scopes=_scopes(claims),
            credential_id=_name(claims, "jti"),
            issued_at=(issued_at := _seconds(claims, "iat")),
            expires_at=(expires_at := _seconds(claims, "exp")),
            models=_models(claims),
        )
        now = self._clock()
        if not 0 < expires_at - issued_at <= self._max_lifetime_seconds:
            raise CredentialNotAccepted(f"exp is not within {self._max_lifetime_seconds} seconds after iat")
        if issued_at > now + self._leeway_seconds:
            raise CredentialNotAccepted("iat is in the future")
        if "nbf" in claims and _seconds(claims, "nbf") > now + self._leeway_seconds:
            raise CredentialNotAccepted("nbf is in the future")
        if now >= expires_at + self._leeway_seconds:
            raise CredentialExpired("expired")
        return principal


def issue(
    ring: KeyRing,
    *,
    tenant: str,
    subject: str,
    scopes: Collection[str],
    ttl_seconds: int,
    issuer: str,
    audience: str,
    models: Sequence[str] | None = None,
    max_lifetime_seconds: float = MAX_LIFETIME_SECONDS,
    max_bytes: int = MAX_CREDENTIAL_BYTES,
    clock: Callable[[], float] = time.time,
) -> str:
    """Sign a new credential with the ring's signing key.

    `scopes` are plain scopes: patterns and groups go through `scopes.expand` first. Nothing is issued that a
    verifier with the same settings would refuse: ValueError says why. Raises KeyProblem when no key signs.
    """
    key = ring.signing_key
    if key is None:
        raise KeyProblem("no key of the ring can sign")
    issued_at = int(clock())
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "jti": secrets.token_hex(16),
        "iat": issued_at,
        "exp": issued_at + ttl_seconds,
        "tenant": tenant,
        "scope": " ".join(sorted(scopes)),
    }
    if models is not None:
        claims["models"] = list(models)
    try:
        credential = jws.join(key, orjson.dumps(claims))
    except TypeError as error:  # orjson's way to refuse lone surrogates and huge numbers
        raise ValueError(f"not issued: {error}") from None
    verifier = Verifier(
        ring,
        issuer=issuer,
        audience=audience,
        max_lifetime_seconds=max_lifetime_seconds,
        max_bytes=max_bytes,
        clock=clock,
    )
    try:
        verifier.verify(credential)
    except CredentialError as error:
        raise ValueError(f"not issued: {error.reason}") from None
    return credential


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a credential says and what becomes of it. Header and claims are its own words, proved or not."""

    header: Mapping[str, object] | None
    claims: Mapping[str, object] | None
    principal: Principal | None
    refusal: CredentialError | None


def inspect(credential: str, verifier: Verifier) -> Inspection:
    """Explain a credential; `refusal` is exactly what `verifier.verify` raises, None when it accepts."""
    header: Mapping[str, object] | None = None
    claims: Mapping[str, object] | None = None
    try:
        message = jws.split(credential.encode("ascii"))
        header = message.header
        claims = strict_object(message.payload)
    except ValueError:
        pass
    try:
        return Inspection(header, claims, verifier.verify(credential), None)
    except CredentialError as refusal:
        return Inspection(header, claims, None, refusal)


def _key_for(header: Mapping[str, object], ring: KeyRing) -> Key:
    """Return the one key that a header may be verified by; raises CredentialNotAccepted."""
    refused = _REFUSED_HEADER_MEMBERS.intersection(header)
    if refused:
        raise CredentialNotAccepted(f"the header has {' '.join(sorted(refused))}")
    media_type = header.get("typ")
    if not isinstance(media_type, str) or media_type.lower().removeprefix("application/") not in _TYPES:
        raise CredentialNotAccepted("typ is not JWT or at+jwt")
    kid = header.get("kid")
    if not isinstance(kid, str) or not KID.fullmatch(kid):
        raise CredentialNotAccepted("kid is not the name of a key")
    key = ring.get(kid)
    if key is None:
        raise CredentialNotAccepted(f"kid {kid} is no key of the ring")
    if header.get("alg") != key.algorithm:
        raise CredentialNotAccepted(f"alg is not {key.algorithm}, the algorithm of key {kid}")
    return key


def _seconds(claims: Mapping[str, object], claim: str) -> int:
    value = claims.get(claim)
    if type(value) is not int:  # True is an int to isinstance
        raise CredentialNotAccepted(f"{claim} is not whole unix seconds")
    return value


def _name(claims: Mapping[str, object], claim: str) -> str:
    """Read a name that is safe in a log line: printable, so no control, direction or line characters."""
    value = claims.get(claim)
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS or not value.isprintable():
        raise CredentialNotAccepted(f"{claim} is not 1 to {MAX_NAME_CHARACTERS} printable characters")
    return value


def _tenant(claims: Mapping[str, object]) -> str:
    value = claims.get("tenant")
    if not isinstance(value, str) or not _TENANT.fullmatch(value):
        raise CredentialNotAccepted("tenant is not a tenant id")
    return value


def _scopes(claims: Mapping[str, object]) -> frozenset[str]:
    value = claims.get("scope")
    if not isinstance(value, str):
        raise CredentialNotAccepted("scope is not a string")
    try:
        return parse_scopes(value)
    except ScopeProblem as problem:
        raise CredentialNotAccepted(str(problem)) from None


def _models(claims: Mapping[str, object]) -> tuple[str, ...] | None:
    if "models" not in claims:
        return None
    value = claims["models"]
    if not isinstance(value, list):
        raise CredentialNotAccepted("models is not a list")
    return tuple(_name({"models": model}, "models") for model in value)
