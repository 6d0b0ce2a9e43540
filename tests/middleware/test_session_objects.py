"""Over WebSockets a tenant reaches its own stored objects, and nobody else's, by whatever an event names."""

from __future__ import annotations

import asyncio
from time import time
from typing import Any

import orjson
import pytest

from gateway.objects.registry import Registry
from gateway.objects.store import Made, Named, Scope
from tests.conftest import StartGateway
from tests.kit.client import JSON, RawClient
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import Event, Talk
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn, two_events
from tests.kit.waiting import comes_to, found, until
from tests.kit.websocket import (
    MORE,
    PING,
    TEXT,
    Open,
    accepted,
    close_frame,
    frame,
    read_frame,
    shake_hands,
)

RESPONSES, REALTIME = "/v1/responses", "/v1/realtime?model=gpt-realtime"
REQUEST: dict[str, Any] = {"model": "gpt-4o", "input": "Hi"}
TENANTS = {"a": EVERY_SCOPE, "b": EVERY_SCOPE}


@pytest.fixture
async def gateway(start_gateway: StartGateway, link: FaultyLink) -> Gateway:
    """Two tenants behind one upstream key."""
    return await start_gateway(tenants=TENANTS, redis_url=f"redis://127.0.0.1:{link.port}/0")


async def opened(
    gateway: Gateway, upstream: ScriptedUpstream, tenant: str = "a", target: str = RESPONSES
) -> Talk:
    """A session of a tenant's."""
    turns: asyncio.Queue[Turn] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        turns.put_nowait(turn)
        await asyncio.Event().wait()

    upstream.plays(script)
    client = await RawClient.connect(gateway.host, gateway.port, gateway.credential(tenant=tenant))
    gateway.clients.append(client)
    head = await shake_hands(client, target=target, protocols="")
    assert head.status == 101, head
    return Talk(Open(client, await asyncio.wait_for(turns.get(), 5), head))


async def is_told(session: Talk, kind: str = "response.create", **members: Any) -> Event:
    """What the client is told in place of an answer."""
    await session.client_says(kind, **members)
    return await session.client_hears("error")


async def goes_up(session: Talk, **members: Any) -> Event:
    return await session.client_tells("response.create", **REQUEST | members)


async def makes(session: Talk, response_id: str = "resp_1", *output: Event, **asked: Any) -> None:
    """The client asks for a response, and hears that it has begun and ended."""
    await goes_up(session, **asked)
    await session.upstream_tells("response.created", response={"id": response_id, "created_at": int(time())})
    await session.upstream_tells(
        "response.completed", response={"id": response_id, "status": "completed", "output": list(output)}
    )


async def owns(gateway: Gateway, kind: str, object_id: str, tenant: str = "a") -> bool:
    """Whether the registry says that it is the tenant's."""
    registry, scope = registry_of(gateway, tenant)
    [owned] = await registry.look(scope, [Named(kind, object_id)])
    return owned


async def intents(gateway: Gateway, tenant: str = "a") -> int:
    """How many of the tenant's intents are left."""
    registry, scope = registry_of(gateway, tenant)
    return len([intent async for intent in registry.store.intents(scope)])


def registry_of(gateway: Gateway, tenant: str) -> tuple[Registry, Scope]:
    registry, scope = gateway.app.services.registry, gateway.app.services.tenants.get(tenant).scope
    assert registry is not None
    assert scope is not None
    return registry, scope


# What is made


