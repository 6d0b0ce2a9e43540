"""Tenants made ready: whose key, which account, what is shared, and what a tenant may do at most."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.tenants import (
    UNKNOWN_TENANT,
    TenantBook,
    TenantPolicy,
    tenant_policies,
)
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask, verdict
from tests.kit.client import HANDSHAKE
from tests.kit.gateway import EVERY_SCOPE, running_gateway
from tests.kit.upstream import ScriptedUpstream


def policies(environ: dict[str, str] | None = None, **settings: Any) -> dict[str, TenantPolicy]:
    """The tenants of a configuration, resolved."""
    settings.setdefault("upstream", {"base_url": "http://api.test/v1", "api_key": "sk-common"})
    environ = environ or {}
    return tenant_policies(load(flags=settings, environ=environ), TABLE)


def test_what_a_tenant_leaves_unset_is_the_common_way() -> None:
    common = {
        "base_url": "http://api.test/v1",
        "api_key": "sk-common",
        "organization": "org-c",
        "project": "proj_c",
    }
    own = {"api_key": "sk-own", "project": "proj_own"}

    found = policies(tenants={"a": {}, "b": {"upstream": own}}, upstream=common)

    assert found["a"].access.authorization == b"Bearer sk-common"
    assert found["a"].access.fields == ((b"OpenAI-Organization", b"org-c"), (b"OpenAI-Project", b"proj_c"))
    assert found["b"].access.authorization == b"Bearer sk-own"
    assert found["b"].access.fields == ((b"OpenAI-Organization", b"org-c"), (b"OpenAI-Project", b"proj_own"))
    assert found["b"].access.base_url == "http://api.test/v1"


def test_key_of_the_sdks_variable_is_the_last_resort() -> None:
    environ = {"OPENAI_API_KEY": "sk-sdk", "OPENAI_BASE_URL": "http://sdk.test/v1/"}

    (found,) = policies(environ, tenants={"a": {}}, upstream={}).values()

    assert (found.access.api_key, found.access.base_url) == ("sk-sdk", "http://sdk.test/v1")


def test_no_key_shows_in_a_printed_policy() -> None:
    (found,) = policies(tenants={"a": {"upstream": {"api_key": "sk-never-shown"}}}).values()

    assert "never-shown" not in repr(found)
    assert "never-shown" not in str(found.access)


def test_every_tenants_problems_are_said_at_once() -> None:
    settings = load(flags={"tenants": {"a": {}, "b": {}}}, environ={})
    a, b = settings.tenants["a"], settings.tenants["b"]
    broken = settings.model_copy(
        update={
            "tenants": {
                "a": a.model_copy(update={"scopes": ("nope:read", "files:read")}),
                "b": b.model_copy(update={"scopes": ("nothing.*",)}),
            }
        }
    )

    with pytest.raises(SettingsInvalid) as caught:
        tenant_policies(broken, TABLE)

    assert [problem.key for problem in caught.value.problems] == ["tenants.a.scopes", "tenants.b.scopes"]


def test_star_is_everything_but_what_must_be_granted_by_name() -> None:
    found = policies(tenants={"a": {}, "b": EVERY_SCOPE})

    assert found["b"].scopes == set(TABLE.scopes)
    assert set(TABLE.scopes) - found["a"].scopes == {
        scope for scope in TABLE.scopes if scope.startswith(("org.", "unlisted:")) or scope == "realtime:mint"
    }


def test_book_knows_who_is_configured_and_nobody_else() -> None:
    book = TenantBook(policies(tenants={"a": {}}))

    assert book.get("a") is book.policies["a"]
    assert book.get("A") is book.get("") is book.get("b") is UNKNOWN_TENANT


async def test_upstream_sees_the_key_and_account_of_whose_request_it_is(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        tenants={
            "plain": EVERY_SCOPE,
            "keyed": EVERY_SCOPE | {"upstream": {"api_key": "sk-keyed"}},
            "mapped": EVERY_SCOPE | {"upstream": {"organization": "org-m", "project": "proj_m"}},
        }
    )
    forged = (
        "OpenAI-Organization: org-forged\r\nopenai-project: proj_forged\r\nOPENAI-PROJECT: proj_forged2\r\n"
        "OpenAI_Project: proj_forged3\r\nX-API-Key: sk-forged\r\napi-key: sk-forged\r\n"
    )

    for tenant in ("plain", "keyed", "mapped"):
        for target, headers in (("/v1/models", forged), ("/v1/realtime?model=m", forged + HANDSHAKE)):
            await ask(gateway, "GET", target, headers=headers, tenant=tenant)

    seen = [
        (sent.all("authorization"), sent.all("openai-organization"), sent.all("openai-project"))
        for sent in upstream.requests
    ]
    assert (
        seen[::2]
        == seen[1::2]
        == [
            (["Bearer sk-upstream-key"], [], []),
            (["Bearer sk-keyed"], [], []),
            (["Bearer sk-upstream-key"], ["org-m"], ["proj_m"]),
        ]
    )
    assert not any(b"forged" in sent.raw_head for sent in upstream.requests)


async def test_tenant_with_another_upstream_is_sent_there(upstream: ScriptedUpstream) -> None:
    async with ScriptedUpstream() as other:
        own = {"base_url": other.base_url.replace("/v1", "/api/v7"), "api_key": "sk-own"}
        async with running_gateway(
            upstream={"base_url": upstream.base_url, "api_key": "sk-common"},
            tenants={"a": EVERY_SCOPE, "b": EVERY_SCOPE | {"upstream": own}},
        ) as gateway:
            await ask(gateway, "GET", "/v1/files?limit=1", tenant="b")

    assert upstream.requests == []
    assert other.requests[0].target == "/api/v7/files?limit=1"
    assert other.requests[0].get("authorization") == "Bearer sk-own"
    assert b"sk-common" not in other.requests[0].raw_head


class TestAdministration:
    ADMIN = {"admin_api_key": "sk-admin"}  # noqa: RUF012

    async def test_is_asked_with_the_admin_key_and_nothing_else_is(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"} | self.ADMIN
        gateway = await start_gateway(upstream=way)

        for operation in TABLE:
            target = operation.path.replace("{", "").replace("}", "")
            await ask(gateway, operation.method, target, {} if operation.method == "POST" else None)

        keys = {sent.target: sent.all("authorization") for sent in upstream.requests}
        assert len(keys) > 100
        for target, sent in keys.items():
            administers = target.startswith(("/v1/organization", "/v1/projects"))
            assert sent == ["Bearer sk-admin" if administers else "Bearer sk-upstream-key"], target

    async def test_goes_to_the_common_upstream_whatever_the_tenants_own_is(
        self, upstream: ScriptedUpstream
    ) -> None:
        """The admin key belongs to the common upstream's organization: no tenant's upstream may see it."""
        async with ScriptedUpstream() as other:
            own = {"base_url": other.base_url, "api_key": "sk-own", "project": "proj_own"}
            async with running_gateway(
                upstream={"base_url": upstream.base_url, "api_key": "sk-common"} | self.ADMIN,
                tenants={"a": EVERY_SCOPE | {"upstream": own}},
            ) as gateway:
                answer = await ask(gateway, "GET", "/v1/organization/users", tenant="a")

        assert other.requests == []
        assert answer.status == 200
        assert upstream.requests[0].get("authorization") == "Bearer sk-admin"
        assert upstream.requests[0].get("openai-project") is None

    @pytest.mark.parametrize("target", ["/v1/organization/users", "/v1/organization/projects/p/users"])
    async def test_is_closed_without_an_admin_key_and_without_its_scope(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, target: str
    ) -> None:
        way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
        closed = await start_gateway(upstream=way)
        opened = await start_gateway(upstream=way | self.ADMIN)
        narrow = await start_gateway(upstream=way | self.ADMIN, tenants={"acme": {}})

        assert verdict(await ask(closed, "GET", target)) == (403, "operation_closed")
        assert verdict(await ask(opened, "GET", target, scopes=["files:read"])) == (403, "missing_scope")
        assert verdict(await ask(narrow, "GET", target)) == (403, "missing_scope")
        assert upstream.requests == []

    @pytest.mark.parametrize(
        "target", ["/v1/organization", "/v1/organization/anything", "/v1/projects/p/anything", "/v1/usage",
                   "/v1/dashboard/billing/usage", "/v1/organizations"]
    )  # fmt: skip
    async def test_paths_that_the_table_lacks_are_closed_even_with_the_admin_key(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, target: str
    ) -> None:
        way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"} | self.ADMIN
        gateway = await start_gateway(upstream=way)

        assert verdict(await ask(gateway, "GET", target)) == (403, "operation_closed")
        assert upstream.requests == []
