"""Keys that sign and verify credentials. A key belongs to exactly one algorithm.

A key is written down as a JWK (RFC 7517) with `kid` and `alg`. Two members are ours: `gw_state` ("signing",
the default, or "verifying") and `gw_created_at` (unix seconds, default 0).
"""

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt import algorithms as primitives
from jwt.exceptions import PyJWTError

KID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FOREIGN_KID = re.compile(r"[A-Za-z0-9._+/=-]{1,128}")
"""Kids of other issuers, who like base64: they are looked up in a dictionary and never name a file."""

_OWN_USES = ("sig",)
_OTHERS_USES = ("sig", "jwt-svid")
"""What keys are for that sign; the latter is SPIFFE's word for it."""

MIN_SECRET_BYTES = 32
MIN_DISTINCT_BYTES = 8
RSA_BITS = range(2048, 8193)
MAX_RSA_EXPONENT = 2**32 - 1
"""A huge public exponent makes every verification as slow as signing."""


_SAMPLE_SECRETS = frozenset(
    {
        b"a-string-secret-at-least-256-bits-long",
        b"a-valid-string-secret-that-is-at-least-512-bits-long-which-is-very-long",
        # RFC 7515, appendix A.1
        bytes.fromhex(
            "0323354b2b0fa5bc837e0665777ba68f5ab328e6f054c928a90f84b2d2502ebf"
            "d3fb5a92d20647ef968ab4c377623d223d2e2172052e4f08c0cd9af567d080a3"
        ),
    }
)


