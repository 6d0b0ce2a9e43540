"""What each upstream answers, how soon, what it has left, and what becomes of connections to it, by its name."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import JSON
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import talk
from tests.kit.redis import free_port
from tests.kit.upstream import OK, ScriptedUpstream, Turn, breaks_off, silent
from tests.kit.waiting import until

Labels = dict[str, str]


def series(gateway: Gateway, name: str) -> dict[tuple[str, ...], float]:
    """The series of one name, by the values of their labels in the order of the labels' names."""
    found = {}
    for line in gateway.metrics().splitlines():
        if match := re.fullmatch(rf"{name}\{{(.*)\}} (\S+)", line):
            found[tuple(re.findall(r'="([^"]*)"', match[1]))] = float(match[2])
    return found


def answers(status: int, *lines: str, body: bytes = b"{}") -> Any:
    """The script of an answer with this status."""
    more = "".join(f"{line}\r\n" for line in lines)
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{more}Content-Length: {len(body)}\r\n\r\n"
    )

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head.encode() + body)

    return script


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (200, "2xx"),
        (204, "2xx"),
        (304, "3xx"),
        (401, "401"),
        (402, "4xx"),
        (429, "429"),
        (529, "529"),
        (507, "5xx"),
    ],
)
async def test_answers_are_counted_by_the_status_that_says_whose_fault_it_is(
    gateway: Gateway, upstream: ScriptedUpstream, status: int, shown: str
) -> None:
    upstream.plays(answers(status))
    await ask(gateway, "GET", "/v1/models")

    assert series(gateway, "gateway_upstream_answers_total") == {(shown, "default"): 1}
    assert series(gateway, "gateway_upstream_answer_seconds_count") == {("default",): 1}


async def test_an_answer_that_never_came_is_counted_by_why(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "k", "first_byte_timeout_seconds": 0.3}
    )

    async def resets(turn: Turn) -> None:
        await turn.read_body()
        turn.reset()

    upstream.plays(resets)
    assert (await ask(gateway, "POST", "/v1/chat/completions", b"{}")).status == 502
    upstream.plays(silent)
    assert (await ask(gateway, "POST", "/v1/chat/completions", b"{}")).status == 504
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}", headers=JSON))
    await asyncio.sleep(0.1)
    await client.close()
    await until(lambda: len(series(gateway, "gateway_upstream_answers_total")) == 3)

    assert series(gateway, "gateway_upstream_answers_total") == {
        ("broken", "default"): 1,
        ("timeout", "default"): 1,
        ("left", "default"): 1,
    }
    assert series(gateway, "gateway_upstream_answer_seconds_count") == {("default",): 0}


