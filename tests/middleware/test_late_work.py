"""What reports its usage later is counted once, for who made it, however many ask and wherever they do."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import orjson
import pytest

from gateway.credentials.key_ring import KeyRing
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Dimension
from gateway.usage.counters import periods_since
from gateway.usage.reported import Known
from tests.conftest import StartGateway
from tests.kit.asking import form, running_simulator
from tests.kit.client import FORM, JSON, RawAnswer, RawClient
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn, says
from tests.kit.usage_answers import counted, sse
from tests.kit.waiting import comes_to, until
from tests.middleware.limited import post, remaining, tenant

USAGE = {"input_tokens": 300, "output_tokens": 4000, "total_tokens": 4300}
RUN_USAGE = {"prompt_tokens": 300, "completion_tokens": 4000, "total_tokens": 4300}
LIMITS = {
    "max_tokens_per_1_minute": 10**5,
    "max_tokens_per_1_day": 10**5,
    "batch_1_day_max_input_tokens": 10**5,
}


class Storing:
    """An upstream that stores: what it answers to a method and target, until the test says otherwise."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.answers: dict[tuple[str, str], bytes] = {}
        upstream.plays(self._script)

    def says(self, method: str, target: str, document: object, *, events: bool = False) -> None:
        if events:
            assert isinstance(document, list)
            body = b"".join(
                b"event: %b\ndata: %b\n\n" % (name, orjson.dumps(data)) for name, data in document
            )
            self.answers[method, target] = SSE_HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            return
        body = orjson.dumps(document)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.answers[method, target] = head % len(body) + body

    async def _script(self, turn: Turn) -> None:
        await turn.read_body()
        await turn.send(self.answers[turn.seen.method, turn.seen.target])


@pytest.fixture
def storing(upstream: ScriptedUpstream) -> Storing:
    return Storing(upstream)


async def ask(
    gateway: Gateway,
    method: str,
    target: str,
    body: object = None,
    *,
    subject: str = "alice",
    headers: str = "",
) -> RawAnswer:
    async with await RawClient.connect(
        gateway.host, gateway.port, gateway.credential(subject=subject)
    ) as client:
        sent = b"" if body is None else orjson.dumps(body)
        answer = await client.request(method, target, sent, headers=(JSON if sent else "") + headers)
    assert answer.status == 200, answer.body
    return answer


async def used(*gateways: Gateway) -> dict[tuple[str, str, str], dict[str, int]]:
    """What has been counted, once nothing waits any more, without bytes and requests."""
    for gateway in gateways:
        late = gateway.app.services.late
        assert late is not None
        await until(lambda late=late: not late.waiting)  # type: ignore[misc]
        await gateway.app.services.ledger.flush()
    found = await counted(gateways[0])
    passed_over = {"bytes_in", "bytes_out", "requests", "reported", "estimated", "unreported"}
    amounts = {
        entry: {kind: amount for kind, amount in counts.items() if kind not in passed_over}
        for entry, counts in found.items()
    }
    return {entry: counts for entry, counts in amounts.items() if counts}


def response(status: str, usage: object = None, **members: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": True,
        "model": "gpt-5-2025-08-07",
        "output": [],
        "usage": usage,
        **members,
    }


def in_background(**members: object) -> dict[str, object]:
    return {"model": "gpt-5", "input": "Hi", "background": True, **members}


def made(kind: str, **members: Any) -> dict[str, Any]:
    return {"id": f"{kind}_1", "object": kind, "created_at": int(time.time()), **members}


async def begin_response(gateway: Gateway, storing: Storing, **members: object) -> None:
    storing.says("POST", "/v1/responses", response("queued"))
    await ask(gateway, "POST", "/v1/responses", in_background(**members))


METERED = {"tenants": {"acme": {**EVERY_SCOPE, "metering": True}}}
UNMETERED = {"tenants": {"acme": {**EVERY_SCOPE, "metering": False}}}


@pytest.mark.parametrize(
    "settings", [METERED, UNMETERED, tenant(**LIMITS)], ids=["metered", "unmetered", "limited"]
)
async def test_background_response_that_is_polled_is_counted_once_for_who_made_it(
    start_gateway: StartGateway, storing: Storing, settings: dict[str, Any]
) -> None:
    gateway = await start_gateway(**settings)
    await begin_response(gateway, storing)
    storing.says("GET", "/v1/responses/resp_1", response("in_progress"))
    await ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

    for _ in range(3):
        await ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")
    await ask(gateway, "GET", "/v1/responses/resp_1", subject="carol")

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


