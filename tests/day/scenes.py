"""Scenes of the day: something happens to a gateway, alerts say so, it is over, and they are silent again.

Scenes run at once, each with gateways of its own under a job of its own name, before one Prometheus. What a scene
announces has to fire and to resolve; what else fires has to be foreseen by it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.day.prometheus import Alert, Prometheus, watching
from tests.day.served import Served, gateway_of
from tests.kit.queries import rules
from tests.kit.redis import RedisServer, running_redis
from tests.kit.upstream import ScriptedUpstream

BUDGETS = frozenset(
    {
        "GatewayErrorBudgetBurnsFast",
        "GatewayErrorBudgetBurnsSlowly",
        "GatewayTenantErrorBudgetBurnsFast",
        "GatewayTenantErrorBudgetBurnsSlowly",
    }
)
"""What burns with everything that fails."""

CROWDED = frozenset(
    {
        *("GatewaySlow", "GatewayLoopBlocked", "GatewayRedisSlow", "GatewayProcessorFull"),
        *("GatewayDown", "GatewayGone"),
    }
)
"""What so many gateways on one machine may do to one another; a second without a scrape is a minute of the rules."""

PLAYING_SECONDS = 300.0
RESOLVING_SECONDS = 150.0
STARTING_AT_ONCE = 2
"""Who starts has a core, or nobody starts in time."""


@dataclass
class Scene:
    """What a scene acts on."""

    job: str
    directory: Path
    prometheus: Prometheus
    upstream: ScriptedUpstream
    stack: AsyncExitStack
    starting: asyncio.Semaphore
    fired: list[Alert] = field(default_factory=list)

    async def gateway(
        self, configuration: str, *options: str, redis: RedisServer | None = None, **more: Any
    ) -> Served:
        """A gateway before this scene's upstream, scraped under its job; `configuration` is added to what it needs."""
        async with self.starting:
            served = await self.stack.enter_async_context(
                gateway_of(
                    self.directory,
                    configuration,
                    *("--set", f"upstream.base_url={self.upstream.base_url}"),
                    *("--set", "upstream.api_key=sk-upstream", *options),
                    redis=redis,
                    **more,
                )
            )
        await self.prometheus.watch(**{self.job: [served.target]})
        await self.prometheus.has(f'gateway_build_info{{job="{self.job}"}}')
        return served

    async def resolves(self, name: str, within_seconds: float = 60.0, **labels: str) -> None:
        """Wait until it is over."""
        await self.prometheus.resolves(name, within_seconds, job=self.job, **labels)

    def redis(self, *options: str) -> RedisServer:
        """A Redis of this scene's own."""
        return self.stack.enter_context(running_redis(*options))

    async def fires(self, name: str, culprit: str, within_seconds: float = 60.0, **labels: str) -> Alert:
        """Wait until an alert of this gateway fires, and see that its summary names the culprit."""
        alert = await self.prometheus.fires(name, within_seconds, job=self.job, **labels)
        assert culprit in alert.annotations["summary"], alert
        assert "<no value>" not in str(alert.annotations), alert
        self.fired.append(alert)
        return alert


Play = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Announced:
    """A scene, and what comes of it."""

    play: Play
    alerts: frozenset[str]
    besides: frozenset[str]

    @property
    def job(self) -> str:
        """Under which its gateway is scraped."""
        return self.play.__name__


def scene(*alerts: str, besides: Iterable[str] = ()) -> Callable[[Play], Announced]:
    """Announce which alerts a scene raises, and which else it may."""
    return lambda play: Announced(play, frozenset(alerts), frozenset(besides))


async def played(directory: Path, *scenes: Announced) -> None:
    """Play scenes at once; fails with all that went wrong in any."""
    starting = asyncio.Semaphore(STARTING_AT_ONCE)
    async with watching(directory / "prometheus", {}) as prometheus:
        went = await asyncio.gather(
            *(_played(prometheus, directory / each.job, each, starting) for each in scenes),
            return_exceptions=True,
        )
        wrong = {each.job: result for each, result in zip(scenes, went, strict=True) if result is not None}
        assert not wrong, "\n".join(f"{job}: {what!r}" for job, what in wrong.items())
        broken = [
            (rule["name"], rule["lastError"]) for rule in await prometheus.rules() if rule.get("lastError")
        ]
        assert not broken


async def _played(
    prometheus: Prometheus, directory: Path, announced: Announced, starting: asyncio.Semaphore
) -> None:
    job = announced.job
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream())
        directory.mkdir(parents=True)
        acting = Scene(job, directory, prometheus, upstream, stack, starting)
        async with asyncio.timeout(PLAYING_SECONDS):
            await announced.play(acting)
        fired = {alert.name for alert in acting.fired}
        assert fired == announced.alerts, f"announced {announced.alerts}, seen {fired}"
        for name in announced.alerts:
            await prometheus.resolves(name, RESOLVING_SECONDS, job=job)
        raised = await prometheus.raised(job=job)
        unforeseen = raised - announced.alerts - announced.besides - CROWDED
        assert not unforeseen, f"raised {unforeseen} as well"
        await prometheus.forget(job)  # its gateway goes now, which is no news


def every_alert() -> set[str]:
    """The names of all that are shipped."""
    return {rule["alert"] for rule in rules() if "alert" in rule}
