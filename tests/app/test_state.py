"""`GET /gateway/state` of one process: what it tells of what runs, and that telling delays nobody."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import aiohttp
import orjson
import pytest

from gateway.app import state as described
from gateway.app.serving import private_listener
from gateway.exchange.exchange import Exchange
from gateway.operations.own import ME
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn, answer_ok, silent
from tests.kit.waiting import comes_to, found

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"Hello"}]}'


class Looking:
    """The private listener of a gateway, and who looks there."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"

    async def state(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.base}/gateway/state") as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            document = await answer.json()
            assert isinstance(document, dict)
            return document

    async def later(self) -> dict[str, Any]:
        """One that was made after this was asked."""
        began = time.time()

        async def new() -> dict[str, Any] | None:
            document = await self.state()
            return document if document["time"] > began else None

        document = await found(new)
        assert document is not None
        return document


@asynccontextmanager
async def looking(gateway: Gateway) -> AsyncIterator[Looking]:
    listener = private_listener(gateway.app, gateway.runner)
    try:
        yield Looking(listener.start())
    finally:
        await asyncio.to_thread(listener.stop)


@pytest.fixture
async def start(start_gateway: StartGateway) -> Any:
    async def started(**settings: Any) -> Gateway:
        return await start_gateway(admin_listen="127.0.0.1:0", **settings)

    return started


def of(entries: list[dict[str, Any]], **members: object) -> dict[str, Any]:
    """The one entry that has these members."""
    (entry,) = [one for one in entries if all(one[name] == value for name, value in members.items())]
    return entry


