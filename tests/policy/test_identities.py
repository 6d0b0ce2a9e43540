"""What an identity is granted goes nowhere but where it belongs: a configuration that says otherwise is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.operations.table import OperationTable
from gateway.policy.tenants import tenant_policies
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load

OTHERS = "https://auth.example.com/oauth/token"


def identity(**more: str) -> dict[str, str]:
    return {
        "token_file": "/var/run/secrets/provider/token",
        "identity_provider_id": "idp_1",
        "service_account_id": "svc_1",
        **more,
    }


def problems_of(flags: dict[str, Any], environ: dict[str, str] | None = None) -> dict[str, str]:
    try:
        settings = load(flags=flags, environ={"HOME": "/nowhere", **(environ or {})})
        tenant_policies(settings, OperationTable.load())
    except SettingsInvalid as invalid:
        return {problem.key: problem.message for problem in invalid.problems}
    return {}


def upstream(**more: Any) -> dict[str, Any]:
    return {"upstream": {"workload_identity": identity(), **more}}


def of_tenant(**more: Any) -> dict[str, Any]:
    return {"tenants": {"a": {"upstream": {"workload_identity": identity(), **more}}}}


@pytest.mark.parametrize(
    "flags",
    [
        upstream(),
        upstream(base_url="https://eu.api.openai.com/v1"),
        upstream(base_url="https://llm.example.com/v1", workload_identity=identity(token_endpoint=OTHERS)),
        upstream(
            base_url="http://127.0.0.1:1/v1",
            workload_identity=identity(token_endpoint="http://localhost:2/token"),
        ),
        of_tenant(),
        {**upstream(), "tenants": {"a": {"upstream": {"base_url": "https://eu.api.openai.com/v1"}}}},
        {**upstream(), "tenants": {"a": {"upstream": {"base_url": "http://own:1/v1", "api_key": "none"}}}},
    ],
)
def test_what_goes_together_is_taken(flags: dict[str, Any]) -> None:
    assert problems_of(flags) == {}


@pytest.mark.parametrize(
    ("flags", "key", "says"),
    [
        (upstream(api_key="sk-1"), "upstream.workload_identity", "stands beside an api_key"),
        (of_tenant(api_key="sk-1"), "tenants.a.upstream.workload_identity", "stands beside an api_key"),
        (
            upstream(base_url="https://llm.example.com/v1"),
            "upstream.workload_identity",
            "is sent to no other host",
        ),
        (
            upstream(base_url="https://api.openai.com.example.com/v1"),
            "upstream.workload_identity",
            "is sent to no other host",
        ),
        (upstream(base_url="http://api.openai.com/v1"), "upstream.base_url", "by https only"),
        (
            of_tenant(base_url="https://llm.example.com/v1"),
            "tenants.a.upstream.workload_identity",
            "is sent to no other host",
        ),
        (
            upstream(workload_identity=identity(token_endpoint=OTHERS)),
            "upstream.workload_identity",
            "take token_endpoint out",
        ),
        (
            upstream(base_url="http://llm.example.com/v1", workload_identity=identity(token_endpoint=OTHERS)),
            "upstream.base_url",
            "by https only",
        ),
        (
            {
                "upstream": {"base_url": "https://llm.example.com/v1"},
                **of_tenant(workload_identity=identity(token_endpoint=OTHERS)),
            },
            "tenants.a.upstream.workload_identity.token_endpoint",
            "write base_url into the same table",
        ),
        (
            {**upstream(), "tenants": {"a": {"upstream": {"base_url": "https://llm.example.com/v1"}}}},
            "tenants.a.upstream.base_url",
            "opens https://api.openai.com/v1 and nothing else",
        ),
        (
            upstream(workload_identity=identity(token_endpoint="http://auth.example.com/token")),
            "upstream.workload_identity.token_endpoint",
            "by https only",
        ),
        (
            upstream(workload_identity=identity(token_endpoint="https://me:pw@auth.example.com/token")),
            "upstream.workload_identity.token_endpoint",
            "no login",
        ),
        (
            upstream(workload_identity=identity(token_file="token")),
            "upstream.workload_identity.token_file",
            "an absolute path",
        ),
        (
            upstream(workload_identity=identity(service_account_id="a b")),
            "upstream.workload_identity.service_account_id",
            "match",
        ),
        (
            upstream(workload_identity=identity(subject_token_type="saml")),
            "upstream.workload_identity.subject_token_type",
            "'jwt' or 'id_token'",
        ),
    ],
)
def test_what_would_give_it_away_is_a_problem_that_says_what_to_do(
    flags: dict[str, Any], key: str, says: str
) -> None:
    assert says in problems_of(flags).get(key, "none")


def test_a_shell_that_talks_to_a_gateway_neither_opens_the_upstream_nor_has_anything_sent_elsewhere() -> None:
    shell = {"OPENAI_API_KEY": "sk-of-the-shell", "OPENAI_BASE_URL": "https://gateway.example.com/v1"}

    assert "OPENAI_BASE_URL" in problems_of(upstream(), shell)["upstream.workload_identity"]
    paired = upstream(workload_identity=identity(token_endpoint=OTHERS))
    assert "take token_endpoint out" in problems_of(paired, shell)["upstream.workload_identity"]
    assert problems_of(upstream(), {"OPENAI_API_KEY": "sk-of-the-shell"}) == {}


def test_the_account_is_the_identitys_whoever_shows_what_for_it() -> None:
    def key(**more: str) -> str:
        flags = upstream(workload_identity=identity(**more))
        settings = load(flags=flags, environ={"HOME": "/nowhere"})
        return tenant_policies(settings, OperationTable.load())["default"].account.key

    assert key() == key(token_file="/elsewhere/token")
    assert len({key(), key(service_account_id="svc_2"), key(identity_provider_id="idp_2")}) == 3


def test_two_tenants_with_one_identity_cannot_both_have_it_for_their_own() -> None:
    own = {"stored_objects": "own", "upstream": {"workload_identity": identity()}}

    problems = problems_of({"tenants": {"a": own, "b": own}})

    assert problems.keys() == {"tenants.a.stored_objects", "tenants.b.stored_objects"}


def test_a_file_below_the_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    settings = load(flags=upstream(workload_identity=identity(token_file="~/token")), environ={})

    assert settings.upstream.workload_identity is not None
    assert settings.upstream.workload_identity.token_file == tmp_path / "token"


@pytest.mark.parametrize("table", ["upstream", "tenant"])
@pytest.mark.parametrize(
    ("base_url", "endpoint"),
    [
        ("http://127.0.0.1:1/v1", "https://auth.example.com/oauth/token"),
        ("https://llm.example.com/v1", "http://127.0.0.1:2/token"),
    ],
)
def test_a_proxy_elsewhere_reads_nothing_of_what_is_sent_without_tls(
    table: str, base_url: str, endpoint: str
) -> None:
    own = {"base_url": base_url, "workload_identity": identity(token_endpoint=endpoint)}
    for proxy, is_problem in (
        ("http://proxy.example.com:3128", True),
        ("https://10.0.0.1:3128", True),
        ("http://127.0.0.1:3128", False),
    ):
        common = {"http_proxy": proxy} | (own if table == "upstream" else {"api_key": "sk-common-key"})
        tenants = {"a": {"upstream": own} if table == "tenant" else {}}
        problems = problems_of({"upstream": common, "tenants": tenants})
        assert list(problems) == ["upstream.http_proxy"] * is_problem
