"""Large JSON is read beside the loop: fairly, within bounds, and whatever happens to who reads it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import orjson
import pytest

from gateway.credentials.key_ring import ensure_ring
from gateway.errors import Overloaded
from gateway.policy.reading import Question, read_body
from gateway.proxy.reading_lane import Lane
from gateway.proxy.reading_process import Call
from gateway.wire.json_structure import Bounds
from tests.conftest import StartGateway
from tests.kit.asking import ask, assert_refused, credential_of, error_of, verdict
from tests.kit.client import JSON, RawClient
from tests.kit.command import running_command
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.readers import readers
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import until

RESTRICTED = {**EVERY_SCOPE, "models": ["m"]}
BOUNDS = Bounds(200_000, 2_000_000)
QUESTION = Call(read_body, (Question(model_path=("model",)),))


def body(size: int, **more: object) -> bytes:
    return orjson.dumps({"model": "m", **more, "input": "x" * size})


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or but a name that nobody has asked for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


class TestBody:
    async def test_that_is_large_goes_up_as_it_came(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        for size in (10_000, 70_000, 1_500_000, 9_000_000):
            answer = await ask(gateway, "POST", "/v1/responses", body(size))

            assert answer.status == 200
            assert upstream.requests[-1].body == body(size)

    async def test_that_is_large_is_judged_like_a_small_one(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": RESTRICTED})
        for size in (10, 100_000, 2_000_000):
            for sent, status, code in (
                (body(size), 200, None),
                (body(size, model="dear"), 403, "model_not_allowed"),
                (body(size, tools=[{"model": "dear"}]), 403, "model_not_allowed"),
                (body(size, tools=[{"Model": "m"}]), 400, "bad_request"),
                (body(size)[:-1], 400, "invalid_json"),
                (body(size)[:-1] + b',"model":"m"}', 400, "duplicate_parameter"),
            ):
                assert verdict(await ask(gateway, "POST", "/v1/responses", sent)) == (status, code)

    async def test_that_is_large_gets_what_the_gateway_adds(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(
            tenants={"acme": {**EVERY_SCOPE, "default_model": "m", "metering": True}}
        )
        for size in (10, 100_000, 2_000_000):
            sent = b'{"stream":true, "messages":[{"role":"user","content":"%b"}]}' % (b"x" * size)

            assert (await ask(gateway, "POST", "/v1/chat/completions", sent)).status == 200
            added = b'{"stream_options":{"include_usage":true},"model":"m",'
            assert upstream.requests[-1].body == added + sent[1:]


class TestStructure:
    async def test_beyond_the_bound_is_refused_with_what_to_do(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        for filling in (b"{},", b"[],", b'{"a":1},'):
            sent = b'{"model":"m","input":[' + filling * 200_000 + b"1]}"
            answer = await ask(gateway, "POST", "/v1/responses", sent)

            assert_refused(answer, 413, "json_too_complex")
            assert "200000" in error_of(answer)["message"]
        assert not upstream.requests

    async def test_in_strings_does_not_count_and_many_numbers_are_fine(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        table = {"model": "m", "input": "1.5,abc,\n" * 450_000}
        assert orjson.dumps(table).count(b",") > 500_000
        numbers = {"model": "m", "input": list(range(300_000))}

        assert (await ask(gateway, "POST", "/v1/responses", table)).status == 200
        assert (await ask(gateway, "POST", "/v1/embeddings", numbers)).status == 200

    async def test_bounds_are_settings(self, start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
        gateway = await start_gateway(edge={"max_json_structures": 2**16, "max_json_commas": 2**17})

        for filling, code in ((b"[],", "json_too_complex"), (b"1,", None)):
            sent = b'{"model":"m","input":[' + filling * 70_000 + b"1]}"
            assert verdict(await ask(gateway, "POST", "/v1/responses", sent))[1] == code
        sent = b'{"model":"m","input":[' + b"1," * 140_000 + b"1]}"
        assert verdict(await ask(gateway, "POST", "/v1/responses", sent))[1] == "json_too_complex"


class TestReader:
    async def test_is_started_when_it_is_needed_and_ends_with_the_gateway(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        before = readers()
        gateway = await start_gateway()
        await ask(gateway, "POST", "/v1/responses", body(8000))
        assert readers() == before
        await ask(gateway, "POST", "/v1/responses", body(100_000))
        await ask(gateway, "POST", "/v1/responses", body(100_000))
        assert len(readers()) == len(before) + 1
        await ask(gateway, "POST", "/v1/responses", body(2_000_000))
        assert len(readers()) == len(before) + 2

        await gateway.app.close()

        assert readers() == before

    async def test_that_dies_costs_one_request_a_503_and_is_started_anew(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway()
        assert (await ask(gateway, "POST", "/v1/responses", body(100_000))).status == 200
        for _ in range(3):
            for pid in readers():
                os.kill(pid, signal.SIGSTOP)
            asking = asyncio.create_task(ask(gateway, "POST", "/v1/responses", body(900_000)))
            await asyncio.sleep(0.1)
            for pid in readers():
                os.kill(pid, signal.SIGKILL)

            answer = await asking
            assert_refused(answer, 503, "overloaded")
            assert answer.get("retry-after") == "1"
            assert (await ask(gateway, "POST", "/v1/responses", body(100_000))).status == 200
        assert gateway.metric("gateway_json_readers_lost_total") == 3

    async def test_that_dies_while_nobody_needs_it_costs_nobody_anything(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway()
        assert (await ask(gateway, "POST", "/v1/responses", body(100_000))).status == 200
        (pid,) = readers()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: readers() != [pid])

        assert (await ask(gateway, "POST", "/v1/responses", body(100_000))).status == 200
        assert gateway.metric("gateway_json_readers_lost_total") == 1

    async def test_that_hangs_is_replaced_and_keeps_nobody_waiting_for_longer(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(edge={"json_reading_timeout_seconds": 1.0})
        assert (await ask(gateway, "POST", "/v1/responses", body(100_000))).status == 200
        for pid in readers():
            os.kill(pid, signal.SIGSTOP)

        answer = await ask(gateway, "POST", "/v1/responses", body(100_000))
        assert_refused(answer, 503, "overloaded")
        async with asyncio.timeout(10):
            while (await ask(gateway, "POST", "/v1/responses", body(100_000))).status != 200:
                pass

    async def test_ignores_a_stop_and_knows_no_secret(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
        gateway = await start_gateway()
        await ask(gateway, "POST", "/v1/responses", body(100_000))
        (pid,) = readers()
        for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, stop)

        assert (await ask(gateway, "POST", "/v1/responses", body(100_000))).status == 200
        assert readers() == [pid]
        assert b"very-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert len(list(Path(f"/proc/{pid}/fd").iterdir())) <= 4

    async def test_ends_with_a_gateway_that_is_killed(
        self, upstream: ScriptedUpstream, tmp_path: Path
    ) -> None:
        ring, _ = ensure_ring(tmp_path / "keys")
        flags = (
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--keys-dir",
            str(tmp_path / "keys"),
        )
        async with running_command(
            "serve", *flags, "--upstream", upstream.base_url, OPENAI_API_KEY="sk-upstream"
        ) as gateway:
            async with await RawClient.connect(gateway.host, gateway.port, credential_of(ring)) as client:
                assert (
                    await client.request("POST", "/v1/responses", body(100_000), headers=JSON)
                ).status == 200
            (pid,) = readers(gateway.process.pid)
            gateway.process.kill()
            await until(lambda: has_ended(pid))

    async def test_that_has_nothing_to_do_for_a_while_ends_and_another_is_started_when_needed(self) -> None:
        lost: list[None] = []
        lane = Lane(seconds=20, lost=lambda: lost.append(None), idle_seconds=0.3)
        try:
            for _ in range(3):
                began = time.monotonic()
                while time.monotonic() < began + 0.5:
                    await lane.ask("a", (b"{}",), QUESTION, BOUNDS)
                    assert len(readers()) == 1, "it is busy enough"
                    await asyncio.sleep(0.02)
                await until(lambda: readers() == [])
        finally:
            await lane.close()
        assert lost == []

    async def test_that_does_not_get_its_memory_is_no_fault_of_the_body(self) -> None:
        lane = Lane(seconds=20, lost=lambda: None)
        try:
            await lane.ask("a", (b"{}",), QUESTION, BOUNDS)
            (pid,) = readers()
            import resource

            used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
            resource.prlimit(pid, resource.RLIMIT_AS, (used + 2**24, used + 2**24))
            with pytest.raises(Overloaded):
                await lane.ask("a", (body(4_000_000),), QUESTION, BOUNDS)
            assert (await lane.ask("a", (body(4_000_000),), QUESTION, BOUNDS))[1].fields.model == "m"
        finally:
            await lane.close()


class TestTurns:
    async def test_are_by_tenant_and_who_left_is_not_read(self) -> None:
        lane = Lane(seconds=20, lost=lambda: None)
        order: list[str] = []

        async def sent(tenant: str, count: int) -> None:
            await lane.ask(tenant, (body(count),), QUESTION, BOUNDS)
            order.append(tenant)

        try:
            crowd = [asyncio.create_task(sent("crowd", 200_000)) for _ in range(10)]
            await asyncio.sleep(0)
            others = [asyncio.create_task(sent(name, 100)) for name in ("a", "b", "c")]
            await asyncio.sleep(0)
            assert lane.waiting >= 12
            leaving = crowd[5:]
            for task in leaving:
                task.cancel()
            await asyncio.gather(*crowd, *others, return_exceptions=True)
        finally:
            await lane.close()

        assert order == ["crowd", "crowd", "a", "b", "c", "crowd", "crowd", "crowd"]
        assert lane.waiting == 0