class KeyProblem(ValueError):
    """A key or key directory that cannot be used. `problems` lists everything found; no key material."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Algorithm(StrEnum):
    """The JWS algorithms a key may have (RFC 7518, RFC 8037)."""

    HS256 = "HS256"
    EDDSA = "EdDSA"
    ES256 = "ES256"
    RS256 = "RS256"


class KeyState(StrEnum):
    SIGNING = "signing"
    VERIFYING = "verifying"


_KIND = {
    Algorithm.HS256: ("oct", None),
    Algorithm.EDDSA: ("OKP", "Ed25519"),
    Algorithm.ES256: ("EC", "P-256"),
    Algorithm.RS256: ("RSA", None),
}
# For a key that does not name its algorithm. A secret has to: nothing says what oct bytes are for.
_ONLY_ALGORITHM = {kind: algorithm for algorithm, kind in _KIND.items() if algorithm is not Algorithm.HS256}
_PRIMITIVE: Mapping[Algorithm, primitives.Algorithm] = {
    Algorithm.HS256: primitives.HMACAlgorithm(primitives.HMACAlgorithm.SHA256),
    Algorithm.EDDSA: primitives.OKPAlgorithm(),
    Algorithm.ES256: primitives.ECAlgorithm(primitives.ECAlgorithm.SHA256, ec.SECP256R1),
    Algorithm.RS256: primitives.RSAAlgorithm(primitives.RSAAlgorithm.SHA256),
}


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One key of one algorithm. Its repr never shows material."""

    kid: str
    algorithm: Algorithm
    state: KeyState
    created_at: int
    _signing: object | None = field(repr=False)
    _verifying: object = field(repr=False)

    @classmethod
    def generate(
        cls, algorithm: str, kid: str | None = None, *, clock: Callable[[], float] = time.time
    ) -> "Key":
        """Make a new signing key from the operating system's randomness."""
        chosen = Algorithm(algorithm)
        created_at = int(clock())
        if kid is None:
            day = time.strftime("%Y%m%d", time.gmtime(created_at))
            kid = f"{chosen.lower()}-{day}-{secrets.token_hex(4)}"
        material: object
        match chosen:
            case Algorithm.HS256:
                material = secrets.token_bytes(MIN_SECRET_BYTES)
            case Algorithm.EDDSA:
                material = ed25519.Ed25519PrivateKey.generate()
            case Algorithm.ES256:
                material = ec.generate_private_key(ec.SECP256R1())
            case Algorithm.RS256:
                material = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS.start)
            case _:
                assert_never(chosen)
        members = _PRIMITIVE[chosen].to_jwk(material, as_dict=True)
        return cls.from_jwk({**members, "kid": kid, "alg": chosen, "gw_created_at": created_at})

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, object], *, strict: bool = True) -> "Key":
        """Take a key from a JWK that names its `kid` and `alg`; raises KeyProblem.

        With `strict=False`, for keys that others publish: `alg` may be left out where kty and crv leave one
        choice (of the RSA algorithms there is RS256 only), `kid` may be any FOREIGN_KID, and `use` SPIFFE's.
        """
        kid, alg = jwk.get("kid"), jwk.get("alg")
        if not isinstance(kid, str) or not (KID if strict else FOREIGN_KID).fullmatch(kid):
            allowed = "64 of A-Z a-z 0-9 . _ -" if strict else "128 of A-Z a-z 0-9 . _ - + / ="
            raise KeyProblem(f"kid must be 1 to {allowed}")
        if not strict and "alg" not in jwk:
            alg = _only_algorithm(jwk)
        if not isinstance(alg, str) or alg not in list(Algorithm):
            raise KeyProblem(f"key {kid}: alg must be one of {', '.join(Algorithm)}")
        algorithm = Algorithm(alg)
        kty, curve = _KIND[algorithm]
        if jwk.get("kty") != kty or (curve is not None and jwk.get("crv") != curve):
            raise KeyProblem(f"key {kid}: {alg} needs kty {kty}{f' and crv {curve}' if curve else ''}")
        if jwk.get("use", "sig") not in (_OWN_USES if strict else _OTHERS_USES):
            raise KeyProblem(f"key {kid}: use must be sig")
        if not _may_verify(jwk):
            raise KeyProblem(f"key {kid}: key_ops must include verify")
        state, created_at = jwk.get("gw_state", KeyState.SIGNING), jwk.get("gw_created_at", 0)
        if state not in list(KeyState):
            raise KeyProblem(f"key {kid}: gw_state must be one of {', '.join(KeyState)}")
        if type(created_at) is not int:
            raise KeyProblem(f"key {kid}: gw_created_at must be whole unix seconds")
        try:
            signing, verifying = _material(algorithm, jwk)
        except KeyProblem as problem:
            raise KeyProblem(f"key {kid}: {problem}") from None
        return cls(kid, algorithm, KeyState(str(state)), created_at, signing, verifying)

    @property
    def signs(self) -> bool:
        """Whether this key may sign: it holds private material and is in state "signing"."""
        return self._signing is not None and self.state is KeyState.SIGNING

    @property
    def is_secret(self) -> bool:
        """Whether its JWK must be kept from others."""
        return self._signing is not None

    def sign(self, data: bytes) -> bytes:
        """Sign; raises KeyProblem when only the public part is here."""
        if self._signing is None:
            raise KeyProblem(f"key {self.kid} holds no private part and cannot sign")
        return bytes(_PRIMITIVE[self.algorithm].sign(data, self._signing))

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Whether this key made this signature over this data."""
        return bool(_PRIMITIVE[self.algorithm].verify(data, self._verifying, signature))

    def public_jwk(self) -> dict[str, object] | None:
        """Return the part that anyone may have; None for an HMAC key, which has no such part."""
        if self.algorithm is Algorithm.HS256:
            return None
        return {**_members(self.algorithm, self._verifying), **self._labels()}

    def jwk(self) -> dict[str, object]:
        """Return everything, secrets included, as it stands in the key file."""
        material = self._verifying if self._signing is None else self._signing
        ours = {"gw_state": self.state, "gw_created_at": self.created_at}
        return {**_members(self.algorithm, material), **self._labels(), **ours}

    def _labels(self) -> dict[str, object]:
        return {"kid": self.kid, "alg": self.algorithm, "use": "sig"}


def _only_algorithm(jwk: Mapping[str, object]) -> Algorithm | None:
    """Return the one algorithm that a key of this kind can have here."""
    kty, curve = jwk.get("kty"), jwk.get("crv")
    return next((algorithm for kind, algorithm in _ONLY_ALGORITHM.items() if kind == (kty, curve)), None)


def _may_verify(jwk: Mapping[str, object]) -> bool:
    """Whether its `key_ops`, if any, let it verify; that a private part may sign says so of the public one."""
    if "key_ops" not in jwk:
        return True
    operations = jwk["key_ops"]
    if not isinstance(operations, list):
        return False
    return "verify" in operations or ("sign" in operations and ("d" in jwk or "k" in jwk))


def _members(algorithm: Algorithm, material: object) -> dict[str, object]:
    """Return the members of a JWK that are the key itself."""
    members = _PRIMITIVE[algorithm].to_jwk(material, as_dict=True)
    return {name: value for name, value in members.items() if name != "key_ops"}


def _material(algorithm: Algorithm, jwk: Mapping[str, object]) -> tuple[object | None, object]:
    """Return (what signs or None, what verifies) from a JWK; raises KeyProblem when weak or inconsistent."""
    primitive = _PRIMITIVE[algorithm]
    try:
        material = primitive.prepare_key(primitive.from_jwk(dict(jwk)))
        public = material
        signing = material if algorithm is Algorithm.HS256 or "d" in jwk else None
        if signing is not None and algorithm is not Algorithm.HS256:
            public = material.public_key()
        members = _members(algorithm, public)
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        # Its message may quote the material.
        raise KeyProblem(f"not a usable {algorithm} key") from None
    if any(jwk.get(name) != value for name, value in members.items()):
        raise KeyProblem("its members contradict each other or are not in canonical base64url")
    if algorithm is Algorithm.HS256 and (weakness := _weakness(material)):
        raise KeyProblem(weakness)
    if algorithm is Algorithm.RS256 and public.key_size not in RSA_BITS:
        raise KeyProblem(f"RSA keys must have {RSA_BITS.start} to {RSA_BITS.stop - 1} bits")
    if algorithm is Algorithm.RS256 and public.public_numbers().e > MAX_RSA_EXPONENT:
        raise KeyProblem(f"the public exponent of an RSA key must be at most {MAX_RSA_EXPONENT}")
    return signing, public


def _weakness(secret: bytes) -> str | None:
    """Say why an HMAC secret can be guessed, or None. Random bytes, their hex and their base64 all pass."""
    if len(secret) < MIN_SECRET_BYTES:
        return f"an HMAC secret needs at least {MIN_SECRET_BYTES} bytes"
    if secret in _SAMPLE_SECRETS:
        return "the HMAC secret is a published sample"
    if len(set(secret)) < MIN_DISTINCT_BYTES:
        return "the HMAC secret repeats very few bytes; use random ones"
    return None