async def test_what_one_connection_makes_another_of_the_tenant_continues_at_once_and_nobody_else(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    one = await opened(gateway, upstream)
    other = await opened(gateway, upstream)
    foreign = await opened(gateway, upstream, "b")
    await goes_up(one)
    await one.upstream_tells("response.created", response={"id": "resp_1"})
    await goes_up(other, previous_response_id="resp_1")
    told = await is_told(foreign, **REQUEST, previous_response_id="resp_1")
    assert (told["status"], told["error"]["code"]) == (400, "previous_response_not_found")


async def test_a_client_never_hears_of_what_the_registry_does_not_know(
    gateway: Gateway, upstream: ScriptedUpstream, link: FaultyLink
) -> None:
    session = await opened(gateway, upstream)
    for number in range(20):
        link.delay_seconds = 0.01 * (number % 3)
        await goes_up(session)
        response = {"id": f"resp_{number}"}
        await session.upstream_tells("response.created", response=response)
        assert await owns(gateway, "response", f"resp_{number}")
        items = [
            {"type": "message", "id": f"msg_{number}"},
            {"container_id": f"cntr_{number}", "id": f"ci_{number}"},
            {"environment": {"container_id": f"cntr_sh_{number}"}, "id": f"sh_{number}"},
        ]
        await session.upstream_tells("response.completed", response={**response, "output": items})
        assert await owns(gateway, "item", f"msg_{number}")
        assert await owns(gateway, "container", f"cntr_{number}")
        assert await owns(gateway, "container", f"cntr_sh_{number}")


async def test_items_are_those_that_an_answer_ends_with_and_none_that_it_began_with(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await opened(gateway, upstream)
    await goes_up(session)
    began = {"id": "resp_1", "output": [{"id": "msg_0", "container_id": "cntr_0"}]}
    await session.upstream_tells("response.created", response=began)
    await session.upstream_tells("response.completed", response={"id": "resp_1", "output": [{"id": "msg_1"}]})
    assert await owns(gateway, "item", "msg_1")
    assert not await owns(gateway, "item", "msg_0")
    assert not await owns(gateway, "container", "cntr_0")
    await comes_to(0, lambda: intents(gateway))


@pytest.mark.parametrize("first", ["response.queued", "response.in_progress", "response.made_up"])
async def test_whatever_event_says_first_that_a_response_was_made_is_held(
    gateway: Gateway, upstream: ScriptedUpstream, first: str
) -> None:
    session = await opened(gateway, upstream)
    await goes_up(session)
    await session.upstream_tells(first, response={"object": "response", "id": "resp_1"})
    assert await owns(gateway, "response", "resp_1")


async def test_an_event_is_held_until_the_store_has_confirmed_and_what_is_behind_it_waits(
    gateway: Gateway, upstream: ScriptedUpstream, link: FaultyLink
) -> None:
    session = await opened(gateway, upstream)
    await goes_up(session)
    link.delay_seconds = 0.06
    written = len(link.writes)
    created = orjson.dumps({"type": "response.created", "response": {"id": "resp_1"}})
    delta = orjson.dumps({"type": "response.output_text.delta", "delta": "x"})
    # In fragments, with a control frame between them, and more behind.
    await session.session.from_upstream(
        frame(TEXT, created[:20], masked=False, final=False)
        + frame(PING, b"alive", masked=False)
        + frame(MORE, created[20:], masked=False)
        + frame(TEXT, delta, masked=False)
    )
    reader = session.session.client.reader
    ping = await read_frame(reader)
    assert (ping.opcode, ping.payload) == (PING, b"alive")
    await until(lambda: len(link.writes) > written)
    with pytest.raises(TimeoutError):
        await read_frame(reader, within_seconds=0.02)
    fragments = [await read_frame(reader), await read_frame(reader)]
    assert b"".join(fragment.payload for fragment in fragments) == created
    assert (await read_frame(reader)).payload == delta
    assert await owns(gateway, "response", "resp_1")


async def test_while_an_answer_is_held_the_client_is_still_heard(
    gateway: Gateway, upstream: ScriptedUpstream, link: FaultyLink
) -> None:
    session = await opened(gateway, upstream)
    await goes_up(session)
    link.drop_replies = True
    await session.upstream_says("response.created", response={"id": "resp_1"})
    await session.session.from_client(frame(PING, b"are you there"))
    while (heard := await read_frame(session.session.turn.reader)).opcode != PING:
        pass
    assert heard.payload == b"are you there"
    await session.client_hears("response.created")


async def test_an_upstream_that_hangs_up_behind_its_answer_is_heard_out(
    gateway: Gateway, upstream: ScriptedUpstream, link: FaultyLink
) -> None:
    session = await opened(gateway, upstream)
    await goes_up(session)
    await session.upstream_tells("response.created", response={"id": "resp_1"})
    link.delay_seconds = 0.05
    completed = orjson.dumps(
        {"type": "response.completed", "response": {"id": "resp_1", "output": [{"id": "m"}]}}
    )
    await session.session.from_upstream(
        frame(TEXT, completed, masked=False) + close_frame(1000, "bye", masked=False)
    )
    session.session.turn.close()
    await session.client_hears("response.completed")
    assert (await session.close_frame()).code == 1000
    assert await owns(gateway, "item", "m")


async def test_a_response_that_is_not_kept_is_not_recorded_and_its_connection_goes_on_with_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await opened(gateway, upstream)
    await makes(session, "resp_1", {"type": "message", "id": "msg_1"}, store=False)
    await goes_up(session, previous_response_id="resp_1", store=False)
    assert not await owns(gateway, "response", "resp_1")
    assert not await owns(gateway, "item", "msg_1")
    assert await intents(gateway) == 0


async def test_large_answers_are_recorded_too(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await opened(gateway, upstream)
    await goes_up(session)
    big = "x" * 200_000
    response = {"instructions": big, "id": "resp_1"}
    await session.upstream_tells("response.created", response=response)
    assert await owns(gateway, "response", "resp_1")
    output = [{"type": "message", "content": big, "id": "msg_1"}]
    await session.upstream_tells("response.completed", response=response | {"output": output})
    assert await owns(gateway, "item", "msg_1")


async def test_answers_of_a_tenant_that_is_alone_pass_and_are_recorded_beside(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(tenants={"a": EVERY_SCOPE}, redis_url=redis.url)
    session = await opened(gateway, upstream)
    redis.freeze()
    try:
        await makes(session, "resp_1", {"type": "message", "id": "msg_1"})
    finally:
        redis.thaw()
    registry, scope = gateway.app.services.registry, gateway.app.services.tenants.get("a").scope
    assert registry is not None
    assert scope is not None
    strict = scope._replace(others=None)
    named = [Named("response", "resp_1"), Named("item", "msg_1")]

    async def recorded() -> bool:
        return await registry.look(strict, named) == [True, True]

    assert await found(recorded)


# What is named

PLACES: dict[str, tuple[str, Event]] = {
    "previous_response_id": ("response", {"previous_response_id": "{}"}),
    "conversation": ("conversation", {"conversation": "{}"}),
    "conversation object": ("conversation", {"conversation": {"id": "{}"}}),
    "item_reference": ("item", {"input": [{"type": "item_reference", "id": "{}"}]}),
    "item without a type": ("item", {"input": [{"id": "{}"}]}),
    "input_file": (
        "file",
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "{}"}]}]},
    ),
    "input_image": (
        "file",
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "{}"}]}]},
    ),
    "vector store": ("vector_store", {"tools": [{"type": "file_search", "vector_store_ids": ["{}"]}]}),
    "container": ("container", {"tools": [{"type": "code_interpreter", "container": "{}"}]}),
    "container files": (
        "file",
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["{}"]}}]},
    ),
    "mask": ("file", {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "{}"}}]}),
    "inside of response": ("response", {"response": {"previous_response_id": "{}"}}),
    "file inside of response": ("file", {"response": {"input": [{"content": [{"file_id": "{}"}]}]}}),
}


