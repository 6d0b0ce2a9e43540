"""The way of spans to a collector: all of them, off the hot path, bounded, and whatever becomes of the collector."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.traces.said import Said
from gateway.traces.writer import MOST_WAITING, SpanWriter
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.records import exchange
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import until
from tests.kit.workers import AT_ONCE, running_workers
from tests.traces.collector import running_collector
from tests.traces.spans import a_span

CHAT = {"model": "gpt-4o", "messages": []}
NOWHERE = "http://127.0.0.1:9"
LOST = "gateway_spans_lost_total"


async def test_spans_arrive_at_a_collector_as_otlp_has_them(
    start_gateway: StartGateway,
) -> None:
    async with running_collector() as collector:
        gateway = await start_gateway(traces={"endpoint": collector.url, "service_name": "edge"})
        await ask(gateway, "POST", "/v1/chat/completions", CHAT)
        (span,) = await collector.wait(1)

    assert collector.paths == ["/v1/traces"]
    resource = collector.requests[0].resource_spans[0].resource
    assert {a.key: a.value.string_value for a in resource.attributes}["service.name"] == "edge"
    assert (span.name, span.kind) == ("chat gpt-4o", Span.SpanKind.SPAN_KIND_CLIENT)
    assert [event.name for event in span.events] == ["first_byte"]
    assert len(span.trace_id) == 16
    assert gateway.metric(LOST) == 0


async def test_what_waits_is_sent_at_the_end(upstream: ScriptedUpstream) -> None:
    way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
    async with running_collector() as collector:
        async with running_gateway(upstream=way, traces={"endpoint": collector.url}) as gateway:
            for _ in range(5):
                await ask(gateway, "POST", "/v1/chat/completions", CHAT)
        assert len(collector.spans) == 5


async def test_collector_that_hangs_delays_no_exchange_and_no_end(upstream: ScriptedUpstream) -> None:
    way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
    async with running_collector(opens=False) as collector:
        async with running_gateway(upstream=way, traces={"endpoint": collector.url}) as gateway:
            await ask(gateway, "POST", "/v1/chat/completions", CHAT)
            await until(lambda: collector.asked)
            for _ in range(50):
                answer = await ask(gateway, "POST", "/v1/chat/completions", CHAT)
                assert answer.status == 200
            assert not collector.spans
        assert gateway.metric(LOST) > 0, "it ended, and says what it could not send"


def _has_lost(gateway: Gateway, spans: int) -> bool:
    return gateway.metric(LOST) == spans


async def test_collector_that_is_away_is_told_once_and_its_spans_are_counted(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(traces={"endpoint": NOWHERE})
    with caplog.at_level(logging.WARNING):
        for lost in (1, 2):
            await ask(gateway, "POST", "/v1/chat/completions", CHAT)
            await until(partial(_has_lost, gateway, lost), 20)

    told = [
        record for record in caplog.records if record.name.startswith(("gateway.traces", "opentelemetry"))
    ]
    assert len(told) == 1
    assert "spans cannot be sent" in told[0].getMessage()


async def test_collector_that_is_back_gets_what_comes_then(
    start_gateway: StartGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_collector() as collector:
        collector.status = 400
        gateway = await start_gateway(traces={"endpoint": collector.url})
        with caplog.at_level(logging.WARNING):
            await ask(gateway, "POST", "/v1/chat/completions", CHAT)
            await until(lambda: gateway.metric(LOST) == 1, 20)
            collector.status = 200
            await ask(gateway, "POST", "/v1/files", CHAT)
            await collector.wait(1)
            await until(lambda: any("sent again" in record.getMessage() for record in caplog.records), 5)


@pytest.mark.parametrize("workers", [1, 2])
async def test_workers_send_their_own_and_all_of_them_at_a_stop(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, workers: int
) -> None:
    async with (
        running_collector() as collector,
        running_workers(
            *(tmp_path, upstream.base_url, redis, *AT_ONCE, "--set", f"traces.endpoint={collector.url}"),
            workers=workers,
        ) as running,
    ):
        pids = await running.all_ready(workers) if workers > 1 else [running.supervisor]
        for pid in pids:
            client = await running.connect_to(pid)
            await client.request("GET", "/v1/models")
            await client.close()
        running.signal(signal.SIGTERM)
        await running.command.exit_code(20)
        models = [span for span in collector.spans if span.name == "listModels"]
    assert len(models) == workers
    assert len(collector.instances) == workers


def test_nothing_of_opentelemetry_is_imported_where_traces_are_off() -> None:
    program = """
import asyncio, sys
from gateway.credentials.key_ring import KeyRing
from gateway.app.build import build_app
from gateway.app.process import make_runner
from gateway.settings.sources import load
import gateway.cli, gateway.supervisor.supervise, gateway.app.working

async def serve():
    runner = make_runner(build_app(load(flags={"tenants": {"acme": {}}}, environ={}), ring=KeyRing.ephemeral()))
    await runner.setup()
    await runner.cleanup()

asyncio.run(serve())
found = [name for name in sys.modules if name.partition(".")[0] in ("opentelemetry", "google", "requests")]
sys.exit(f"imported: {found}" if found else 0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_where_the_extra_is_missing_settings_say_so() -> None:
    program = """
import sys
sys.modules["opentelemetry"] = None
from gateway.settings.section import SettingsInvalid
from gateway.settings.traces import Traces
from gateway.traces.collector import spans_to
try:
    spans_to(Traces(endpoint="http://collector:4318"), worker=0, lost=print)
except SettingsInvalid as invalid:
    sys.exit(str(invalid))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert "traces.endpoint: needs what is not installed: the extra otel" in done.stderr


async def test_spans_that_find_no_room_are_counted_and_never_waited_for() -> None:
    opened = threading.Event()
    lost: list[int] = []
    sent: list[int] = []

    def export(spans: Sequence[Said], /) -> str | None:
        opened.wait(20)
        sent.append(len(spans))
        return None

    writer = SpanWriter(export, lost=lost.append)
    span = a_span(exchange())
    for _ in range(MOST_WAITING * 2):
        writer.write(span)
    assert sum(lost) >= MOST_WAITING - 512, "but for the batch that is on its way"
    opened.set()
    await asyncio.to_thread(writer.close)
    assert sum(sent) + sum(lost) == MOST_WAITING * 2
