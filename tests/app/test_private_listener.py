"""The private listener: health, readiness and metrics, whatever the public one is busy with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest

from gateway.app.exposition import Exposition, exposition_of_one
from gateway.app.health import Health, MachineHealth, OwnHealth, State, WorkerState
from gateway.app.private_listener import PrivateListener
from gateway.app.readiness import not_ready
from gateway.exchange.instruments import Gauges, Registry, Rule, Tallies
from gateway.proxy.lifecycle import Lifecycle
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import RawClient
from tests.kit.gateway import Gateway
from tests.kit.waiting import comes_to

WELL = MachineHealth(lambda: [WorkerState(0, 1, State.READY, 0.0, ready=True)])
"""Of a gateway that is as it should be."""


def exposition(registry: Registry) -> Exposition:
    """Of a process that is ready."""
    return exposition_of_one(registry, lambda: WorkerState(0, os.getpid(), State.READY, 0.0, ready=True))


@contextlib.contextmanager
def listening(health: Health | None = None, registry: Registry | None = None, **more: Any) -> Iterator[str]:
    """A listener on a free port; its base URL."""
    admin = PrivateListener(
        "127.0.0.1", 0, exposition=exposition(registry or Registry()), health=health or WELL, **more
    )
    port = admin.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        admin.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def status_of(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as answer:
        await answer.read()  # what nobody reads would still be on its way when the listener ends
        return answer.status


async def told(session: aiohttp.ClientSession, url: str) -> tuple[int, dict[str, Any]]:
    """The status of a page about health, and what it says."""
    async with session.get(url) as answer:
        assert answer.content_type == "application/json"
        said = await answer.json()
        assert isinstance(said, dict)
        return answer.status, said


async def test_readiness_follows_the_life_of_the_process(session: aiohttp.ClientSession) -> None:
    lifecycle = Lifecycle()
    health = OwnHealth(
        lifecycle, lambda: not_ready(lifecycle, ()), turned_seconds_ago=lambda: 0.0, hung_seconds=10.0
    )
    with listening(health) as base:
        starting = await told(session, f"{base}/readyz")
        lifecycle.started = True
        ready = await told(session, f"{base}/readyz")
        lifecycle.stopping = True
        stopping = await told(session, f"{base}/readyz")
        alive = await told(session, f"{base}/livez")

    assert [status for status, _ in (starting, ready, stopping, alive)] == [503, 200, 503, 200]
    assert [said["reasons"] for _, said in (starting, ready, stopping, alive)] == [
        [{"code": "starting", "message": "It is starting."}],
        [],
        [{"code": "stopping", "message": "The gateway is stopping."}],
        [],
    ]
    assert [said["workers"][0]["state"] for _, said in (starting, ready, stopping)] == [
        "starting",
        "ready",
        "leaving",
    ]


async def test_readiness_of_a_gateway_ends_with_the_first_word_of_its_stop(
    gateway: Gateway, session: aiohttp.ClientSession
) -> None:
    services = gateway.app.services
    with listening(gateway.app.health, services.metrics.registry) as base:
        before = await status_of(session, f"{base}/readyz")
        gateway.app.stop_soon()
        after = await status_of(session, f"{base}/readyz")

    assert (before, after) == (200, 503)


async def test_a_process_in_whose_place_another_has_come_is_as_ready_as_before(
    gateway: Gateway, session: aiohttp.ClientSession
) -> None:
    services = gateway.app.services
    with listening(gateway.app.health, services.metrics.registry) as base:
        gateway.runner.leave()
        assert await status_of(session, f"{base}/readyz") == 200


async def test_metrics_are_those_of_the_registry_in_the_text_format(
    gateway: Gateway, session: aiohttp.ClientSession
) -> None:
    await ask(gateway, "GET", "/v1/models")
    services = gateway.app.services
    with listening(gateway.app.health, services.metrics.registry) as base:
        async with session.get(f"{base}/metrics") as answer:
            text, kind = await answer.text(), answer.headers["Content-Type"]
        async with session.get(
            f"{base}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        ) as answer:
            open_text, open_kind = await answer.text(), answer.headers["Content-Type"]

    assert kind.startswith("text/plain")
    assert 'gateway_exchanges_total{ending="complete",operation="listModels"' in text
    assert open_kind.startswith("application/openmetrics-text")
    assert open_text.endswith("# EOF\n")


async def test_promtool_finds_nothing_to_say_about_the_metrics(start_gateway: StartGateway) -> None:
    """Every instrument with a value, as Prometheus would read it."""
    gateway = await start_gateway(
        tenants={"acme": {"limits": {"max_requests_per_1_minute": 1}, "metering": True}}
    )
    for target in ("/v1/models", "/v1/models", "/v1/a//b", "/nowhere"):
        await ask(gateway, "GET", target)
    checking = await asyncio.create_subprocess_exec(
        *("promtool", "check", "metrics"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    said, _ = await asyncio.wait_for(checking.communicate(gateway.metrics().encode()), 20)

    assert (checking.returncode, said.decode()) == (0, "")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/v1/models", "/gateway/me", "/debug", "/livez/x"])
async def test_nothing_else_is_served(session: aiohttp.ClientSession, path: str) -> None:
    with listening() as base:
        assert await status_of(session, base + path) == 404


async def test_rendering_does_not_hold_up_the_loop_that_serves(session: aiohttp.ClientSession) -> None:
    """The listener has a thread of its own: a scrape of very many series delays nobody."""
    registry = Registry()
    tallies = Tallies("many", "Very many series.", ["label"], registry=registry)
    for number in range(20_000):
        tallies.labels(str(number)).value += 1
    with listening(registry=registry) as base:
        began = time.monotonic()
        scraping = asyncio.create_task(status_of(session, f"{base}/metrics"))
        ticks = 0
        while not scraping.done():
            await asyncio.sleep(0.001)
            ticks += 1
        seconds = time.monotonic() - began

    assert await scraping == 200
    assert seconds > 0.05, "long enough to be noticed"
    assert ticks > 10


def test_taken_address_is_an_error_and_leaves_no_thread_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        admin = PrivateListener(
            "127.0.0.1", taken.getsockname()[1], exposition=exposition(Registry()), health=WELL
        )
        with pytest.raises(OSError, match="in use"):
            admin.start()
        admin.stop()


def test_listener_that_has_stopped_refuses_connections() -> None:
    with listening() as base:
        port = int(base.rsplit(":", 1)[1])

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1)


# Who may ask what, by which name.


async def asked(base: str, path: str, *hosts: str, method: str = "GET") -> int:
    """The status of a page when it is asked for with these Host fields."""
    host, port = base.removeprefix("http://").split(":")
    async with await RawClient.connect(host, int(port)) as client:
        fields = "".join(f"Host: {name}\r\n" for name in hosts)
        await client.send(f"{method} {path} HTTP/1.1\r\n{fields}\r\n".encode())
        return (await client.read_answer(method)).status


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/metrics?name[]=a"])
async def test_metrics_and_health_are_for_whoever_comes_by_whatever_name(path: str) -> None:
    with listening() as base:
        for host in (
            "gateway.monitoring.svc:9090",
            "evil.example",
            "10.0.0.7:9090",
            "[::1]:9090",
            "localhost",
        ):
            assert await asked(base, path, host) == 200
        assert await asked(base, path, "a", method="HEAD") == 200
        assert await asked(base, path, "a", method="POST") == 405


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:9090", 421),
        ("localhost.evil.example", 421),
        ("localhost:80@evil.example", 421),
        ("[::1]evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("127.1", 421),
        ("0x7f000001", 421),
        ("", 421),
        ("127.0.0.1", 404),
        ("127.0.0.1:9090", 404),
        ("[::1]:9090", 404),
        ("LOCALHOST:9090", 404),
        ("localhost.", 404),
        ("Ops.Internal:9090", 404),
        ("ops.internal.", 404),
        ("ops.internal.evil.example", 421),
    ],
)
async def test_anything_else_is_not_for_a_browser_that_was_led_here(host: str, status: int) -> None:
    """A page of somebody else's whose own name points here is of one origin with all that it is answered."""
    with listening(names=["ops.internal"]) as base:
        for path in ("/", "/config", "/metrics/", "/%6Detrics", "/livez;x", "http://127.0.0.1/"):
            assert await asked(base, path, host) == status


