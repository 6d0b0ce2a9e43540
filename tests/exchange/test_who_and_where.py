"""The log says who asked, from where, whom the gateway asked, and what still runs; and not more than is wished."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import JSON, RawClient
from tests.kit.exposition import page_of
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn, silent, two_events
from tests.kit.waiting import until

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def streaming(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Begin a stream, whose rest comes when the gate `go on` is opened."""
    upstream.plays(two_events)
    client = await gateway.connect()
    await client.send(
        client.request_bytes("POST", "/v1/chat/completions", b'{"model":"m","stream":true}', headers=JSON)
    )
    await client.read_head()


async def leaves(turn: Turn) -> None:
    """No answer at all."""
    await turn.read_body()
    turn.close()


def lines_of(gateway: Gateway, event: str) -> list[dict[str, Any]]:
    return [line for line in map(orjson.loads, gateway.lines.raw) if line["event"] == event]


async def test_a_line_says_who_asked_from_where_and_whom_the_gateway_asked(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway()
    traced = f"traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"
    for _ in range(3):  # from the second on the head is known, but for the trace
        await ask(gateway, "GET", "/v1/models", headers=traced)

    for line in await gateway.lines.wait(3):
        assert line["client"] == "127.0.0.1"
        assert line["credential"]
        assert line["issuer"] == gateway.app.services.settings.credentials.issuer
        assert (line["upstream"], line["upstream_status"], line["attempts"]) == ("default", 200, 1)
        assert (line["trace_id"], line["worker"]) == (TRACE, 0)
        assert line["time"] < line["ended"]
        assert "path" not in line


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/v1/gadgets/gadget_12345/parts?secret=s3cr3t", "/v1/gadgets/*/parts"),
        ("/v1/sk-proj-abcdEFGH1234/x", "/v1/*/x"),
        ("/nowhere/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "/nowhere/*"),
        ("/v1/" + "a/" * 30, "/v1/a/a/a/a/a/a/a/…"),
        ("/wp-admin/setup-config.php", "/wp-admin/setup-config.php"),
        ("/v1/" + "x" * 60, "/v1/*"),
    ],
)
async def test_a_path_that_no_operation_names_is_shown_without_what_may_be_secret(
    start_gateway: StartGateway, target: str, path: str
) -> None:
    gateway = await start_gateway()
    await ask(gateway, "GET", target)

    (line,) = await gateway.lines.wait(1)
    assert line["operation"] in ("unlisted", "none")
    assert line["path"] == path


async def test_behind_trusted_proxies_the_client_is_whom_they_name_and_nobody_else_is_believed(
    start_gateway: StartGateway,
) -> None:
    said = "X-Forwarded-For: 192.0.2.66, 203.0.113.7\r\n"
    believing = await start_gateway(edge={"trusted_proxies": ["127.0.0.0/8"]})
    doubting = await start_gateway(edge={"trusted_proxies": ["10.0.0.0/8"]})
    for gateway, client in ((believing, "203.0.113.7"), (doubting, "127.0.0.1")):
        await ask(gateway, "GET", "/v1/models", headers=said)
        await ask(gateway, "GET", "/v1/models", headers=said, credential="nonsense")

        assert [line["client"] for line in await gateway.lines.wait(2)] == [client, client]


async def test_who_was_refused_before_there_was_a_request_has_an_address_too(gateway: Gateway) -> None:
    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await client.send(b"NONSENSE\r\n\r\n")
        await client.read_answer()

    (line,) = await gateway.lines.wait(1)
    assert (line["client"], line["credential"], line["upstream"]) == ("127.0.0.1", None, None)


async def test_who_wants_little_logged_is_not_found_by_address_or_credential(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(tenants={"acme": {"logging": "minimal"}})
    await ask(gateway, "GET", "/v1/models")

    (line,) = await gateway.lines.wait(1)
    assert not {"client", "credential", "subject", "model"} & line.keys()
    assert line["tenant"] == "acme"


async def test_what_was_asked_twice_says_so(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    async def closes_once(turn: Turn) -> None:
        await turn.read_body()
        if len(upstream.requests) == 2:
            turn.close()
        else:
            await turn.send(OK)

    gateway = await start_gateway()
    upstream.plays(closes_once)
    for _ in range(2):  # the first leaves a connection
        await ask(gateway, "GET", "/v1/models")

    _, line = await gateway.lines.wait(2)
    assert (line["attempts"], line["upstream_status"], line["ending"]) == (2, 200, "complete")


async def test_a_tier_that_served_stands_for_itself(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def flex(turn: Turn) -> None:
        await turn.read_body()
        body = orjson.dumps(
            {
                "object": "chat.completion",
                "service_tier": "flex",
                "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
            }
        )
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )

    upstream.plays(flex)
    gateway = await start_gateway()
    await ask(gateway, "POST", "/v1/chat/completions", {"model": "m"})

    (line,) = await gateway.lines.wait(1)
    assert line["served_tier"] == "flex"


# What still runs


async def test_what_runs_for_long_has_a_line_while_it_runs_and_only_one(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"start_seconds": 0.4})
    await ask(gateway, "GET", "/v1/models")
    await streaming(gateway, upstream)

    await until(lambda: len(lines_of(gateway, "log.start")) == 1)
    await asyncio.sleep(1)
    (begun,) = lines_of(gateway, "log.start")
    assert (begun["status"], begun["model"], begun["tenant"], begun["upstream"]) == (
        200,
        "m",
        "acme",
        "default",
    )
    assert begun["duration_ms"] >= 400
    assert begun["bytes_out"] > 0
    assert not {"ended", "ending"} & begun.keys()

    upstream.gate("go on").set()
    await until(lambda: len(lines_of(gateway, "log.exchange")) == 2)
    over = lines_of(gateway, "log.exchange")[1]
    assert (over["request_id"], over["ending"]) == (begun["request_id"], "complete")


async def test_what_has_no_answer_yet_has_one_too(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"start_seconds": 0.3})
    upstream.plays(silent)
    clients = [await gateway.connect() for _ in range(3)]
    for client in clients:
        await client.send(client.request_bytes("GET", "/v1/models"))

    await until(lambda: len(lines_of(gateway, "log.start")) == 3)
    assert {line["status"] for line in lines_of(gateway, "log.start")} == {None}


async def test_one_whose_head_was_slow_is_told_of_though_later_ones_have_been(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"start_seconds": 0.4})
    upstream.plays(silent)
    slow, quick = await gateway.connect(), await gateway.connect()
    head = slow.request_bytes("GET", "/v1/models")
    await slow.send(head[:-10])
    await asyncio.sleep(0.1)
    await quick.send(quick.request_bytes("GET", "/v1/models"))
    await until(lambda: len(lines_of(gateway, "log.start")) == 1)
    await slow.send(head[-10:])

    await until(lambda: len(lines_of(gateway, "log.start")) == 2)


async def test_nobody_hears_of_what_runs_where_that_is_off(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"start_seconds": 0})
    upstream.plays(silent)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models"))
    await asyncio.sleep(0.6)

    assert gateway.lines.raw == []


# Fewer lines


async def test_of_successes_a_part_has_lines_and_of_all_else_everything(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"sampled_successes": 0.25})
    client = await gateway.connect()
    ids = [(await client.request("GET", "/v1/models")).get("x-gateway-request-id") for _ in range(80)]
    refused = [await ask(gateway, "GET", "/nowhere") for _ in range(5)]
    upstream.plays(leaves)
    lost = await ask(gateway, "POST", "/v1/embeddings", {"model": "m"})

    kept = [one for one in ids if one is not None and int(one[-8:], 16) < 2**32 // 4]
    expected = {*kept, *(answer.get("x-gateway-request-id") for answer in (*refused, lost))}
    await gateway.lines.wait(len(expected))
    await asyncio.sleep(0.1)
    assert {orjson.loads(line)["request_id"] for line in gateway.lines.raw} == expected
    withheld = gateway.metric('gateway_log_lines_withheld_total{reason="sampled"}')
    assert withheld == len(ids) - len(kept) > 0


async def test_without_lines_of_successes_slow_ones_still_have_theirs(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"sampled_successes": 0, "slow_seconds": 0.3})
    await ask(gateway, "GET", "/v1/models")
    await streaming(gateway, upstream)
    await asyncio.sleep(0.4)
    upstream.gate("go on").set()

    (line,) = await gateway.lines.wait(1)
    assert (line["ending"], line["model"]) == ("complete", "m")


async def test_what_had_a_line_while_it_ran_has_one_when_it_ends(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(log={"sampled_successes": 0, "slow_seconds": 60, "start_seconds": 0.2})
    await streaming(gateway, upstream)
    (start,) = await gateway.lines.wait(1)
    upstream.gate("go on").set()

    _, end = await gateway.lines.wait(2)
    assert (start["event"], end["event"]) == ("log.start", "log.exchange")
    assert start["request_id"] == end["request_id"]


async def test_exemplars_name_what_has_a_line(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(log={"sampled_successes": 0.25, "refusals_per_second": 1})
    client = await gateway.connect()
    for _ in range(40):
        await client.request("GET", "/v1/models")
    async with await RawClient.connect(gateway.host, gateway.port, "nonsense") as stranger:
        for _ in range(20):
            await stranger.request("GET", "/v1/models")

    page = page_of(gateway.app.services.metrics.registry, openmetrics=True)
    named = set(re.findall(r'# \{request_id="(\w+)"\}', page))
    await asyncio.sleep(0.1)
    written = {orjson.loads(line)["request_id"] for line in gateway.lines.raw}
    assert named
    assert named <= written


async def test_refusals_of_bad_credentials_are_counted_beyond_the_first_in_a_second(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(log={"refusals_per_second": 3})
    async with await RawClient.connect(gateway.host, gateway.port, "nonsense") as client:
        for _ in range(20):
            await client.request("GET", "/v1/models")
    for _ in range(5):
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            await client.send(b"NONSENSE\r\n\r\n")
            await client.read_answer()
    for _ in range(10):
        assert (await ask(gateway, "GET", "/v1/files", subject="known", scopes=["models:read"])).status == 403
    for _ in range(10):
        assert (await ask(gateway, "GET", "/v1/files", tenant="unknown")).status == 403

    await until(lambda: lines_of(gateway, "log.counted") != [], within_seconds=3)
    full, counted = lines_of(gateway, "log.exchange"), lines_of(gateway, "log.counted")
    strangers = [line for line in full if line["status"] == 401]
    withheld = sum(number for line in counted for number in line["refusals"].values())
    assert len(full) - len(strangers) == 25, (
        "who has a credential that verifies, or is not understood, has a line"
    )
    assert len(strangers) + withheld == 20
    assert len(strangers) <= 3 * 3, "a second or two, at most three"
    assert {line["client"] for line in counted} == {"127.0.0.1"}
    assert gateway.metric('gateway_log_lines_withheld_total{reason="budget"}') == withheld


async def test_what_is_counted_when_the_gateway_stops_is_told(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(log={"refusals_per_second": 1})
    async with await RawClient.connect(gateway.host, gateway.port, "nonsense") as client:
        for _ in range(4):
            await client.request("GET", "/v1/models")
    await gateway.runner.cleanup()

    counted = lines_of(gateway, "log.counted")
    assert [line["refusals"] for line in counted] == [{"invalid_api_key": 3}]
