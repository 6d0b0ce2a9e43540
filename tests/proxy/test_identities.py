"""An upstream is opened without a secret: what the platform says of the gateway is exchanged, ahead of requests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pytest
from aiohttp import web
from openai.auth._workload import WorkloadIdentityAuth

from gateway.proxy.identity_endpoint import WayOut, ask_endpoint
from gateway.settings.workload_identity import WorkloadIdentity
from tests.conftest import StartGateway
from tests.kit.asking import ask, assert_refused, assert_upstream_error, error_of
from tests.kit.client import JSON, QUESTION
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.identity import PROVIDER, SUBJECT, IdentityEndpoint, refusal, shown
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.kit.websocket import open_session


def bearer(upstream: ScriptedUpstream, at: int = -1) -> str | None:
    """What opened the upstream for a request."""
    said = upstream.requests[at].get("authorization")
    return None if said is None else said.removeprefix("Bearer ")


def asked_times(gateway: Gateway, result: str = "granted") -> float:
    return gateway.metric(
        f'gateway_upstream_identity_exchanges_total{{result="{result}",upstream="default"}}'
    )


def expires(gateway: Gateway, name: str = "default") -> float:
    return gateway.metric(f'gateway_upstream_identity_expires_seconds{{upstream="{name}"}}')


def overdue(gateway: Gateway, name: str = "default") -> float:
    return gateway.metric(f'gateway_upstream_identity_overdue_seconds{{upstream="{name}"}}')


async def chat(gateway: Gateway, **named: Any) -> Any:
    return await ask(gateway, "POST", "/v1/chat/completions", QUESTION, headers=JSON, **named)


def common(upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path) -> dict[str, Any]:
    return {"base_url": upstream.base_url, "workload_identity": endpoint.table(file)}


async def test_requests_go_up_with_what_the_endpoint_grants_for_what_the_file_holds(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    file.write_text(f"\n  {SUBJECT}\n")
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))

    assert (await chat(gateway)).status == 200
    assert (await ask(gateway, "GET", "/v1/models")).status == 200

    (asked,) = endpoint.asked
    assert (asked.subject, asked.account, asked.kind) == (SUBJECT, "svc_a", "jwt")
    assert [bearer(upstream, at) for at in (0, 1)] == [asked.granted] * 2
    assert gateway.app.health.ready().ok
    assert asked_times(gateway) == 1
    assert 3500 < expires(gateway) <= 3600
    assert overdue(gateway) == 0


@pytest.mark.parametrize(("kind", "theirs"), [("jwt", "jwt"), ("id_token", "id")])
async def test_it_asks_as_the_sdk_of_the_public_api_does(
    kind: str, theirs: Any, endpoint: IdentityEndpoint, file: Path
) -> None:
    asked: list[tuple[str, dict[str, str]]] = []

    async def note(request: web.Request) -> web.StreamResponse:
        asked.append((request.content_type, orjson.loads(await request.read())))
        return web.json_response(
            {"access_token": "granted-to-both", "expires_in": 60, "token_type": "Bearer"}
        )

    endpoint.behaviour = note
    members = endpoint.table(file, subject_token_type=kind)
    granted = await ask_endpoint(WorkloadIdentity.model_validate(members), WayOut(None, None))
    sdk = WorkloadIdentityAuth(
        workload_identity={
            "identity_provider_id": PROVIDER,
            "service_account_id": "svc_a",
            "provider": {"token_type": theirs, "get_token": lambda: SUBJECT},
        },
        token_exchange_url=endpoint.url,
    )

    assert await asyncio.to_thread(sdk.get_token) == granted.key == "granted-to-both"
    assert asked[0] == asked[1]


async def test_it_is_renewed_in_time_from_what_the_file_holds_then_and_the_next_request_has_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    endpoint.first_seconds = 3.0
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))
    client = await gateway.connect()
    await client.request("GET", "/v1/models")
    shown(file, "another.one.of-the-platform")

    await until(lambda: len(endpoint.asked) > 1)

    assert 1.85 <= endpoint.asked[1].at - endpoint.asked[0].at < 3.0
    await until(lambda: asked_times(gateway) > 1)
    await client.request("GET", "/v1/models")
    assert [asked.subject for asked in endpoint.asked[:2]] == [SUBJECT, "another.one.of-the-platform"]
    assert bearer(upstream) == endpoint.keys[1] != endpoint.keys[0] == bearer(upstream, 0)


async def test_no_request_waits_for_an_endpoint_that_hangs_and_the_old_key_counts_until_it_expires(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    endpoint.seconds = 3.0
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))
    client = await gateway.connect()
    endpoint.hold.clear()
    await until(lambda: endpoint.requests == 2)

    slowest = 0.0
    while expires(gateway) > 0.1:
        began = monotonic()
        assert (await client.request("GET", "/v1/models")).status == 200
        slowest = max(slowest, monotonic() - began)
        assert bearer(upstream) == endpoint.keys[0]
    assert slowest < 2.0
    assert overdue(gateway) > 0

    await until(lambda: expires(gateway) < 0)
    count, began = len(upstream.requests), monotonic()
    answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)
    assert monotonic() - began < 2.0
    assert_refused(answer, 503, "upstream_identity_unavailable")
    assert error_of(answer)["type"] == "server_error"
    assert "not your credential's fault" in error_of(answer)["message"]
    assert answer.get("retry-after") == "1"
    assert len(upstream.requests) == count
    assert gateway.app.health.ready().ok

    endpoint.hold.set()
    await until(lambda: expires(gateway) > 0)
    assert (await client.request("GET", "/v1/models")).status == 200


async def test_two_tenants_have_their_own_and_those_with_the_same_identity_share_one(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    endpoint: IdentityEndpoint,
    file: Path,
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    shown(other, "of.another.workload")

    def tenant(path: Path, account: str, **more: str) -> dict[str, Any]:
        own = {"base_url": upstream.base_url, "workload_identity": endpoint.table(path, account), **more}
        return {**EVERY_SCOPE, "upstream": own}

    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-common-key"},
        tenants={
            "acme": tenant(file, "svc_a"),
            "twin": tenant(file, "svc_a", project="proj_twin"),
            "umbra": tenant(other, "svc_b"),
            "plain": EVERY_SCOPE,
        },
    )
    by_account = {asked.account: asked for asked in endpoint.asked}
    assert len(endpoint.asked) == 2
    assert by_account["svc_b"].subject == "of.another.workload"
    wanted = {
        "acme": by_account["svc_a"].granted,
        "twin": by_account["svc_a"].granted,
        "umbra": by_account["svc_b"].granted,
        "plain": "sk-common-key",
    }
    for _ in range(3):
        for name, key in wanted.items():
            assert (await chat(gateway, tenant=name)).status == 200
            assert bearer(upstream) == key
            assert upstream.requests[-1].get("openai-project") == ("proj_twin" if name == "twin" else None)
    policies = gateway.app.services.tenants.policies
    assert policies["acme"].account.key == policies["twin"].account.key != policies["umbra"].account.key


async def test_a_key_that_the_upstream_refuses_is_renewed_at_once_and_once(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))
    first = endpoint.keys[0]

    async def refuses_the_first(turn: Turn) -> None:
        await turn.read_body()
        if turn.seen.get("authorization") == f"Bearer {first}":
            body = b'{"error":{"message":"bad key %b"}}' % first.encode()
            await turn.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            await turn.send(OK)

    upstream.plays(refuses_the_first)
    answers = await asyncio.gather(*(chat(gateway) for _ in range(8)))
    for answer in answers:
        if answer.status != 200:
            assert_upstream_error(answer, 502, "upstream_refused_key")
            assert first.encode() not in answer.body
    assert answers[0].status == 502
    await until(lambda: len(endpoint.asked) == 2)
    await until(lambda: asked_times(gateway) == 2)

    assert (await chat(gateway)).status == 200
    assert bearer(upstream) == endpoint.keys[1]
    assert len(endpoint.asked) == 2


async def test_an_upstream_that_refuses_every_key_has_the_endpoint_asked_no_more_for_now(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    async def refuses(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    gateway = await start_gateway(upstream=common(upstream, endpoint, file))
    upstream.plays(refuses)
    for _ in range(20):
        assert_upstream_error(await chat(gateway), 502, "upstream_refused_key")
    await until(lambda: len(endpoint.asked) == 2)

    for _ in range(5):
        assert_upstream_error(await chat(gateway), 502, "upstream_refused_key")
        assert bearer(upstream) == endpoint.keys[1]
    assert len(endpoint.asked) == 2


async def test_sessions_and_the_gateways_own_questions_are_opened_by_it_too(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    gateway = await start_gateway(
        upstream={**common(upstream, endpoint, file), "model_list_seconds": 3600, "project": "proj_of_ours"}
    )
    await until(lambda: upstream.requests)
    assert (upstream.requests[0].target, bearer(upstream, 0)) == ("/v1/models", endpoint.keys[0])

    session = await open_session(gateway, upstream)

    assert session.turn.seen.get("authorization") == f"Bearer {endpoint.keys[0]}"
    assert session.turn.seen.get("openai-project") == "proj_of_ours"


async def test_what_the_gateway_asks_about_a_batchs_file_is_opened_by_it_too(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    limited = {"limits": {"batch_1_day_max_input_tokens": 1000}}
    gateway = await start_gateway(
        upstream=common(upstream, endpoint, file), tenants={"acme": EVERY_SCOPE | limited}
    )

    async def scripted(turn: Turn) -> None:
        await turn.read_body()
        if turn.seen.get("authorization") != f"Bearer {endpoint.keys[-1]}":
            await turn.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        elif turn.seen.method == "GET":
            body = b'{"id":"file-1","bytes":400}'
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        else:
            await turn.send(OK)

    upstream.plays(scripted)
    batch = orjson.dumps({"input_file_id": "file-1", "endpoint": "/v1/chat/completions"})

    answer = await ask(gateway, "POST", "/v1/batches", batch, headers=JSON)

    assert answer.status == 200, answer.body
    assert [(seen.method, seen.target) for seen in upstream.requests] == [
        ("GET", "/v1/files/file-1"),
        ("POST", "/v1/batches"),
    ]
    assert {bearer(upstream, at) for at in (0, 1)} == {endpoint.keys[0]}


async def test_until_something_opens_the_upstream_it_is_not_ready_and_says_why(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "comes-later"
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))

    ready = gateway.app.health.ready()
    assert not ready.ok
    assert "'upstream_identity_missing'" in (why := str(ready.document["reasons"]))
    assert f"{file} cannot be read: No such file or directory" in why
    assert (await ask(gateway, "GET", "/gateway/readyz")).status == 503
    assert_refused(await chat(gateway), 503, "upstream_identity_unavailable")
    (line,) = await gateway.lines.wait()
    assert line["error"] == "upstream_identity_unavailable"
    assert str(file) in line["detail"]
    assert line["upstream"] == "default"
    assert endpoint.requests == 0

    shown(file, SUBJECT)

    await until(lambda: gateway.app.health.ready().ok)
    assert (await chat(gateway)).status == 200


async def test_what_finds_the_upstream_shut_takes_nothing_from_a_limit_of_llm_tokens(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, tmp_path: Path
) -> None:
    file = tmp_path / "comes-later"
    limits = {"max_tokens_per_1_minute": 1000}
    gateway = await start_gateway(
        upstream=common(upstream, endpoint, file), tenants={"acme": {**EVERY_SCOPE, "limits": limits}}
    )
    question = b'{"model":"gpt-4o-mini","max_tokens":600,"messages":[]}'
    for _ in range(4):
        answer = await ask(gateway, "POST", "/v1/chat/completions", question, headers=JSON)
        assert_refused(answer, 503, "upstream_identity_unavailable")

    shown(file, SUBJECT)
    await until(lambda: gateway.app.health.ready().ok)

    assert (await ask(gateway, "POST", "/v1/chat/completions", question, headers=JSON)).status == 200


async def test_a_tenant_whose_identity_is_wrong_keeps_nobody_else_from_being_served(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    endpoint: IdentityEndpoint,
    file: Path,
    tmp_path: Path,
) -> None:
    wrong = {"base_url": upstream.base_url, "workload_identity": endpoint.table(tmp_path / "none", "svc_b")}
    gateway = await start_gateway(
        upstream=common(upstream, endpoint, file),
        tenants={"acme": EVERY_SCOPE, "umbra": {**EVERY_SCOPE, "upstream": wrong}},
    )

    assert gateway.app.health.ready().ok
    assert (await chat(gateway)).status == 200
    assert_refused(await chat(gateway, tenant="umbra"), 503, "upstream_identity_unavailable")
    assert overdue(gateway, "umbra") > 0
    assert overdue(gateway) == 0


async def garbage(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"<html>", content_type="text/html")


async def elsewhere(request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": f"http://{request.host}/oauth/token/elsewhere"})


async def too_much(_: web.Request) -> web.StreamResponse:
    return web.Response(body=b"{" + b" " * 2**17)


async def broken(_: web.Request) -> web.StreamResponse:
    return refusal("server_error", "It is broken.", status=500)


async def not_granted(_: web.Request) -> web.StreamResponse:
    return refusal("invalid_grant", "The mapping \x1b[31m does not match.")


async def forever(_: web.Request) -> web.StreamResponse:
    return web.json_response({"access_token": "granted-for-ever", "expires_in": "3600"})


async def split(_: web.Request) -> web.StreamResponse:
    return web.json_response({"access_token": "granted\r\nX-Injected: 1", "expires_in": 3600})


@pytest.mark.parametrize(
    ("behaviour", "result", "words"),
    [
        (garbage, "refused", "answered 200 with what is no JSON object"),
        (elsewhere, "refused", "answered 307"),
        (too_much, "failed", "it answers more than 65536 bytes"),
        (broken, "refused", "answered 500 (server_error: It is broken.)"),
        (not_granted, "refused", r"answered 400 (invalid_grant: The mapping \x1b[31m does not match.)"),
        (forever, "refused", "answered 200 without a usable expires_in"),
        (split, "refused", "answered 200 without a usable access_token"),
    ],
)
async def test_an_endpoint_that_grants_nothing_is_asked_again_and_its_words_are_told(
    behaviour: Any,
    result: str,
    words: str,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    endpoint: IdentityEndpoint,
    file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.behaviour = behaviour
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))

    assert words in gateway.app.health.worker().reasons[0].message
    assert words in caplog.text
    assert asked_times(gateway, result) == 1
    assert_refused(await chat(gateway), 503, "upstream_identity_unavailable")

    endpoint.behaviour = None
    await until(lambda: gateway.app.health.ready().ok)
    assert (await chat(gateway)).status == 200


async def test_neither_what_is_shown_nor_what_is_granted_is_told_to_anybody(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    endpoint: IdentityEndpoint,
    file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(0)

    async def quotes(request: web.Request) -> web.StreamResponse:
        subject = orjson.loads(await request.read())["subject_token"]
        return refusal("invalid_subject_token", f"cannot believe {subject[10:]}")

    endpoint.behaviour = quotes
    gateway = await start_gateway(upstream=common(upstream, endpoint, file))
    said = [await chat(gateway)]
    endpoint.behaviour = None
    await until(lambda: gateway.app.health.ready().ok)
    key = endpoint.keys[0]

    async def tells(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"error":{"message":"what of %b?"}}' % key.encode()
        await turn.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.plays(tells)
    said.append(await chat(gateway))
    await gateway.lines.wait(2)
    state = await gateway.app.state.tell(common=True, busiest=[])

    everything = "\n".join(
        [
            caplog.text,
            gateway.metrics(),
            repr(gateway.app.health.ready().document),
            repr(state),
            *(line.decode() for line in gateway.lines.raw),
            *(answer.body.decode() + repr(answer.fields) for answer in said),
            repr(gateway.app.services.tenants.policies),
            repr(gateway.app.services.settings),
        ]
    )
    assert "its words quote what was shown, and are withheld" in everything
    assert said[1].status == 502
    for secret in (SUBJECT, SUBJECT[10:], key):
        assert secret not in everything


async def test_identities_come_and_go_with_the_configuration(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    gateway = await start_gateway(
        followed=True,
        upstream={"base_url": upstream.base_url, "api_key": "sk-common-key"},
        tenants={"acme": EVERY_SCOPE},
    )
    assert gateway.app.configuration is not None
    await chat(gateway)
    assert bearer(upstream) == "sk-common-key"
    own = {"base_url": upstream.base_url, "workload_identity": endpoint.table(file)}

    gateway.settings["tenants"] = {"acme": {**EVERY_SCOPE, "upstream": own}}
    assert await gateway.app.configuration.reload()
    assert (await chat(gateway)).status == 200  # the first request after it has what opens the upstream
    assert bearer(upstream) == endpoint.keys[0]
    assert expires(gateway, "acme") > 3500

    moved = {**own, "workload_identity": endpoint.table(file, "svc_b")}
    gateway.settings["tenants"] = {"acme": {**EVERY_SCOPE, "upstream": moved}}
    endpoint.seconds = 0.9
    assert await gateway.app.configuration.reload()
    await chat(gateway)
    assert bearer(upstream) is not None
    assert endpoint.asked[1].account == "svc_b"

    gateway.settings["tenants"] = {"acme": EVERY_SCOPE}
    assert await gateway.app.configuration.reload()
    asked = endpoint.requests
    await chat(gateway)
    assert bearer(upstream) == "sk-common-key"
    assert 'identity_expires_seconds{upstream="acme"}' not in gateway.metrics()
    await asyncio.sleep(1.2)
    assert endpoint.requests == asked