async def test_a_request_without_one_clear_host_is_refused() -> None:
    with listening() as base:
        assert await asked(base, "/config", "127.0.0.1", "evil.example") in (400, 421)
        assert await asked(base, "/config") in (400, 421)


# What it may be made to hold.


async def test_half_heads_and_idle_connections_do_not_keep_prometheus_out(
    session: aiohttp.ClientSession,
) -> None:
    refused: list[int] = []
    with listening(refused=lambda: refused.append(1)) as base:
        host, port = base.removeprefix("http://").split(":")
        crowd = [await RawClient.connect(host, int(port)) for _ in range(40)]
        for number, client in enumerate(crowd):
            with contextlib.suppress(ConnectionError):
                await client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n" if number % 2 else b"")

        await comes_to(200, lambda: status_of(session, f"{base}/metrics"))  # as soon as they had their moment
        for _ in range(3):
            assert await status_of(session, f"{base}/metrics") == 200
        assert refused
        for client in crowd:
            await client.close()


async def test_whoever_asks_for_metrics_without_pause_takes_no_more_than_a_part_of_a_core(
    session: aiohttp.ClientSession,
) -> None:
    """Rendering holds the interpreter, which is everybody's."""
    spent_seconds = 0.02
    times: list[float] = []

    def slow() -> float:
        times.append(time.monotonic())
        until = time.thread_time() + spent_seconds
        while time.thread_time() < until:
            pass
        return 1

    registry = Registry()
    Gauges("slow", "What takes a while.", rule=Rule.SUM, registry=registry).watch(slow)
    with listening(registry=registry) as base:
        began = time.monotonic()

        async def ask_without_pause() -> None:
            while time.monotonic() - began < 1:
                assert await status_of(session, f"{base}/metrics") == 200

        async def leave_without_pause() -> None:
            host, port = base.removeprefix("http://").split(":")
            while time.monotonic() - began < 1:
                async with await RawClient.connect(host, int(port)) as client:
                    await client.send(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
                    await asyncio.sleep(0.005)

        await asyncio.gather(
            *(ask_without_pause() for _ in range(4)),
            leave_without_pause(),
            status_of(session, f"{base}/livez"),
        )
        renders, seconds = len(times), time.monotonic() - began

    assert 1 < renders <= seconds / (5 * spent_seconds) + 1


def test_a_file_is_to_be_had_when_there_is_no_other() -> None:
    """In a process of its own: this one needs its files."""
    code = """
import os, resource
from gateway.proxy.reserved_files import ReservedFiles
reserved = ReservedFiles(2)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
opened = [reserved.use(lambda: os.open("/", os.O_RDONLY)) for _ in range(2)]
try:
    reserved.use(lambda: os.dup(0))
except OSError as error:
    print(error.strerror)
for file in (*opened, *taken):
    os.close(file)
reserved.fill()
print(reserved.use(lambda: os.dup(0)) > 0, len(reserved._files))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )

    assert done.stdout.splitlines() == ["Too many open files", "True 2"]
