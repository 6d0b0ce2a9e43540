"""What metrics count, what the state tells and what the log says is the same, whatever becomes of exchanges."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.kit.upstream import ScriptedUpstream
from tests.promises.test_cycles import LARGE_SCENES, SCENES, Crowd, crowded, played

Series = list[tuple[dict[str, str], float]]

_SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


async def looked_at(crowd: Crowd) -> tuple[dict[str, Series], dict[str, Any]]:
    """The page of metrics and the state."""
    where = f"http://127.0.0.1:{crowd.gateway.admin_port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{where}/metrics") as answer:
            page = await answer.text()
        async with session.get(f"{where}/gateway/state") as answer:
            state = orjson.loads(await answer.read())
    families: dict[str, Series] = {}
    for name, labels, value in _SERIES.findall(page):
        families.setdefault(name, []).append((dict(_LABEL.findall(labels)), float(value)))
    return families, state


def by(series: Series, *labels: str) -> Counter[tuple[str, ...]]:
    """What series count, by these labels."""
    counted: Counter[tuple[str, ...]] = Counter()
    for said, value in series:
        counted[tuple(said[label] for label in labels)] += int(value)
    return +counted


async def test_metrics_state_and_log_agree(upstream: ScriptedUpstream, tmp_path: Path) -> None:
    async with crowded(upstream, tmp_path) as crowd:
        await played(crowd, [name for name in SCENES if name not in LARGE_SCENES])
        await asyncio.sleep(0.2)  # lines are written in batches
        metrics, state = await looked_at(crowd)
        lines = [orjson.loads(line) for line in crowd.gateway.stdout]

    assert not by(metrics.get("gateway_log_lines_withheld_total", []), "reason")
    known = {one["tenant"] for one in state["tenants"]}
    counted = by(metrics["gateway_exchanges_total"], "tenant", "operation", "status", "ending")
    assert counted == Counter(
        (
            line["tenant"] if line["tenant"] in known else "other",
            line["operation"],
            "none" if line["status"] is None else f"{line['status'] // 100}xx",
            line["ending"],
        )
        for line in lines
    )
    assert by(metrics["gateway_overhead_seconds_count"]) == {(): len(lines)}
    assert by(metrics["gateway_first_byte_seconds_count"]) == {
        (): sum(line.get("first_byte_ms") is not None for line in lines)
    }
    of_tenants = {one["tenant"]: one["exchanges"] for one in state["tenants"] if one["exchanges"]}
    assert of_tenants == {
        tenant: count for (tenant,), count in by(metrics["gateway_exchanges_total"], "tenant").items()
    }
    answered = by([s for s in metrics["gateway_upstream_answers_total"] if s[0]["status"] == "500"], "status")
    assert answered == {("500",): sum(line.get("upstream_status") == 500 for line in lines)}
    for kind in ("input", "output"):
        used = sum((line.get("usage") or {}).get(kind, 0) for line in lines)
        assert by(metrics["gateway_usage_total"], "kind")[(kind,)] == used > 0
        assert by(metrics["gateway_model_usage_total"], "kind")[(kind,)] == used
    errors = by(metrics["gateway_errors_total"], "code")
    told = Counter((line["error"],) for line in lines if line.get("error"))
    assert told <= errors, "within sessions there are more"
    for name in ("gateway_exchanges_in_flight", "gateway_buffered_bytes", "gateway_oldest_exchange_seconds"):
        assert not any(value for _, value in metrics[name]), name
