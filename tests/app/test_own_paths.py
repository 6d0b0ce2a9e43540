"""The gateway's own paths on the public listener: who am I, and with which keys are credentials verified."""

from __future__ import annotations

import time
from typing import Any

import jwt
import orjson
import pytest

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.verifier import Verifier
from gateway.operations.scopes import Vocabulary
from gateway.operations.table import OperationTable
from gateway.settings.settings import Credentials
from tests.conftest import StartGateway
from tests.kit.asking import ask, error_of, verdict
from tests.kit.client import JSON, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream

JWKS = "/.well-known/jwks.json"


async def me(gateway: Gateway, **named: Any) -> dict[str, Any]:
    """What the gateway says to somebody about themselves."""
    answer = await ask(gateway, "GET", "/gateway/me", **named)
    assert answer.status == 200, answer.body
    said = orjson.loads(answer.body)
    assert isinstance(said, dict)
    return said


class TestMe:
    async def test_says_who_asks_and_what_they_may(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(
            tenants={
                "acme": {
                    "name": "Acme Ltd.",
                    "scopes": ["models:*", "files:read"],
                    "models": ["gpt-4o*"],
                    "default_model": "gpt-4o-mini",
                    "limits": {"max_requests_per_1_minute": 60},
                },
                "neighbour": {},
            }
        )

        said = await me(
            gateway, subject="alice", scopes=["models:read", "audio.speech:write"], models=["gpt-4o"]
        )

        assert (said["tenant"], said["tenant_name"], said["subject"]) == ("acme", "Acme Ltd.", "alice")
        assert said["scopes"] == ["models:read"], "what both the credential and the tenant allow"
        assert said["models"] == {"tenant": ["gpt-4o*"], "credential": ["gpt-4o"]}
        assert said["default_model"] == "gpt-4o-mini"
        assert 3590 < said["expires_at"] - time.time() <= 3600
        assert said["expires"].endswith("+00:00")
        assert len(said["credential_id"]) == 32
        assert said["stored_objects"] == "closed: other tenants may have the same upstream account"
        (limit,) = said["limits"]
        assert (limit["limit"], limit["capacity"]) == ("max_requests_per_1_minute", 60)
        assert not upstream.requests

    async def test_says_groups_before_scopes_as_its_credential_means_them(self, gateway: Gateway) -> None:
        def principal_of(version: int) -> str:
            vocabulary = OperationTable.load().vocabulary
            known = {scope: since for scope, since in vocabulary.since.items() if since <= version}
            groups = {
                name: {since: patterns for since, patterns in meant.items() if since <= version}
                for name, meant in vocabulary.groups.items()
            }
            return gateway.credential(["inference", "files:read"], vocabulary=Vocabulary(known, groups))

        for version in (1, OperationTable.load().vocabulary.version):
            async with await RawClient.connect(gateway.host, gateway.port, principal_of(version)) as client:
                said = orjson.loads((await client.request("GET", "/gateway/me")).body)
            assert list(said).index("groups") < list(said).index("scopes")
            assert (said["groups"], said["scope_version"]) == (["inference"], version)
            assert {"chat.completions:write", "files:read"} <= set(said["scopes"])

    async def test_takes_nothing_from_the_limits(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {"limits": {"max_requests_per_1_minute": 2}}})
        for _ in range(5):
            assert (await me(gateway))["limits"][0]["remaining"] == 2

        assert (await ask(gateway, "GET", "/v1/models")).status == 200
        assert (await me(gateway))["limits"][0]["remaining"] == 1
        assert (await ask(gateway, "GET", "/v1/models")).status == 200
        left = (await me(gateway))["limits"][0]
        assert left["remaining"] == 0
        assert left["reset"].endswith("s")
        assert (await ask(gateway, "GET", "/v1/models")).status == 429
        assert (await me(gateway))["limits"][0]["remaining"] == 0

    async def test_needs_no_scope_but_a_credential(self, gateway: Gateway) -> None:
        assert (await me(gateway, scopes=["files:read"]))["scopes"] == ["files:read"]

        for credential in ("", "sk-something", gateway.credential()[:-2]):
            async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
                answer = await client.request("GET", "/gateway/me")
            assert answer.status == 401

    async def test_does_not_say_what_belongs_to_somebody_else(self, start_gateway: StartGateway) -> None:
        gateway = await start_gateway(tenants={"acme": {}, "secretive": {"name": "Rival Ltd."}})

        answer = await ask(gateway, "GET", "/gateway/me")

        assert b"secretive" not in answer.body
        assert b"Rival" not in answer.body
        assert b"sk-upstream-key" not in answer.body

    async def test_may_be_asked_with_a_query_and_by_head_and_is_not_kept_by_caches(
        self, gateway: Gateway
    ) -> None:
        asked = await ask(gateway, "GET", "/gateway/me?pretty=1")
        head = await ask(gateway, "HEAD", "/gateway/me")

        assert (asked.status, head.status) == (200, 200)
        assert asked.get("cache-control") == "no-store"
        assert head.body == b""
        assert int(head.get("content-length") or 0) > 100

    async def test_is_one_line_and_one_exchange_like_any_other(self, gateway: Gateway) -> None:
        await me(gateway)

        (line,) = await gateway.lines.wait(1)
        assert (line["operation"], line["tenant"], line["status"]) == ("gatewayMe", "acme", 200)
        series = 'gateway_exchanges_total{ending="complete",operation="gatewayMe",status="2xx",tenant="acme"}'
        assert gateway.metric(series) == 1


