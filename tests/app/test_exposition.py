"""The page of metrics: as a scraper wants it, at a price that nobody notices."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.app.counted import Counted
from gateway.app.exposition import Exposition, exposition_of_all, exposition_of_one
from gateway.app.health import MachineHealth, State, WorkerState
from gateway.app.private_listener import PrivateListener
from gateway.app.snapshots import Snapshots
from gateway.app.supervisor_metrics import SupervisorMetrics
from gateway.exchange.metrics import Metrics
from gateway.exchange.series_room import MOST_SERIES
from gateway.usage.reported import KINDS
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import RawClient
from tests.kit.exposition import at_once, busy, page_of
from tests.kit.upstream import ScriptedUpstream, answer_ok
from tests.kit.waiting import comes_to

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
WORKERS = [WorkerState(index, os.getpid(), State.READY, 0.0, ready=True) for index in range(2)]


def of_one(metrics: Metrics) -> Exposition:
    return exposition_of_one(metrics.registry, lambda: WORKERS[0])


async def nothing_more() -> None:
    """What is counted has been heard."""


def of_two(one: Metrics, other: Metrics) -> Exposition:
    counted = Counted()
    for index, metrics in enumerate((one, other)):
        counted.hear(str(index), index, at_once(Snapshots(metrics.registry).take()))
    return exposition_of_all(counted, SupervisorMetrics(lambda: WORKERS), nothing_more)


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", False),
        ("application/json", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        (PROMETHEUS, True),
        ("application/openmetrics-text;q=0, text/plain", False),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", False),
        ("text/plain;version=0.0.4;q=0.5, application/openmetrics-text;q=0.6", True),
        ("application/openmetrics-text;q=nonsense", False),
        ("Application/OpenMetrics-Text ; Q=0.3", True),
    ],
)
async def test_openmetrics_is_for_whoever_wants_it_more(accept: str, is_openmetrics: bool) -> None:
    page = await of_one(busy(1, 1)).page(accept, "")

    text = page.body.decode()
    assert page.content_type.startswith("application/openmetrics-text" if is_openmetrics else "text/plain")
    assert text.endswith("# EOF\n") is is_openmetrics
    assert list((read_openmetrics if is_openmetrics else read_text)(text))


@pytest.mark.parametrize(
    ("accept_encoding", "is_packed"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("br, zstd", False),
        ("gzip;q=0.5, identity;q=0.9", False),
        ("gzip;q=0.9, identity;q=0.5", True),
        ("gzip;q=nonsense", False),
        (",,;q=1,gzip", True),
    ],
)
async def test_the_page_is_packed_for_whoever_can_unpack_it(accept_encoding: str, is_packed: bool) -> None:
    page = await of_one(busy(2, 2)).page("", accept_encoding)

    assert page.content_encoding == ("gzip" if is_packed else None)
    text = (gzip.decompress(page.body) if is_packed else page.body).decode()
    assert "gateway_exchanges_total" in text


@contextmanager
def listening(exposition: Exposition) -> Iterator[tuple[str, int]]:
    """A private listener with this page; its address."""
    health = MachineHealth(lambda: WORKERS)
    listener = PrivateListener("127.0.0.1", 0, exposition=exposition, health=health)
    port = listener.start()
    try:
        yield "127.0.0.1", port
    finally:
        listener.stop()


@pytest.mark.parametrize("fields", ["", "Accept-Encoding: gzip\r\n", f"Accept: {PROMETHEUS}\r\n"])
async def test_head_answers_as_get_but_for_the_body(fields: str) -> None:
    answers = []
    with listening(of_one(busy(1, 1))) as address:
        for method in ("GET", "HEAD"):
            async with await RawClient.connect(*address) as client:
                await client.send(f"{method} /metrics HTTP/1.1\r\nHost: a\r\n{fields}\r\n".encode())
                answers.append(await client.read_answer(method))
    got, head = answers

    assert (got.status, head.status) == (200, 200)
    assert not head.body
    for name in ("content-type", "content-encoding", "vary"):
        assert head.get(name) == got.get(name)
    assert got.get("vary") == "Accept, Accept-Encoding"


async def test_a_client_reads_the_packed_page() -> None:
    with listening(of_one(busy(3, 3))) as (host, port):
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            assert "gateway_exchanges_total" in await answer.text()


@pytest.mark.parametrize("make", [of_one, lambda metrics: of_two(metrics, busy(2, 3))])
async def test_promtool_finds_nothing_to_say_about_the_page(make: Callable[[Metrics], Exposition]) -> None:
    page = await make(busy(3, 2)).page("", "")
    checking = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    said, _ = await asyncio.wait_for(checking.communicate(page.body), 20)

    assert (checking.returncode, said.decode()) == (0, "")


@dataclass
class Prometheus:
    """A real one, which is asked what it has scraped."""

    session: aiohttp.ClientSession
    port: int

    async def __call__(self, expression: str) -> list[float]:
        """The values of all series that an expression gives."""
        found = await self._asked("query", query=expression)
        return sorted(float(series["value"][1]) for series in found["result"]) if found else []

    async def exemplars(self, selector: str) -> set[str]:
        """The requests that it knows of these series."""
        found = await self._asked("query_exemplars", query=selector, start="0", end="4000000000")
        return {one["labels"]["request_id"] for series in found or () for one in series["exemplars"]}

    async def _asked(self, what: str, **parameters: str) -> Any:
        try:
            async with self.session.get(
                f"http://127.0.0.1:{self.port}/api/v1/{what}", params=parameters
            ) as answer:
                return (await answer.json())["data"]
        except aiohttp.ClientError:
            return None


@asynccontextmanager
async def prometheus(directory: Path, address: tuple[str, int]) -> AsyncIterator[Prometheus]:
    """A real one that scrapes this address."""
    (directory / "prometheus.yml").write_text(
        f"scrape_configs: [{{job_name: gateway, scrape_interval: 250ms, scrape_timeout: 250ms,"
        f" static_configs: [{{targets: ['{address[0]}:{address[1]}']}}]}}]"
    )
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    running = await asyncio.create_subprocess_exec(
        "prometheus",
        "--enable-feature=exemplar-storage",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with aiohttp.ClientSession() as session:
        try:
            yield Prometheus(session, port)
        finally:
            running.terminate()
            await running.wait()


async def test_prometheus_scrapes_all_workers(tmp_path: Path) -> None:
    exposition = of_two(busy(20, 5), busy(10, 10))
    with listening(exposition) as address:
        async with prometheus(tmp_path, address) as ask:
            await comes_to([1.0], lambda: ask("up"), within_seconds=20)
            assert await ask("sum(gateway_exchanges_total)") == [400]
            assert await ask('sum(gateway_usage_total{kind="input"})') == [1000]
            assert await ask("gateway_first_byte_seconds_count") == [10] * 5 + [30] * 5
            assert await ask("count(gateway_event_loop_lag_seconds_count)") == [2]
            assert await ask('gateway_workers{state="ready"}') == [2]
            assert len(await ask("process_open_fds")) == 3
            assert await ask("scrape_samples_scraped - scrape_samples_post_metric_relabeling") == [0]


async def test_what_was_last_known_is_shown_when_nobody_can_be_asked() -> None:
    counted = Counted()
    counted.hear("a", 0, at_once(Snapshots(busy(1, 1).registry).take()))
    exposition = exposition_of_all(counted, SupervisorMetrics(lambda: WORKERS), asyncio.Event().wait)

    page = await asyncio.wait_for(exposition.page("", ""), 5)

    assert b"gateway_exchanges_total{" in page.body
    assert b'gateway_workers{state="ready"} 2' in page.body


async def test_many_series_are_counted_in_small_bites_and_everything_is_on_the_page() -> None:
    """200 tenants with 20 operations."""
    metrics = busy(200, 20)
    exposition = of_one(metrics)
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    serving = asyncio.create_task(others())
    await Snapshots(metrics.registry).take()
    serving.cancel()
    page = await exposition.page(PROMETHEUS, "gzip")

    assert longest < 0.05, "one bite, not all"
    found = {family.name: family.samples for family in read_openmetrics(gzip.decompress(page.body).decode())}
    assert sum(map(len, found.values())) <= MOST_SERIES
    assert len(found["gateway_exchanges"]) == 200 * 20 * 2
    assert sum(sample.value for sample in found["gateway_exchanges"]) == 200 * 20 * 2
    assert len(found["gateway_usage"]) == 200 * len(KINDS)
    assert sum(sample.value for sample in found["gateway_usage"]) == 200 * 20 * len(KINDS) * 5
    assert not [
        sample for samples in found.values() for sample in samples if "other" in sample.labels.values()
    ]
    assert found["gateway_first_byte_seconds"][-2].value == 200


def with_exemplars(request_id: str, overhead: float, ended_time: float) -> Metrics:
    """A process in which this exchange was the last one."""
    metrics = busy(1, 2)
    spread = metrics.overhead.labels("createChatCompletion")
    spread.observe(overhead)
    spread.exemplars[3 if overhead < 0.001 else 4] = request_id, overhead, ended_time
    return metrics


def exemplars_of(text: str) -> dict[str, tuple[dict[str, str], float, float]]:
    """By bucket of that operation."""
    return {
        sample.labels["le"]: (sample.exemplar.labels, sample.exemplar.value, float(sample.exemplar.timestamp))
        for family in read_openmetrics(text)
        for sample in family.samples
        if sample.exemplar is not None
    }


async def test_exemplars_are_the_last_of_all_workers_in_each_bucket_and_stay_on_the_page() -> None:
    earlier = with_exemplars("req_gw_1", 0.002, 1_800_000_000.25)
    later = with_exemplars("req_gw_2", 0.0015, 1_800_000_001.5)
    other = with_exemplars("req_gw_3", 0.0007, 1_700_000_000.0)
    counted = Counted()
    for index, metrics in enumerate((later, earlier, other)):
        counted.hear(str(index), index, at_once(Snapshots(metrics.registry).take()))
    exposition = exposition_of_all(counted, SupervisorMetrics(lambda: WORKERS), nothing_more)

    for _ in range(2):
        page = (await exposition.page(PROMETHEUS, "")).body.decode()
        assert exemplars_of(page) == {
            "0.001": ({"request_id": "req_gw_3"}, 0.0007, 1_700_000_000.0),
            "0.0025": ({"request_id": "req_gw_2"}, 0.0015, 1_800_000_001.5),
        }
    counted.gone("0")
    assert "req_gw_2" in (await exposition.page(PROMETHEUS, "")).body.decode()
    assert "req_gw" not in (await exposition.page("text/plain", "")).body.decode()


async def test_an_exemplar_is_told_once() -> None:
    metrics = with_exemplars("req_gw_1", 0.002, 1_800_000_000.25)
    snapshots = Snapshots(metrics.registry)

    assert [b"req_gw_1" in await snapshots.take() for _ in range(3)] == [True, False, False]


async def test_who_asked_last_and_waited_how_long_is_told_by_the_page(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway()
    upstream.plays(answer_ok)
    ids = [(await ask(gateway, "GET", "/v1/models")).get("x-gateway-request-id") for _ in range(3)]

    page = page_of(gateway.app.services.metrics.registry, openmetrics=True)

    told = {
        sample.exemplar.labels["request_id"]
        for family in read_openmetrics(page)
        for sample in family.samples
        if sample.exemplar is not None
        and family.name in ("gateway_overhead_seconds", "gateway_first_byte_seconds")
    }
    assert ids[-1] in told
    assert told <= set(ids)


async def test_prometheus_keeps_the_exemplars(tmp_path: Path) -> None:
    now = time.time()
    exposition = of_two(
        with_exemplars("req_gw_1", 0.002, now - 1), with_exemplars("req_gw_2", 0.0005, now - 2)
    )
    with listening(exposition) as address:
        async with prometheus(tmp_path, address) as ask_prometheus:
            await comes_to([1.0], lambda: ask_prometheus("up"), within_seconds=20)
            found = await ask_prometheus.exemplars("gateway_overhead_seconds_bucket")

    assert found == {"req_gw_1", "req_gw_2"}
