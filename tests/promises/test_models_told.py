"""What is told of models: when their streams begin, how fast they write, how smoothly, and what is used of them."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import AsyncIterator

import pytest

from tests.kit.asking import ask
from tests.kit.client import JSON
from tests.kit.exposition import page_of
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.upstream import SSE_HEAD, Script, ScriptedUpstream, Turn
from tests.kit.waiting import until

CHAT = "/v1/chat/completions"
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":100,"total_tokens":107}}\n\n'
    b"data: [DONE]\n\n"
)
PAUSE_SECONDS = 0.2


def streaming(*pauses: float, usage: bytes = USAGE) -> Script:
    """The script of a stream with these pauses between its pieces."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(DELTA % b"a")
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            await turn.chunk(DELTA % b"%d" % number)
        await turn.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(usage), usage))

    return script


def chat(model: str) -> bytes:
    return b'{"model":"%b","stream":true,"messages":[]}' % model.encode()


async def stream(gateway: Gateway, model: str = "gpt-4o") -> None:
    assert (await ask(gateway, "POST", CHAT, chat(model), headers=JSON)).status == 200


def total(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of a family's series with these labels."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)", gateway.metrics(), re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for said, value in found if all(label in said for label in wanted))


@pytest.fixture
async def told(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running_gateway(
        upstream={"base_url": upstream.base_url},
        tenants={"acme": {**EVERY_SCOPE, "models": ["gpt-4o", "*"]}},
    ) as gateway:
        yield gateway


async def test_a_stream_tells_when_it_began_how_fast_it_was_and_what_it_used_of_which_model(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(PAUSE_SECONDS))
    await stream(told)
    await told.lines.wait(1)

    assert total(told, "gateway_generation_first_byte_seconds_count", model="gpt-4o") == 1
    assert total(told, "gateway_output_llm_tokens_per_second_count", model="gpt-4o") == 1
    speed = total(told, "gateway_output_llm_tokens_per_second_sum", model="gpt-4o")
    assert 100 / (3 * PAUSE_SECONDS) < speed <= 100 / PAUSE_SECONDS * 1.05
    assert total(told, "gateway_model_usage_total", model="gpt-4o", kind="input") == 7
    assert total(told, "gateway_model_usage_total", model="gpt-4o", kind="output") == 100
    assert total(told, "gateway_usage_total", tenant="acme", kind="output") == 100


async def test_the_first_byte_of_a_generation_leads_to_its_exchange(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(0))
    await stream(told)
    (line,) = await told.lines.wait(1)

    page = page_of(told.app.services.metrics.registry, openmetrics=True)
    led = re.findall(
        r'^gateway_generation_first_byte_seconds_bucket\{.*model="gpt-4o".*\} 1.* # \{request_id="(.*?)"\}',
        page,
        re.MULTILINE,
    )
    assert led == [line["request_id"]]


async def test_what_comes_at_once_or_is_not_reported_has_no_speed(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    async def at_once(turn: Turn) -> None:
        await turn.read_body()
        body = DELTA % b"a" + USAGE
        await turn.send(SSE_HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    upstream.plays(at_once)
    await stream(told)
    upstream.plays(streaming(PAUSE_SECONDS, usage=b"data: [DONE]\n\n"))
    await stream(told)
    await told.lines.wait(2)

    assert total(told, "gateway_generation_first_byte_seconds_count", model="gpt-4o") == 2
    assert total(told, "gateway_output_llm_tokens_per_second_count") == 0


async def test_what_is_no_stream_has_usage_and_nothing_of_streams(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    upstream.plays(script)
    assert (await ask(told, "POST", CHAT, b'{"model":"gpt-4o","messages":[]}', headers=JSON)).status == 200
    await told.lines.wait(1)

    assert total(told, "gateway_model_usage_total", model="gpt-4o", kind="output") == 4
    assert total(told, "gateway_generation_first_byte_seconds_count") == 0
    assert total(told, "gateway_piece_gap_seconds_count") == 0


async def test_a_model_that_only_requests_name_counts_as_other(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming())
    for number in range(20):
        await stream(told, f"made-up-{number}")
    await told.lines.wait(20)

    assert total(told, "gateway_model_usage_total", model="other", kind="output") == 2000
    assert "made-up" not in told.metrics()


async def test_pieces_are_counted_by_how_long_each_took_to_come(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(*[0.15] * 10))
    await stream(told)
    await told.lines.wait(1)

    bucket = "gateway_piece_gap_seconds_bucket"
    assert total(told, bucket, le="0.1") <= 1, "the report came at once behind the last event"
    assert total(told, bucket, le="1.0") == total(told, "gateway_piece_gap_seconds_count")
    assert 10 <= total(told, "gateway_piece_gap_seconds_count") <= 11
    assert total(told, "gateway_piece_gap_seconds_sum") == pytest.approx(1.5, abs=0.4)


async def test_of_many_streams_some_are_watched_and_a_long_silence_is_seen_in_every_one(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(*[0.02] * 8, 3.0, *[0.3] * 8))
    await asyncio.gather(*(stream(told) for _ in range(36)))
    await told.lines.wait(36)

    short = total(told, "gateway_piece_gap_seconds_bucket", le="1.0")
    long = total(told, "gateway_piece_gap_seconds_bucket", le="5.0") - short
    assert total(told, "gateway_piece_gap_seconds_count") == short + long
    assert long == 36, "one in each, as long as it was"
    # Of the first four each, of the others one in eight, which counts for eight; pieces may come together.
    assert 36 * 12 <= short <= 36 * 17


async def test_a_reload_names_models(upstream: ScriptedUpstream) -> None:
    upstream.plays(streaming())
    async with running_gateway(
        upstream={"base_url": upstream.base_url}, tenants={"acme": EVERY_SCOPE}, followed=True
    ) as gateway:
        await stream(gateway, "late")
        await gateway.lines.wait(1)
        assert total(gateway, "gateway_model_usage_total", model="other", kind="output") == 100

        gateway.settings["tenants"] = {"acme": {**EVERY_SCOPE, "default_model": "late"}}
        assert gateway.app.configuration is not None
        await gateway.app.configuration.reload()
        await stream(gateway, "late")
        await gateway.lines.wait(2)

    assert total(gateway, "gateway_model_usage_total", model="late", kind="output") == 100


MODELS = b'{"object":"list","data":[{"id":"listed-a","object":"model"},{"id":"listed-b","object":"model"}]}'


def listing(body: bytes = MODELS, status: bytes = b"200 OK", more: bytes = b"") -> Script:
    """The script of an upstream that says which models it has, and streams anything else."""

    async def script(turn: Turn) -> None:
        if turn.seen.method != "GET":
            await streaming()(turn)
            return
        await turn.send(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, more, len(body), body)
        )

    return script


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("models", [None, ["gpt-4o", "listed-*"]], ids=["all", "restricted"])
async def test_a_list_of_models_that_goes_by_names_them(
    upstream: ScriptedUpstream, encoding: str | None, models: list[str] | None
) -> None:
    tenant = EVERY_SCOPE | ({} if models is None else {"models": models})
    upstream.plays(
        listing() if encoding is None else listing(gzip.compress(MODELS), more=b"Content-Encoding: gzip\r\n")
    )
    async with running_gateway(upstream={"base_url": upstream.base_url}, tenants={"acme": tenant}) as gateway:
        answer = await ask(gateway, "GET", "/v1/models")
        assert answer.status == 200
        await until(lambda: gateway.app.services.metrics.models.names.of("listed-a") == "listed-a")
        await stream(gateway, "listed-b")
        await gateway.lines.wait(2)

        assert total(gateway, "gateway_model_usage_total", model="listed-b", kind="output") == 100


async def test_each_way_upstream_is_asked_at_the_start_and_again_with_its_own_key(
    upstream: ScriptedUpstream,
) -> None:
    upstream.plays(listing())
    async with running_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-common-key", "model_list_seconds": 0.3},
        tenants={
            "acme": EVERY_SCOPE,
            "also": EVERY_SCOPE,
            "own": {**EVERY_SCOPE, "upstream": {"api_key": "sk-own-key"}},
            "closed": {**EVERY_SCOPE, "enabled": False, "upstream": {"api_key": "sk-closed-key"}},
        },
    ) as gateway:
        await until(lambda: len(upstream.requests) >= 4)
        await until(lambda: total(gateway, "gateway_model_lists_total", result="loaded", upstream="own") >= 2)
        await stream(gateway, "listed-a")
        await gateway.lines.wait(1)

        assert total(gateway, "gateway_model_usage_total", model="listed-a", kind="output") == 100
    asked = [request for request in upstream.requests if request.method == "GET"]
    assert {request.target for request in asked} == {"/v1/models"}
    assert {request.get("authorization") for request in asked} == {
        "Bearer sk-common-key",
        "Bearer sk-own-key",
    }


async def hang_up(turn: Turn) -> None:
    """The script of an upstream that is there and says nothing."""
    turn.close()


async def switches(turn: Turn) -> None:
    """The script of an upstream that speaks something else from here on, and says nothing."""
    await turn.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
    await turn.gone()


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (listing(b"{}", b"404 Not Found"), "404"),
        (listing(b"<html>"), "no list"),
        (hang_up, "hung up"),
        (switches, "101"),
    ],
    ids=["missing", "no list", "broken", "switches"],
)
async def test_an_upstream_that_does_not_list_its_models_is_told_of_once_and_counted(
    upstream: ScriptedUpstream, script: Script, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(script)
    async with running_gateway(
        upstream={"base_url": upstream.base_url, "model_list_seconds": 0.1}, tenants={"acme": EVERY_SCOPE}
    ) as gateway:
        await until(lambda: total(gateway, "gateway_model_lists_total", result="failed") >= 3)
        assert total(gateway, "gateway_model_lists_total", result="loaded") == 0
        assert (await ask(gateway, "GET", "/gateway/me")).status == 200
    said = [record.getMessage() for record in caplog.records if record.name == "gateway.models"]
    assert len(said) == 1
    assert "upstream default does not list its models" in said[0]
    assert why in said[0]


async def test_an_upstream_that_starts_later_is_asked_again_soon(upstream: ScriptedUpstream) -> None:
    upstream.plays(listing(b"{}", b"503 Service Unavailable"))
    async with running_gateway(
        upstream={"base_url": upstream.base_url, "model_list_seconds": 3600}, tenants={"acme": EVERY_SCOPE}
    ) as gateway:
        await until(lambda: total(gateway, "gateway_model_lists_total", result="failed") == 1)
        upstream.plays(listing())
        await until(lambda: total(gateway, "gateway_model_lists_total", result="loaded") == 1, 10)

        assert gateway.app.services.metrics.models.names.of("listed-a") == "listed-a"


async def test_an_upstream_that_a_reload_names_is_asked_soon(upstream: ScriptedUpstream) -> None:
    upstream.plays(listing())
    async with running_gateway(
        upstream={"base_url": upstream.base_url, "model_list_seconds": 3600},
        tenants={"acme": EVERY_SCOPE},
        followed=True,
    ) as gateway:
        await until(lambda: total(gateway, "gateway_model_lists_total", result="loaded") == 1)
        gateway.settings["tenants"]["own"] = {**EVERY_SCOPE, "upstream": {"api_key": "sk-own-key"}}
        assert gateway.app.configuration is not None
        assert await gateway.app.configuration.reload()
        await until(
            lambda: total(gateway, "gateway_model_lists_total", result="loaded", upstream="own") == 1, 10
        )

        assert total(gateway, "gateway_model_lists_total", upstream="default") == 1, (
            "nobody else is asked again"
        )


async def test_a_server_that_echoes_any_name_names_none(told: Gateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        name = turn.seen.target.rpartition("/")[2].encode()
        body = b'{"id":"%b","object":"model","data":[]}' % name
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    upstream.plays(script)
    assert (await ask(told, "GET", "/v1/models/echoed")).status == 200

    assert told.app.services.metrics.models.names.of("echoed") == "other"


async def test_lists_that_come_slowly_hold_little_however_many_go_by(upstream: ScriptedUpstream) -> None:
    async def slowly(turn: Turn) -> None:
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2000000\r\n\r\n"
        )
        await turn.send(b" " * 1_900_000)
        await turn.wait_for("end")
        turn.close()

    upstream.plays(slowly)
    async with running_gateway(upstream={"base_url": upstream.base_url}) as gateway:
        lists = gateway.app.services.model_lists
        asked = [asyncio.create_task(ask(gateway, "GET", "/v1/models")) for _ in range(12)]
        await until(lambda: len(upstream.requests) == 12 and lists._kept_bytes > 5_000_000)
        assert lists._kept_bytes <= 8 * 2**20

        upstream.gate("end").set()
        await asyncio.wait(asked)
        assert lists._kept_bytes == 0
        for task in asked:
            task.exception()
