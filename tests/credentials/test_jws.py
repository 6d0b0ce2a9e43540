"""A signed message has one spelling, and the signature covers the bytes that were read."""

import base64

import pytest

from gateway.credentials import jws
from gateway.credentials.keys import Algorithm, Key

KEY = Key.generate(Algorithm.EDDSA, "k")


def test_joined_message_is_split_into_what_was_signed() -> None:
    compact = jws.join(KEY, b"any bytes \xff").encode()
    message = jws.split(compact)
    assert message.header == {"alg": "EdDSA", "kid": "k", "typ": "JWT"}
    assert message.payload == b"any bytes \xff"
    assert message.signed == compact.rpartition(b".")[0]
    assert KEY.verifies(message.signed, message.signature)


@pytest.mark.parametrize("length", range(1, 10))
def test_every_payload_has_one_spelling(length: int) -> None:
    data = bytes(range(250, 250 - length, -1))
    compact = jws.join(KEY, data).encode()
    assert jws.split(compact).payload == data
    header, payload, signature = compact.split(b".")
    spellings = {
        base64.b64encode(data).rstrip(b"="),
        payload + b"=" * (-length % 3),
        payload + b"====",
        payload + b"\n",
        payload[:1] + b"\n" + payload[1:],
        payload + b"!",
        # The last letter of these lengths holds spare bits.
        payload[:-1] + bytes([payload[-1] + 1]) if length % 3 else payload,
    } - {payload}
    assert len(spellings) >= 4
    for other in spellings:
        with pytest.raises(ValueError, match="base64url"):
            jws.split(b".".join((header, other, signature)))


@pytest.mark.parametrize(
    "compact", [b"", b".", b"..", b"...", b"e30.e30", b"e30.e30.e30.e30", b"W10.e30.e30"]
)
def test_what_is_not_header_payload_signature_is_refused(compact: bytes) -> None:
    with pytest.raises(ValueError):
        jws.split(compact)
