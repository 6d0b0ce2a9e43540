"""Before a credential expires its answers say so, whatever they are, and operators see it by tenant."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.exchange.instruments import Gauges, Registry, Rule
from gateway.middleware.expiring import SHOWN_SECONDS, ExpiringCredentials
from tests.conftest import StartGateway
from tests.kit.client import STREAMED_QUESTION, RawClient
from tests.kit.clock import Clock
from tests.kit.gateway import Gateway
from tests.kit.jwks import LOGIN, THEIRS, running_jwks_server, their_credential
from tests.kit.upstream import ScriptedUpstream, answer_ok, two_events
from tests.kit.waiting import found

DAY = 86400
FIELD = "x-gateway-credential-expires"
GAUGE = 'gateway_credential_expires_seconds{tenant="acme"}'


async def told(
    gateway: Gateway, credential: str, method: str, target: str, body: bytes | None = None
) -> str | None:
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        return (await client.request(method, target, body)).get(FIELD)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("GET", "/v1/models", None),
        ("POST", "/v1/chat/completions", STREAMED_QUESTION),
        ("GET", "/gateway/me", None),
        ("GET", "/v1/organization/users", None),
        ("PUT", "/v1/models", b"{}"),
    ],
    ids=["JSON", "events", "its own", "a refusal", "a refused body"],
)
async def test_every_answer_says_in_the_last_seven_days_when_its_credential_expires(
    gateway: Gateway, upstream: ScriptedUpstream, method: str, target: str, body: bytes | None
) -> None:
    upstream.plays(two_events if body == STREAMED_QUESTION else answer_ok)
    upstream.gate("go on").set()
    seconds = 7 * DAY - 60
    soon, later = gateway.credential(ttl_seconds=seconds), gateway.credential(ttl_seconds=7 * DAY + 3600)
    for _ in range(2):
        said = await told(gateway, soon, method, target, body)
        assert said is not None and said.endswith("Z")
        at = datetime.fromisoformat(said).astimezone(UTC).timestamp()
        assert time.time() + seconds - 20 <= at <= time.time() + seconds + 1
        assert await told(gateway, later, method, target, body) is None


async def test_answers_begin_to_say_it_though_the_credential_was_verified_before(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(answer_ok)
    credential = gateway.credential(ttl_seconds=7 * DAY + 3)
    assert await told(gateway, credential, "GET", "/v1/models") is None
    assert await found(lambda: told(gateway, credential, "GET", "/v1/models"))


async def test_operators_see_by_tenant_what_is_shown_and_expires_soon(gateway: Gateway) -> None:
    assert GAUGE not in gateway.metrics()
    await told(gateway, gateway.credential(ttl_seconds=8 * DAY), "GET", "/gateway/me")
    assert GAUGE not in gateway.metrics()
    for ttl_seconds in (3 * DAY, 2 * DAY, 5 * DAY):
        await told(gateway, gateway.credential(ttl_seconds=ttl_seconds), "GET", "/gateway/me")
    assert 2 * DAY - 20 < gateway.metric(GAUGE) <= 2 * DAY


async def test_credentials_that_login_servers_renew_all_the_time_are_not_told_of(
    start_gateway: StartGateway,
) -> None:
    async with running_jwks_server() as server:
        server.publish(THEIRS)
        issuer: dict[str, Any] = {
            "issuer": LOGIN,
            "audience": "gateway",
            "jwks_url": server.url,
            "tenant": "acme",
            "scopes": ["*"],
        }
        gateway = await start_gateway(issuers={"login": issuer})
        assert await told(gateway, their_credential(), "GET", "/gateway/me") is None
    assert GAUGE not in gateway.metrics()


def test_what_has_been_replaced_is_seen_no_more() -> None:
    clock = Clock(1_000_000.0)
    gauge = Gauges("of_a_test", "Of a test.", ["tenant"], rule=Rule.MIN, registry=Registry())
    expiring = ExpiringCredentials(gauge, clock=clock)
    expiring.shown("acme", clock() + 100)
    expiring.shown("acme", clock() + 5 * DAY)
    assert expiring.soonest("acme") == 100
    clock.advance(101)
    assert expiring.soonest("acme") == 5 * DAY - 101
    clock.advance(SHOWN_SECONDS)
    assert expiring.soonest("acme") != expiring.soonest("acme"), "no number: there is nothing to show"
    for ends in range(1000):
        expiring.shown("acme", clock() + 200 + ends)
    assert expiring.soonest("acme") == 200
