"""A key has one algorithm, tells its secret to nobody, and is refused when it is weak."""

import dataclasses
import secrets
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.credentials.keys import KID, Algorithm, Key, KeyProblem, KeyState
from tests.credentials.forging import b64

KEYS = {algorithm: Key.generate(algorithm, f"key-{algorithm}") for algorithm in Algorithm}
ASYMMETRIC = [algorithm for algorithm in Algorithm if algorithm is not Algorithm.HS256]
SECRET_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "k")


def hmac_jwk(secret: bytes) -> dict[str, object]:
    return {"kty": "oct", "k": b64(secret), "kid": "h", "alg": "HS256"}


@pytest.mark.parametrize("algorithm", Algorithm)
def test_key_verifies_what_it_signed_and_nothing_else(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    signature = key.sign(b"data")
    assert key.verifies(b"data", signature)
    assert not key.verifies(b"Data", signature)
    assert not Key.generate(algorithm).verifies(b"data", signature)
    for wrong in (b"", b"\0", signature[:-1], signature + b"\0", b"\0" * len(signature)):
        assert not key.verifies(b"data", wrong)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_key_survives_being_written_down(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    again = Key.from_jwk(key.jwk())
    assert again.jwk() == key.jwk()
    assert (again.kid, again.algorithm, again.state) == (key.kid, algorithm, KeyState.SIGNING)
    assert again.created_at == key.created_at > 0
    assert key.verifies(b"data", again.sign(b"data"))


@pytest.mark.parametrize("algorithm", ASYMMETRIC)
def test_public_part_verifies_and_cannot_sign(algorithm: Algorithm) -> None:
    jwk = KEYS[algorithm].public_jwk()
    assert jwk is not None
    assert not [member for member in SECRET_MEMBERS if member in jwk]
    assert not [member for member in jwk if member.startswith("gw_")]
    public = Key.from_jwk(jwk)
    assert public.verifies(b"data", KEYS[algorithm].sign(b"data"))
    assert not public.signs and not public.is_secret
    assert public.jwk().items() >= jwk.items()
    with pytest.raises(KeyProblem, match="cannot sign"):
        public.sign(b"data")


def test_hmac_key_has_no_public_part() -> None:
    assert KEYS[Algorithm.HS256].public_jwk() is None


@pytest.mark.parametrize("algorithm", Algorithm)
def test_repr_shows_no_material(algorithm: Algorithm) -> None:
    key = KEYS[algorithm]
    shown = repr(key) + str(key)
    assert key.kid in shown
    assert "object at" not in shown and "b'" not in shown
    assert not [value for name, value in key.jwk().items() if name in SECRET_MEMBERS and str(value) in shown]


def test_key_in_state_verifying_does_not_sign_for_the_ring() -> None:
    assert KEYS[Algorithm.EDDSA].signs
    assert not dataclasses.replace(KEYS[Algorithm.EDDSA], state=KeyState.VERIFYING).signs


def test_generated_kid_names_algorithm_and_day_and_is_unique() -> None:
    first, second = (Key.generate(Algorithm.EDDSA, clock=lambda: 1_800_000_000) for _ in range(2))
    assert first.kid != second.kid
    assert first.kid.startswith("eddsa-20270115-") and KID.fullmatch(first.kid)


@pytest.mark.parametrize("kid", ["", "a/b", "../a", "a\0", "a\n", "é", "a b", "k" * 65])
def test_kid_that_could_not_be_a_file_name_is_refused(kid: str) -> None:
    with pytest.raises(KeyProblem, match="kid"):
        Key.generate(Algorithm.EDDSA, kid)


def test_algorithm_beyond_the_four_is_refused() -> None:
    for name in ("none", "HS512", "ES384", "eddsa"):
        with pytest.raises(ValueError, match=name):
            Key.generate(name)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"alg": None}, "alg must be"),
        ({"alg": "none"}, "alg must be"),
        ({"alg": "RS256"}, "needs kty RSA"),
        ({"alg": "HS256"}, "needs kty oct"),
        ({"alg": ["EdDSA"]}, "alg must be"),
        ({"kid": None}, "kid must be"),
        ({"kid": 1}, "kid must be"),
        ({"kid": "../x"}, "kid must be"),
        ({"kty": "EC"}, "needs kty OKP"),
        ({"crv": "Ed448"}, "crv Ed25519"),
        ({"crv": "X25519"}, "crv Ed25519"),
        ({"use": "enc"}, "use must be sig"),
        ({"gw_state": "sleeping"}, "gw_state"),
        ({"gw_state": ["signing"]}, "gw_state"),
        ({"gw_created_at": "yesterday"}, "gw_created_at"),
        ({"gw_created_at": True}, "gw_created_at"),
        ({"x": b64(b"x" * 32)}, "contradict|not a usable"),
        ({"x": b64(b"short")}, "contradict|not a usable"),
        ({"d": "!!"}, "not a usable"),
        ({"d": None}, "not a usable"),
        ({"d": b64(b"short")}, "not a usable"),
    ],
    ids=str,
)
def test_jwk_that_is_wrong_is_refused_with_the_reason(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(KeyProblem, match=reason) as refused:
        Key.from_jwk({**KEYS[Algorithm.EDDSA].jwk(), **changes})
    assert str(KEYS[Algorithm.EDDSA].jwk()["d"]) not in str(refused.value)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_jwk_without_any_one_of_its_public_members_is_refused(algorithm: Algorithm) -> None:
    jwk = KEYS[algorithm].jwk()
    for name in {"kty", "crv", "x", "y", "n", "e", "k"} & jwk.keys():
        with pytest.raises(KeyProblem):
            Key.from_jwk({member: value for member, value in jwk.items() if member != name})


def test_private_part_of_another_key_is_refused() -> None:
    for algorithm in (Algorithm.EDDSA, Algorithm.ES256):
        other = Key.generate(algorithm).jwk()["d"]
        with pytest.raises(KeyProblem):
            Key.from_jwk({**KEYS[algorithm].jwk(), "d": other})


MEMBERS = ["kty", "crv", "x", "y", "d", "n", "e", "p", "q", "dp", "dq", "qi", "oth", "k", "kid", "alg", "use"]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.binary(max_size=70).map(b64)
    | st.lists(st.text(max_size=3), max_size=2)
    | st.sampled_from(["EC", "OKP", "RSA", "oct", "P-256", "P-384", "Ed25519", *Algorithm])
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(Algorithm), st.dictionaries(st.sampled_from(MEMBERS), VALUES, min_size=1, max_size=3))
def test_any_jwk_is_a_working_key_or_a_key_problem(algorithm: Algorithm, changes: dict[str, object]) -> None:
    try:
        key = Key.from_jwk({**KEYS[algorithm].jwk(), **changes})
    except KeyProblem:
        return
    assert KID.fullmatch(key.kid)
    if key.signs:
        assert key.verifies(b"data", key.sign(b"data"))


