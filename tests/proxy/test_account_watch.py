"""Two tenants that count as apart and have one account: what the upstream answers tells, and somebody hears it."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.policy.tenants import TenantBook, tenant_policies
from gateway.proxy.account_watch import AccountWatch
from gateway.settings.sources import load
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask
from tests.kit.client import HANDSHAKE
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, Turn

OWN = {"stored_objects": "own"}
GAUGE = "gateway_mistaken_accounts"
PROJECT, ORGANIZATION = b"openai-project", b"openai-organization"
HOUR = 3600.0


def by_key(projects: dict[str, str], *, status: str = "200 OK") -> Any:
    """An upstream that names the project of the key it was shown, as the public API does."""

    async def turn(turn: Turn) -> None:
        await turn.read_body()
        named = projects[(turn.seen.get("authorization") or "").removeprefix("Bearer ")]
        await turn.send(
            f"HTTP/1.1 {status}\r\nOpenAI-Organization: org-one\r\nOpenAI-Project: {named}\r\n"
            "Content-Length: 2\r\n\r\n{}".encode()
        )

    return turn


@pytest.fixture
async def two(start_gateway: StartGateway, upstream: ScriptedUpstream) -> Gateway:
    """Two tenants with a key each, and the operator's word that each has an account of its own."""
    return await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-common", "admin_api_key": "sk-admin"},
        tenants={name: EVERY_SCOPE | OWN | {"upstream": {"api_key": f"sk-{name}"}} for name in "ab"},
    )


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if "of its own, but" in line.getMessage()]


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [("/v1/models", "", "200 OK"), ("/v1/realtime?model=m", HANDSHAKE, "429 Too Many Requests")],
)
async def test_same_project_is_told_once_with_both_names_and_counted(
    two: Gateway,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    target: str,
    headers: str,
    status: str,
) -> None:
    upstream.plays(by_key({"sk-a": "proj_1", "sk-b": "proj_1"}, status=status))
    for tenant in "abab":
        answer = await ask(two, "GET", target, headers=headers, tenant=tenant)
        assert answer.get("openai-project") is None, "clients are not told whose account it is"

    (line,) = said(caplog)
    assert "tenant b " in line
    assert "tenant a " in line
    assert "project proj_1" in line
    assert two.metric(GAUGE) == 2


