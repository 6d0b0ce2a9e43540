"""Credentials: who calls, proved by a signed JWT; verified and explained by one set of rules.

What is wrong with the form (see jws.py) makes a credential malformed. Its unproved `iss` then picks the issuer,
and with it the keys and the rules that it is held to (see issuers.py); no issuer's key counts for another. A JWT-SVID
may have no `iss`: the trust domain of its `sub`, as unproved, picks the issuer that the operator has named for it.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from gateway.credentials import jws
from gateway.credentials.configured_issuers import own_issuer
from gateway.credentials.issuers import Issuer, Keys
from gateway.credentials.keys import Key
from gateway.credentials.principal import (
    Check,
    CredentialError,
    CredentialExpired,
    CredentialMalformed,
    CredentialMissing,
    CredentialNotAccepted,
    CredentialRevoked,
    CredentialTooLong,
    Principal,
)
from gateway.credentials.spiffe import trust_domain_of
from gateway.operations.scopes import Vocabulary
from gateway.operations.table import OperationTable
from gateway.settings.settings import Credentials
from gateway.wire.strict_json import strict_object

TOLD_BEFORE_SECONDS = 7 * 86400.0
"""How long before a credential expires its answers begin to say so."""


def bearer_from(authorization_values: Sequence[str]) -> str:
    """Return the credential of the one `Authorization: Bearer …` header, not yet verified.

    An empty value and a bare "Bearer" count as missing: SDKs send them for an empty API key. Blanks around the
    credential are none of it (RFC 9110, section 11.4).
    """
    if len(authorization_values) > 1:
        raise CredentialMalformed(f"{len(authorization_values)} Authorization headers")
    scheme, _, credential = "".join(authorization_values).partition(" ")
    if not scheme:
        raise CredentialMissing("no Authorization header")
    if scheme.lower() != "bearer":
        raise CredentialMalformed("the scheme of Authorization is not Bearer")
    credential = credential.strip(" \t")
    if not credential:
        raise CredentialMissing("Authorization has a scheme and nothing else")
    if any(character in credential for character in " ,\t"):
        raise CredentialMalformed("Authorization holds more than one credential")
    if credential.startswith("sk-"):
        raise CredentialMalformed(
            "an API key of the upstream (sk-…) was sent, not a credential of this gateway", Check.UPSTREAM_KEY
        )
    return credential


class Verifier:
    """Turns credentials into principals: those of our own issuer by the keys of a ring, others' by theirs.

    What has been verified is remembered until it expires, at most `cache_size` of them, the least recently
    used going first; only their SHA-256 is kept. `revoked` is asked every time, remembered or not, so a
    revocation needs no clearing; a change of keys does: `use` and `trust` do it, and whoever changes the keys
    of another issuer calls `forget`. `vocabulary` is what scopes mean; None: what they mean in the table of the
    package. Not for use by several threads.
    """

    def __init__(
        self,
        keys: Keys,
        accepted: Credentials,
        *,
        others: Iterable[Issuer] = (),
        vocabulary: Vocabulary | None = None,
        revoked: Callable[[Principal], bool] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._vocabulary = vocabulary or OperationTable.load().vocabulary
        self._revoked = revoked
        self._clock = clock
        self._verified: OrderedDict[bytes, Principal] = OrderedDict()
        self.used: dict[str, float] = {}
        """By the kid of our own keys, until when credentials of it count that have been shown."""

        self.beliefs = object()
        """Another one whenever somebody may be believed who was not, or the other way round, but for revocations."""

        self.trust(keys, accepted, others)

    def trust(self, keys: Keys, accepted: Credentials, others: Iterable[Issuer]) -> None:
        """Believe our own keys and these issuers from now on, and no other; ValueError when two have one name."""
        own = own_issuer(accepted, keys, self._vocabulary)
        issuers = (own, *others)
        by_name = {issuer.name: issuer for issuer in issuers}
        if len(by_name) != len(issuers):
            raise ValueError("two issuers have the same name")
        of_domains = [issuer for issuer in issuers if issuer.trust_domain is not None]
        by_domain = {issuer.trust_domain: issuer for issuer in of_domains}
        if len(by_domain) != len(of_domains):
            raise ValueError("two issuers have the same trust domain")
        self._own, self._issuers, self._by_domain = own, by_name, by_domain
        self._leeway_seconds = accepted.leeway_seconds
        self._max_bytes = accepted.max_bytes
        self._cache_size = accepted.cache_size
        self.forget()

    def use(self, keys: Keys) -> None:
        """Verify our own credentials by these keys from now on, also those verified before."""
        self._own = self._issuers[self._own.name] = replace(self._own, keys=keys)
        self.forget()

    def forget(self) -> None:
        """Verify everything afresh from now on."""
        self._verified.clear()
        self.beliefs = object()

    def until(self, principal: Principal) -> float:
        """The moment, in unix seconds, from which on its credential does not count any more."""
        return principal.expires_at + self._leeway_seconds

    def told_from(self, principal: Principal) -> float:
        """From when on, in unix seconds, its answers say that its credential expires; infinite: never.

        Another issuer's that lives for no longer than that is not told of: whatever makes it renews it all the time.
        """
        lives_seconds = principal.expires_at - principal.issued_at
        if principal.issuer != self._own.name and lives_seconds <= TOLD_BEFORE_SECONDS:
            return math.inf
        return principal.expires_at - TOLD_BEFORE_SECONDS

    def verify(self, credential: str, *, at: float | None = None) -> Principal:
        """Return who this is; raises one of the credential errors and nothing else.

        `at`: the moment, in unix seconds, at which it must have been in its time; now, unless it was shown before.
        """
        now = self._clock() if at is None else at
        if len(credential) > self._max_bytes:
            raise CredentialTooLong(len(credential), self._max_bytes)
        try:
            compact = credential.encode("ascii")
        except UnicodeEncodeError:
            raise CredentialMalformed("not ASCII") from None
        digest = sha256(compact).digest()
        principal = self._verified.get(digest)
        if principal is None:
            principal = self._verify_afresh(compact, now)
            self._verified[digest] = principal
            if len(self._verified) > self._cache_size:
                self._verified.popitem(last=False)
        elif now >= self.until(principal):
            del self._verified[digest]
            raise CredentialExpired("expired")
        else:
            self._verified.move_to_end(digest)
        self._check_revoked(principal)
        return principal

    def remaining(self, principal: Principal) -> Principal:
        """Return what is left of a principal that was verified before; raises a credential error when nothing is."""
        issuer = self._issuers.get(principal.issuer)
        if issuer is None:
            raise CredentialNotAccepted("its issuer is not trusted here any more", Check.ISSUER)
        left = issuer.remaining(principal)
        self._check_revoked(left)
        return left

    def _check_revoked(self, principal: Principal) -> None:
        if self._revoked is not None and self._revoked(principal):
            raise CredentialRevoked("revoked")

    def _verify_afresh(self, compact: bytes, now: float) -> Principal:
        try:
            message = jws.split(compact)
        except ValueError as error:
            raise CredentialMalformed(str(error)) from None
        try:
            claims = strict_object(message.payload)
        except ValueError:
            raise CredentialNotAccepted("the payload is no JSON object with distinct members") from None
        issuer = self.issuer_of(claims)
        principal = issuer.principal(message, claims, now=now, leeway_seconds=self._leeway_seconds)
        if issuer is self._own:
            self.used[principal.key_id] = max(self.until(principal), self.used.get(principal.key_id, 0.0))
        return principal

    def issuer_of(self, claims: Mapping[str, object]) -> Issuer:
        """Return the issuer that claims, proved or not, name; raises CredentialNotAccepted."""
        if "iss" in claims:
            name = claims["iss"]
            issuer = self._issuers.get(name) if isinstance(name, str) else None
            if issuer is None:
                raise CredentialNotAccepted("iss is no issuer that is trusted here", Check.ISSUER)
            return issuer
        issuer = self._by_domain.get(trust_domain_of(claims.get("sub")))
        if issuer is None:
            raise CredentialNotAccepted(
                "iss is missing, and sub is in no SPIFFE trust domain that is trusted here", Check.ISSUER
            )
        return issuer


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a credential says and what becomes of it."""

    header: Mapping[str, object] | None
    """Its own words, and so the claims; what they are worth, `signer` says."""

    claims: Mapping[str, object] | None
    issuer: Issuer | None
    """Who says to have issued it, if that is somebody who is trusted here."""

    signer: Key | None
    """The key of its issuer whose signature it carries; None: nothing proves what it says."""

    principal: Principal | None
    refusal: CredentialError | None
    """Exactly what `Verifier.verify` raises; None when it accepts."""


def inspect(credential: str, verifier: Verifier) -> Inspection:
    """Explain a credential."""
    header = claims = issuer = signer = principal = refusal = None
    try:
        message = jws.split(credential.encode("ascii"))
        header = message.header
        claims = strict_object(message.payload)
        issuer = verifier.issuer_of(claims)
        signer = issuer.signer(message)
    except (ValueError, CredentialError):
        pass
    try:
        principal = verifier.verify(credential)
    except CredentialError as error:
        refusal = error
    return Inspection(header, claims, issuer, signer, principal, refusal)