@pytest.mark.parametrize(("metering", "before"), [(True, "estimated"), (False, "unreported")])
async def test_request_whose_usage_is_said_later_is_reported_from_then_on(
    start_gateway: StartGateway, storing: Storing, *, metering: bool, before: str
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": metering}})
    await begin_response(gateway, storing)
    who = ("alice", "gpt-5", "createResponse")

    async def known() -> dict[str, int]:
        counts = (await counted(gateway))[who]
        return {name: counts[name] for name in ("requests", *Known) if name in counts}

    assert await known() == {"requests": 1, before: 1}
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))
    for _ in range(2):
        await ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")
        await used(gateway)

    assert await known() == {"requests": 1, "reported": 1}


async def test_many_who_poll_two_gateways_at_the_same_moment_count_it_once(
    start_gateway: StartGateway, storing: Storing, redis: RedisServer
) -> None:
    ring = KeyRing.ephemeral()
    one, two = [await start_gateway(ring=ring, redis_url=redis.url, **METERED) for _ in range(2)]
    await begin_response(one, storing)
    await used(one)
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

    polls = [
        ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")
        for gateway in (one, two)
        for _ in range(20)
    ]
    await asyncio.gather(*polls)

    assert await used(one, two) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}
    series = 'gateway_usage_total{kind="output",tenant="acme",tier="default"}'
    assert one.metric(series) + two.metric(series) == 4000


async def test_late_usage_is_charged_by_the_day_beside_what_was_reserved_and_not_by_the_minute(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**tenant(**LIMITS))
    await begin_response(gateway, storing, max_output_tokens=1000)
    before = {dimension: await remaining(gateway, dimension) for dimension in _LLM}
    reserved = 10**5 - before[Dimension.TOKENS_PER_DAY]
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

    await ask(gateway, "GET", "/v1/responses/resp_1")
    await used(gateway)

    assert 1000 <= reserved < 1100
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == pytest.approx(10**5 - 4300, abs=30)
    assert await remaining(gateway, Dimension.TOKENS_PER_MINUTE) >= before[Dimension.TOKENS_PER_MINUTE]


_LLM = (Dimension.TOKENS_PER_DAY, Dimension.TOKENS_PER_MINUTE)


async def test_what_turns_out_to_be_less_than_was_estimated_is_counted_as_it_is(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**tenant(**LIMITS))
    await begin_response(gateway, storing, max_output_tokens=1000)
    assert (await used(gateway))["alice", "gpt-5", "createResponse"]["output"] == 1000
    usage = {"input_tokens": 1, "output_tokens": 9, "total_tokens": 10}
    storing.says("GET", "/v1/responses/resp_1", response("completed", usage))

    await ask(gateway, "GET", "/v1/responses/resp_1")

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 1, "output": 9}}


@pytest.mark.parametrize("cancelled", ["cancelled", "incomplete", "failed"])
async def test_what_was_cancelled_or_failed_used_what_it_shows(
    start_gateway: StartGateway, storing: Storing, cancelled: str
) -> None:
    gateway = await start_gateway(**METERED)
    await begin_response(gateway, storing)
    storing.says("POST", "/v1/responses/resp_1/cancel", response(cancelled, USAGE))

    await ask(gateway, "POST", "/v1/responses/resp_1/cancel", {})
    await ask(gateway, "POST", "/v1/responses/resp_1/cancel", {})

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


