"""Every forged credential is refused in its class, none harms the verifier, and nothing else ever comes out."""

import hmac
import string
import time
from collections.abc import Callable

import orjson
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.credentials.keys import Algorithm
from gateway.credentials.principal import (
    CredentialError,
    CredentialExpired,
    CredentialMalformed,
    CredentialNotAccepted,
    CredentialTooLong,
)
from gateway.credentials.verifier import inspect
from tests.credentials.forging import (
    ABSENT,
    AUDIENCE,
    CLAIMS,
    DAY,
    FLIPPED,
    GOOD,
    HEADER,
    ISSUER,
    KEYS,
    LEEWAY,
    LONGEST,
    NOW,
    PAYLOAD,
    SIGNATURE,
    STRANGER,
    b64,
    changed,
    forged,
    json_values,
    new_verifier,
    public_key_of,
    with_claims,
    with_header,
)


def always(signature: bytes) -> Callable[[bytes], bytes]:
    return lambda _: signature


def hs256_forged(secret: bytes, *, kid: str) -> str:
    """Sign with HMAC under the kid of another key: the key confusion of CVE-2022-29217."""
    return forged(
        header={"alg": "HS256", "kid": kid}, sign=lambda signed: hmac.digest(secret, signed, "sha256")
    )


def public_bytes(algorithm: Algorithm, encoding: Encoding, form: PublicFormat) -> bytes:
    return bytes(public_key_of(algorithm).key.public_bytes(encoding, form))


def raw_payload(text: str) -> str:
    return forged(payload=text.encode())


def with_exp_text(number: str) -> str:
    """Good claims but for an exp spelled as no encoder would."""
    return raw_payload(orjson.dumps({**CLAIMS, "exp": 12345}).decode().replace("12345", number))


def spliced(extra: str) -> str:
    """Good claims as JSON text, with more members after them."""
    return raw_payload(orjson.dumps(CLAIMS).decode()[:-1] + "," + extra + "}")


