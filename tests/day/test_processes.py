"""What becomes of the gateway's own processes, their machine and their configuration at three in the morning."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path

from tests.day.scenes import BUDGETS, Scene, played, scene
from tests.day.served import Served
from tests.kit.client import JSON, MIB, RawClient
from tests.kit.readers import readers
from tests.kit.redis import free_port
from tests.kit.tls import make_certificate
from tests.kit.upstream import OK, Turn, silent
from tests.kit.waiting import found

OPEN = """
[tenants.acme]
scopes = ["*"]
"""


@scene("GatewayDown", "GatewayGone")
async def killed(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    await scene.prometheus.has(f'gateway:job{{job="{scene.job}"}}')
    os.kill(served.pid, signal.SIGKILL)
    alert = await scene.fires("GatewayDown", served.target, instance=served.target)
    assert alert.labels["fault"] == "gateway"
    alert = await scene.fires("GatewayGone", scene.job)
    assert alert.labels["severity"] == "critical"
    await scene.prometheus.forget(scene.job)


@scene("GatewayGone")
async def not_found_any_more(scene: Scene) -> None:
    """By the discovery of Prometheus, that is; it serves."""
    served = await scene.gateway(OPEN)
    await scene.prometheus.has(f'gateway:job{{job="{scene.job}"}}')
    await scene.prometheus.forget(scene.job)
    await scene.fires("GatewayGone", scene.job)
    await scene.prometheus.watch(**{scene.job: [served.target]})


@scene(
    *("GatewayWorkersDying", "GatewayKeysUnusable", "GatewayWorkersShort"),
    besides=BUDGETS | {"GatewayRedisDown"},
)
async def workers_die_and_cannot_come_back(scene: Scene) -> None:
    served = await scene.gateway(OPEN, redis=scene.redis(), workers=2)
    first, _ = await found(served.workers)
    os.kill(first, signal.SIGKILL)
    alert = await scene.fires("GatewayWorkersDying", served.target, cause="died")
    assert alert.labels["fault"] == "gateway"

    async def two() -> list[int]:
        workers = await served.workers()
        return workers if len(workers) == 2 else []

    first, _ = await found(two, 30)
    (key,) = (served.file.parent / "keys").glob("*.json")
    kept = key.read_bytes()
    key.write_bytes(b"nobody's key")
    await scene.fires("GatewayKeysUnusable", served.target)
    os.kill(first, signal.SIGKILL)
    alert = await scene.fires("GatewayWorkersShort", served.target)
    assert alert.annotations["summary"].startswith("1 of the workers")
    key.write_bytes(kept)
    await scene.resolves("GatewayWorkersShort", 90)


@scene("GatewayLoopBlocked", "GatewaySlow", besides=BUDGETS)
async def stands_still_again_and_again(scene: Scene) -> None:
    served = await scene.gateway(OPEN)

    async def hurt() -> None:
        while True:
            os.kill(served.pid, signal.SIGSTOP)
            await asyncio.sleep(0.25)
            os.kill(served.pid, signal.SIGCONT)
            await asyncio.sleep(0.5)

    hurting = asyncio.create_task(hurt())
    try:
        async with served.calling("acme", every_seconds=0.02, at_once=4):
            alert = await scene.fires("GatewayLoopBlocked", "worker 0", instance=served.target, worker="0")
            assert alert.labels["fault"] == "gateway"
            await scene.fires("GatewaySlow", scene.job)
    finally:
        hurting.cancel()
        os.kill(served.pid, signal.SIGCONT)


@scene("GatewayConfigurationInvalid")
async def configured_wrongly(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    kept = served.file.read_text()
    served.file.write_text(kept + "scopes = [")
    alert = await scene.fires("GatewayConfigurationInvalid", served.target, instance=served.target)
    assert "gateway check" in alert.annotations["description"]
    served.file.write_text(kept)


@scene("GatewayDefect", "GatewayProcessorFull", besides=BUDGETS)
async def has_a_defect_and_then_a_full_processor(scene: Scene) -> None:
    served = await scene.gateway(OPEN, module="tests.day.planted")
    assert await served.ask("acme", "GET", "/v1/files", None) == 500
    alert = await scene.fires("GatewayDefect", "listFiles", operation="listFiles")
    assert alert.labels["fault"] == "gateway"
    os.kill(served.pid, signal.SIGALRM)
    await scene.fires("GatewayProcessorFull", "Worker 0", 90, worker="0", instance=served.target)
    os.kill(served.pid, signal.SIGALRM)


@scene("GatewayReadersLost", besides=BUDGETS | {"GatewayUpstreamSilent"})
async def readers_of_json_die(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    body = b'{"model":"gpt-4o-mini","input":"' + b"x" * 100_000 + b'"}'
    assert await served.ask("acme", "POST", "/v1/responses", body) == 200
    (reader,) = readers(served.pid)
    os.kill(reader, signal.SIGKILL)
    await served.ask("acme", "POST", "/v1/responses", body)  # whoever needs it next finds that out
    await scene.fires("GatewayReadersLost", served.target)


async def connections(served: Served, count: int) -> list[RawClient]:
    """So many connections of clients."""
    return [await RawClient.connect(served.command.host, served.command.port) for _ in range(count)]


@scene("GatewayFilesShort")
async def has_most_of_its_files_open(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    before = resource.prlimit(served.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(served.pid, resource.RLIMIT_NOFILE, (150, before[1]))
    clients = await connections(served, 100)
    alert = await scene.fires("GatewayFilesShort", "Worker 0", worker="0", instance=served.target)
    assert alert.labels["fault"] == "gateway"
    for client in clients:
        await client.close()


@scene("GatewayConnectionsShort", besides=BUDGETS | {"GatewayUpstreamSilent"})
async def lets_nobody_in(scene: Scene) -> None:
    served = await scene.gateway(
        OPEN, "--set", "edge.max_connections=4", "--set", 'edge.trusted_proxies=["127.0.0.0/8"]'
    )
    scene.upstream.plays(silent)
    async with served.calling("acme", at_once=20):
        await scene.fires("GatewayConnectionsShort", "full", reason="full", instance=served.target)


@scene("GatewayBodyMemoryShort", besides=BUDGETS | {"GatewayUpstreamSilent"})
async def has_no_room_for_bodies(scene: Scene) -> None:
    async def slow(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(3)
        await turn.send(OK)

    scene.upstream.plays(slow)
    served = await scene.gateway(
        OPEN + '[tenants.beta]\nscopes = ["*"]\n',
        *("--set", f"edge.body_memory_bytes={4 * MIB}", "--set", "edge.body_memory_share=0.8"),
    )
    body = b'{"model":"gpt-4o-mini","input":"' + b"x" * (MIB // 4) + b'"}'
    async with (
        served.calling("acme", "POST", "/v1/responses", body, at_once=12),
        served.calling("beta", "POST", "/v1/responses", body, at_once=12),
    ):
        alert = await scene.fires("GatewayBodyMemoryShort", served.target)
        assert "Most is held by" in alert.annotations["description"]


@scene("GatewayLogLinesDropped", besides={"GatewayCredentialRefusalsSurge"})
async def nobody_reads_the_log(scene: Scene) -> None:
    served = await scene.gateway(OPEN)
    reading = served.command.process._transport.get_pipe_transport(1)  # type: ignore[attr-defined]
    reading.pause_reading()

    enough = False

    async def ask() -> None:
        async with await RawClient.connect(
            served.command.host, served.command.port, served.credential("acme")
        ) as client:
            request = client.request_bytes("GET", "/v1/" + "long/" * 50, headers=JSON) * 50
            while not enough:
                await client.send(request)
                for _ in range(50):
                    await client.read_answer()

    asking = [asyncio.create_task(ask()) for _ in range(2)]
    try:
        await scene.fires("GatewayLogLinesDropped", served.target, 120)
    finally:
        enough = True
        await asyncio.gather(*asking)
        reading.resume_reading()


@scene("GatewayCertificateExpires")
async def serves_with_a_certificate_that_expires(scene: Scene) -> None:
    directory = scene.directory / "tls"
    directory.mkdir(parents=True)
    certificate, key = make_certificate(directory, "gateway", valid_days=7)
    key.chmod(0o600)
    served = await scene.gateway(OPEN, "--set", f"tls_certificate={certificate}", "--set", f"tls_key={key}")
    alert = await scene.fires("GatewayCertificateExpires", served.target)
    assert "7d" in alert.annotations["summary"] or "6d" in alert.annotations["summary"]
    make_certificate(directory, "gateway", valid_days=90)


@scene("GatewayAccountMistaken")
async def two_tenants_have_one_account(scene: Scene) -> None:
    projects = {"sk-a": "proj_1", "sk-b": "proj_1"}

    async def named(turn: Turn) -> None:
        await turn.read_body()
        project = projects[(turn.seen.get("authorization") or "").removeprefix("Bearer ")]
        await turn.send(OK.replace(b"\r\n\r\n", f"\r\nOpenAI-Project: {project}\r\n\r\n".encode(), 1))

    scene.upstream.plays(named)
    own = (
        '[tenants.{0}]\nscopes = ["*"]\nstored_objects = "own"\n[tenants.{0}.upstream]\napi_key = "sk-{0}"\n'
    )
    served = await scene.gateway(own.format("a") + own.format("b"))
    for tenant in "ab":
        await served.ask(tenant)
    alert = await scene.fires("GatewayAccountMistaken", scene.job)
    assert alert.annotations["summary"].startswith("2 tenants")
    served.file.write_text(own.format("a"))


@scene("GatewaySeriesFolded")
async def has_no_room_for_more_series(scene: Scene) -> None:
    tenants = [f"tenant-{number}" for number in range(60)]
    served = await scene.gateway(
        "".join(f'[tenants.{tenant}]\nscopes = ["*"]\n' for tenant in tenants),
        module="tests.day.planted",
        MOST_SERIES="400",
    )
    for tenant in tenants:
        await served.ask(tenant)
    await scene.fires("GatewaySeriesFolded", served.target)


@scene("GatewayListenQueueFull", besides=BUDGETS | {"GatewayWorkersShort", "GatewayUpstreamSilent"})
async def accepts_nobody(scene: Scene) -> None:
    served = await scene.gateway(OPEN, "--set", "worker_hang_seconds=120", redis=scene.redis(), workers=2)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    workers = await found(served.workers)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    waiting = []
    try:
        for _ in range(4400):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((served.command.host, served.command.port))
            waiting.append(one)
        alert = await scene.fires("GatewayListenQueueFull", served.target, instance=served.target)
        assert alert.labels["worker"] in alert.annotations["summary"]
    finally:
        for one in waiting:
            one.close()
        for worker in workers:
            os.kill(worker, signal.SIGCONT)


@scene("GatewaySpansLost")
async def nobody_collects_traces(scene: Scene) -> None:
    served = await scene.gateway(OPEN, "--set", f"traces.endpoint=http://127.0.0.1:{free_port()}")
    async with served.calling("acme"):
        await scene.fires("GatewaySpansLost", served.target, 90)


FIRST = (
    killed,
    not_found_any_more,
    workers_die_and_cannot_come_back,
    stands_still_again_and_again,
    configured_wrongly,
    serves_with_a_certificate_that_expires,
    two_tenants_have_one_account,
    has_a_defect_and_then_a_full_processor,
)
SECOND = (
    readers_of_json_die,
    has_most_of_its_files_open,
    lets_nobody_in,
    has_no_room_for_bodies,
    nobody_reads_the_log,
    nobody_collects_traces,
    has_no_room_for_more_series,
    accepts_nobody,
)
SCENES = (*FIRST, *SECOND)


async def test_what_becomes_of_processes_is_told_by_name_and_over_when_it_is_over(tmp_path: Path) -> None:
    await played(tmp_path, *FIRST)


async def test_what_runs_short_is_told_by_name_and_over_when_it_is_over(tmp_path: Path) -> None:
    await played(tmp_path, *SECOND)