def test_other_curves_and_small_rsa_are_refused() -> None:
    p384 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()), as_dict=True)
    goldilocks = OKPAlgorithm.to_jwk(ed448.Ed448PrivateKey.generate(), as_dict=True)
    small = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024), as_dict=True)
    for jwk, alg, disguise in (
        (p384, "ES256", {"crv": "P-256"}),
        (goldilocks, "EdDSA", {"crv": "Ed25519"}),
        (small, "RS256", {}),
    ):
        with pytest.raises(KeyProblem):
            Key.from_jwk({**jwk, "kid": "k", "alg": alg})
        with pytest.raises(KeyProblem):
            Key.from_jwk({**jwk, **disguise, "kid": "k", "alg": alg})


@pytest.mark.parametrize(
    "secret",
    [
        b"",
        b"secret",
        sha256(b"one byte short").digest()[:31],
        b"\0" * 32,
        b"a" * 64,
        b"ab" * 32,
        b"password" * 8,
        b"1234567" * 5,
        b"a-string-secret-at-least-256-bits-long",
        b"a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
    ],
    ids=repr,
)
def test_hmac_secret_that_can_be_guessed_is_refused(secret: bytes) -> None:
    with pytest.raises(KeyProblem) as refused:
        Key.from_jwk(hmac_jwk(secret))
    assert len(secret) < 8 or b64(secret) not in str(refused.value)


def test_hmac_secret_that_is_a_public_key_is_refused() -> None:
    public = rsa.generate_private_key(65537, 2048).public_key()
    for encoding in (Encoding.PEM, Encoding.DER):
        with pytest.raises(KeyProblem):
            Key.from_jwk(hmac_jwk(public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)))
    ssh = (
        ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    )
    with pytest.raises(KeyProblem):
        Key.from_jwk(hmac_jwk(ssh))


def test_random_hmac_secrets_pass_in_every_usual_spelling() -> None:
    for _ in range(300):
        random = secrets.token_bytes(32)
        for secret in (random, random.hex().encode(), b64(random).encode(), secrets.token_bytes(64)):
            assert Key.from_jwk(hmac_jwk(secret)).signs


def test_hmac_secret_has_one_spelling() -> None:
    with pytest.raises(KeyProblem, match="canonical"):
        Key.from_jwk({**hmac_jwk(b""), "k": b64(secrets.token_bytes(32)) + "="})