ED_RAW = public_bytes(Algorithm.EDDSA, Encoding.Raw, PublicFormat.Raw)
RSA_PEM = public_bytes(Algorithm.RS256, Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
RSA_DER = public_bytes(Algorithm.RS256, Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
EC_POINT = public_bytes(Algorithm.ES256, Encoding.X962, PublicFormat.UncompressedPoint)
ED_JWK = orjson.dumps(KEYS[Algorithm.EDDSA].public_jwk())

PASSES = None
TABLE: dict[str, tuple[str, type[CredentialError] | None]] = {
    # Good ones.
    "EdDSA": (forged(KEYS[Algorithm.EDDSA]), PASSES),
    "ES256": (forged(KEYS[Algorithm.ES256]), PASSES),
    "RS256": (forged(KEYS[Algorithm.RS256]), PASSES),
    "HS256": (forged(KEYS[Algorithm.HS256]), PASSES),
    "typ at+jwt": (with_header(typ="at+jwt"), PASSES),
    "typ in lower case": (with_header(typ="jwt"), PASSES),
    "typ as a whole media type": (with_header(typ="application/AT+JWT"), PASSES),
    "harmless extra header member": (with_header(x5t="abc"), PASSES),
    "harmless extra claims": (with_claims(client="x", nested={"a": [1, {"a": 2}]}), PASSES),
    "colons and quotes inside strings": (with_claims(note='a":{"b":1,"b":2}\\":'), PASSES),
    "aud as a list of one": (with_claims(aud=[AUDIENCE]), PASSES),
    "models": (with_claims(models=["gpt-4o", "text-*"]), PASSES),
    "no models at all": (with_claims(models=[]), PASSES),
    "nbf past": (with_claims(nbf=NOW), PASSES),
    "nbf within leeway": (with_claims(nbf=NOW + LEEWAY), PASSES),
    "iat within leeway": (with_claims(iat=NOW + LEEWAY), PASSES),
    "exp within leeway": (with_claims(iat=NOW - DAY, exp=NOW - LEEWAY + 1), PASSES),
    "longest lifetime": (with_claims(exp=NOW + LONGEST), PASSES),
    "longest subject": (with_claims(sub="s" * 256), PASSES),
    "subject beyond ASCII": (with_claims(sub="Zürich Süd"), PASSES),
    "longest tenant": (with_claims(tenant="t" * 64), PASSES),
    "scope named twice": (with_claims(scope="models:read models:read"), PASSES),
    # Not even the form.
    "empty": ("", CredentialMalformed),
    "an API key": ("sk-proj-abcdefghijklmnop", CredentialMalformed),
    "two parts": (f"{HEADER}.{PAYLOAD}", CredentialMalformed),
    "four parts": (f"{GOOD}.{SIGNATURE}", CredentialMalformed),
    "five parts as in JWE": (f"{GOOD}.a.b", CredentialMalformed),
    "only dots": ("..", CredentialMalformed),
    "leading dot": (f".{GOOD}", CredentialMalformed),
    "trailing dot": (f"{GOOD}.", CredentialMalformed),
    "padding after the signature": (f"{GOOD}=", CredentialMalformed),
    "full padding after the signature": (f"{GOOD}==", CredentialMalformed),
    "padding after the header": (f"{HEADER}=.{PAYLOAD}.{SIGNATURE}", CredentialMalformed),
    "junk after the signature": (f"{GOOD}!!", CredentialMalformed),
    "newline at the end": (f"{GOOD}\n", CredentialMalformed),
    "newline inside": (f"{HEADER}.{PAYLOAD[:9]}\n{PAYLOAD[9:]}.{SIGNATURE}", CredentialMalformed),
    "space inside": (f"{HEADER}. {PAYLOAD}.{SIGNATURE}", CredentialMalformed),
    "NUL inside": (f"{HEADER}.\0{PAYLOAD}.{SIGNATURE}", CredentialMalformed),
    "plain base64 alphabet": (f"{HEADER}.{PAYLOAD}.{'+/' + SIGNATURE[2:]}", CredentialMalformed),
    "spare bits set": (f"{HEADER}.{PAYLOAD}.{SIGNATURE[:-1]}" + "x", CredentialMalformed),
    "impossible base64 length": (f"{HEADER}.{PAYLOAD}.AAAAA", CredentialMalformed),
    "not ASCII": (f"{HEADER}.{PAYLOAD}é.{SIGNATURE}", CredentialMalformed),
    "full-width letters": (GOOD.translate({ord("e"): "\uff45"}), CredentialMalformed),
    "lone surrogate": (f"{GOOD}\udcff", CredentialMalformed),
    "one byte too long": (with_claims(pad="p" * 8192), CredentialTooLong),
    "a megabyte": ("A" * 2**20, CredentialTooLong),
    "header is an array": (forged(header=b'["EdDSA"]'), CredentialMalformed),
    "header is a string": (forged(header=b'"EdDSA"'), CredentialMalformed),
    "header is null": (forged(header=b"null"), CredentialMalformed),
    "header is empty": (forged(header=b""), CredentialMalformed),
    "header is no JSON": (forged(header=b"{alg:EdDSA}"), CredentialMalformed),
    "header with a BOM": (forged(header=b'\xef\xbb\xbf{"alg":"EdDSA"}'), CredentialMalformed),
    "header in UTF-16": (forged(header='{"alg":"EdDSA"}'.encode("utf-16")), CredentialMalformed),
    "header not UTF-8": (forged(header=b'{"alg":"\xff"}'), CredentialMalformed),
    "header followed by more": (forged(header=b'{"alg":"EdDSA"}{}'), CredentialMalformed),
    "header nested 3000 deep": (forged(header=b"[" * 3000), CredentialMalformed),
    "header member nested 2000 deep": (
        forged(header=b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"),
        CredentialMalformed,
    ),
    "alg named twice": (
        forged(header=b'{"alg":"none","alg":"EdDSA","kid":"eddsa","typ":"JWT"}'),
        CredentialMalformed,
    ),
    "kid named twice, once escaped": (
        forged(header=b'{"alg":"EdDSA","k\\u0069d":"x","kid":"eddsa","typ":"JWT"}'),
        CredentialMalformed,
    ),
    # The form, but not one of ours.
    "alg none, no signature": (forged(header={"alg": "none"}, sign=always(b"")), CredentialNotAccepted),
    "alg NoNe, no signature": (forged(header={"alg": "NoNe"}, sign=always(b"")), CredentialNotAccepted),
    "alg none, real signature": (with_header(alg="none"), CredentialNotAccepted),
    "alg missing": (with_header(alg=ABSENT), CredentialNotAccepted),
    "alg null": (with_header(alg=None), CredentialNotAccepted),
    "alg a list": (with_header(alg=["EdDSA"]), CredentialNotAccepted),
    "alg in lower case": (with_header(alg="eddsa"), CredentialNotAccepted),
    "alg of another key": (with_header(alg="RS256"), CredentialNotAccepted),
    "alg of the same family": (forged(KEYS[Algorithm.HS256], header={"alg": "HS512"}), CredentialNotAccepted),
    "alg HS256, raw Ed25519 public key as secret": (hs256_forged(ED_RAW, kid="eddsa"), CredentialNotAccepted),
    "alg HS256, EC public point as secret": (hs256_forged(EC_POINT, kid="es256"), CredentialNotAccepted),
    "alg HS256, RSA PEM as secret": (hs256_forged(RSA_PEM, kid="rs256"), CredentialNotAccepted),
    "alg HS256, RSA PEM without newline as secret": (
        hs256_forged(RSA_PEM[:-1], kid="rs256"),
        CredentialNotAccepted,
    ),
    "alg HS256, RSA DER as secret": (hs256_forged(RSA_DER, kid="rs256"), CredentialNotAccepted),
    "alg HS256, public JWK as secret": (hs256_forged(ED_JWK, kid="eddsa"), CredentialNotAccepted),
    "signature by the empty HMAC secret": (hs256_forged(b"", kid="hs256"), CredentialNotAccepted),
    "signature by a public key as HMAC secret": (hs256_forged(ED_RAW, kid="hs256"), CredentialNotAccepted),
    "signature by another key of ours": (
        forged(KEYS[Algorithm.EDDSA], header={"kid": "es256", "alg": "ES256"}),
        CredentialNotAccepted,
    ),
    "kid missing": (with_header(kid=ABSENT), CredentialNotAccepted),
    "kid unknown": (forged(STRANGER), CredentialNotAccepted),
    "signature by a stranger under our kid": (
        forged(STRANGER, header={"kid": "eddsa"}),
        CredentialNotAccepted,
    ),
    "kid a path": (with_header(kid="../../etc/passwd"), CredentialNotAccepted),
    "kid a path to the right file": (with_header(kid="./eddsa"), CredentialNotAccepted),
    "kid with NUL": (with_header(kid="eddsa\0"), CredentialNotAccepted),
    "kid with newline": (with_header(kid="eddsa\n"), CredentialNotAccepted),
    "kid empty": (with_header(kid=""), CredentialNotAccepted),
    "kid too long": (with_header(kid="k" * 65), CredentialNotAccepted),
    "kid a number": (with_header(kid=1), CredentialNotAccepted),
    "kid a list": (with_header(kid=["eddsa"]), CredentialNotAccepted),
    "kid SQL": (with_header(kid="eddsa' OR 1=1"), CredentialNotAccepted),
    "typ missing": (with_header(typ=ABSENT), CredentialNotAccepted),
    "typ of an ID token": (with_header(typ="id+jwt"), CredentialNotAccepted),
    "typ of a logout token": (with_header(typ="logout+jwt"), CredentialNotAccepted),
    "typ a number": (with_header(typ=1), CredentialNotAccepted),
    "crit": (with_header(crit=["exp"]), CredentialNotAccepted),
    "crit empty": (with_header(crit=[]), CredentialNotAccepted),
    "b64 false": (with_header(b64=False), CredentialNotAccepted),
    "jku": (with_header(jku="https://evil.example/jwks.json"), CredentialNotAccepted),
    "x5u": (with_header(x5u="https://evil.example/cert"), CredentialNotAccepted),
    "jwk brought along": (forged(STRANGER, header={"jwk": STRANGER.public_jwk()}), CredentialNotAccepted),
    "x5c": (with_header(x5c=["MIIB"]), CredentialNotAccepted),
    "signature flipped": (f"{HEADER}.{PAYLOAD}.{FLIPPED}", CredentialNotAccepted),
    "signature missing": (f"{HEADER}.{PAYLOAD}.", CredentialNotAccepted),
    "signature short": (f"{HEADER}.{PAYLOAD}.AAAA", CredentialNotAccepted),
    "signature zero, ES256": (
        forged(KEYS[Algorithm.ES256], sign=always(b"\0" * 64)),
        CredentialNotAccepted,
    ),
    "signature in DER, ES256": (
        forged(KEYS[Algorithm.ES256], sign=always(b"0" * 71)),
        CredentialNotAccepted,
    ),
    "signature zero, RS256": (
        forged(KEYS[Algorithm.RS256], sign=always(b"\0" * 256)),
        CredentialNotAccepted,
    ),
    "signature of another payload": (
        f"{HEADER}.{with_claims(tenant='b').split('.')[1]}.{SIGNATURE}",
        CredentialNotAccepted,
    ),
    # Signed by us, and still not right.
    **{f"{claim} missing": (with_claims(**{claim: ABSENT}), CredentialNotAccepted) for claim in CLAIMS},
    **{f"{claim} null": (with_claims(**{claim: None}), CredentialNotAccepted) for claim in CLAIMS},
    "payload an array": (raw_payload("[]"), CredentialNotAccepted),
    "payload a number": (raw_payload("1"), CredentialNotAccepted),
    "payload empty": (raw_payload(""), CredentialNotAccepted),
    "payload no JSON": (raw_payload("exp=1"), CredentialNotAccepted),
    "payload nested 2500 deep": (raw_payload("[" * 2500), CredentialNotAccepted),
    "payload names tenant twice": (spliced('"tenant":"b"'), CredentialNotAccepted),
    "payload names tenant twice, once escaped": (spliced('"t\\u0065nant":"b"'), CredentialNotAccepted),
    "payload names exp twice, the same value": (spliced(f'"exp":{NOW + DAY}'), CredentialNotAccepted),
    "payload names a nested member twice": (spliced('"x":{"a":1,"\\u0061":2}'), CredentialNotAccepted),
    "exp a string": (with_claims(exp="9999999999"), CredentialNotAccepted),
    "exp a bool": (with_claims(exp=True), CredentialNotAccepted),
    "exp a float": (with_claims(exp=NOW + 60.5), CredentialNotAccepted),
    "exp a whole float": (with_claims(exp=float(NOW + 60)), CredentialNotAccepted),
    "exp huge": (with_claims(exp=2**63), CredentialNotAccepted),
    "exp beyond 64 bits": (with_exp_text("9" * 20), CredentialNotAccepted),
    "payload with exp of 5000 digits": (with_exp_text("9" * 5000), CredentialNotAccepted),
    "exp with an exponent, so a float": (with_exp_text("1.8e9"), CredentialNotAccepted),
    "payload with exp 1e400": (with_exp_text("1e400"), CredentialNotAccepted),
    "payload with exp NaN": (with_exp_text("NaN"), CredentialNotAccepted),
    "exp negative": (with_claims(exp=-1), CredentialNotAccepted),
    "exp before iat": (with_claims(exp=NOW - 1), CredentialNotAccepted),
    "exp at iat": (with_claims(exp=NOW), CredentialNotAccepted),
    "exp after the longest lifetime": (with_claims(exp=NOW + LONGEST + 1), CredentialNotAccepted),
    "exp after the longest lifetime, by an early iat": (with_claims(iat=0), CredentialNotAccepted),
    "iat a string": (with_claims(iat=str(NOW)), CredentialNotAccepted),
    "iat future": (with_claims(iat=NOW + LEEWAY + 1), CredentialNotAccepted),
    "nbf future": (with_claims(nbf=NOW + LEEWAY + 1), CredentialNotAccepted),
    "nbf a string": (with_claims(nbf="0"), CredentialNotAccepted),
    "nbf a bool": (with_claims(nbf=True), CredentialNotAccepted),
    "nbf null": (with_claims(nbf=None), CredentialNotAccepted),
    "iss of another": (with_claims(iss="https://other.example"), CredentialNotAccepted),
    "iss a prefix": (with_claims(iss=ISSUER[:-1]), CredentialNotAccepted),
    "iss longer": (with_claims(iss=ISSUER + "/"), CredentialNotAccepted),
    "iss a list": (with_claims(iss=[ISSUER]), CredentialNotAccepted),
    "aud of another": (with_claims(aud="other"), CredentialNotAccepted),
    "aud ours among others": (with_claims(aud=[AUDIENCE, "other"]), CredentialNotAccepted),
    "aud ours twice": (with_claims(aud=[AUDIENCE, AUDIENCE]), CredentialNotAccepted),
    "aud empty list": (with_claims(aud=[]), CredentialNotAccepted),
    "aud nested list": (with_claims(aud=[[AUDIENCE]]), CredentialNotAccepted),
    "sub empty": (with_claims(sub=""), CredentialNotAccepted),
    "sub a number": (with_claims(sub=7), CredentialNotAccepted),
    "sub too long": (with_claims(sub="s" * 257), CredentialNotAccepted),
    "sub with newline": (with_claims(sub="a\nb"), CredentialNotAccepted),
    "sub with escape sequence": (with_claims(sub="a\x1b[2Jb"), CredentialNotAccepted),
    "sub with line separator": (with_claims(sub="a\u2028b"), CredentialNotAccepted),
    "sub with direction override": (with_claims(sub="a\u202eb"), CredentialNotAccepted),
    "jti empty": (with_claims(jti=""), CredentialNotAccepted),
    "jti an object": (with_claims(jti={}), CredentialNotAccepted),
    "jti with NUL": (with_claims(jti="a\0"), CredentialNotAccepted),
    "tenant empty": (with_claims(tenant=""), CredentialNotAccepted),
    "tenant too long": (with_claims(tenant="t" * 65), CredentialNotAccepted),
    "tenant a path": (with_claims(tenant="../b"), CredentialNotAccepted),
    "tenant begins with a dot": (with_claims(tenant=".b"), CredentialNotAccepted),
    "tenant with Redis hash tag": (with_claims(tenant="a}{b"), CredentialNotAccepted),
    "tenant with newline": (with_claims(tenant="acme\n"), CredentialNotAccepted),
    "tenant beyond ASCII": (with_claims(tenant="acmé"), CredentialNotAccepted),
    "tenant a list": (with_claims(tenant=["acme"]), CredentialNotAccepted),
    "scope empty": (with_claims(scope=""), CredentialNotAccepted),
    "scope a wildcard": (with_claims(scope="*"), CredentialNotAccepted),
    "scope a pattern": (with_claims(scope="files:*"), CredentialNotAccepted),
    "scope a group": (with_claims(scope="inference"), CredentialNotAccepted),
    "scope a list": (with_claims(scope=["models:read"]), CredentialNotAccepted),
    "scope with two spaces": (with_claims(scope="models:read  files:read"), CredentialNotAccepted),
    "scope with a comma": (with_claims(scope="models:read,files:read"), CredentialNotAccepted),
    "scope with newline": (with_claims(scope="models:read\n"), CredentialNotAccepted),
    "models null": (with_claims(models=None), CredentialNotAccepted),
    "models a string": (with_claims(models="gpt-4o"), CredentialNotAccepted),
    "models with a number": (with_claims(models=["gpt-4o", 1]), CredentialNotAccepted),
    "models with an empty name": (with_claims(models=[""]), CredentialNotAccepted),
    # Expired is said only of what is right in every other way.
    "expired": (with_claims(iat=NOW - DAY, exp=NOW - LEEWAY), CredentialExpired),
    "expired long ago": (with_claims(iat=1, exp=2), CredentialExpired),
    "signature flipped, expired too": (
        with_claims(iat=1, exp=2).rpartition(".")[0] + "." + FLIPPED,
        CredentialNotAccepted,
    ),
    "kid unknown, expired too": (forged(STRANGER, payload={"iat": 1, "exp": 2}), CredentialNotAccepted),
    "aud of another, expired too": (with_claims(iat=1, exp=2, aud="other"), CredentialNotAccepted),
    "exp past, but after the longest lifetime": (with_claims(iat=1, exp=2 + LONGEST), CredentialNotAccepted),
}


@pytest.mark.parametrize("case", TABLE)
def test_credential_has_exactly_this_outcome(case: str) -> None:
    """The first word of a case not accepted is what the reason has to name."""
    credential, expected = TABLE[case]
    verifier = new_verifier()
    if expected is PASSES:
        assert verifier.verify(credential).tenant in ("acme", "t" * 64)
        return
    with pytest.raises(CredentialError) as refused:
        verifier.verify(credential)
    assert type(refused.value) is expected
    if expected is CredentialNotAccepted:
        assert case.split()[0].rstrip(",") in refused.value.reason.split(), refused.value.reason


@pytest.mark.parametrize("case", [case for case, (_, expected) in TABLE.items() if expected])
def test_reason_is_safe_to_log_and_quotes_no_part_of_the_credential(case: str) -> None:
    credential, _ = TABLE[case]
    with pytest.raises(CredentialError) as refused:
        new_verifier().verify(credential)
    parts = [part for part in credential.split(".") if len(part) > 8]
    assert refused.value.reason.isprintable()
    assert not [part for part in parts if part in refused.value.reason]


# Nothing but the good pass, and nothing but a credential error comes out.

NAMES = st.sampled_from([*CLAIMS, "nbf", "models", "alg", "kid", "typ", "crit"])
JSON = json_values(NAMES)
ALPHABET = string.ascii_letters + string.digits + "-_.=+/ \n\0é"


@settings(max_examples=400, deadline=None)
@given(st.text(max_size=200) | st.text(ALPHABET, max_size=200))
def test_any_text_is_refused_as_a_credential(text: str) -> None:
    with pytest.raises(CredentialError):
        new_verifier().verify(text)


@settings(max_examples=600, deadline=None)
@given(st.integers(0, len(GOOD)), st.integers(0, 5), st.text(ALPHABET, max_size=5))
def test_any_edit_of_a_good_credential_is_refused(position: int, removed: int, inserted: str) -> None:
    edited = GOOD[:position] + inserted + GOOD[position + removed :]
    if edited == GOOD:
        return
    with pytest.raises(CredentialError):
        new_verifier().verify(edited)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=3), st.binary(max_size=80))
def test_any_header_without_a_signature_of_ours_is_refused(
    header: dict[str, object], signature: bytes
) -> None:
    with pytest.raises(CredentialError):
        new_verifier().verify(forged(header=header, sign=always(signature)))


@settings(max_examples=600, deadline=None)
@given(st.dictionaries(NAMES, JSON, max_size=3))
def test_any_signed_claims_are_refused_or_make_a_sound_principal(changes: dict[str, object]) -> None:
    claims = changed(CLAIMS, changes)
    try:
        principal = new_verifier().verify(with_claims(**changes))
    except CredentialError:
        return
    assert claims["iss"] == ISSUER and claims["aud"] in (AUDIENCE, [AUDIENCE])
    assert type(claims["exp"]) is int and type(claims["iat"]) is int
    assert NOW - LEEWAY < principal.expires_at <= principal.issued_at + LONGEST
    assert principal.issued_at <= NOW + LEEWAY
    assert (principal.tenant, principal.subject) == (claims["tenant"], claims["sub"])
    assert principal.tenant.isprintable() and principal.subject.isprintable()
    assert principal.scopes == frozenset(str(claims["scope"]).split(" "))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_any_signed_bytes_are_refused(payload: bytes) -> None:
    with pytest.raises(CredentialNotAccepted):
        new_verifier().verify(forged(payload=payload))


HOSTILE = {
    "dots": "." * 8192,
    "no dots": "A" * 8192,
    "deep header": b64(b'{"a":' * 900 + b"1" + b"}" * 900) + ".e30.e30",
    "wide header": b64(b"{" + b",".join(b'"%d":0' % n for n in range(640)) + b"}") + ".e30.e30",
    "backslashes": b64(b'{"' + b"\\\\" * 3000 + b'":1}') + ".e30.e30",
    "quotes": b64(b'"' * 6000) + ".e30.e30",
    **{
        f"long payload, wrong {algorithm} signature": forged(
            key, payload=b"\0" * 5700, sign=always(key.sign(b"something else"))
        )
        for algorithm, key in KEYS.items()
    },
    **{
        f"wide payload of good claims, wrong {algorithm} signature": forged(
            key,
            payload=orjson.dumps({**CLAIMS, **{f"{n}": 0 for n in range(640)}}),
            sign=always(key.sign(b"something else")),
        )
        for algorithm, key in KEYS.items()
    },
}


@pytest.mark.parametrize("shape", HOSTILE)
def test_refusal_of_the_longest_hostile_credential_takes_less_than_a_millisecond(shape: str) -> None:
    verifier = new_verifier()
    fastest = 1.0
    for _ in range(20):
        started = time.perf_counter()
        with pytest.raises(CredentialError):
            verifier.verify(HOSTILE[shape])
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.001


@pytest.mark.parametrize("case", TABLE)
def test_inspection_refuses_exactly_as_the_verifier_does(case: str) -> None:
    credential, expected = TABLE[case]
    inspection = inspect(credential, new_verifier())
    assert type(inspection.refusal) is (expected or type(None))
    assert (inspection.principal is None) == (expected is not None)
