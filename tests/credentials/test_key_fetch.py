"""Key sets behind an authority of their own and a bearer, as those of a cluster are: who is asked, and told what."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.credentials.key_fetch import FetchFailed, KeySource, fetched
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.key_sets import AskedFetch, Fetch, Pace, SharedFetch
from gateway.credentials.principal import CredentialError
from gateway.credentials.trust import Trust
from gateway.operations.table import OperationTable
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from tests.kit.jwks import LOGIN, NEXT, THEIRS, JwksServer, running_jwks_server, their_credential
from tests.kit.tls import make_certificate, served_with
from tests.kit.waiting import until

PACE = Pace(refresh_seconds=0.6, pause_seconds=0.2, fetch_seconds=5.0)
FIRST, SECOND = "first-secret-of-the-gateway", "second-secret-of-the-gateway"


@dataclass
class Cluster:
    """A key set that only who knows the bearer is shown, by TLS of an authority of its own."""

    server: JwksServer
    ca_file: Path
    bearer_file: Path

    def settings(self, **more: Any) -> Settings:
        table = {
            "issuer": LOGIN,
            "audience": "gateway",
            "jwks_url": self.server.url,
            "jwks_ca_file": str(self.ca_file),
            "jwks_bearer_token_file": str(self.bearer_file),
            "tenant": "acme",
            "scopes": ["*"],
            **more,
        }
        present = {name: value for name, value in table.items() if value is not None}
        return load(flags={"issuers": {"cluster": present}, "tenants": {"acme": {}}}, environ={})

    def source(self, **more: Any) -> KeySource:
        return KeySource.of(self.settings(**more).issuers["cluster"])

    def sent(self) -> list[str | None]:
        """What each request was sent along with."""
        return [request.headers.get("Authorization") for request in self.server.requests]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    certificate = make_certificate(tmp_path, "cluster")
    bearer_file = tmp_path / "token"
    bearer_file.write_text(f"{FIRST}\n")
    bearer_file.chmod(0o600)
    async with running_jwks_server(served_with(certificate)) as server:
        server.publish(THEIRS)
        server.bearer = FIRST
        yield Cluster(server, certificate[0], bearer_file)


def trusting(settings: Settings, fetch: Fetch) -> Trust:
    return Trust(
        settings.credentials,
        settings.issuers,
        ring=KeyRing.ephemeral(),
        vocabulary=OperationTable.load().vocabulary,
        fetch=fetch,
        pace=PACE,
    )


async def failure(source: KeySource) -> str:
    with pytest.raises(FetchFailed) as failed:
        await fetched(source)
    assert FIRST not in str(failed.value)
    return str(failed.value)


@pytest.mark.parametrize("way", ["by itself", "asks a supervisor"])
async def test_keys_behind_an_authority_and_a_bearer_are_had_and_the_bearer_is_read_for_each_fetch(
    way: str, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with AsyncExitStack() as stack:
        shared = SharedFetch(pace=PACE)
        stack.push_async_callback(shared.close)
        told: list[bytes] = []

        async def ask(question: Any) -> Any:
            told.append(orjson.dumps(question))
            return orjson.loads(orjson.dumps(await shared.answer(orjson.loads(told[-1]))))

        trust = trusting(cluster.settings(), shared if way == "by itself" else AskedFetch(ask, pace=PACE))
        await trust.start()
        stack.push_async_callback(trust.close)
        assert trust.verifier.verify(their_credential()).tenant == "acme"

        cluster.server.bearer = SECOND  # rotated, as it stands there
        cluster.bearer_file.write_text(SECOND)
        cluster.server.publish(THEIRS, NEXT)
        await until(lambda: accepted(trust, their_credential(NEXT)))

    assert cluster.sent()[0] == f"Bearer {FIRST}" and cluster.sent()[-1] == f"Bearer {SECOND}"
    assert FIRST not in caplog.text and SECOND not in caplog.text
    assert not any(FIRST.encode() in question or SECOND.encode() in question for question in told)
    assert bool(told) == (way != "by itself")


def accepted(trust: Trust, credential: str) -> bool:
    try:
        trust.verifier.verify(credential)
    except CredentialError:
        return False
    return True


async def test_bearer_goes_to_its_own_host_alone_whatever_that_answers(cluster: Cluster) -> None:
    async with running_jwks_server() as other:
        other.publish(THEIRS)

        async def elsewhere(_: web.Request) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": other.url})

        cluster.server.behaviour = elsewhere
        assert "302: redirects are not followed" in await failure(cluster.source())
        assert other.requests == []


async def test_what_keeps_keys_from_being_had_is_said_in_words(cluster: Cluster, tmp_path: Path) -> None:
    assert "certificate is not accepted: self-signed certificate; jwks_ca_file names" in (
        await failure(cluster.source(jwks_ca_file=None))
    )
    stranger, _ = make_certificate(tmp_path, "stranger")
    assert f"believed is who stands in jwks_ca_file {stranger}" in (
        await failure(cluster.source(jwks_ca_file=str(stranger)))
    )
    assert cluster.server.requests == [], "nobody is shown a bearer who is not believed"
    by_name = cluster.source(jwks_url=cluster.server.url.replace("127.0.0.1", "localhost"))
    assert "certificate is not accepted" in await failure(by_name)
    said = await failure(cluster.source(jwks_bearer_token_file=None))
    assert "401: it wants to know who asks; jwks_bearer_token_file" in said
    cluster.server.bearer = SECOND
    assert "403" in (said := await failure(cluster.source()))
    assert "system:service-account-issuer-discovery" in said

    async def doubts(_: web.Request) -> web.StreamResponse:
        return web.Response(status=401)

    cluster.server.bearer, cluster.server.behaviour = None, doubts
    assert f"does not accept what jwks_bearer_token_file {cluster.bearer_file}" in (
        await failure(cluster.source())
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (f"{FIRST} {SECOND}".encode(), "holds what no header can"),
        (f"{FIRST}\nX-Injected: 1".encode(), "holds what no header can"),
        (f"{FIRST}\xff".encode("latin-1"), "holds what no header can"),
        (FIRST.encode() * 1000, "more than 16000 bytes"),
    ],
)
async def test_bearer_that_cannot_be_sent_is_not_sent(
    content: bytes | None, said: str, cluster: Cluster
) -> None:
    if content is None:
        cluster.bearer_file.unlink()
    else:
        cluster.bearer_file.write_bytes(content)
    assert said in await failure(cluster.source())
    assert cluster.server.requests == []


async def test_another_authority_or_bearer_is_another_source_and_waits_for_no_pause(cluster: Cluster) -> None:
    shared = SharedFetch(pace=Pace(pause_seconds=30.0))
    without = await shared("cluster", cluster.source(jwks_bearer_token_file=None), max_age_seconds=300.0)
    assert (without.failed, without.document) == (True, None)
    known = await shared("cluster", cluster.source(), max_age_seconds=300.0)
    assert (known.failed, known.document) == (False, cluster.server.document)
    await shared.close()


async def test_supervisor_answers_a_worker_of_before_that_says_nothing_of_either() -> None:
    async with running_jwks_server() as server:
        server.publish(THEIRS)
        shared = SharedFetch()
        answer = await shared.answer({"issuer": "login", "url": server.url, "max_age_seconds": 300.0})
        assert answer["document"] == server.document.decode()
        await shared.close()
