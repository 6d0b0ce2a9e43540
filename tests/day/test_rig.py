"""The rig itself: what is shipped is what runs, in a hurry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.day.prometheus import Prometheus, watching
from tests.day.served import gateway_of
from tests.day.shortened import shipped_rules, shortened, shortened_query
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import found


@pytest.mark.parametrize(
    ("shipped", "runs"),
    [
        ("rate(gateway_exchanges_total[5m])", "rate(gateway_exchanges_total[5000ms])"),
        (
            "max_over_time(gateway:x:ratio5m[1h:1m] offset 1d)",
            "max_over_time(gateway:x:ratio5m[60000ms:1000ms] offset 1440000ms)",
        ),
        ("gateway:x:ratio5m > 0.05", "gateway:x:ratio5m > 0.05"),
    ],
)
def test_durations_of_queries_are_shorter_and_nothing_else_differs(shipped: str, runs: str) -> None:
    assert shortened_query(shipped) == runs


def test_compound_durations_are_shorter() -> None:
    assert shortened("1h30m") == "90000ms"


async def until_evaluated(prometheus: Prometheus) -> None:
    """Wait until Prometheus has looked at every rule once."""

    async def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in await prometheus.rules())

    await found(evaluated)


@pytest.mark.parametrize("workers", [1, 2])
async def test_prometheus_sees_a_gateway_and_evaluates_every_shipped_rule(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, workers: int
) -> None:
    configuration = f"""
[upstream]
base_url = "{upstream.base_url}"
api_key = "sk-upstream"

[tenants.acme]
scopes = ["*"]
"""
    async with (
        gateway_of(tmp_path / "gateway", configuration, redis=redis, workers=workers) as served,
        watching(tmp_path / "prometheus", {"day": [served.target]}) as prometheus,
        served.calling("acme"),
    ):
        await prometheus.has('rate(gateway_exchanges_total{job="day", tenant="acme", status="2xx"}[5s]) > 0')
        names = [rule.get("record") or rule["alert"] for rule in shipped_rules()]
        await prometheus.has('gateway:exchanges:rate5m{job="day"}')
        await until_evaluated(prometheus)
        rules = await prometheus.rules()
    assert sorted(rule["name"] for rule in rules) == sorted(names)
    assert {(rule["name"], rule.get("lastError", "")) for rule in rules if rule["health"] != "ok"} == set()
    assert set(served.statuses) == {200}