class TestJwks:
    async def test_is_open_and_verifies_what_the_gateway_issues(self, gateway: Gateway) -> None:
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            await client.send(f"GET {JWKS} HTTP/1.1\r\nHost: gateway.test\r\n\r\n".encode())
            answer = await client.read_answer()

        (published,) = orjson.loads(answer.body)["keys"]
        assert answer.status == 200
        assert gateway.ring.signing_key is not None
        assert published["kid"] == gateway.ring.signing_key.kid

    @pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
    async def test_holds_no_secret_part(self, algorithm: str, start_gateway: StartGateway) -> None:
        gateway = await start_gateway(ring=KeyRing.ephemeral(algorithm))
        (published,) = orjson.loads((await ask(gateway, "GET", JWKS)).body)["keys"]

        assert published["alg"] == algorithm
        assert not {"d", "p", "q", "dp", "dq", "qi", "k", "oth"} & published.keys()

    async def test_does_not_list_a_secret_that_signs_and_verifies_alike(
        self, start_gateway: StartGateway
    ) -> None:
        gateway = await start_gateway(ring=KeyRing.ephemeral("HS256"))

        answer = await ask(gateway, "GET", JWKS)

        assert orjson.loads(answer.body) == {"keys": []}

    async def test_key_set_is_enough_to_verify_a_credential_elsewhere(self, gateway: Gateway) -> None:
        (published,) = orjson.loads((await ask(gateway, "GET", JWKS)).body)["keys"]

        claims = jwt.decode(
            gateway.credential(subject="bob"),
            jwt.PyJWK(published),
            algorithms=[published["alg"]],
            audience="gateway",
        )

        assert claims["sub"] == "bob"
        Verifier(gateway.ring, Credentials()).verify(gateway.credential())


@pytest.mark.parametrize(
    "target", ["/gateway/me/", "/gateway", "/gateway/", "/gateway/you", "/Gateway/me", "/gateway/%6De", "/gateway/m",
               "/.well-known/jwks.json/", "/.well-known/openid-configuration", "/", "/metrics", "/livez", "/readyz"],
)  # fmt: skip
async def test_neighbouring_paths_are_not_found_and_never_go_up(
    gateway: Gateway, upstream: ScriptedUpstream, target: str
) -> None:
    answer = await ask(gateway, "GET", target)

    assert verdict(answer) == (404, "not_found")
    assert "/v1" in error_of(answer)["message"]
    assert not upstream.requests


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize(
    "target", ["/gateway/me", "/gateway/me?x=1", "/gateway/usage", "/gateway/livez", JWKS]
)
async def test_own_paths_are_only_read(
    gateway: Gateway, upstream: ScriptedUpstream, method: str, target: str
) -> None:
    answer = await ask(gateway, method, target, b"{}", headers=JSON)

    assert verdict(answer) == (405, "method_not_allowed")
    assert answer.get("allow") == "GET, HEAD"
    assert target.partition("?")[0] in error_of(answer)["message"]
    assert not upstream.requests
