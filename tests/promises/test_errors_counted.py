"""Every error of the gateway's own is counted once, by its code and whose it is, wherever somebody is told of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import gateway as gateway_package
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import Check
from gateway.exchange.fault_metrics import CODES
from gateway.settings.section import OTHER_TENANT
from tests.conftest import StartGateway
from tests.kit.asking import ask, credential_of
from tests.kit.client import JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.jwks import LOGIN, NEXT, THEIRS, running_jwks_server, their_credential
from tests.kit.realtime import talk
from tests.kit.upstream import ScriptedUpstream, Turn, breaks_off
from tests.kit.websocket import TEXT, frame

_SERIES = re.compile(r'gateway_errors_total\{code="([^"]*)",tenant="([^"]*)"\} (\S+)')
_REFUSALS = re.compile(r'gateway_credential_refusals_total\{reason="([^"]*)"\} (\S+)')


def errors(gateway: Gateway) -> dict[tuple[str, str], int]:
    """Errors so far, by tenant and code."""
    return {(tenant, code): int(float(count)) for code, tenant, count in _SERIES.findall(gateway.metrics())}


def refusals(gateway: Gateway) -> dict[str, int]:
    """Credentials refused so far, by reason."""
    return {reason: int(float(count)) for reason, count in _REFUSALS.findall(gateway.metrics())}


async def test_what_never_became_a_request_is_counted_by_its_code(gateway: Gateway) -> None:
    async with await RawClient.connect(gateway.host, gateway.port, "") as client:
        await client.send(b"no request\r\n\r\n")
        answer = await client.read_answer()
    assert answer.status == 400
    assert errors(gateway) == {(OTHER_TENANT, "bad_request_syntax"): 1}


async def test_a_refusal_is_counted_for_its_tenant(start_gateway: StartGateway) -> None:
    limits = {"limits": {"max_requests_per_1_minute": 1}}
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, **limits}, "other.inc": EVERY_SCOPE})
    for _ in range(3):
        await ask(gateway, "GET", "/v1/models")
    await ask(gateway, "GET", "/v1/models", scopes=["files:read"])
    await ask(gateway, "GET", "/v2", tenant="other.inc")

    assert errors(gateway) == {
        ("acme", "rate_limit_exceeded"): 2,
        ("acme", "missing_scope"): 1,
        (OTHER_TENANT, "not_found"): 1,
    }


async def test_a_tenant_that_is_switched_off_is_named_and_one_that_is_not_configured_only_in_the_log(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "enabled": False}})
    await ask(gateway, "GET", "/v1/models", subject="worker")
    await ask(gateway, "GET", "/v1/models", tenant="gone.inc")

    assert errors(gateway) == {("acme", "tenant_disabled"): 1, (OTHER_TENANT, "unknown_tenant"): 1}
    off, gone = await gateway.lines.wait(2)
    assert (off["tenant"], off["subject"], gone["tenant"]) == ("acme", "worker", "gone.inc")
    assert off["credential"]


async def test_an_answer_that_had_to_be_cut_is_counted(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(breaks_off)
    answer = await ask(gateway, "POST", "/v1/chat/completions", b"{}", headers=JSON)

    assert not answer.clean_end
    assert errors(gateway) == {("acme", "upstream_broken"): 1}


async def test_a_client_that_leaves_is_no_error(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def waits(turn: Turn) -> None:
        turn.open("asked")
        await turn.gone()

    upstream.plays(waits)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models"))
    await upstream.passed("asked")
    await client.close()
    await gateway.lines.wait(1)

    assert errors(gateway) == {}


async def test_errors_in_a_session_are_counted(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "limits": {"max_tokens_per_1_minute": 5000}}}
    )
    realtime = await talk(gateway, upstream)
    await realtime.client_says("response.create", response={"max_output_tokens": 50_000})
    assert (await realtime.client_hears("error"))["error"]["code"] == "request_too_large_for_limit"
    assert errors(gateway) == {("acme", "request_too_large_for_limit"): 1}

    responses = await talk(gateway, upstream, target="/v1/responses", protocols="")
    await responses.client_says("response.create", model="gpt-4o", input="Hi", max_output_tokens=60_000)
    assert (await responses.client_hears("error"))["status"] == 400
    assert errors(gateway) == {("acme", "request_too_large_for_limit"): 2}

    await responses.client_says("response.create", model=7)
    assert (await responses.client_hears("error"))["error"]["code"] == "invalid_type"
    assert errors(gateway)[("acme", "invalid_type")] == 1


async def test_an_event_that_ends_a_session_is_counted(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "models": ["gpt-realtime"]}})
    session = await talk(gateway, upstream)
    await session.client_says("session.update", session={"model": "another"})
    await gateway.lines.wait(1)

    assert errors(gateway) == {("acme", "event_refused"): 1}


async def test_a_session_whose_frames_break_the_rules_is_counted(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.session.from_client(frame(TEXT, b"unmasked", masked=False))
    await gateway.lines.wait(1)

    assert errors(gateway) == {("acme", "bad_request"): 1}


async def test_a_session_that_the_upstream_breaks_off_is_counted(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    session.session.turn.reset()
    await gateway.lines.wait(1)

    assert errors(gateway) == {("acme", "upstream_broken"): 1}


async def test_a_session_that_is_drained_is_counted(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    await talk(gateway, upstream)
    gateway.app.services.lifecycle.cut()
    await gateway.lines.wait(1)

    assert errors(gateway) == {("acme", "draining"): 1}


async def test_no_word_of_anybody_else_becomes_a_code(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """An upstream's errors are its own, and a client names none."""

    async def errs(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"error":{"code":"made_up_%d","message":"no"}}' % len(upstream.requests)
        await turn.send(
            b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    upstream.plays(errs)
    for number in range(20):
        await ask(gateway, "POST", f"/v1/chat/completions?code=mine_{number}", b'{"model":"m%d"}' % number)

    assert errors(gateway) == {}


def test_every_code_that_is_given_anywhere_is_one_of_a_closed_set() -> None:
    package = Path(gateway_package.__file__).parent
    given = {
        code
        for source in package.rglob("*.py")
        if not {"simulator", "cli", "bench"} & set(source.relative_to(package).parts)
        for code in _codes_given(ast.parse(source.read_text("utf-8")))
    }

    assert given <= CODES
    assert len(CODES) < 80


def _codes_given(tree: ast.AST) -> list[str]:
    """What stands as `code=` in a call, and first in a fault of a body."""
    found: list[Any] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            if isinstance(node.func, ast.Name) and node.func.id in ("BodyRefused", "Fault"):
                found += node.args[:1]
    return [node.value for node in found if isinstance(node, ast.Constant) and isinstance(node.value, str)]


@pytest.mark.parametrize(
    ("credential", "reason"),
    [
        ("", Check.MISSING),
        ("no.credential", Check.MALFORMED),
        ("sk-proj-1234567890abcdef", Check.UPSTREAM_KEY),
        ("x" * 9000, Check.TOO_LONG),
        ("ek_gw_nothing", Check.NO_SESSION),
    ],
)
async def test_a_credential_that_is_refused_is_counted_by_what_is_wrong_with_it(
    gateway: Gateway, credential: str, reason: Check
) -> None:
    answer = await ask(gateway, "GET", "/v1/models", credential=credential)

    assert answer.status == 401
    assert refusals(gateway) == {reason.value: 1}
    assert sum(errors(gateway).values()) == 1


async def test_a_credential_of_our_own_that_does_not_count_says_why(gateway: Gateway) -> None:
    cases = {
        "audience": credential_of(gateway.ring, tenant="acme", audience="another"),
        "key": credential_of(KeyRing.ephemeral(), tenant="acme"),
        "signature": gateway.credential()[:-8] + "AAAAAAAA",
    }
    for credential in cases.values():
        assert (await ask(gateway, "GET", "/v1/models", credential=credential)).status == 401

    assert refusals(gateway) == dict.fromkeys(cases, 1)
    assert errors(gateway) == {(OTHER_TENANT, "invalid_api_key"): 3}


async def test_refusals_of_random_credentials_make_no_series(gateway: Gateway) -> None:
    for number in range(50):
        await ask(gateway, "GET", "/v1/models", credential=f"random-{number}.a.b")

    assert sum(refusals(gateway).values()) == 50
    assert len(refusals(gateway)) <= 2


async def test_credentials_of_another_issuer_say_why_and_its_keys_until_when_they_count(
    start_gateway: StartGateway,
) -> None:
    async with running_jwks_server() as server:
        server.publish(THEIRS)
        gateway = await start_gateway(
            issuers={
                "login": {
                    "issuer": LOGIN,
                    "audience": "gateway",
                    "jwks_url": server.url,
                    "jwks_stale_seconds": 3600,
                    "tenant": "acme",
                    "scopes": ["models:read"],
                }
            }
        )
        assert (await ask(gateway, "GET", "/v1/models", credential=their_credential())).status == 200
        for wrong in (their_credential(NEXT), their_credential(ahead_seconds=3600)):
            assert (await ask(gateway, "GET", "/v1/models", credential=wrong)).status == 401

        assert refusals(gateway) == {"key": 1, "not_yet": 1}
        left = gateway.metric('gateway_jwks_stale_in_seconds{issuer="login"}')
        assert 3500 < left <= 3600
