"""Credentials of the login servers that people have, in the shapes those give them, by keys from a real URL.

The keys are real ones, made here; header, claims and key set are those of each server's documentation.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web

from tests.conftest import StartGateway
from tests.kit.client import RawClient
from tests.kit.gateway import Gateway
from tests.kit.jwks import JwksServer, running_jwks_server
from tests.kit.logins import EC, RSA, Login
from tests.kit.upstream import ScriptedUpstream

OURS = "https://gateway.example"


SERVERS: dict[str, Login] = {
    "Keycloak": Login(
        issuer="https://sso.example/realms/acme",
        key=RSA,
        kid="FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE",
        header={"typ": "JWT"},
        of_key={"use": "sig", "x5c": ["MIIClz"], "x5t": "abc", "x5t#S256": "def"},
        claims={
            "jti": "trrtcc:6f2a",
            "aud": [OURS, "account"],
            "sub": "f:550e8400-e29b",
            "typ": "Bearer",
            "azp": "batch.jobs",
            "realm_access": {"roles": ["offline_access", "uma_authorization"]},
            "resource_access": {
                "llm.gateway": {"roles": ["inference"]},
                "account": {"roles": ["view-profile"]},
            },
            "scope": "openid email profile",
            "preferred_username": "service-account-batch",
        },
        settings={
            "tenant": "acme",
            "claims": {
                "subject": "preferred_username",
                "scopes": ["resource_access", "llm.gateway", "roles"],
            },
        },
        subject="service-account-batch",
    ),
    "Auth0": Login(
        issuer="https://acme.eu.auth0.com/",
        key=RSA,
        kid="NjVBRjY5MDlCMUIwNzU4RTA2QzZFMDQ4QzQ2MDAyQjVDNjk1RTM2Qg",
        header={"typ": "at+jwt"},
        of_key={"use": "sig", "x5t": "abc", "x5c": ["MIIC"]},
        claims={
            "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
            "aud": [OURS, "https://acme.eu.auth0.com/userinfo"],
            "azp": "my_client_id",
            "scope": "openid profile inference",
            "https://acme.example/tenant": "acme",
        },
        settings={"tenants": ["acme"], "claims": {"tenant": "https://acme.example/tenant"}},
        subject="auth0|5f7c8ec7c33c6c004bbafe82",
    ),
    "Auth0 with permissions": Login(
        issuer="https://acme.eu.auth0.com/",
        key=RSA,
        kid="k-1",
        header={"typ": "JWT"},
        claims={
            "sub": "batch@clients",
            "aud": OURS,
            "gty": "client-credentials",
            "permissions": ["models:read", "chat.completions:*"],
        },
        settings={"tenant": "acme", "claims": {"scopes": "permissions"}},
        subject="batch@clients",
    ),
    "Entra": Login(
        issuer="https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
        key=RSA,
        kid="nOo3ZDrODXEK1jKWhXslHR_KXEg",
        header={"typ": "JWT", "x5t": "nOo3ZDrODXEK1jKWhXslHR_KXEg"},
        of_key={"alg": None, "use": "sig", "x5t": "nOo3", "x5c": ["MIIC"], "issuer": "https://login…/v2.0"},
        times=lambda now: {"iat": int(now) - 300, "nbf": int(now) - 300, "exp": int(now) + 3900},
        claims={
            "aud": OURS,
            "aio": "E2ZgYLjNv2",
            "azp": "00001111-aaaa-2222-bbbb-3333cccc4444",
            "oid": "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb",
            "rh": "0.AV",
            "roles": ["inference", "Something.Else"],
            "sub": "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb",
            "tid": "72f988bf-86f1-41af-91ab-2d7cd011db47",
            "uti": "RQwxT1VnH0",
            "ver": "2.0",
        },
        settings={"tenant": "acme", "claims": {"subject": "azp", "scopes": "roles"}},
        subject="00001111-aaaa-2222-bbbb-3333cccc4444",
    ),
    "Kubernetes": Login(
        issuer="https://kubernetes.default.svc.cluster.local",
        key=RSA,
        kid="hR5dTFcnzhHDhAOeMNnbRYX1sKXYp0kPlUXVWZGFnbM",
        header={},
        of_key={"use": "sig"},
        times=lambda now: {"iat": int(now), "nbf": int(now), "exp": int(now) + 3607},
        claims={
            "aud": [OURS],
            "jti": str(uuid4()),
            "kubernetes.io": {
                "namespace": "acme",
                "node": {"name": "node-1", "uid": str(uuid4())},
                "pod": {"name": "batch-7d4", "uid": str(uuid4())},
                "serviceaccount": {"name": "batch", "uid": str(uuid4())},
            },
            "sub": "system:serviceaccount:acme:batch",
        },
        settings={"tenants": ["acme"], "claims": {"tenant": ["kubernetes.io", "namespace"], "scopes": ""}},
        subject="system:serviceaccount:acme:batch",
    ),
    "SPIFFE": Login(
        issuer="https://oidc-discovery.example.org",
        key=EC,
        kid="C6vs25welZOx6WksNYfbMfiw9l96pMnD",
        header={"typ": "JOSE"},
        of_key={"use": "jwt-svid"},
        claims={"aud": ["spiffe://example.org/other", OURS], "sub": "spiffe://example.org/ns/acme/sa/batch"},
        settings={"tenant": "acme", "claims": {"scopes": ""}},
        subject="spiffe://example.org/ns/acme/sa/batch",
    ),
    "Okta": Login(
        issuer="https://acme.okta.com/oauth2/default",
        key=RSA,
        kid="TRQPkTGYpFvC3QFLX-5pzkqKwgRXVtJ8Z1uYQNrXoMc",
        header={},
        of_key={"use": "sig"},
        claims={
            "ver": 1,
            "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
            "aud": OURS,
            "cid": "nmdP1fcyvdVO11AL7ECm",
            "uid": "00ulevfjn3wBYvkB20h7",
            "scp": ["openid", "inference"],
            "sub": "batch@acme.example",
        },
        settings={"tenant": "acme", "claims": {"scopes": "scp"}},
        subject="batch@acme.example",
    ),
    "one with fractions of seconds": Login(
        issuer="https://other.example",
        key=EC,
        kid="a/b+c=",
        header={"typ": "application/AT+JWT"},
        times=lambda now: {"iat": now - 1.5, "nbf": now - 1.25, "exp": now + 299.75},
        claims={"aud": OURS, "sub": "batch", "scope": "inference"},
        settings={"tenant": "acme"},
        subject="batch",
    ),
}


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    async with running_jwks_server() as running:
        yield running


def trusted(login: Login, server: JwksServer, **more: object) -> dict[str, Any]:
    """The table of the configuration."""
    return {
        "login": {
            "issuer": login.issuer,
            "audience": OURS,
            "jwks_url": server.url,
            "scopes": ["models:read", "chat.completions:write"],
            **login.settings,
            **more,
        }
    }


async def asked(url: str, credential: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers={"Authorization": f"Bearer {credential}"}) as answer,
    ):
        return answer.status, await answer.json(), answer.headers


@pytest.mark.parametrize("name", SERVERS)
async def test_credential_of_a_login_server_counts_for_what_was_written_down_and_no_more(
    name: str, server: JwksServer, start_gateway: StartGateway
) -> None:
    login = SERVERS[name]
    server.document = login.published()
    gateway = await start_gateway(issuers=trusted(login, server))
    me = f"http://{gateway.host}:{gateway.port}/gateway/me"

    status, said, _ = await asked(me, login.credential())

    assert status == 200, (said, gateway.lines.raw)
    assert (said["tenant"], said["subject"]) == (login.tenant, login.subject)
    assert set(said["scopes"]) == login.scopes
    for changes in (
        {"aud": "account"},
        {"aud": ["account"]},
        {"exp": time.time() - 60},
        {"iss": f"{login.issuer}x"},
    ):
        status, said, _ = await asked(me, login.credential(**changes))
        assert (status, said["error"]["code"]) in ((401, "invalid_api_key"), (401, "expired_api_key")), (
            changes
        )


async def test_keys_that_could_never_be_had_are_503_until_they_can_be(
    server: JwksServer, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def fail(_: web.Request) -> web.StreamResponse:
        return web.Response(status=500)

    login = SERVERS["Keycloak"]
    server.behaviour = fail
    gateway = await start_gateway(issuers=trusted(login, server))

    status, said, headers = await asked(f"{gateway.base_url}/models", login.credential())

    assert (status, said["error"]["code"], said["error"]["type"]) == (
        503,
        "issuer_unavailable",
        "server_error",
    )
    assert 1 <= int(headers["retry-after"]) <= 30
    assert upstream.requests == []
    [line] = await gateway.lines.wait(1)
    assert server.url in line["detail"]
    # Whose issuer is nobody here, or whose form is wrong, is refused all the same.
    for wrong in (login.credential(iss="https://nobody.example"), login.credential()[:-1] + ".x"):
        status, said, _ = await asked(f"{gateway.base_url}/models", wrong)
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("most_bytes", [512, 8192])
async def test_credential_that_is_too_long_says_so_and_what_to_do(
    most_bytes: int, server: JwksServer, start_gateway: StartGateway
) -> None:
    login = SERVERS["Entra"]
    server.document = login.published()
    gateway = await start_gateway(issuers=trusted(login, server), credentials={"max_bytes": most_bytes})
    long = login.credential(groups=[str(uuid4()) for _ in range(most_bytes // 36)])

    status, said, headers = await asked(f"{gateway.base_url}/models", long)

    assert (status, said["error"]["code"]) == (401, "invalid_api_key")
    message = said["error"]["message"]
    assert f"{len(long):,} bytes" in message and f"{most_bytes:,}" in message
    assert "credentials.max_bytes" in message and "issuer" in message
    assert headers["WWW-Authenticate"].startswith("Bearer")


async def test_credential_longer_than_any_header_may_be_is_called_by_its_name(gateway: Gateway) -> None:
    async with await RawClient.connect(gateway.host, gateway.port, "x" * 17_000) as client:
        answer = await client.request("GET", "/v1/models")

    assert answer.status == 431
    assert b"credential in Authorization has more than 16384 bytes" in answer.body
