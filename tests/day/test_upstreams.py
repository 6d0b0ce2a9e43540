"""What upstreams do at three in the morning: each is named, and its kind of trouble told from the others."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.day.scenes import BUDGETS, Scene, played, scene
from tests.kit.identity import running_identity_endpoint, shown
from tests.kit.redis import free_port
from tests.kit.upstream import Script, ScriptedUpstream, Turn, answer_ok, breaks_off, silent

TWO = """
[tenants.acme]
scopes = ["*"]
[tenants.beta]
scopes = ["*"]
"""


def answers(status: int, *fields: str, after_seconds: float = 0.0) -> Script:
    """The script of an upstream that has one answer for everybody."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(after_seconds)
        head = "\r\n".join([f"HTTP/1.1 {status} Said", "Content-Type: application/json", *fields])
        await turn.send(f"{head}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    return script


def sometimes(every: int, otherwise: Script) -> Script:
    """The script of an upstream that fails one question of so many."""
    asked = 0

    async def script(turn: Turn) -> None:
        nonlocal asked
        asked += 1
        await (otherwise if asked % every == 0 else answer_ok)(turn)

    return script


@scene("GatewayUpstreamThrottles", "GatewayUpstreamLimitShort")
async def throttled_for_everybody(scene: Scene) -> None:
    served = await scene.gateway(TWO)
    async with served.calling("acme"), served.calling("beta", every_seconds=0.5):
        scene.upstream.plays(
            answers(429, "x-ratelimit-limit-tokens: 1000", "x-ratelimit-remaining-tokens: 3")
        )
        alert = await scene.fires("GatewayUpstreamThrottles", "upstream default", upstream="default")
        assert alert.labels["fault"] == "upstream"
        assert "Who asks most: acme" in alert.annotations["description"]
        assert "Least is left of tokens" in alert.annotations["description"]
        await scene.fires("GatewayUpstreamLimitShort", "tokens", upstream="default", dimension="tokens")
        scene.upstream.plays(
            answers(200, "x-ratelimit-limit-tokens: 1000", "x-ratelimit-remaining-tokens: 900")
        )
        await scene.resolves("GatewayUpstreamThrottles")
        await scene.resolves("GatewayUpstreamLimitShort")


@scene("GatewayUpstreamRefusesKey", "GatewayErrorBudgetBurnsFast", besides=BUDGETS)
async def key_revoked(scene: Scene) -> None:
    served = await scene.gateway(TWO)
    async with served.calling("acme"), served.calling("beta", every_seconds=0.5):
        scene.upstream.plays(answers(401))
        alert = await scene.fires("GatewayUpstreamRefusesKey", "upstream default", upstream="default")
        assert alert.labels["severity"] == "critical"
        alert = await scene.fires("GatewayErrorBudgetBurnsFast", scene.job)
        assert "upstream_refused_key" in alert.annotations["description"]
        scene.upstream.plays(answer_ok)
        await scene.resolves("GatewayUpstreamRefusesKey")


@scene(
    "GatewayTenantErrorBudgetBurnsFast",
    "GatewayUpstreamFailing",
    besides={"GatewayTenantErrorBudgetBurnsSlowly"},
)
async def one_tenant_fails_among_healthy_ones(scene: Scene) -> None:
    async with ScriptedUpstream() as own:
        own.plays(answers(500))
        served = await scene.gateway(TWO + f'[tenants.beta.upstream]\nbase_url = "{own.base_url}"\n')
        async with served.calling("acme", at_once=4), served.calling("beta", every_seconds=1.5):
            alert = await scene.fires("GatewayTenantErrorBudgetBurnsFast", "beta", tenant="beta")
            assert alert.labels["fault"] == "upstream"
            await scene.fires("GatewayUpstreamFailing", "upstream beta", upstream="beta")
            own.plays(answer_ok)
            await scene.resolves("GatewayTenantErrorBudgetBurnsFast")


@scene("GatewayUpstreamFailing", "GatewayErrorBudgetBurnsFast", besides=BUDGETS)
async def fails_for_everybody(scene: Scene) -> None:
    served = await scene.gateway(TWO)
    async with served.calling("acme"), served.calling("beta"):
        scene.upstream.plays(answers(529))
        alert = await scene.fires("GatewayUpstreamFailing", "upstream default", upstream="default")
        assert "529" in alert.annotations["description"]
        alert = await scene.fires("GatewayErrorBudgetBurnsFast", "upstream's fault", fault="upstream")
        scene.upstream.plays(answer_ok)
        await scene.resolves("GatewayUpstreamFailing")


@scene("GatewayUpstreamFailing", "GatewayErrorBudgetBurnsFast", besides=BUDGETS)
async def breaks_off_whatever_it_began(scene: Scene) -> None:
    """Every answer is a 200."""
    served = await scene.gateway(TWO)
    async with served.calling("acme"), served.calling("beta"):
        scene.upstream.plays(breaks_off)
        alert = await scene.fires("GatewayUpstreamFailing", "upstream default", upstream="default")
        assert "break off" in alert.annotations["description"]
        await scene.fires("GatewayErrorBudgetBurnsFast", "upstream's fault", fault="upstream")
        scene.upstream.plays(answer_ok)
        await scene.resolves("GatewayUpstreamFailing")


@scene(
    "GatewayUpstreamSilent",
    "GatewayUpstreamConnectionsShort",
    besides=BUDGETS | {"GatewayUpstreamFailing"},
)
async def accepts_and_never_answers(scene: Scene) -> None:
    """It holds all connections that there may be, whom nobody should take for the reason."""
    served = await scene.gateway(TWO, "--set", "upstream.max_connections=8")
    async with served.calling("acme"):
        await asyncio.sleep(3)
    scene.upstream.plays(silent)
    async with served.calling("acme", at_once=12), served.calling("beta"):
        alert = await scene.fires("GatewayUpstreamSilent", "upstream default", upstream="default")
        assert (alert.labels["fault"], alert.labels["severity"]) == ("upstream", "critical")
        await scene.fires("GatewayUpstreamConnectionsShort", "default", upstream="default")
    scene.upstream.plays(answer_ok)
    async with served.calling("beta"):
        await scene.resolves("GatewayUpstreamSilent")


@scene("GatewayErrorBudgetBurnsSlowly", "GatewayTenantErrorBudgetBurnsSlowly")
async def fails_a_little_for_long(scene: Scene) -> None:
    served = await scene.gateway(TWO)
    scene.upstream.plays(sometimes(20, answers(500)))
    async with served.calling("acme", every_seconds=0.05):
        await scene.fires("GatewayErrorBudgetBurnsSlowly", scene.job)
        await scene.fires("GatewayTenantErrorBudgetBurnsSlowly", "acme", tenant="acme")
        scene.upstream.plays(answer_ok)
        await scene.resolves("GatewayErrorBudgetBurnsSlowly", 90)


@scene("GatewayUpstreamUnreachable", "GatewayErrorBudgetBurnsFast", besides=BUDGETS)
async def cannot_be_reached(scene: Scene) -> None:
    configuration = TWO + '[tenants.beta.upstream]\nbase_url = "{}"\n'
    served = await scene.gateway(configuration.format(f"http://127.0.0.1:{free_port()}/v1"))
    async with served.calling("acme"), served.calling("beta"):
        alert = await scene.fires("GatewayUpstreamUnreachable", "upstream beta", upstream="beta")
        assert alert.labels["fault"] == "upstream"
        await scene.fires("GatewayErrorBudgetBurnsFast", scene.job, fault="upstream")
        served.file.write_text(configuration.format(scene.upstream.base_url))
        await scene.resolves("GatewayUpstreamUnreachable")


@scene("GatewayUpstreamConnectionsShort", besides=BUDGETS)
async def all_connections_are_taken(scene: Scene) -> None:
    """The upstream is well: nothing says that it cannot be reached."""
    served = await scene.gateway(
        TWO, "--set", "upstream.max_connections=4", "--set", "upstream.connection_wait_seconds=0.3"
    )
    scene.upstream.plays(answers(200, after_seconds=0.7))
    async with served.calling("acme", at_once=12), served.calling("beta"):
        alert = await scene.fires("GatewayUpstreamConnectionsShort", "default", upstream="default")
        assert alert.labels["fault"] == "gateway"
        assert "Most are held by acme" in alert.annotations["description"]
        await asyncio.sleep(5)
    async with served.calling("beta"):
        await scene.resolves("GatewayUpstreamConnectionsShort")


@scene("GatewayUpstreamSlow")
async def gets_slow(scene: Scene) -> None:
    served = await scene.gateway(TWO)
    async with served.calling("acme", every_seconds=0.05, at_once=4):
        await asyncio.sleep(20)
        scene.upstream.plays(answers(200, after_seconds=2))
        await scene.fires("GatewayUpstreamSlow", "upstream default", upstream="default")
        scene.upstream.plays(answer_ok)
        await scene.resolves("GatewayUpstreamSlow")


@scene(
    "GatewayUpstreamIdentityNotRenewed",
    "GatewayUpstreamIdentityExpires",
    "GatewayErrorBudgetBurnsFast",
    besides=BUDGETS,
)
async def an_identity_is_believed_no_more(scene: Scene) -> None:
    scene.directory.mkdir(parents=True, exist_ok=True)
    file = scene.directory / "of-the-platform"
    shown(file, "what.the.platform-says")
    async with running_identity_endpoint() as endpoint:
        endpoint.seconds = 24
        own = f'[tenants.beta.upstream]\nbase_url = "{scene.upstream.base_url}"\n'
        served = await scene.gateway(TWO + own + endpoint.toml("tenants.beta.upstream", file))
        async with served.calling("acme"), served.calling("beta"):
            endpoint.believed = set()
            alert = await scene.fires("GatewayUpstreamIdentityNotRenewed", "upstream beta", upstream="beta")
            assert alert.labels["fault"] == "gateway"
            assert "Mostly: refused" in alert.annotations["description"]
            alert = await scene.fires("GatewayUpstreamIdentityExpires", "upstream beta", upstream="beta")
            assert alert.labels["severity"] == "critical"
            await scene.fires("GatewayErrorBudgetBurnsFast", scene.job, fault="gateway")
            endpoint.believed, endpoint.seconds = None, 3600
            await scene.resolves("GatewayUpstreamIdentityExpires")
            await scene.resolves("GatewayUpstreamIdentityNotRenewed")
            assert await served.ask("beta") == 200


SCENES = (
    throttled_for_everybody,
    key_revoked,
    one_tenant_fails_among_healthy_ones,
    fails_for_everybody,
    breaks_off_whatever_it_began,
    accepts_and_never_answers,
    fails_a_little_for_long,
    cannot_be_reached,
    all_connections_are_taken,
    gets_slow,
    an_identity_is_believed_no_more,
)


async def test_what_upstreams_do_is_told_by_name_and_over_when_it_is_over(tmp_path: Path) -> None:
    await played(tmp_path, *SCENES)