def filled(event: Event, object_id: str) -> Event:
    named: Event = orjson.loads(orjson.dumps(event).replace(b"{}", object_id.encode()))
    return named


async def made_by_a(gateway: Gateway, kind: str, object_id: str) -> None:
    """As if A had made it."""
    registry, scope = gateway.app.services.registry, gateway.app.services.tenants.get("a").scope
    assert registry is not None
    assert scope is not None
    assert await registry.record(scope, [Made(kind, object_id, time())])


@pytest.mark.parametrize("place", PLACES)
async def test_what_is_anothers_is_what_nobody_has_and_goes_no_further(
    gateway: Gateway, upstream: ScriptedUpstream, place: str
) -> None:
    kind, event = PLACES[place]
    await made_by_a(gateway, kind, "of_a_12345")
    b, a = await opened(gateway, upstream, "b"), await opened(gateway, upstream, "a")
    foreign = await is_told(b, **REQUEST | filled(event, "of_a_12345"))
    unknown = await is_told(b, **REQUEST | filled(event, "nobodys_12"))
    assert orjson.dumps(foreign).replace(b"of_a_12345", b"nobodys_12") == orjson.dumps(unknown)
    assert foreign["status"] in (400, 404)
    # The session goes on, and the next that its upstream hears is the next that may pass.
    assert (await goes_up(b, input="mine"))["input"] == "mine"
    assert (await goes_up(a, **filled(event, "of_a_12345")))["type"] == "response.create"


