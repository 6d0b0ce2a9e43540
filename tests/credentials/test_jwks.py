"""Keys of other issuers come in the background, good ones stay, and no request ever waits for them."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from gateway.credentials.jwks import JwksUrl
from gateway.credentials.key_fetch import MAX_DOCUMENT_BYTES, KeySource
from gateway.credentials.key_ring import MAX_KEYS_IN_SET, KeyRing
from gateway.credentials.key_sets import Pace, SharedFetch
from gateway.credentials.keys import Algorithm, Key, KeyProblem
from gateway.credentials.principal import CredentialUndecided
from gateway.wire.strict_json import strict_object
from tests.kit.jwks import Behaviour, JwksServer, key_set, running_jwks_server
from tests.kit.tls import make_certificate, served_with
from tests.kit.waiting import until

OLD, NEW = Key.generate(Algorithm.EDDSA, "old"), Key.generate(Algorithm.ES256, "new")
PAUSE = 0.2


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    async with running_jwks_server() as running:
        running.publish(OLD)
        yield running


class Watched:
    """A source of keys with short times, and what it said of itself."""

    def __init__(self, url: str, **times: Any) -> None:
        self.results: list[str] = []
        self.changes = 0
        stale_seconds = times.pop("stale_seconds", 60)
        pace = Pace(**{"refresh_seconds": 30, "pause_seconds": PAUSE, "fetch_seconds": 0.5, **times})
        self.fetch = SharedFetch(fetched=lambda _, result: self.results.append(result), pace=pace)
        self.source = JwksUrl(
            "login",
            KeySource(url),
            fetch=self.fetch,
            stale_seconds=stale_seconds,
            changed=self._change,
            pace=pace,
        )

    async def close(self) -> None:
        await self.source.close()
        await self.fetch.close()

    def _change(self) -> None:
        self.changes += 1

    async def results_are(self, *expected: str) -> None:
        """Wait until these were the results, and nothing else, and have been taken over."""
        await until(lambda: len(self.results) >= len(expected))
        assert self.results == list(expected)
        await until(lambda: self.changes >= expected.count("new"))

    def knows(self, *keys: Key) -> bool:
        try:
            return all(self.source.get(key.kid) is not None for key in keys)
        except CredentialUndecided:
            return False


@asynccontextmanager
async def watching(url: str, **times: float) -> AsyncIterator[Watched]:
    watched = Watched(url, **times)
    watched.source.start()
    try:
        await watched.source.tried()
        yield watched
    finally:
        await watched.close()


async def test_keys_are_there_after_the_first_fetch(server: JwksServer) -> None:
    async with watching(server.url) as watched:
        key = watched.source.get("old")
        assert key is not None and key.verifies(b"data", OLD.sign(b"data"))
        assert not key.signs
        assert watched.source.get("new") is None
        assert watched.results == ["new"] and watched.changes == 1
        assert 0 <= watched.source.age_seconds() < 1


async def test_request_says_nothing_but_what_is_wanted(server: JwksServer) -> None:
    async with watching(server.url):
        pass
    [request] = server.requests
    assert request.method == "GET"
    assert request.headers["Accept-Encoding"] == "identity"
    assert not {"Authorization", "Cookie"} & set(request.headers)


async def test_looking_for_a_key_takes_no_time_while_the_issuer_hangs(server: JwksServer) -> None:
    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    server.behaviour = hang
    watched = Watched(server.url)
    watched.source.start()
    await server.asked.wait()
    started = time.perf_counter()
    assert not any(watched.knows(OLD) for _ in range(1000))
    assert time.perf_counter() - started < 1.0
    await watched.source.tried()
    assert watched.results == ["failed"]
    await watched.close()


async def test_unknown_kid_brings_the_new_key_for_the_next_one(server: JwksServer) -> None:
    async with watching(server.url) as watched:
        server.publish(OLD, NEW)
        assert not watched.knows(NEW)
        await watched.results_are("new", "new")
        assert watched.knows(OLD, NEW)
        await asyncio.sleep(3 * PAUSE)
        assert len(server.requests) == 2, "it has been found: nothing is looked for any more"


async def test_flood_of_unknown_kids_makes_one_fetch_a_pause(server: JwksServer) -> None:
    async with watching(server.url) as watched:
        started = time.monotonic()
        while time.monotonic() - started < 5.5 * PAUSE:
            for number in range(200):
                watched.source.get(f"k{number}")
            await asyncio.sleep(0.005)
        assert 4 <= len(server.requests) <= 6


async def test_known_kids_make_no_fetch(server: JwksServer) -> None:
    async with watching(server.url) as watched:
        for _ in range(30):
            assert watched.knows(OLD)
            await asyncio.sleep(PAUSE / 10)
        assert len(server.requests) == 1


async def test_set_is_refreshed_without_being_asked(server: JwksServer) -> None:
    async with watching(server.url, refresh_seconds=0.4) as watched:
        server.publish(NEW)
        await watched.results_are("new", "new")
        assert watched.source.get("old") is None, "a key that was withdrawn no longer counts"
        assert watched.changes == 2
        await watched.results_are("new", "new", "same")
        assert watched.changes == 2
        assert watched.source.age_seconds() < 0.4


# An issuer that fails or lies.


async def status_500(_: web.Request) -> web.StreamResponse:
    return web.Response(status=500, body=key_set([NEW]))


async def status_203(_: web.Request) -> web.StreamResponse:
    return web.Response(status=203, body=key_set([NEW]))


async def status_404(_: web.Request) -> web.StreamResponse:
    return web.Response(status=404, text="<html>no</html>")


async def redirect(request: web.Request) -> web.StreamResponse:
    if request.path == "/elsewhere":
        return web.Response(body=key_set([NEW]))
    raise web.HTTPFound("/elsewhere")


async def compressed(_: web.Request) -> web.StreamResponse:
    return web.Response(body=gzip.compress(key_set([NEW])), headers={"Content-Encoding": "gzip"})


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    await answer.write(b'{"keys": [')
    while True:
        await answer.write(b" " * 4096)


async def dripping(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for byte in key_set([NEW]):
        await answer.write(bytes([byte]))
        await asyncio.sleep(0.05)
    return answer


async def cut_off(request: web.Request) -> web.StreamResponse:
    document = key_set([NEW])
    answer = web.StreamResponse(headers={"Content-Length": str(len(document))})
    await answer.prepare(request)
    await answer.write(document[:-10])
    assert request.transport is not None
    request.transport.abort()
    return answer


async def hung_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def serving(document: bytes) -> Behaviour:
    async def serve(_: web.Request) -> web.StreamResponse:
        return web.Response(body=document)

    return serve


SECRET = Key.generate(Algorithm.HS256, "new")
BAD: dict[str, Behaviour] = {
    **{
        behaviour.__name__: behaviour
        for behaviour in (
            *(status_500, status_203, status_404, redirect, compressed),
            *(endless, dripping, cut_off, hung_up),
        )
    },
    "empty": serving(b""),
    "html": serving(b"<html>Log in</html>"),
    "a list": serving(orjson.dumps([NEW.public_jwk()])),
    "no keys": serving(b"{}"),
    "keys null": serving(b'{"keys": null}'),
    "keys empty": serving(b'{"keys": []}'),
    "keys an object": serving(orjson.dumps({"keys": {"new": NEW.public_jwk()}})),
    "keys named twice": serving(key_set([NEW])[:-1] + b"," + key_set([NEW])[1:]),
    "a BOM": serving(b"\xef\xbb\xbf" + key_set([NEW])),
    "utf-16": serving(key_set([NEW]).decode().encode("utf-16")),
    "more after the end": serving(key_set([NEW]) + b"{}"),
    "nested without end": serving(b'{"keys":' + b"[" * 30000),
    "too large": serving(key_set([NEW]) + b" " * MAX_DOCUMENT_BYTES),
    "too many": serving(key_set([NEW] * (MAX_KEYS_IN_SET + 1))),
    "only a secret": serving(orjson.dumps({"keys": [SECRET.jwk()]})),
    "only a private key": serving(orjson.dumps({"keys": [NEW.jwk()]})),
    "only strings": serving(orjson.dumps({"keys": ["new", None, 1, []]})),
}


@pytest.mark.parametrize("case", BAD)
async def test_bad_answer_leaves_the_last_good_set_in_force(server: JwksServer, case: str) -> None:
    async with watching(server.url) as watched:
        server.behaviour = BAD[case]
        assert not watched.knows(NEW)
        await watched.results_are("new", "failed")
        assert watched.knows(OLD) and not watched.knows(NEW)
        assert watched.changes == 1
        assert all(request.path == "/keys.json" for request in server.requests)
        server.publish(NEW)
        await watched.results_are("new", "failed", "new")
        assert watched.knows(NEW)


@pytest.mark.parametrize("case", BAD)
async def test_bad_first_answer_gives_no_keys_and_holds_nobody_up(server: JwksServer, case: str) -> None:
    server.behaviour = BAD[case]
    started = time.monotonic()
    async with watching(server.url) as watched:
        assert time.monotonic() - started < 1.5
        assert watched.results == ["failed"] and watched.changes == 0
        assert not watched.knows(NEW)
        assert watched.source.age_seconds() == float("inf")


async def test_bytes_that_are_no_http_are_a_failure() -> None:
    reader: list[bytes] = []

    async def garble(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader.append(await stream.readuntil(b"\r\n\r\n"))
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\x00\xff\r\n\r\n")
        writer.close()

    listening = await asyncio.start_server(garble, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        async with watching(f"http://127.0.0.1:{port}/keys") as watched:
            assert reader and watched.results == ["failed"]


async def test_issuer_that_cannot_prove_who_it_is_is_not_believed(tmp_path: Path) -> None:
    asked: list[web.BaseRequest] = []

    async def serve(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request)
        return web.Response(body=key_set([OLD]))

    runner = web.ServerRunner(web.Server(serve))
    await runner.setup()
    tls = served_with(make_certificate(tmp_path, "issuer"))
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        async with watching(f"https://127.0.0.1:{runner.addresses[0][1]}/keys") as watched:
            assert watched.results == ["failed"] and not watched.knows(OLD)
    finally:
        await runner.cleanup()
    assert not asked


async def test_server_that_is_not_there_is_a_failure_and_is_tried_again(server: JwksServer) -> None:
    async with watching("http://127.0.0.1:9/keys") as watched:
        await watched.results_are("failed", "failed")


async def test_set_too_old_no_longer_counts_and_comes_back(server: JwksServer) -> None:
    async with watching(server.url, stale_seconds=0.5, refresh_seconds=0.3) as watched:
        server.behaviour = status_500
        async with asyncio.timeout(5):
            while watched.knows(OLD):
                assert watched.source.age_seconds() < 1.5
                await asyncio.sleep(0.01)
        assert watched.source.age_seconds() > 0.5
        assert watched.changes == 2, "what was verified by the old set must be forgotten"
        server.publish(OLD)
        await until(lambda: watched.knows(OLD))
        assert watched.changes == 3


async def test_trouble_is_logged_once_and_without_control_characters(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers = [b"HTTP/1.1 200 OK\r\nx\x1b[2J\xe2\x80\xae: y\r\n\r\n"] * 3
    good = key_set([OLD])
    answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(good), good))

    async def answer(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await stream.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with listening:
        port = listening.sockets[0].getsockname()[1]
        async with watching(f"http://127.0.0.1:{port}/keys") as watched:
            await watched.results_are("failed", "failed", "failed", "new")
    lines = [
        record.getMessage() for record in caplog.records if record.name == "gateway.credentials.key_sets"
    ]
    print(lines)
    assert len(lines) == 2 and all(line.isprintable() for line in lines)


async def test_nothing_runs_after_the_end(server: JwksServer) -> None:
    before = asyncio.all_tasks()
    async with watching(server.url):
        pass
    assert asyncio.all_tasks() == before


# Which keys of a set count.


def jwks(*members: object) -> dict[str, object]:
    return {"keys": list(members)}


def public(key: Key, **changes: object) -> dict[str, object]:
    return {**(key.public_jwk() or {}), **changes}


RSA = Key.generate(Algorithm.RS256, "rsa")
P384 = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)
SMALL_RSA = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)

UNUSABLE: dict[str, object] = {
    "for encryption": public(OLD, kid="x", use="enc"),
    "only to sign with": public(OLD, kid="x", key_ops=["sign"]),
    "for wrapping": public(OLD, kid="x", key_ops=["wrapKey"]),
    "key_ops no list": public(OLD, kid="x", key_ops="verify"),
    "RS384": public(RSA, kid="x", alg="RS384"),
    "PS256": public(RSA, kid="x", alg="PS256"),
    "RSA for encryption": public(RSA, kid="x", alg="RSA-OAEP"),
    "alg null": public(OLD, kid="x", alg=None),
    "P-384": {**P384, "kid": "x"},
    "small RSA": {**SMALL_RSA, "kid": "x"},
    "no kid": {name: value for name, value in public(OLD).items() if name != "kid"},
    "kid a number": public(OLD, kid=1),
    "kid with control characters": public(OLD, kid="x\x1b[2J"),
    "a secret": SECRET.jwk(),
    "a secret without alg": {name: value for name, value in SECRET.jwk().items() if name != "alg"},
    "a private key": {**NEW.jwk(), "kid": "x"},
    "no object": "x",
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable_key_is_passed_over_and_the_others_count(case: str) -> None:
    ring = KeyRing.published(jwks(UNUSABLE[case], public(OLD)))
    assert [key.kid for key in ring] == ["old"]
    [warning] = ring.warnings
    assert warning.startswith("keys[0]") and warning.isprintable()
    with pytest.raises(KeyProblem):
        KeyRing.published(jwks(UNUSABLE[case]))


@pytest.mark.parametrize("key", [OLD, NEW, RSA], ids=attrgetter("kid"))
def test_key_without_alg_has_the_one_of_its_kind(key: Key) -> None:
    bare = public(key)
    del bare["alg"], bare["use"]
    [taken] = KeyRing.published(jwks(bare))
    assert taken.algorithm is key.algorithm
    with pytest.raises(KeyProblem, match="alg must be"):
        Key.from_jwk(bare)


@pytest.mark.parametrize("operations", [["verify"], ["verify", "encrypt"]], ids=str)
def test_key_that_may_verify_counts(operations: list[str]) -> None:
    assert KeyRing.published(jwks(public(OLD, key_ops=operations))).get("old")


def test_two_keys_of_one_kid_are_both_passed_over() -> None:
    ring = KeyRing.published(jwks(public(OLD), public(NEW, kid="two"), public(RSA, kid="two")))
    assert [key.kid for key in ring] == ["old"]
    assert len(KeyRing.published(jwks(public(OLD), public(OLD, use="sig", x5t="a")))) == 1


def test_rsa_key_with_a_huge_exponent_is_refused() -> None:
    numbers = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    slow = rsa.RSAPublicNumbers(2**2000 + 1, numbers.n).public_key()
    with pytest.raises(KeyProblem, match="exponent"):
        Key.from_jwk({**RSAAlgorithm.to_jwk(slow, as_dict=True), "kid": "x", "alg": "RS256"})


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.text(max_size=8)
    | st.sampled_from(["sig", "RSA", "EC", "oct"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=6,
)
MEMBERS = st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "kid", "alg", "use", "key_ops"])


PUBLISHED = st.sampled_from([public(OLD), public(NEW), public(RSA), SECRET.jwk(), NEW.jwk()])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PUBLISHED, st.dictionaries(MEMBERS, ANY, max_size=2)), max_size=4))
def test_any_set_makes_a_ring_of_public_keys_or_a_key_problem(
    members: list[tuple[dict[str, object], dict[str, object]]],
) -> None:
    document = orjson.dumps(jwks(*({**good, **changes} for good, changes in members)))
    try:
        ring = KeyRing.published(strict_object(document))
    except KeyProblem:
        return
    assert len(ring) and not any(key.is_secret for key in ring)


def test_largest_set_is_taken_in_little_time() -> None:
    """It is taken on the event loop."""
    keys = [Key.generate(Algorithm.ES256, f"k{number}") for number in range(MAX_KEYS_IN_SET)]
    document = key_set(keys)
    fastest = 1.0
    for _ in range(5):
        started = time.perf_counter()
        assert len(KeyRing.published(strict_object(document))) == MAX_KEYS_IN_SET
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest < 0.05
