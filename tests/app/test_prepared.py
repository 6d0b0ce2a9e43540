"""New settings in two steps: what can fail changes nothing, and what changes something cannot fail."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from gateway.app.place import Place
from gateway.app.prepared import Prepared
from gateway.settings.section import SettingsInvalid
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from tests.kit.asking import ask, verdict
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream

ANSWERED, DISABLED, UNKNOWN = (200, None), (403, "tenant_disabled"), (403, "unknown_tenant")


def settings_of(upstream: ScriptedUpstream, **more: Any) -> dict[str, Any]:
    return {"upstream": {"base_url": upstream.base_url, "api_key": "sk"}, "tenants": {"acme": {}}} | more


async def take(settings: Settings, *gateways: Gateway) -> None:
    """All of them or none, as whoever has several does it."""
    prepared: list[Prepared] = [await gateway.app.prepare(settings) for gateway in gateways]
    for one in prepared:
        one.commit()


async def answers(gateway: Gateway, tenant: str = "acme") -> tuple[int, str | None]:
    return verdict(await ask(gateway, "GET", "/v1/models", tenant=tenant))


async def test_of_two_one_refuses_and_none_takes_it(upstream: ScriptedUpstream) -> None:
    """The second is one of several workers without Redis, who keep no limits."""
    before = settings_of(upstream)
    limited = {"acme": {"enabled": False}, "new": {"limits": {"max_requests_per_1_minute": 5}}}
    start = partial(running_gateway, **before)
    async with start() as first, start(place=Place(0, 2)) as second:
        with pytest.raises(SettingsInvalid) as refused:
            await take(load(flags={**before, "tenants": limited}, environ={}), first, second)

        assert [problem.key for problem in refused.value.problems] == ["workers"]
        assert [await answers(one) for one in (first, second)] == [ANSWERED] * 2
        assert await answers(first, "new") == UNKNOWN

        await take(load(flags={**before, "tenants": {"acme": {"enabled": False}}}, environ={}), first, second)
        assert [await answers(one) for one in (first, second)] == [DISABLED] * 2


async def test_what_is_prepared_and_let_go_leaves_no_trace(upstream: ScriptedUpstream) -> None:
    before = settings_of(upstream)
    issuer = {
        "issuer": "https://login.example",
        "audience": "gateway",
        "jwks_url": "http://127.0.0.1:9/keys",
        "tenants": ["*"],
        "scopes": ["*"],
    }
    after = {**before, "tenants": {"new": {}}, "issuers": {"login": issuer}, "credentials": {"audience": "x"}}
    async with running_gateway(**before) as gateway:
        assert await answers(gateway) == ANSWERED
        for _ in range(3):
            await gateway.app.prepare(load(flags=after, environ={}))
        assert await answers(gateway) == ANSWERED
        assert await answers(gateway, "new") == UNKNOWN
        assert gateway.app.services.trust.jwks_ages() == {}


async def test_the_last_that_is_committed_holds_whatever_was_prepared_before(
    upstream: ScriptedUpstream,
) -> None:
    before = settings_of(upstream)
    async with running_gateway(**before) as gateway:
        off = await gateway.app.prepare(
            load(flags={**before, "tenants": {"acme": {"enabled": False}}}, environ={})
        )
        more = await gateway.app.prepare(
            load(flags={**before, "tenants": {"acme": {}, "new": {}}}, environ={})
        )
        off.commit()
        assert await answers(gateway) == DISABLED
        more.commit()
        assert [await answers(gateway), await answers(gateway, "new")] == [ANSWERED, ANSWERED]


async def test_every_reason_to_refuse_comes_before_anything_changes(
    upstream: ScriptedUpstream, tmp_path: Any
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("no certificate")
    keys = tmp_path / "nonsense.json"
    keys.write_text("{}")
    issuer = {"issuer": "i", "audience": "g", "jwks_file": str(keys), "tenants": ["*"], "scopes": ["*"]}
    before = settings_of(upstream)
    off = {"acme": {"enabled": False}}
    async with running_gateway(**before) as gateway:
        for wrong in (
            {"upstream": {**before["upstream"], "ca_file": str(nonsense)}},
            {"issuers": {"a": issuer}},
            {"issuers": {"a": {**issuer, "issuer": "gateway"}}},
            {
                "upstream": {"base_url": "http://127.0.0.1:7777/v1", "api_key": "sk"},
                "listen": "127.0.0.1:7777",
            },
        ):
            with pytest.raises(SettingsInvalid):
                await take(load(flags={**before, "tenants": off, **wrong}, environ={}), gateway)
            assert await answers(gateway) == ANSWERED
        await take(load(flags={**before, "tenants": off}, environ={}), gateway)
        assert await answers(gateway) == DISABLED