async def test_stream_that_retrieves_a_response_shows_its_usage_as_well(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    await begin_response(gateway, storing)
    target = "/v1/responses/resp_1?stream=true"
    storing.says(
        "GET",
        target,
        [
            (b"response.created", {"type": "response.created", "response": response("in_progress")}),
            (b"response.completed", {"type": "response.completed", "response": response("completed", USAGE)}),
        ],
        events=True,
    )

    await ask(gateway, "GET", target)
    await ask(gateway, "GET", target)

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


async def read_and_left(gateway: Gateway, upstream: ScriptedUpstream, words: int) -> None:
    """Somebody has a background response read out, and leaves before its end."""
    began = {"type": "response.created", "response": response("in_progress")}
    word = {"type": "response.output_text.delta", "delta": " a"}

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(
            b"".join(b"data: %b\n\n" % orjson.dumps(event) for event in [began, *[word] * words])
        )
        await turn.chunk(b": that was all\n\n")
        await turn.gone()

    upstream.plays(script)
    async with await RawClient.connect(
        gateway.host, gateway.port, gateway.credential(subject="bob")
    ) as client:
        await client.send(client.request_bytes("GET", "/v1/responses/resp_1?stream=true"))
        await client.reader.readuntil(b": that was all\n\n")
    await until(lambda: not gateway.app.services.lifecycle.in_flight)


async def test_stream_that_was_left_is_charged_until_its_usage_is_seen_and_counted_as_that_then(
    start_gateway: StartGateway, storing: Storing, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(**LIMITS))
    await begin_response(gateway, storing, max_output_tokens=1000)
    await read_and_left(gateway, upstream, 1500)

    seen = await used(gateway)
    assert seen["bob", "", "getResponse"] == {"output": 1500}
    assert 2490 < 10**5 - await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 2 + 1000 + 1500
    assert 10**5 - await remaining(gateway, Dimension.TOKENS_PER_MINUTE) <= 2 + 1000

    again = Storing(upstream)
    again.says("GET", "/v1/responses/resp_1", response("completed", USAGE))
    await ask(gateway, "GET", "/v1/responses/resp_1")

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}
    assert 4280 < 10**5 - await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 4300

    await read_and_left(gateway, upstream, 1500)

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}
    assert 10**5 - await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 4300, "it has been paid for"


@pytest.mark.parametrize("settings", [METERED, UNMETERED], ids=["metered", "unmetered"])
async def test_background_stream_that_reported_its_usage_is_not_counted_when_it_is_asked_for(
    start_gateway: StartGateway, storing: Storing, settings: dict[str, Any]
) -> None:
    gateway = await start_gateway(**settings)
    storing.says(
        "POST",
        "/v1/responses",
        [
            (b"response.created", {"type": "response.created", "response": response("in_progress")}),
            (b"response.completed", {"type": "response.completed", "response": response("completed", USAGE)}),
        ],
        events=True,
    )
    await ask(gateway, "POST", "/v1/responses", in_background(stream=True))
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

    await ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


async def test_response_that_was_answered_at_once_is_not_counted_when_it_is_asked_for(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    storing.says("POST", "/v1/responses", response("completed", USAGE, background=False))
    await ask(gateway, "POST", "/v1/responses", {"model": "gpt-5", "input": "Hi"})
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE, background=False))

    await ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


async def test_run_whose_stream_was_left_is_counted_when_somebody_polls_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**METERED)
    run = made("thread.run", id="run_1", status="in_progress", usage=None, model="gpt-4o")
    upstream.plays(says(sse(("thread.run.created", run))))
    async with await RawClient.connect(
        gateway.host, gateway.port, gateway.credential(subject="alice")
    ) as client:
        body = orjson.dumps({"assistant_id": "asst_1", "model": "gpt-4o", "stream": True})
        await client.send(client.request_bytes("POST", "/v1/threads/thread_1/runs", body, headers=JSON))
        await client.read_head()
        assert b"run_1" in await client.read_chunk()
    await gateway.lines.wait(1)
    storing = Storing(upstream)
    final = {**run, "status": "completed", "usage": RUN_USAGE}
    storing.says("GET", "/v1/threads/thread_1/runs/run_1", final)
    storing.says("GET", "/v1/threads/thread_1/runs", {"object": "list", "data": [final]})

    await ask(gateway, "GET", "/v1/threads/thread_1/runs", subject="bob")
    await ask(gateway, "GET", "/v1/threads/thread_1/runs/run_1", subject="bob")

    assert await used(gateway) == {("alice", "gpt-4o", "createRun"): {"input": 300, "output": 4000}}


