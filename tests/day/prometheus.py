"""A running Prometheus that is asked, and waited for."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.day.shortened import FACTOR, LOOKBACK_SECONDS, configuration, shortened_rules
from tests.kit.redis import free_port

START_SECONDS = 20.0
PATIENCE_SECONDS = 60.0
"""For an alert to fire, or to resolve: a shortened hour."""

Series = dict[str, str]


@dataclass(frozen=True)
class Alert:
    """One alert as Prometheus tells it."""

    state: str
    labels: Series
    annotations: Series

    @property
    def name(self) -> str:
        """By which it stands in the rules."""
        return self.labels["alertname"]


@dataclass
class Prometheus:
    """Handles on it."""

    directory: Path
    port: int
    session: aiohttp.ClientSession
    process: asyncio.subprocess.Process | None = None
    alertmanagers: Sequence[str] = ()
    jobs: dict[str, list[str]] = field(default_factory=dict)

    async def query(self, expression: str) -> list[tuple[Series, float]]:
        """What an expression, whose durations are its own, gives now: each series and its value."""
        found = (await self._get("query", query=expression))["result"]
        if found and not isinstance(found[0], dict):  # a scalar
            return [({}, float(found[1]))]
        return [(each["metric"], float(each["value"][1])) for each in found]

    async def alerts(self, *states: str) -> list[Alert]:
        """Those in these states; without any, those that fire."""
        found = (await self._get("alerts"))["alerts"]
        return [
            Alert(each["state"], each["labels"], each["annotations"])
            for each in found
            if each["state"] in (states or ("firing",))
        ]

    async def fires(self, name: str, within_seconds: float = PATIENCE_SECONDS, **labels: str) -> Alert:
        """Wait until an alert with these labels fires; fails when that takes longer."""

        async def firing() -> Alert | None:
            for alert in await self.alerts():
                if alert.name == name and labels.items() <= alert.labels.items():
                    return alert
            return None

        return await self._awaited(
            firing, f"{name} {labels} does not fire", within_seconds, labels.get("job", "")
        )

    async def resolves(self, name: str, within_seconds: float = PATIENCE_SECONDS, **labels: str) -> None:
        """Wait until no alert with these labels fires or is about to."""

        async def gone() -> bool:
            return not any(
                alert.name == name and labels.items() <= alert.labels.items()
                for alert in await self.alerts("firing", "pending")
            )

        await self._awaited(gone, f"{name} {labels} does not resolve", within_seconds, labels.get("job", ""))

    async def raised(self, **labels: str) -> set[str]:
        """The names of all alerts with these labels that have fired since the start."""
        wanted = "".join(f', {name}="{value}"' for name, value in labels.items())
        found = await self.query(
            f'group by (alertname) (present_over_time(ALERTS{{alertstate="firing"{wanted}}}[1h]))'
        )
        return {series["alertname"] for series, _ in found}

    async def has(
        self, expression: str, within_seconds: float = PATIENCE_SECONDS
    ) -> list[tuple[Series, float]]:
        """Wait until an expression gives anything."""
        return await self._awaited(
            lambda: self.query(expression), f"{expression} has no data", within_seconds
        )

    async def rules(self) -> list[dict[str, Any]]:
        """All rules as they stand: what each evaluated to last, its health and its error."""
        groups = (await self._get("rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def watch(self, **jobs: Sequence[str]) -> None:
        """Scrape these from now on, each job's targets as `host:port`, besides those that are scraped."""
        await self._reload({**self.jobs, **{job: list(targets) for job, targets in jobs.items()}})

    async def forget(self, job: str) -> None:
        """Scrape a job no more, as if its discovery found nobody."""
        await self._reload({name: targets for name, targets in self.jobs.items() if name != job})

    async def _reload(self, jobs: dict[str, list[str]]) -> None:
        self.jobs = jobs
        self.write()
        async with self.session.post(f"http://127.0.0.1:{self.port}/-/reload") as answer:
            assert answer.status == 200, await answer.text()

    def write(self) -> None:
        """Write its configuration and its rules."""
        written = yaml.safe_dump(configuration(self.jobs, self.alertmanagers))
        (self.directory / "prometheus.yml").write_text(written)
        (self.directory / "gateway.rules.yml").write_text(yaml.safe_dump(shortened_rules(), width=1000))

    async def _get(self, what: str, **query: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}"
        async with self.session.get(url, params=query) as answer:
            document = await answer.json()
        assert document["status"] == "success", f"{document['error']}: {query}"
        return document["data"]

    async def _awaited(
        self, look: Callable[[], Any], otherwise: str, within_seconds: float, job: str = ""
    ) -> Any:
        try:
            async with asyncio.timeout(within_seconds):
                while not (seen := await look()):
                    await asyncio.sleep(0.1)
                return seen
        except TimeoutError:
            there = [
                f"{alert.name} is {alert.state}"
                for alert in await self.alerts("firing", "pending")
                if not job or alert.labels.get("job") == job
            ]
            raise AssertionError(f"{otherwise}; {', '.join(sorted(there)) or 'nothing'}") from None


@asynccontextmanager
async def watching(
    directory: Path, jobs: Mapping[str, Sequence[str]], alertmanagers: Sequence[str] = ()
) -> AsyncIterator[Prometheus]:
    """Run Prometheus as it is shipped, in a hurry: it scrapes these targets and evaluates the shipped rules."""
    executable = shutil.which("prometheus")
    assert executable is not None, "prometheus is not installed (Debian: apt-get install prometheus)"
    directory.mkdir(parents=True, exist_ok=True)
    async with aiohttp.ClientSession() as session:
        running = Prometheus(directory, free_port(), session, alertmanagers=alertmanagers)
        running.jobs = {job: list(targets) for job, targets in jobs.items()}
        running.write()
        with (directory / "log").open("wb") as log:
            process = running.process = await asyncio.create_subprocess_exec(
                executable,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{running.port}",
                "--web.enable-lifecycle",
                f"--query.lookback-delta={round(LOOKBACK_SECONDS * 1000 / FACTOR)}ms",
                stdout=log,
                stderr=log,
            )
        try:
            await _ready(running, directory)
            yield running
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
            await process.wait()


async def _ready(prometheus: Prometheus, directory: Path) -> None:
    assert prometheus.process is not None
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert prometheus.process.returncode is None, (directory / "log").read_text()
            try:
                async with prometheus.session.get(f"http://127.0.0.1:{prometheus.port}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
