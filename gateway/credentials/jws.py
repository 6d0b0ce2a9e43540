"""The compact form of a signed message (RFC 7515, section 7.1), read once and strictly.

What is accepted has exactly one spelling, and the signature is checked over the bytes that were read here: no
second parser can disagree about what was signed.
"""

import base64
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from gateway.credentials.keys import Key
from gateway.wire.strict_json import strict_object


@dataclass(frozen=True, slots=True)
class SignedMessage:
    """A message in its parts; nothing about it has been proved."""

    header: Mapping[str, object]
    payload: bytes
    signed: bytes
    signature: bytes


def split(compact: bytes) -> SignedMessage:
    """Take a message apart; raises ValueError saying what is wrong with its form, without quoting it."""
    parts = compact.split(b".", 3)
    if len(parts) != 3:
        raise ValueError("not three parts")
    header, payload, signature = map(_decode, parts)
    try:
        members = strict_object(header)
    except ValueError:
        raise ValueError("the header is no JSON object with distinct members") from None
    return SignedMessage(members, payload, compact[: compact.rindex(b".")], signature)


def join(key: Key, payload: bytes) -> str:
    """Sign a payload, as typ JWT under the key's `kid` and `alg`."""
    header = orjson.dumps({"alg": key.algorithm, "kid": key.kid, "typ": "JWT"})
    signed = _encode(header) + b"." + _encode(payload)
    return (signed + b"." + _encode(key.sign(signed))).decode()


def _decode(part: bytes) -> bytes:
    """Decode base64url in its one canonical form, without padding."""
    try:
        data = base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except Base64Error:
        raise ValueError("a part is not base64url") from None
    # The decoder skips what is foreign to the alphabet and ignores spare bits; encoding again shows both.
    if _encode(data) != part:
        raise ValueError("a part is not canonical base64url")
    return data


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
