"""What is known of a caller and an operation is found once, and nothing of it is used that has changed since."""

from __future__ import annotations

import gc
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

import orjson
import pytest

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.revocations import Revocation
from gateway.exchange.standing import Standing
from tests.conftest import StartGateway
from tests.kit.asking import assert_refused
from tests.kit.client import CHAT, JSON, RawAnswer, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream

QUESTION = b'{"model":"gpt-4o","messages":[]}'
Change = Callable[[Gateway, RawClient], Awaitable[None]]


async def ask(client: RawClient, target: str = CHAT, body: bytes = QUESTION) -> RawAnswer:
    return await client.request("POST", target, body, headers=JSON)


def tenant(**members: Any) -> Change:
    """A reload after which the tenant has these members."""

    async def change(gateway: Gateway, _: RawClient) -> None:
        gateway.settings["tenants"] = {"acme": {**EVERY_SCOPE, **members}}
        assert gateway.app.configuration is not None
        assert await gateway.app.configuration.reload()

    return change


async def removed(gateway: Gateway, _: RawClient) -> None:
    gateway.settings["tenants"] = {"umbrella": EVERY_SCOPE}
    assert gateway.app.configuration is not None
    assert await gateway.app.configuration.reload()


def revoked(**what: Any) -> Change:
    async def change(gateway: Gateway, _: RawClient) -> None:
        revocation = Revocation(until=int(time.time()) + 1000, before=int(time.time()) + 1, **what)
        gateway.app.services.trust.revocations.replace([revocation], time.time())

    return change


async def other_keys(gateway: Gateway, _: RawClient) -> None:
    gateway.app.services.trust.verifier.use(KeyRing.ephemeral())


async def other_issuer(gateway: Gateway, _: RawClient) -> None:
    gateway.settings["credentials"] = {"issuer": "somebody-else"}
    assert gateway.app.configuration is not None
    assert await gateway.app.configuration.reload()


REFUSED: dict[str, tuple[Change, int, str]] = {
    "disabled": (tenant(enabled=False), 403, "tenant_disabled"),
    "removed": (removed, 403, "unknown_tenant"),
    "scopes narrowed": (tenant(scopes=["models:read"]), 403, "missing_scope"),
    "models narrowed": (tenant(models=["whisper-1"]), 403, "model_not_allowed"),
    "tenant revoked": (revoked(tenant="acme"), 401, "revoked_api_key"),
    "subject revoked": (revoked(tenant="acme", subject="tester"), 401, "revoked_api_key"),
    "keys rotated": (other_keys, 401, "invalid_api_key"),
    "issuer changed": (other_issuer, 401, "invalid_api_key"),
}


@pytest.mark.parametrize("way", REFUSED)
async def test_what_is_taken_away_is_refused_to_the_very_next_request(
    way: str, start_gateway: StartGateway
) -> None:
    change, status, code = REFUSED[way]
    gateway = await start_gateway(followed=True)
    client = await gateway.connect()
    for _ in range(3):
        assert (await ask(client)).status == 200

    await change(gateway, client)

    assert_refused(await ask(client), status, code)


async def test_what_is_given_holds_for_the_very_next_request(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(followed=True, tenants={"acme": {"scopes": ["models:read"]}})
    client = await gateway.connect()
    assert_refused(await ask(client), 403, "missing_scope")

    await tenant()(gateway, client)

    assert (await ask(client)).status == 200
    assert (await ask(client)).status == 200


async def test_limits_and_their_changes_hold_for_the_very_next_request(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(followed=True)
    client = await gateway.connect()
    assert (await ask(client)).get("x-ratelimit-limit-requests") is None

    for permits in (100, 50):
        await tenant(limits={"max_requests_per_1_minute": permits})(gateway, client)
        assert (await ask(client)).get("x-ratelimit-limit-requests") == str(permits)
    await tenant(limits={"models": {"gpt-*": {"max_requests_per_1_minute": 7}}})(gateway, client)
    assert (await ask(client)).get("x-ratelimit-limit-requests") == "7"


async def test_the_upstream_of_the_very_next_request_is_the_one_that_the_tenant_has(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(followed=True)
    client = await gateway.connect()
    await ask(client)
    async with ScriptedUpstream() as another:
        await tenant(upstream={"base_url": another.base_url, "api_key": "sk-another-key"})(gateway, client)
        await ask(client)

        assert [request.get("authorization") for request in another.requests] == ["Bearer sk-another-key"]
    assert len(upstream.requests) == 1


async def test_a_default_model_is_set_in_the_very_next_request(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(followed=True)
    client = await gateway.connect()
    for default in (None, "gpt-4o", "gpt-5"):
        await tenant(default_model=default)(gateway, client)
        assert (await ask(client, body=b'{"messages":[]}')).status == 200

    assert [orjson.loads(seen.body).get("model") for seen in upstream.requests] == [None, "gpt-4o", "gpt-5"]


async def test_administration_opens_and_closes_for_the_very_next_request(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(followed=True)
    client = await gateway.connect()

    async def administer(key: str | None) -> RawAnswer:
        gateway.settings["upstream"]["admin_api_key"] = key
        assert gateway.app.configuration is not None
        assert await gateway.app.configuration.reload()
        return await client.request("GET", "/v1/organization/users")

    assert (await administer(None)).status == 403
    assert (await administer("sk-admin-key")).status == 200
    assert (await administer(None)).status == 403


async def test_an_expired_credential_is_refused_whatever_is_remembered(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(credentials={"leeway_seconds": 0})
    client = await gateway.connect()
    client.credential = gateway.credential(ttl_seconds=1)
    assert (await ask(client)).status == 200
    answers = [await ask(client)]
    while answers[-1].status == 200:
        answers.append(await ask(client))

    assert_refused(answers[-1], 401, "expired_api_key")


async def test_credentials_and_operations_are_told_apart(gateway: Gateway) -> None:
    """One connection, several callers in turn: what one may do says nothing of another."""
    client = await gateway.connect()
    chat, embeddings = (gateway.credential([f"{name}:write"]) for name in ("chat.completions", "embeddings"))
    for _ in range(3):
        for credential, allowed in ((chat, CHAT), (embeddings, "/v1/embeddings")):
            client.credential = credential
            for target in (CHAT, "/v1/embeddings"):
                answer = await ask(client, target)
                assert (answer.status == 200) == (target == allowed), (target, answer.status)


async def test_no_more_are_remembered_than_there_is_room_for(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 8
    monkeypatch.setattr(import_module("gateway.middleware.standings"), "_MOST", most)
    client = await gateway.connect()
    for number in range(5 * most):
        client.credential = gateway.credential(subject=f"s{number}")
        assert (await ask(client)).status == 200
    gc.collect()

    assert most <= sum(isinstance(kept, Standing) for kept in gc.get_objects()) <= 2 * most