async def test_an_answer_that_breaks_off_is_counted_beside_its_status(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(breaks_off)
    await ask(gateway, "POST", "/v1/chat/completions", b"{}")
    assert series(gateway, "gateway_upstream_cut_answers_total") == {("default",): 1}

    session = await talk(gateway, upstream)
    session.session.turn.reset()
    await gateway.lines.wait(2)
    assert series(gateway, "gateway_upstream_cut_answers_total") == {("default",): 2}
    assert series(gateway, "gateway_upstream_answers_total") == {("2xx", "default"): 1, ("1xx", "default"): 1}


async def test_each_way_upstream_is_told_by_its_name_and_never_by_its_url(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async with ScriptedUpstream() as other:
        gateway = await start_gateway(
            upstream={
                "name": "public",
                "base_url": upstream.base_url,
                "api_key": "sk-common",
                "admin_api_key": "sk-admin",
            },
            tenants={
                "acme": EVERY_SCOPE,
                "keyed": {**EVERY_SCOPE, "upstream": {"api_key": "sk-keyed"}},
                "named": {**EVERY_SCOPE, "upstream": {"base_url": other.base_url, "name": "near"}},
                "same": {**EVERY_SCOPE, "upstream": {"base_url": other.base_url}},
            },
        )
        for tenant in ("acme", "keyed", "named", "same"):
            assert (await ask(gateway, "GET", "/v1/models", tenant=tenant)).status == 200
        await ask(gateway, "GET", "/v1/organization/users")

    told = {upstream for _, upstream in series(gateway, "gateway_upstream_answers_total")}
    assert told == {"public", "keyed", "near", "same", "administration"}
    assert {upstream for _, upstream in series(gateway, "gateway_upstream_connects_total")} == {
        "public",
        "near",
    }
    assert {upstream for (upstream,) in series(gateway, "gateway_upstream_connections_most")} == {
        "public",
        "near",
    }
    assert "127.0.0.1" not in gateway.metrics()
    lines = await gateway.lines.wait(5)
    assert len(lines) == 5


async def test_connecting_is_counted_with_its_success_and_apart_from_waiting(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "max_connections": 1, "connection_wait_seconds": 0.2},
        tenants={"acme": EVERY_SCOPE},
    )
    upstream.plays(silent)
    first = await gateway.connect()
    await first.send(first.request_bytes("GET", "/v1/models"))
    await upstream.passed("asked")
    refused = await ask(gateway, "GET", "/v1/models")
    assert refused.status == 503

    assert series(gateway, "gateway_upstream_connects_total") == {("connected", "default"): 1}
    assert series(gateway, "gateway_upstream_connect_seconds_count") == {("default",): 1}
    assert series(gateway, "gateway_upstream_waits_total") == {("refused", "acme", "default"): 1}
    assert series(gateway, "gateway_upstream_wait_seconds_count") == {("default",): 1}
    assert series(gateway, "gateway_upstream_connections_most") == {("default",): 1}
    assert series(gateway, "gateway_upstream_connections_held") == {("acme", "default"): 1}


async def test_an_upstream_that_cannot_be_reached_is_counted_as_failed_connects(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(upstream={"base_url": f"http://127.0.0.1:{free_port()}/v1"})
    assert (await ask(gateway, "GET", "/v1/models")).status == 502

    assert series(gateway, "gateway_upstream_connects_total") == {("failed", "default"): 3}
    assert series(gateway, "gateway_upstream_answers_total") == {}


async def test_what_is_asked_again_is_counted(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def closes_second(turn: Turn) -> None:
        if len(upstream.requests) == 2:
            turn.close()
        else:
            await turn.send(OK)

    upstream.plays(closes_second)
    for _ in range(2):
        assert (await ask(gateway, "GET", "/v1/models")).status == 200

    assert series(gateway, "gateway_upstream_asked_again_total") == {("default",): 1}


async def test_the_size_of_a_file_that_is_asked_for_a_batch_counts_as_an_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "limits": {"batch_1_day_max_input_tokens": 1000}}}
    )
    upstream.plays(answers(200, body=b'{"bytes":40}'))
    body = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    assert (await ask(gateway, "POST", "/v1/batches", body)).status == 200

    assert [seen.method for seen in upstream.requests] == ["GET", "POST"]
    assert series(gateway, "gateway_upstream_answers_total") == {("2xx", "default"): 2}