def check(value: object, kind: Any, where: str = "state") -> None:
    """Fail unless a value is of a kind as `gateway/app/state.py` describes it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        assert isinstance(value, Mapping), where
        hints = get_type_hints(kind)
        assert value.keys() == hints.keys(), where
        for name, hint in hints.items():
            check(value[name], hint, f"{where}.{name}")
    elif origin is list:
        assert isinstance(value, list), where
        for one in value:
            check(one, arguments[0], f"{where}[]")
    elif origin is dict:
        assert isinstance(value, dict), where
        for one in value.values():
            check(one, arguments[1], f"{where}{{}}")
    elif arguments:
        if value is None:
            assert type(None) in arguments, where
        else:
            (kind,) = [one for one in arguments if one is not type(None)]
            check(value, kind, where)
    else:
        assert isinstance(value, (int, float) if kind is float else kind), f"{where} is {value!r}"


async def test_it_is_as_it_is_described(start: Any) -> None:
    gateway = await start()
    await ask(gateway, "GET", "/v1/models")
    async with looking(gateway) as look:
        document = await look.state()

    check(document, described.State)
    assert document["instance"].endswith(f":{gateway.port}")
    assert abs(document["time"] - time.time()) < 5
    assert document["ready"] is True
    assert document["configuration"]["valid"] is True
    (worker,) = document["workers"]
    assert (worker["worker"], worker["state"]) == (0, "ready")
    assert worker["memory_bytes"] > 1e6
    assert document["credentials"] is None


async def test_it_tells_what_was_counted_by_tenant_and_by_upstream(
    start: Any, upstream: ScriptedUpstream
) -> None:
    limits = {"max_requests_per_1_day": 2}
    gateway = await start(tenants={"acme": EVERY_SCOPE | {"name": "Acme & Co", "limits": limits}, "idle": {}})
    for _ in range(3):
        await ask(gateway, "GET", "/v1/models")
    async with looking(gateway) as look:
        document = await look.state()

    acme, idle = of(document["tenants"], tenant="acme"), of(document["tenants"], tenant="idle")
    assert (acme["name"], acme["enabled"]) == ("Acme & Co", True)
    assert (acme["exchanges"], acme["throttled"], acme["failed"]) == (3, 1, 0)
    assert idle["exchanges"] == 0
    assert acme["used"]["today"]["requests"] == 2
    assert acme["used"]["month"]["requests"] == 2
    assert of(document["errors"], code="rate_limit_exceeded")["count"] == 1
    assert of(document["upstreams"], upstream="default")["answers"] == {"2xx": 2}


async def test_an_exchange_that_runs_is_told_with_its_age_and_one_that_has_ended_with_how(
    start: Any, upstream: ScriptedUpstream
) -> None:
    async def slow(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b'data: {"choices":[]}\n\n')
        await turn.wait_for("on")
        await turn.chunk(b"data: [DONE]\n\n")
        await turn.chunk(b"")

    gateway = await start()
    upstream.plays(slow)
    async with looking(gateway) as look:
        asking = asyncio.create_task(ask(gateway, "POST", "/v1/chat/completions", CHAT))

        async def running() -> list[dict[str, Any]]:
            return [one for one in (await look.state())["oldest"] if one["bytes_out"]]

        (one,) = await found(running)
        upstream.gate("on").set()
        answer = await asking

        async def ended() -> list[dict[str, Any]]:
            return list((await look.state())["slowest"])

        (other,) = await found(ended)
        after = await look.later()

    assert one["request_id"] == other["request_id"] == answer.get("x-gateway-request-id")
    for told in (one, other):
        assert (told["tenant"], told["operation"], told["model"]) == (
            "acme",
            "createChatCompletion",
            "gpt-4o",
        )
        assert (told["upstream"], told["transport"], told["worker"]) == ("default", "http", 0)
    assert 0 <= one["age_seconds"] <= other["age_seconds"] < 30
    assert (other["status"], other["ending"]) == (200, "complete")
    assert other["bytes_out"] > one["bytes_out"] > 0
    assert after["oldest"] == []


async def test_the_oldest_twenty_of_many_are_told_oldest_first(
    start: Any, upstream: ScriptedUpstream
) -> None:
    gateway = await start()
    upstream.plays(silent)
    async with looking(gateway) as look:
        asking = [asyncio.create_task(ask(gateway, "GET", f"/v1/models/m{number}")) for number in range(30)]

        async def running() -> int:
            return len(gateway.app.services.lifecycle.running)

        await comes_to(30, running)
        document = await look.later()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    ages = [one["age_seconds"] for one in document["oldest"]]
    assert len(ages) == 20
    assert ages == sorted(ages, reverse=True)
    assert document["workers"][0]["in_flight"] == 30


async def test_old_sessions_do_not_hide_old_requests(start: Any, upstream: ScriptedUpstream) -> None:
    gateway = await start()
    running = gateway.app.services.lifecycle.running
    now = time.monotonic()
    for number in range(300):
        exchange = Exchange(f"req_gw_{number}", "GET", ME, now - 3600 + number, time.time())
        exchange.is_socket = number % 100 != 99
        running[exchange.id] = SimpleNamespace(exchange=exchange)
        if exchange.is_socket:
            gateway.app.services.lifecycle.sessions[exchange.id] = SimpleNamespace()
    async with looking(gateway) as look:
        oldest = (await look.state())["oldest"]
    running.clear()
    gateway.app.services.lifecycle.sessions.clear()

    by_http = [one["request_id"] for one in oldest if one["transport"] == "http"]
    by_socket = [one["request_id"] for one in oldest if one["transport"] == "websocket"]
    assert by_http == ["req_gw_99", "req_gw_199", "req_gw_299"]
    assert by_socket == [f"req_gw_{number}" for number in range(20)]


async def test_no_secret_is_in_it(start: Any, upstream: ScriptedUpstream) -> None:
    key = "the-operators-key-0123456789"
    gateway = await start(
        admin_key=key,
        tenants={"acme": EVERY_SCOPE | {"upstream": {"api_key": "sk-tenants-own-key"}}},
    )
    credential = gateway.credential()
    await ask(gateway, "GET", "/v1/models", credential=credential)
    async with looking(gateway) as look:
        told = str(await look.state())

    for secret in (key, "sk-tenants-own-key", "sk-upstream-key", credential, credential.split(".")[2]):
        assert secret not in told
    assert str(upstream.base_url) not in told


async def test_who_asks_without_pause_is_told_the_same_for_a_second_and_takes_little_of_a_core(
    start: Any,
) -> None:
    tenants = {f"tenant-{number}": EVERY_SCOPE for number in range(200)}
    gateway = await start(tenants=tenants)
    for number in range(0, 200, 10):
        await ask(gateway, "GET", "/v1/models", tenant=f"tenant-{number}")
    async with looking(gateway) as look:
        made: set[float] = set()
        began = time.monotonic()

        async def without_pause() -> None:
            while time.monotonic() - began < 2.5:
                document = await look.state()
                assert len(document["tenants"]) == 200
                made.add(document["time"])

        await asyncio.gather(*(without_pause() for _ in range(4)))

    assert 1 <= len(made) <= 4


async def test_of_more_tenants_than_are_listed_the_busiest_are(start: Any) -> None:
    gateway = await start(tenants={f"t{number}": EVERY_SCOPE for number in range(600)})
    await ask(gateway, "GET", "/v1/models", tenant="t599")
    async with looking(gateway) as look:
        document = await look.state()

    assert document["tenants"][0]["tenant"] == "t599"
    assert len(document["tenants"]) == described.MOST_TENANTS
    assert document["left_out"]["tenants"] == 100


async def test_a_hung_loop_is_told_of(start: Any) -> None:
    """The listener has a thread of its own: what the process cannot tell is missing, and the rest is told."""
    gateway = await start(worker_hang_seconds=0.2)

    async with looking(gateway) as look:
        asking = asyncio.create_task(asyncio.to_thread(_asked_from_elsewhere, look.base))
        await asyncio.sleep(0.1)
        time.sleep(2.5)  # this is what hangs
        document = await asking

    (worker,) = document["workers"]
    assert worker["in_flight"] is None
    assert document["tenants"] == []


def _asked_from_elsewhere(base: str) -> dict[str, Any]:
    time.sleep(0.5)
    with urllib.request.urlopen(f"{base}/gateway/state", timeout=20) as answer:
        document = orjson.loads(answer.read())
        assert isinstance(document, dict)
        return document


async def test_a_model_whose_name_no_text_can_hold_is_told_as_far_as_it_goes(
    start: Any, upstream: ScriptedUpstream
) -> None:
    gateway = await start()
    upstream.plays(answer_ok)
    for name in ("\\ud800" + "x" * 300, "<b>"):
        body = b'{"model":"%b","messages":[]}' % name.replace("\\\\", "\\").encode()
        await ask(gateway, "POST", "/v1/chat/completions", body)
    async with looking(gateway) as look:
        names = [one["model"] for one in (await look.state())["slowest"]]

    assert "<b>" in names
    assert all(name is None or len(name) <= 200 for name in names)