async def test_different_projects_of_one_organization_are_none_of_it(
    two: Gateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.plays(by_key({"sk-a": "proj_1", "sk-b": "proj_2", "sk-admin": "proj_1"}))
    for tenant in "ab":
        await ask(two, "GET", "/v1/models", tenant=tenant)
        await ask(two, "GET", "/v1/organization/users", tenant=tenant)

    assert said(caplog) == []
    assert two.metric(GAUGE) == 0


async def test_one_project_behind_two_hosts_is_one_account(
    start_gateway: StartGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    alias = {"upstream": {"base_url": upstream.base_url.replace("127.0.0.1", "localhost"), "api_key": "sk-b"}}
    gateway = await start_gateway(tenants={"a": EVERY_SCOPE, "b": EVERY_SCOPE | alias})
    upstream.plays(by_key({"sk-upstream-key": "proj_1", "sk-b": "proj_1"}))
    for tenant in "ab":
        assert (await ask(gateway, "GET", "/v1/files", tenant=tenant)).status == 200

    assert len(said(caplog)) == 1
    assert gateway.metric(GAUGE) == 2


async def test_tenants_that_are_closed_alarm_nobody(
    start_gateway: StartGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await start_gateway(tenants={"a": EVERY_SCOPE, "b": EVERY_SCOPE})
    upstream.plays(by_key({"sk-upstream-key": "proj_1"}))
    for tenant in "abab":
        await ask(gateway, "GET", "/v1/models", tenant=tenant)

    assert said(caplog) == []
    assert gateway.metric(GAUGE) == 0


def book(**settings: Any) -> TenantBook:
    settings.setdefault("upstream", {"base_url": "http://api.test/v1", "api_key": "sk-k"})
    return TenantBook(tenant_policies(load(flags=settings, environ={}), TABLE))


def own(*names: str, **more: Any) -> dict[str, Any]:
    return {name: OWN | {"upstream": {"api_key": f"sk-{name}", **more}} for name in names}


class TestOverTime:
    def test_is_said_once_an_hour_while_it_lasts(self, caplog: pytest.LogCaptureFixture) -> None:
        tenants = book(tenants=own("a", "b"))
        watch = AccountWatch(tenants)
        for minute in range(130):
            for name in "ab":
                watch.saw(tenants.get(name), {PROJECT: b"proj_1"}, 60.5 * minute)
        assert len(said(caplog)) == 6, "three hours have begun, and two tenants are told of"

    def test_ends_when_the_configuration_has_repaired_it(self) -> None:
        tenants = book(tenants=own("a", "b"))
        watch = AccountWatch(tenants)
        for name in "ab":
            watch.saw(tenants.get(name), {PROJECT: b"proj_1"}, 0.0)
        assert watch.mistaken(1.0) == 2

        tenants.policies = book(
            tenants=own("a", "b") | {"b": OWN | {"upstream": {"api_key": "sk-new"}}}
        ).policies
        assert watch.mistaken(1.0) == 0
        watch.saw(tenants.get("b"), {PROJECT: b"proj_2"}, 2.0)
        watch.saw(tenants.get("a"), {PROJECT: b"proj_1"}, 120.0)
        assert watch.mistaken(121.0) == 0

        tenants.policies = book(tenants=own("a")).policies
        assert watch.mistaken(1.0) == 0

    def test_ends_a_day_after_it_was_last_seen(self) -> None:
        tenants = book(tenants=own("a", "b"))
        watch = AccountWatch(tenants)
        for name in "ab":
            watch.saw(tenants.get(name), {PROJECT: b"proj_1"}, 0.0)
        assert watch.mistaken(23 * HOUR) == 2
        assert watch.mistaken(25 * HOUR) == 0

    def test_holds_a_bounded_part_of_what_an_upstream_makes_up(self) -> None:
        tenants = book(tenants=own("a", "b"))
        watch = AccountWatch(tenants)
        watch.saw(tenants.get("b"), {PROJECT: b"proj_b"}, 0.0)
        for number in range(20_000):
            watch.saw(tenants.get("a"), {PROJECT: b"x" * 5000 + b"%d" % number, ORGANIZATION: b"o"}, 1.0)
        assert len(watch._looked) < 5000
        assert sum(map(len, watch._seen.values())) < 20
        watch.saw(tenants.get("a"), {PROJECT: b"proj_b"}, 2.0)
        assert watch.mistaken(2.0) == 2, "what others were told of stays"

    @pytest.mark.parametrize(
        ("base_url", "mistaken"), [("http://api.test/v1", 2), ("https://api.openai.com/v1", 0)]
    )
    def test_organization_alone_tells_nothing_at_the_public_api(self, base_url: str, mistaken: int) -> None:
        tenants = book(tenants=own("a", "b", base_url=base_url))
        watch = AccountWatch(tenants)
        for name in "ab":
            watch.saw(tenants.get(name), {ORGANIZATION: b"org-1"}, 0.0)
        assert watch.mistaken(0.0) == mistaken

    def test_what_an_upstream_says_cannot_forge_a_line(self, caplog: pytest.LogCaptureFixture) -> None:
        tenants = book(tenants=own("a", "b"))
        watch = AccountWatch(tenants)
        for name in "ab":
            watch.saw(tenants.get(name), {PROJECT: b"p\x1b[2J\xe9" + b"x" * 5000}, 0.0)
        (line,) = said(caplog)
        assert line.isprintable()
        assert line.isascii()
        assert len(line) < 800