async def test_what_the_upstream_says_is_left_of_its_limits_is_shown_and_goes_when_it_is_old(
    start_gateway: StartGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "models": ["gpt-known", "never*"]}})
    left = {"requests": 59, "tokens": 1234}

    async def says(turn: Turn) -> None:
        lines = "".join(
            f"x-ratelimit-remaining-{what}: {count}\r\nx-ratelimit-limit-{what}: 60000\r\n"
            for what, count in left.items()
        )
        await turn.read_body()
        await turn.send(
            f"HTTP/1.1 200 OK\r\n{lines}x-ratelimit-reset-requests: 1s\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )

    upstream.plays(says)
    for number in range(40):
        left["requests"] = 59 - number
        await ask(gateway, "POST", "/v1/chat/completions", {"model": "never-heard-of", "messages": []})
    await ask(gateway, "POST", "/v1/chat/completions", {"model": "gpt-known", "messages": []})
    remaining = series(gateway, "gateway_upstream_limit_remaining")
    models = ("other", "gpt-known")
    assert remaining.keys() == {(what, model, "default") for what in left for model in models}
    assert remaining["tokens", "other", "default"] == 1234
    assert 20 <= remaining["requests", "other", "default"] <= 59
    assert set(series(gateway, "gateway_upstream_limit").values()) == {60000}

    monkeypatch.setattr("gateway.exchange.upstream_limits.STALE_SECONDS", 0.0)
    assert series(gateway, "gateway_upstream_limit_remaining") == {}


async def test_words_of_an_upstream_make_few_series(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def says(turn: Turn) -> None:
        number = len(upstream.requests)
        word = "".join("abcdefghij"[int(digit)] for digit in str(number))
        await turn.read_body()
        await turn.send(
            f"HTTP/1.1 {200 + number} OK\r\nx-ratelimit-remaining-{word}: 5\r\n"
            "x-ratelimit-remaining-requests: many\r\nContent-Length: 2\r\n\r\n{}".encode()
        )

    upstream.plays(says)
    for number in range(60):
        await ask(gateway, "POST", "/v1/chat/completions", {"model": f"model-{number}", "messages": []})

    assert len(series(gateway, "gateway_upstream_limit_remaining")) == 12
    assert len(series(gateway, "gateway_upstream_answers_total")) == 1


async def test_an_upstream_that_makes_up_words_leaves_room_for_those_of_others(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async with ScriptedUpstream() as hostile:
        gateway = await start_gateway(
            tenants={
                "acme": EVERY_SCOPE,
                "strange": {**EVERY_SCOPE, "upstream": {"base_url": hostile.base_url, "api_key": "k"}},
            }
        )
        words = "".join(f"x-ratelimit-remaining-{letter}: 5\r\n" for letter in "abcdefghijklmnop")
        hostile.plays(answers(200, words.removesuffix("\r\n")))
        await ask(gateway, "POST", "/v1/chat/completions", {"model": "m", "messages": []}, tenant="strange")
        upstream.plays(answers(200, "x-ratelimit-remaining-requests: 7"))
        await ask(gateway, "POST", "/v1/chat/completions", {"model": "m", "messages": []})

        left = series(gateway, "gateway_upstream_limit_remaining")
    assert left["requests", "other", "default"] == 7
    assert len(left) == 13


@pytest.mark.parametrize("ending", ["answered", "left", "refused", "cut", "session"])
async def test_exchanges_in_flight_are_known_by_tenant_whatever_their_end(
    start_gateway: StartGateway, upstream: ScriptedUpstream, ending: str
) -> None:
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE, "idle": EVERY_SCOPE})
    begun: asyncio.Event = upstream.gate("asked")

    async def waits(turn: Turn) -> None:
        await turn.read_body()
        begun.set()
        await turn.wait_for("go on")
        if ending == "cut":
            turn.reset()
        else:
            await turn.send(OK)

    upstream.plays(waits)

    def flying() -> dict[tuple[str, ...], float]:
        return series(gateway, "gateway_exchanges_in_flight")

    await ask(gateway, "GET", "/v1/models", tenant="idle", scopes=["files:read"])
    assert flying() == {("other",): 0, ("idle",): 0}
    if ending == "session":
        session = await talk(gateway, upstream)
        assert flying()["acme",] == 1
        await session.hang_up()
    elif ending == "refused":
        await ask(gateway, "GET", "/v2")
    else:
        client = await gateway.connect()
        await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}", headers=JSON))
        await begun.wait()
        assert flying() == {("other",): 0, ("idle",): 0, ("acme",): 1}
        if ending == "left":
            await client.close()
        upstream.gate("go on").set()
    await until(lambda: not gateway.app.services.lifecycle.in_flight)

    assert not any(flying().values())


@pytest.mark.parametrize("name", ["administration", "", "https://api.example.com/v1", "a b"])
def test_an_upstream_has_a_name_of_its_own_that_is_no_url(name: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"upstream\.name"):
        load(flags={"upstream": {"name": name}}, environ={})