async def test_run_that_goes_on_with_the_outputs_of_tools_is_counted_once(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    runs = "/v1/threads/thread_1/runs"
    run = made("thread.run", id="run_1", status="requires_action", usage=None, model="gpt-4o")
    final = {**run, "status": "completed", "usage": RUN_USAGE}
    storing.says("POST", runs, [(b"thread.run.requires_action", run)], events=True)
    storing.says("POST", f"{runs}/run_1/submit_tool_outputs", [(b"thread.run.completed", final)], events=True)
    storing.says("GET", f"{runs}/run_1", final)

    await ask(gateway, "POST", runs, {"assistant_id": "asst_1", "model": "gpt-4o", "stream": True})
    await ask(gateway, "POST", f"{runs}/run_1/submit_tool_outputs", {"tool_outputs": [], "stream": True})
    await ask(gateway, "GET", f"{runs}/run_1", subject="bob")

    found = await used(gateway)
    assert sum(counts.get("output", 0) for counts in found.values()) == 4000
    assert sum(counts.get("input", 0) for counts in found.values()) == 300
    assert found["alice", "", "submitToolOuputsToRun"] == {"input": 300, "output": 4000}


LATER: dict[
    str, tuple[str, str, dict[str, Any], dict[str, Any], dict[tuple[str, str, str], dict[str, int]], int]
] = {
    "batch": (
        "/v1/batches",
        "/v1/batches/batch_1",
        made("batch", status="validating", usage=None),
        made("batch", status="completed", model="gpt-5-2025-08-07", usage=USAGE),
        {("alice", "gpt-5-2025-08-07", "createBatch"): {"input": 300, "output": 4000}},
        300,
    ),
    "fine-tuning job": (
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/jobs/ftjob_1",
        made("fine_tuning.job", id="ftjob_1", status="queued", trained_tokens=None, model="gpt-4o"),
        made("fine_tuning.job", id="ftjob_1", status="succeeded", trained_tokens=5000, model="gpt-4o"),
        {("alice", "gpt-4o", "createFineTuningJob"): {"input": 5000}},
        5000,
    ),
    "video": (
        "/v1/videos",
        "/v1/videos/video_1",
        made("video", status="queued", seconds="8", model="sora-2"),
        made("video", status="completed", seconds="8", model="sora-2"),
        {("alice", "sora-2", "createVideo"): {"video_seconds": 8}},
        0,
    ),
    "eval run": (
        "/v1/evals/eval_1/runs",
        "/v1/evals/eval_1/runs/evalrun_1",
        made("eval.run", id="evalrun_1", status="queued", per_model_usage=None),
        made(
            "eval.run",
            id="evalrun_1",
            status="completed",
            per_model_usage=[
                {"model_name": "gpt-4o", **RUN_USAGE, "cached_tokens": 100, "invocation_count": 1},
                {"model_name": "o3", **RUN_USAGE, "cached_tokens": 0, "invocation_count": 2},
            ],
        ),
        {
            ("alice", "gpt-4o", "createEvalRun"): {"input": 300, "cached_input": 100, "output": 4000},
            ("alice", "o3", "createEvalRun"): {"input": 300, "output": 4000},
        },
        600,
    ),
}
BODIES = {
    "batch": {"input_file_id": "file-1", "endpoint": "/v1/responses", "completion_window": "24h"},
    "fine-tuning job": {"model": "gpt-4o", "training_file": "file-1"},
    "video": {"model": "sora-2", "prompt": "A cat", "seconds": "8"},
    "eval run": {"data_source": {"type": "completions", "model": "gpt-4o"}},
}


@pytest.mark.parametrize("listed", [False, True], ids=["read", "listed"])
@pytest.mark.parametrize("kind", LATER)
async def test_work_that_reports_later_is_counted_when_it_is_final_and_charged_to_the_limit_of_its_kind(
    start_gateway: StartGateway, storing: Storing, kind: str, *, listed: bool
) -> None:
    creates, reads, new, final, counts, charged = LATER[kind]
    gateway = await start_gateway(**tenant(**LIMITS))
    storing.says("GET", "/v1/files/file-1", {"id": "file-1", "object": "file", "bytes": 400})
    storing.says("POST", creates, new)
    await ask(gateway, "POST", creates, BODIES[kind])
    asked = creates if listed else reads
    for shown in (new, final, final):
        storing.says("GET", asked, {"object": "list", "data": [shown]} if listed else shown)
        await ask(gateway, "GET", asked, subject="bob")

    assert await used(gateway) == counts
    assert await remaining(gateway, Dimension.BATCH_INPUT_TOKENS_PER_DAY) == pytest.approx(
        10**5 - charged, abs=30
    )
    for dimension in _LLM:
        assert await remaining(gateway, dimension) == 10**5


@pytest.mark.parametrize("kind", ["fine-tuning job", "eval run", "batch"])
async def test_who_has_used_up_the_limit_on_batches_begins_no_more_of_that_kind(
    start_gateway: StartGateway, storing: Storing, kind: str
) -> None:
    creates, reads, new, final, _, _ = LATER[kind]
    gateway = await start_gateway(**tenant(batch_1_day_max_input_tokens=200))
    storing.says("GET", "/v1/files/file-1", {"id": "file-1", "object": "file", "bytes": 400})
    storing.says("POST", creates, new)
    storing.says("GET", reads, final)
    await ask(gateway, "POST", creates, BODIES[kind])
    await ask(gateway, "GET", reads)
    await used(gateway)

    answer = await post(gateway, creates, orjson.dumps(BODIES[kind]))

    assert answer.status == 429
    assert b"batch_1_day_max_input_tokens" in answer.body
    assert len([seen for seen in storing.upstream.requests if seen.method == "POST"]) == 1


async def test_what_a_batch_used_is_of_the_tier_batch(start_gateway: StartGateway, storing: Storing) -> None:
    creates, reads, new, final, _, _ = LATER["batch"]
    gateway = await start_gateway(**METERED)
    storing.says("POST", creates, new)
    storing.says("GET", reads, final)
    await ask(gateway, "POST", creates, BODIES["batch"])
    await ask(gateway, "GET", reads)
    await used(gateway)

    now = time.time()
    reading = gateway.app.services.ledger.read("acme", periods_since(now - 7200, now, hourly=True))
    tiers = {row.entry.model: row.entry.tier async for rows in reading for row in rows}
    assert tiers["gpt-5-2025-08-07"] == "batch"


@pytest.mark.parametrize("kind", LATER)
async def test_work_that_reports_later_is_unreported_until_somebody_asks_for_it(
    start_gateway: StartGateway, storing: Storing, kind: str
) -> None:
    creates, reads, new, final, _, _ = LATER[kind]
    gateway = await start_gateway(**UNMETERED)
    storing.says("POST", creates, new)
    storing.says("GET", reads, final)

    async def known() -> dict[str, int]:
        found = (await counted(gateway)).values()
        amounts = {name: sum(counts.get(name, 0) for counts in found) for name in Known}
        return {name: amount for name, amount in amounts.items() if amount}

    await ask(gateway, "POST", creates, BODIES[kind])
    assert await known() == {"unreported": 1}
    await ask(gateway, "GET", reads)
    await used(gateway)

    assert await known() == {"reported": 1}


@pytest.mark.parametrize("kind", ["batch", "fine-tuning job", "eval run"])
async def test_what_many_answers_used_together_is_no_long_context(
    start_gateway: StartGateway, storing: Storing, kind: str
) -> None:
    creates, reads, new, _, _, _ = LATER[kind]
    gateway = await start_gateway(**METERED)
    storing.says("POST", creates, new)
    of_one = {"prompt_tokens": 10**6, "completion_tokens": 5, "total_tokens": 10**6 + 5}
    shown = {"usage": of_one, "trained_tokens": 10**6, "per_model_usage": [{"model_name": "o3", **of_one}]}
    storing.says("GET", reads, {**new, "status": "succeeded", **shown})
    await ask(gateway, "POST", creates, BODIES[kind])
    await ask(gateway, "GET", reads)

    (counts,) = (await used(gateway)).values()

    assert (counts["input"], counts.get("long_context", 0)) == (10**6, 0)


@pytest.mark.parametrize("encoding", ["", "Accept-Encoding: br, zstd\r\n"], ids=["plain", "unreadable"])
async def test_answers_too_large_to_keep_are_read_all_the_same(
    start_gateway: StartGateway, storing: Storing, encoding: str
) -> None:
    gateway = await start_gateway(**METERED)
    await begin_response(gateway, storing)
    text = '"usage": {"input_tokens": 9} \\ "}]' * 20_000
    storing.says(
        "GET",
        "/v1/responses/resp_1",
        response(
            "completed",
            USAGE,
            output=[{"type": "message", "content": [{"text": text}]}],
            tools=[{"usage": USAGE}],
        ),
    )

    await ask(gateway, "GET", "/v1/responses/resp_1", headers=encoding)

    assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


@pytest.mark.parametrize("pieces", [1, 50])
async def test_events_too_large_to_keep_are_read_all_the_same(
    start_gateway: StartGateway, upstream: ScriptedUpstream, pieces: int
) -> None:
    gateway = await start_gateway(**METERED)
    run = made("thread.run", id="run_1", status="in_progress", usage=None, model="gpt-4o")
    final = {
        **run,
        "instructions": '{"usage": {"total_tokens": 1}}' * 5000,
        "status": "completed",
        "usage": RUN_USAGE,
    }
    large = {
        "type": "thread.message.completed",
        "object": "thread.message",
        "id": "msg_1",
        "content": "x" * 10**5,
    }
    events = [
        (b"thread.run.created", run),
        (b"thread.run.completed", final),
        (b"thread.message.completed", large),
    ]
    stream = b"".join(b"event: %b\ndata: %b\n\n" % (name, orjson.dumps(data)) for name, data in events)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        size = len(stream) // pieces + 1
        for at in range(0, len(stream), size):
            await turn.chunk(stream[at : at + size])
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    body = {"assistant_id": "asst_1", "model": "gpt-4o", "stream": True}
    await ask(gateway, "POST", "/v1/threads/thread_1/runs", body)
    Storing(upstream).says("GET", "/v1/threads/thread_1/runs/run_1", final)

    await ask(gateway, "GET", "/v1/threads/thread_1/runs/run_1", subject="bob")

    assert await used(gateway) == {("alice", "gpt-4o", "createRun"): {"input": 300, "output": 4000}}


async def test_model_that_the_request_left_to_an_assistant_is_the_one_that_the_run_names(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    run = made("thread.run", id="run_1", status="queued", usage=None, model="gpt-4o")
    storing.says("POST", "/v1/threads/runs", run)
    storing.says("GET", "/v1/threads/thread_1/runs/run_1", {**run, "status": "failed", "usage": RUN_USAGE})

    await ask(gateway, "POST", "/v1/threads/runs", {"assistant_id": "asst_1"})
    await ask(gateway, "GET", "/v1/threads/thread_1/runs/run_1")

    assert await used(gateway) == {("alice", "gpt-4o", "createThreadAndRun"): {"input": 300, "output": 4000}}


async def test_object_that_nobody_remembers_is_counted_once_for_who_asks(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    _, reads, _, final, _, _ = LATER["batch"]
    storing.says("GET", reads, final)

    await ask(gateway, "GET", reads, subject="bob")
    await ask(gateway, "GET", reads, subject="carol")

    assert await used(gateway) == {
        ("bob", "gpt-5-2025-08-07", "retrieveBatch"): {"input": 300, "output": 4000}
    }


async def test_object_so_old_that_it_may_have_been_forgotten_is_not_counted(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    _, reads, _, final, _, _ = LATER["batch"]
    storing.says("GET", reads, {**final, "created_at": int(time.time()) - 35 * 86_400})

    await ask(gateway, "GET", reads)

    assert await used(gateway) == {}


async def test_the_same_id_at_another_upstream_is_another_object(
    start_gateway: StartGateway, storing: Storing, redis: RedisServer
) -> None:
    """What one tenant's own server says of an id counts nothing of, and for, another tenant."""
    async with ScriptedUpstream() as own:
        forged = Storing(own)
        tenants = {
            "acme": {**EVERY_SCOPE, "metering": True},
            "evil": {
                **EVERY_SCOPE,
                "metering": True,
                "upstream": {"base_url": own.base_url, "api_key": "sk-evil"},
            },
        }
        gateway = await start_gateway(tenants=tenants, redis_url=redis.url)
        await begin_response(gateway, storing)
        forged.says("GET", "/v1/responses/resp_1", response("completed", {**USAGE, "output_tokens": 1}))
        credential = gateway.credential(tenant="evil", subject="eve")
        async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
            assert (await client.request("GET", "/v1/responses/resp_1")).status == 200
        storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

        await ask(gateway, "GET", "/v1/responses/resp_1")

        assert await used(gateway) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}
        assert ("eve", "", "getResponse") in await counted(gateway, "evil")


@pytest.mark.parametrize("storage", ["another path", "another key"])
async def test_an_id_that_two_tenants_have_means_an_object_of_each(
    start_gateway: StartGateway, upstream: ScriptedUpstream, storing: Storing, storage: str
) -> None:
    base_url = upstream.base_url if storage != "another path" else f"http://127.0.0.1:{upstream.port}/two/v1"
    tenants = {
        "acme": {**EVERY_SCOPE, "metering": True},
        "beta": {
            **EVERY_SCOPE,
            "metering": True,
            "upstream": {"base_url": base_url, "api_key": "sk-another-key"},
            "stored_objects": "own",
        },
    }
    gateway = await start_gateway(tenants=tenants)
    await begin_response(gateway, storing)
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))
    storing.says("GET", "/two/v1/responses/resp_1", response("completed", USAGE))
    credential = gateway.credential(tenant="beta", subject="olga")
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        assert (await client.request("GET", "/v1/responses/resp_1")).status == 200

    paid = await used(gateway)
    other = await counted(gateway, "beta")

    assert other["olga", "gpt-5-2025-08-07", "getResponse"]["output"] == 4000
    assert paid["alice", "gpt-5", "createResponse"]["output"] == 1000  # as it was guessed


async def test_objects_are_remembered_under_a_new_key_of_the_account(
    start_gateway: StartGateway, upstream: ScriptedUpstream, storing: Storing, redis: RedisServer
) -> None:
    ring = KeyRing.ephemeral()
    before, after = [
        await start_gateway(
            ring=ring,
            redis_url=redis.url,
            upstream={"base_url": upstream.base_url, "api_key": key},
            **METERED,
        )
        for key in ("sk-old-key-of-acme", "sk-new-key-of-acme")
    ]
    await begin_response(before, storing)
    await used(before)
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

    await ask(after, "GET", "/v1/responses/resp_1", subject="bob")

    assert await used(before, after) == {("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}


async def test_simulated_batch_is_counted_for_who_made_it_by_what_it_shows(redis: RedisServer) -> None:
    line = {"custom_id": "a", "body": {"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}]}}
    async with (
        running_simulator() as simulator,
        running_gateway(
            upstream={"base_url": simulator.base_url, "api_key": "sk-x"},
            redis_url=redis.url,
            tenants=METERED["tenants"],
        ) as gateway,
    ):
        parts = form(("purpose", b"batch"), ("file", orjson.dumps(line) + b"\n" + orjson.dumps(line)))
        async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
            file = orjson.loads((await client.request("POST", "/v1/files", parts, headers=FORM)).body)
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = orjson.loads((await ask(gateway, "POST", "/v1/batches", asked)).body)

        async def status() -> str:
            batch.update(
                orjson.loads((await ask(gateway, "GET", f"/v1/batches/{batch['id']}", subject="bob")).body)
            )
            return str(batch["status"])

        await comes_to("completed", status)
        shown = batch["usage"]
        assert shown["output_tokens"] > 0
        assert await used(gateway) == {
            ("alice", "gpt-5", "createBatch"): {
                "input": shown["input_tokens"],
                "output": shown["output_tokens"],
            }
        }


@pytest.mark.parametrize("hears", [False, True], ids=["refuses", "hears and says nothing"])
async def test_store_that_is_away_knows_of_it_once_when_it_is_back(
    start_gateway: StartGateway, storing: Storing, link: FaultyLink, *, hears: bool
) -> None:
    gateway = await start_gateway(redis_url=f"redis://127.0.0.1:{link.port}/0", **METERED)
    storing.says("GET", "/v1/models", {"object": "list", "data": []})
    await ask(gateway, "GET", "/v1/models")
    if hears:
        link.drop_replies = True
    else:
        await link.close()
    await begin_response(gateway, storing)
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))
    await ask(gateway, "GET", "/v1/responses/resp_1", subject="bob")
    await asyncio.sleep(1.0)
    assert gateway.metric("gateway_late_work_waiting") > 0

    link.drop_replies = False
    if not hears:
        await link.open()

    async def look() -> dict[tuple[str, str, str], dict[str, int]]:
        try:
            return await used(gateway)
        except StoreUnavailable:
            return {}  # it has not come back yet

    await comes_to({("alice", "gpt-5", "createResponse"): {"input": 300, "output": 4000}}, look)


async def test_log_says_what_an_object_used_apart_from_what_the_exchange_did(
    start_gateway: StartGateway, storing: Storing
) -> None:
    gateway = await start_gateway(**METERED)
    await begin_response(gateway, storing)
    storing.says("GET", "/v1/responses/resp_1", response("completed", USAGE))

    await ask(gateway, "GET", "/v1/responses/resp_1")

    began, line = await gateway.lines.wait(2)
    assert began["object"] == "resp_1"
    assert began["usage"]["estimated"]
    assert "object" not in line
    assert "usage" not in line
    assert line["object_usage"] == {"resp_1": {"input": 300, "output": 4000, "total": 4300}}
