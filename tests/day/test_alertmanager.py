"""The Alertmanager that is shipped, run for real: a cause silences what it causes, and nothing else."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.day.scenes import every_alert
from tests.kit.redis import free_port
from tests.kit.waiting import found

SHIPPED = Path(__file__).parents[2] / "deploy" / "alertmanager" / "alertmanager.yml"


@asynccontextmanager
async def running_alertmanager(directory: Path) -> AsyncIterator[str]:
    """Run it as it is shipped; its address."""
    executable = shutil.which("alertmanager") or shutil.which("prometheus-alertmanager")
    assert executable is not None, "alertmanager is not installed (Debian: prometheus-alertmanager)"
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        executable,
        f"--config.file={SHIPPED}",
        f"--storage.path={directory}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}/api/v2/alerts"
    finally:
        process.kill()
        await process.wait()


def alert(name: str, **labels: str) -> dict[str, Any]:
    """One as Prometheus sends it."""
    return {"labels": {"alertname": name, "job": "edge", **labels}}


REDIS = alert("GatewayRedisDown", fault="redis", severity="critical", server="r:1", policy="closed")
FAILING = alert("GatewayUpstreamFailing", fault="upstream", severity="critical", upstream="default")
BURNS = alert("GatewayErrorBudgetBurnsFast", fault="upstream", severity="critical")
OWN = alert("GatewayTenantErrorBudgetBurnsFast", fault="gateway", severity="critical", tenant="a")


@pytest.mark.parametrize(
    ("told", "silenced"),
    [
        ([FAILING, BURNS, OWN], {"GatewayErrorBudgetBurnsFast"}),
        ([REDIS, BURNS], set()),
        (
            [REDIS, alert("GatewayErrorBudgetBurnsFast", fault="redis"), alert("GatewayRevocationsStale")],
            {"GatewayErrorBudgetBurnsFast", "GatewayRevocationsStale"},
        ),
        (
            [BURNS, alert("GatewayTenantErrorBudgetBurnsFast", fault="upstream", tenant="b"), OWN],
            {"GatewayTenantErrorBudgetBurnsFast b"},
        ),
        (
            [
                alert("GatewayUpstreamSilent", fault="upstream", upstream="default"),
                alert("GatewayUpstreamConnectionsShort", fault="gateway", upstream="default", instance="a:1"),
                alert("GatewayErrorBudgetBurnsFast", fault="gateway"),
                alert("GatewayErrorBudgetBurnsSlowly", fault="redis"),
            ],
            {"GatewayUpstreamConnectionsShort", "GatewayErrorBudgetBurnsFast"},
        ),
        (
            [
                alert("GatewayIssuerKeysStale", fault="issuer"),
                alert("GatewayErrorBudgetBurnsFast", fault="issuer"),
            ],
            {"GatewayErrorBudgetBurnsFast"},
        ),
        ([alert("GatewayGone"), alert("GatewayDown", instance="a:1")], {"GatewayDown"}),
        ([FAILING, {"labels": {**BURNS["labels"], "job": "another"}}], set()),
    ],
)
async def test_a_cause_silences_what_it_causes_and_nothing_else(
    tmp_path: Path, told: list[dict[str, Any]], silenced: set[str]
) -> None:
    async with running_alertmanager(tmp_path) as url, aiohttp.ClientSession() as session:

        async def taken() -> bool:
            try:
                async with session.post(url, json=told) as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await found(taken, 30)

        async def judged() -> set[str] | None:
            async with session.get(url) as answer:
                alerts = await answer.json()
            if len(alerts) < len(told) or any(each["status"]["state"] == "unprocessed" for each in alerts):
                return None
            silent = [each["labels"] for each in alerts if each["status"]["state"] == "suppressed"]
            return {" ".join(filter(None, (each["alertname"], each.get("tenant")))) for each in silent}

        async def as_expected() -> bool:
            return await judged() == silenced

        # What is to be said is said after ten seconds at the earliest; what silences it is known a moment after it.
        await found(as_expected, 60)
        await asyncio.sleep(0.5)
        named = await judged()
    assert named == silenced


def test_it_speaks_only_of_alerts_that_there_are() -> None:
    document = yaml.safe_load(SHIPPED.read_text("utf-8"))
    named = set()
    for rule in document["inhibit_rules"]:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, operator, value = matcher.split(" ", 2)
            if label == "alertname" and operator != "!=":
                named |= set(value.strip('"').split("|"))
    patterns = {"GatewayErrorBudget.+", "GatewayTenantErrorBudget.+", "Gateway.+"}
    assert named - patterns <= every_alert()
