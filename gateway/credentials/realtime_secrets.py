"""Realtime secrets that the gateway hands out instead of the upstream's: rewrite (d).

An upstream secret would open the upstream itself, past every limit and log. So it is sealed, with
who it was made for, under a key derived from the key ring: no store, and any worker of any replica
opens it. `ek_gw_` marks it; it opens realtime WebSockets at the gateway and nothing else. Pure.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass
from functools import lru_cache

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Key
from gateway.credentials.principal import (
    Check,
    CredentialExpired,
    CredentialMalformed,
    CredentialNotAccepted,
    Principal,
)

PREFIX = "ek_gw_"

_INFO = b"gateway realtime secret 1"
_NONCE_BYTES = 12
_MAX_BYTES = 16 * 1024
_FALLBACK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class MintedSecret:
    """What a sealed secret holds."""

    upstream_secret: str
    principal: Principal
    opens_until: float
    """Unix seconds after which it opens no new session."""


class NothingToReplace(ValueError):
    """An answer that should carry a secret and shows none: it must not reach the tenant."""


def seal(minted: MintedSecret, ring: KeyRing) -> str:
    """The secret as a tenant gets it. Raises LookupError when the ring has no key that signs."""
    key = ring.signing_key
    if key is None:
        raise LookupError("no key of the ring can seal")
    principal = minted.principal
    kid = key.kid.encode("ascii")
    nonce = secrets.token_bytes(_NONCE_BYTES)
    plain = orjson.dumps(
        {
            "secret": minted.upstream_secret,
            "until": minted.opens_until,
            "tenant": principal.tenant,
            "subject": principal.subject,
            # Only what it can open: the rest would make a subprotocol of it that is kilobytes long.
            "scopes": sorted(scope for scope in principal.scopes if scope.startswith("realtime:")),
            "models": principal.models,
            "limits": None if principal.limits is None else dict(principal.limits),
            "jti": principal.credential_id,
            "iat": principal.issued_at,
            "exp": principal.expires_at,
            "iss": principal.issuer,
            "key": principal.key_id,
        }
    )
    head = bytes((len(kid),)) + kid
    box = head + nonce + AESGCM(_derived(key)).encrypt(nonce, plain, head)
    return PREFIX + urlsafe_b64encode(box).rstrip(b"=").decode("ascii")


def unseal(text: str, ring: KeyRing, *, now: float) -> MintedSecret:
    """Open a sealed secret. Raises a CredentialError for what is not ours, damaged or expired."""
    if len(text) > _MAX_BYTES:
        raise CredentialMalformed("a realtime secret is too long", Check.TOO_LONG)
    try:
        encoded = text.removeprefix(PREFIX).encode("ascii")
        box = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        kid = box[1 : 1 + box[0]].decode("ascii")
    except (Base64Error, ValueError, IndexError):
        raise CredentialMalformed("not a realtime secret") from None
    key = ring.get(kid)
    if key is None or not key.is_secret:
        raise CredentialNotAccepted("a realtime secret of a key that is not in the ring", Check.KEY)
    head, sealed = box[: 1 + box[0]], box[1 + box[0] :]
    try:
        plain = AESGCM(_derived(key)).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], head)
    except (InvalidTag, ValueError):
        raise CredentialNotAccepted("a realtime secret that does not open", Check.SIGNATURE) from None
    held = orjson.loads(plain)
    minted = MintedSecret(
        held["secret"],
        Principal(
            tenant=held["tenant"],
            subject=held["subject"],
            scopes=frozenset(held["scopes"]),
            credential_id=held["jti"],
            issued_at=held["iat"],
            expires_at=held["exp"],
            models=None if held["models"] is None else tuple(held["models"]),
            limits=held.get("limits"),
            issuer=held["iss"],
            key_id=held["key"],
        ),
        held["until"],
    )
    if now >= minted.opens_until or now >= minted.principal.expires_at:
        raise CredentialExpired("a realtime secret that has expired")
    return minted


def replace_secret(
    body: bytes, found: tuple[str, float | None] | None, principal: Principal, ring: KeyRing, *, now: float
) -> bytes:
    """An upstream's answer with the secret that was found in it replaced by a sealed one, all other bytes kept.

    Raises NothingToReplace when none was found where the API has it, and LookupError as `seal` does.
    """
    if found is None:
        raise NothingToReplace("the answer has no secret that could be replaced")
    secret, expires_at = found
    if not all("!" <= character <= "~" for character in secret):
        raise NothingToReplace("the answer's secret is none that a header could hold")
    until = now + _FALLBACK_SECONDS if expires_at is None else expires_at
    sealed = seal(MintedSecret(secret, principal, min(until, principal.expires_at)), ring)
    return body.replace(secret.encode(), sealed.encode("ascii"))


@lru_cache(maxsize=64)
def _derived(key: Key) -> bytes:
    """An AES-256 key for this purpose alone, from a ring key's secret part."""
    members = key.jwk()
    material = str(members.get("d") or members["k"]).encode("ascii")
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=_INFO).derive(material)
