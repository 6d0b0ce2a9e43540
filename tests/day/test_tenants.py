"""What tenants, their clients and their issuers do at three in the morning."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from tests.day.scenes import BUDGETS, Scene, played, scene
from tests.kit.jwks import LOGIN, THEIRS, running_jwks_server, their_credential
from tests.kit.upstream import Turn

OPEN = """
[tenants.acme]
scopes = ["*"]
"""


@scene("GatewayTenantThrottled")
async def one_asks_too_much(scene: Scene) -> None:
    served = await scene.gateway(
        OPEN + '[tenants.greedy]\nscopes = ["*"]\n[tenants.greedy.limits]\nmax_requests_per_1_minute = 30\n'
    )
    async with served.calling("acme"):
        async with served.calling("greedy"):
            alert = await scene.fires("GatewayTenantThrottled", "greedy", tenant="greedy")
        assert (alert.labels["fault"], alert.labels["severity"]) == ("limit", "info")
        assert "max_requests_per_1_minute" in alert.annotations["summary"]
        await scene.resolves("GatewayTenantThrottled")


@scene("GatewayCredentialRefusalsSurge")
async def somebody_tries_credentials(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    async with served.calling("acme"):
        async with served.calling("acme", credential="not-one"):
            alert = await scene.fires("GatewayCredentialRefusalsSurge", "credentials")
        assert alert.labels["fault"] == "client"
        assert alert.labels["reason"] in alert.annotations["summary"]
        await scene.resolves("GatewayCredentialRefusalsSurge")


@scene("GatewayCredentialExpires")
async def a_credential_is_about_to_expire(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    old = served.credential("acme", ttl_seconds=30)
    async with served.calling("acme", credential=old):
        alert = await scene.fires("GatewayCredentialExpires", "acme", tenant="acme")
        assert alert.labels["fault"] == "tenant"
    async with served.calling("acme"):
        await scene.resolves("GatewayCredentialExpires")  # it has expired, and nobody shows it any more


def reports(output: int) -> bytes:
    body = (
        b'{"object":"chat.completion","usage":{"prompt_tokens":1,"completion_tokens":%d,"total_tokens":%d}}'
    )
    return body % (output, output + 1)


@scene("GatewayLimitReportsCapped", besides={"GatewayTenantThrottled"})
async def an_upstream_reports_what_cannot_be(scene: Scene) -> None:
    async def absurd(turn: Turn) -> None:
        await turn.read_body()
        body = reports(100_000_000)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await turn.send(head.encode() + body)

    scene.upstream.plays(absurd)
    served = await scene.gateway(OPEN + "[tenants.acme.limits]\nmax_tokens_per_1_day = 100000\n")
    await served.ask("acme")
    alert = await scene.fires("GatewayLimitReportsCapped", "max_tokens_per_1_day of acme", tenant="acme")
    assert alert.labels["fault"] == "upstream"
    await scene.resolves("GatewayLimitReportsCapped", 90)


ISSUER = """
[issuers.company]
issuer = "{issuer}"
audience = "gateway"
jwks_url = "{url}"
jwks_stale_seconds = 600
tenant = "acme"
scopes = ["*"]
"""


@scene("GatewayIssuerKeysStale", "GatewayIssuerKeysAging", "GatewayErrorBudgetBurnsFast", besides=BUDGETS)
async def an_issuer_does_not_answer(scene: Scene) -> None:
    """Its keys were never fetched: they are as old as can be, by whatever measure."""
    async with running_jwks_server() as server:

        async def fails(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=500)

        server.behaviour = fails
        served = await scene.gateway(OPEN + ISSUER.format(issuer=LOGIN, url=server.url))
        async with served.calling("acme", "GET", "/v1/models", None, credential=their_credential()):
            alert = await scene.fires("GatewayIssuerKeysAging", "company", issuer="company")
            assert alert.labels["fault"] == "issuer"
            alert = await scene.fires("GatewayIssuerKeysStale", "company", issuer="company")
            assert alert.labels["severity"] == "critical"
            alert = await scene.fires("GatewayErrorBudgetBurnsFast", scene.job)
            assert "issuer_unavailable" in alert.annotations["description"]
        server.publish(THEIRS)
        await scene.resolves("GatewayIssuerKeysStale", 90)
        assert await served.ask("acme", "GET", "/v1/models", None, credential=their_credential()) == 200


SCENES = (
    one_asks_too_much,
    somebody_tries_credentials,
    a_credential_is_about_to_expire,
    an_upstream_reports_what_cannot_be,
    an_issuer_does_not_answer,
)


async def test_what_tenants_and_clients_do_is_told_by_name_and_over_when_it_is_over(tmp_path: Path) -> None:
    await asyncio.wait_for(played(tmp_path, *SCENES), 420)