async def test_requests_sent_at_once_are_judged_one_by_one(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await made_by_a(gateway, "file", "file_a")
    b = await opened(gateway, upstream, "b")

    def asks(text: str, **more: Any) -> bytes:
        return frame(TEXT, orjson.dumps({"type": "response.create", **REQUEST, "input": text, **more}))

    naming = asks("two", tools=[{"container": {"type": "auto", "file_ids": ["file_a"]}}])
    await b.session.from_client(asks("one") + naming + asks("three"))
    assert (await b.upstream_hears("response.create"))["input"] == "one"
    assert (await b.upstream_hears("response.create"))["input"] == "three"
    assert (await b.client_hears("error"))["status"] == 404


async def test_no_event_about_a_response_reaches_anothers(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await made_by_a(gateway, "response", "resp_a")
    b = await opened(gateway, upstream, "b")
    for kind in ("response.cancel", "response.inject", "response.steer", "response.made_up"):
        told = await is_told(b, kind, response_id="resp_a")
        assert (told["status"], told["error"]["type"]) == (404, "invalid_request_error"), kind
    assert (await goes_up(b, input="mine"))["input"] == "mine"


async def test_what_is_refused_costs_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    limits = {"limits": {"max_requests_per_1_day": 3}}
    gateway = await start_gateway(tenants={"a": EVERY_SCOPE, "b": EVERY_SCOPE | limits}, redis_url=redis.url)
    b = await opened(gateway, upstream, "b")  # one for the handshake
    for _ in range(5):
        told = await is_told(b, **REQUEST, previous_response_id="resp_of_nobody")
        assert told["error"]["code"] == "previous_response_not_found"
    await goes_up(b)
    await goes_up(b)
    told = await is_told(b, **REQUEST)
    assert told["status"] == 429
    await comes_to(2, lambda: intents(gateway, "b"))  # of what has gone up, and of nothing that was refused


async def test_without_the_store_what_names_something_is_refused_and_the_rest_goes_on(
    gateway: Gateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    session = await opened(gateway, upstream)
    await makes(session, "resp_1")
    redis.stop()
    told = await is_told(session, **REQUEST, conversation="conv_1")
    assert (told["status"], told["error"]["code"]) == (503, "stored_objects_unavailable")
    # What this connection made needs nobody's word, and what is made now is made all the same.
    await makes(session, "resp_2", previous_response_id="resp_1")
    assert gateway.metric("gateway_objects_unrecorded_inference_total") == 1
    redis.start()


# Realtime

SAYS_FILE: Event = {
    "item": {"type": "message", "role": "user", "content": [{"type": "input_image", "file_id": "{}"}]}
}


@pytest.mark.parametrize("limited", [False, True])
async def test_a_realtime_event_that_names_anothers_goes_no_further_and_the_session_goes_on(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, limited: bool
) -> None:
    limits: dict[str, Any] = {"limits": {"max_tokens_per_1_day": 5000}} if limited else {}
    tenants = dict.fromkeys(TENANTS, EVERY_SCOPE | limits)
    gateway = await start_gateway(tenants=tenants, redis_url=redis.url)
    await made_by_a(gateway, "file", "file_of_a")
    b = await opened(gateway, upstream, "b", REALTIME)
    tolds = []
    for object_id in ("file_of_a", "file_of_x"):
        await b.client_says("conversation.item.create", event_id="event_c", **filled(SAYS_FILE, object_id))
        told = await b.client_hears("error")
        told.pop("event_id")
        tolds.append(orjson.dumps(told).replace(object_id.encode(), b""))
    assert tolds[0] == tolds[1]
    error = orjson.loads(tolds[0])["error"]
    assert (error["event_id"], error["type"], error["param"]) == (
        "event_c",
        "invalid_request_error",
        "file_id",
    )
    heard = await b.client_tells("conversation.item.create", item={"type": "message", "content": []})
    assert heard["item"]["content"] == []
    a = await opened(gateway, upstream, "a", REALTIME)
    await a.client_tells("conversation.item.create", **filled(SAYS_FILE, "file_of_a"))


@pytest.mark.parametrize(
    "session", [{"prompt": {"id": "pmpt_1"}}, {"audio": {"output": {"voice": {"id": "voice_1"}}}}]
)
async def test_prompts_and_voices_stay_closed_in_a_realtime_session(
    gateway: Gateway, upstream: ScriptedUpstream, session: Event
) -> None:
    b = await opened(gateway, upstream, "b", REALTIME)
    await b.client_says("session.update", session=session)
    closed = await b.close_frame()
    assert closed.code == 1008


# Rights that are taken away

ALONE: dict[str, Any] = {"a": EVERY_SCOPE}


@pytest.mark.parametrize("target", [RESPONSES, REALTIME])
@pytest.mark.parametrize(
    ("before", "then"),
    [
        (ALONE, TENANTS),
        (ALONE, {"a": EVERY_SCOPE | {"stored_objects": "refuse"}}),
        (TENANTS, {**TENANTS, "a": EVERY_SCOPE | {"stored_objects": "refuse"}}),
        ({"a": EVERY_SCOPE | {"stored_objects": "own"}}, TENANTS),
    ],
    ids=["somebody joins", "alone and refused", "shared and refused", "no longer its own"],
)
async def test_no_session_keeps_a_right_to_objects_that_its_tenant_has_no_longer(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    redis: RedisServer,
    target: str,
    before: dict[str, Any],
    then: dict[str, Any],
) -> None:
    gateway = await start_gateway(tenants=before, redis_url=redis.url, followed=True)
    session = await opened(gateway, upstream, "a", target)
    configuration = gateway.app.configuration
    assert configuration is not None
    gateway.settings["tenants"] = then
    assert await configuration.reload()
    closed = await session.close_frame()
    assert closed.code == 1008


@pytest.mark.parametrize(
    "then", [TENANTS | {"c": EVERY_SCOPE}, ALONE], ids=["another joins", "the other leaves"]
)
async def test_a_session_of_a_tenant_that_shared_before_runs_on(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, then: dict[str, Any]
) -> None:
    gateway = await start_gateway(tenants=TENANTS, redis_url=redis.url, followed=True)
    session = await opened(gateway, upstream)
    configuration = gateway.app.configuration
    assert configuration is not None
    gateway.settings["tenants"] = then
    assert await configuration.reload()
    await makes(session)
    assert await owns(gateway, "response", "resp_1")


async def test_an_answer_that_runs_ends_as_it_began_when_another_tenant_joins(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(tenants=ALONE, redis_url=redis.url, followed=True)
    upstream.plays(two_events)
    client = await RawClient.connect(gateway.host, gateway.port, gateway.credential(tenant="a"))
    gateway.clients.append(client)
    await client.send(
        client.request_bytes("POST", RESPONSES, orjson.dumps(REQUEST | {"stream": True}), headers=JSON)
    )
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: 1\n\n"
    configuration = gateway.app.configuration
    assert configuration is not None
    gateway.settings["tenants"] = TENANTS
    assert await configuration.reload()
    upstream.gate("go on").set()
    assert await client.read_chunk() == b"data: 2\n\n"
    assert await client.read_chunk() == b""


@pytest.mark.parametrize("target", [f"{RESPONSES}?x=y", REALTIME])
@pytest.mark.parametrize(
    "query",
    ["previous_response_id=resp_of_b", "Conversation[id]=conv_of_b", "x;%66ile_id=file-of-b", "x_id=y"],
)
async def test_the_query_of_a_session_names_nothing_stored(
    gateway: Gateway, upstream: ScriptedUpstream, target: str, query: str
) -> None:
    async with await RawClient.connect(gateway.host, gateway.port, gateway.credential(tenant="a")) as client:
        refused = await shake_hands(client, target=f"{target}&{query}", protocols="")
    assert refused.status == 403
    assert upstream.requests == []
    await opened(gateway, upstream, target=f"{target}&metadata[file_id]=x")
