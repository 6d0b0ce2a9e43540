"""`gateway explain`: the chain of decisions, the deciding line marked, and the same verdict as the gateway itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.explain import explain
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.settings.sources import load
from tests.kit.asking import ask, credential_of, verdict
from tests.kit.client import HANDSHAKE
from tests.kit.command import run_command
from tests.kit.gateway import running_gateway
from tests.kit.jwks import LOGIN, THEIRS, running_jwks_server, their_credential
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream

CONFIG = """
[upstream]
base_url = "http://127.0.0.1:9/v1"
api_key = "sk-never-shown"
[tenants.acme]
name = "Acme Ltd."
scopes = ["*", "realtime:mint"]
models = ["good", "good-*"]
limits.max_requests_per_1_minute = 60
[tenants.free]
scopes = ["*"]
default_model = "house"
upstream = { api_key = "sk-own-never-shown", project = "proj_free" }
stored_objects = "own"
[tenants.narrow]
scopes = ["files:*"]
[tenants.asleep]
enabled = false
[tenants.measured]
unmetered = "refuse"
stored_objects = "own"
upstream = { api_key = "sk-measured-never-shown" }
limits.max_requests_per_1_minute = 60
limits.max_tokens_per_1_minute = 6000
[tenants.measured.limits.models."gpt-image*"]
max_images_per_1_minute = 5
"""
KNOWN = """
[tenants.known]
scopes = ["*"]
[tenants.known.upstream]
base_url = "https://api.openai.com/v1"
[tenants.known.upstream.workload_identity]
token_file = "/nowhere/token"
identity_provider_id = "idp_1"
service_account_id = "svc_known"
"""
CHAT = ("POST", "/v1/chat/completions")


@dataclass(frozen=True)
class Case:
    """One request, and the link of the chain that decides it with which code; no code: it passes."""

    method: str
    target: str
    link: str
    code: str | None
    tenant: str = "acme"
    scopes: tuple[str, ...] = ("*",)
    model: str | None = None


CASES = {
    "passes": Case(*CHAT, "upstream", None, model="good-mini"),
    "default model": Case(*CHAT, "upstream", None, tenant="free"),
    "unknown tenant": Case(*CHAT, "tenant", "unknown_tenant", tenant="stranger"),
    "disabled tenant": Case(*CHAT, "tenant", "tenant_disabled", tenant="asleep"),
    "ambiguous target": Case("GET", "/v1/models/../files", "operation", "ambiguous_target"),
    "not under v1": Case("GET", "/models", "operation", "not_found"),
    "method": Case("TRACE", "/v1/models", "operation", "method_not_allowed"),
    "unknown administration": Case("GET", "/v1/organization/anything", "operation", "operation_closed"),
    "administration": Case("GET", "/v1/organization/users", "scope", "operation_closed"),
    "measured": Case(*CHAT, "upstream", None, tenant="measured", model="any"),
    "unmetered": Case("POST", "/v1/videos", "unmetered", "unmetered_operation", tenant="measured", model="sora-2"),
    "unmetered model": Case(
        "POST", "/v1/images/generations", "limits", "unmetered_operation", tenant="measured", model="dall-e-3"
    ),
    "costs nothing": Case("GET", "/v1/files", "upstream", None, tenant="measured"),
    "uncontained": Case("POST", "/v1/realtime/calls", "scope", "operation_closed"),
    "credential's scope": Case(*CHAT, "scope", "missing_scope", scopes=("models:read",)),
    "tenant's scope": Case(*CHAT, "scope", "missing_scope", tenant="narrow"),
    "unlisted": Case("GET", "/v1/brand/new", "scope", "unknown_operation"),
    "model": Case(*CHAT, "model", "model_not_allowed", model="bad"),
    "no model": Case(*CHAT, "model", "model_not_allowed"),
    "model in the path": Case("GET", "/v1/models/bad", "model", "model_not_allowed"),
    "model in the query": Case("GET", "/v1/realtime?model=bad", "model", "model_not_allowed"),
    "two models in the query": Case("GET", "/v1/realtime?model=good&model=bad", "model", "duplicate_parameter"),
    "batch": Case("POST", "/v1/batches", "model", "model_not_allowed"),
    "shared upstream": Case("GET", "/v1/files", "objects", "shared_upstream"),
    "live call": Case("GET", "/v1/realtime?model=good&call_id=rtc_1", "scope", "operation_closed"),
    "own upstream": Case("GET", "/v1/files", "upstream", None, tenant="free"),
}  # fmt: skip
ORDER = [
    *(
        "credential",
        "tenant",
        "operation",
        "scope",
        "unmetered",
        "model",
        "limits",
        "usage",
        "objects",
        "upstream",
    )
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose keys lie beside it."""
    file = tmp_path / "gateway.toml"
    file.write_text(f'keys_dir = "{tmp_path / "keys"}"\n{CONFIG}')
    return file


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return ensure_ring(tmp_path / "keys")[0]


def credential_for(ring: KeyRing, case: Case) -> str:
    """A credential with the scopes of a case, patterns expanded as `gateway credential issue` would."""
    scopes = expand(case.scopes, OperationTable.load().scopes)
    return credential_of(ring, scopes, tenant=case.tenant, subject="alice")


@pytest.mark.parametrize("name", CASES)
def test_deciding_line_is_marked_and_is_the_last(
    config: Path,
    ring: KeyRing,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = CASES[name]
    monkeypatch.setenv("GATEWAY_CREDENTIAL", credential_for(ring, case))
    named = () if case.model is None else ("--model", case.model)

    code = main(["explain", case.method, case.target, *named, "--config", str(config)])

    *links, last = capsys.readouterr().out.splitlines()
    chain = [line.split()[1] for line in links]
    assert chain == ORDER[: ORDER.index(case.link) + 1]
    assert [line for line in links if "this decides" in line] == ([links[-1]] if case.code else [])
    assert all(line.startswith("✓") for line in links[:-1])
    if case.code is None:
        assert code == 0
        assert links[-1].startswith("✓")
        assert last.strip() == "the request would be forwarded"
    else:
        assert code == 1
        assert links[-1].startswith("✗")
        assert case.code in last
    assert "never-shown" not in "".join([*links, last])


@pytest.mark.parametrize(
    ("method", "target", "said"),
    [
        ("POST", "/v1/batches", "unreported, until"),
        ("GET", "/v1/batches/batch_1", "counted once, for who began that"),
        ("GET", "/v1/files", "none is counted"),
    ],
)
def test_what_is_known_of_work_that_reports_later_is_said(
    config: Path, ring: KeyRing, method: str, target: str, said: str
) -> None:
    steps = explain(
        load(config, environ={}),
        method,
        target,
        None,
        credential_for(ring, Case(method, target, "", None, "free")),
    )
    assert said in next(step.finding for step in steps if step.name == "usage")


@pytest.mark.parametrize(
    ("target", "tenant", "said"),
    [
        ("/v1/models", "acme", "shared: http://127.0.0.1:9/v1, with a key"),
        ("/v1/models", "free", "free: http://127.0.0.1:9/v1, with a key, project proj_free"),
        (
            "/v1/models",
            "known",
            "known: https://api.openai.com/v1, as svc_known by its workload identity",
        ),
        ("/v1/organization/projects", "acme", "administration: http://127.0.0.1:9/v1, with a key"),
    ],
)
def test_upstream_is_said_by_the_name_that_metrics_have_for_it(
    config: Path, ring: KeyRing, target: str, tenant: str, said: str
) -> None:
    text = config.read_text("utf-8").replace('"realtime:mint"', '"org.*"')
    common = '[upstream]\nname = "shared"\nadmin_api_key = "sk-admin"'
    config.write_text(text.replace("[upstream]", common) + KNOWN)
    scopes = ("*", "org.*") if tenant == "acme" else ("*",)
    credential = credential_for(ring, Case("GET", target, "", None, tenant, scopes))
    steps = explain(load(config, environ={}), "GET", target, None, credential)
    assert list(steps)[-1].finding == said


@pytest.mark.parametrize("kind", ["expired", "revoked", "other key", "garbage", "other audience"])
def test_credential_that_is_refused_decides(
    config: Path,
    ring: KeyRing,
    tmp_path: Path,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    codes = {"expired": "expired_api_key", "revoked": "revoked_api_key"}
    match kind:
        case "expired":
            before = time.time() - 1000
            text = credential_of(ring, tenant="acme", ttl_seconds=10, clock=lambda: before)
        case "other key":
            text = credential_of(KeyRing.ephemeral(), tenant="acme")
        case "garbage":
            text = "sk-not-a-credential"
        case "other audience":
            text = credential_of(ring, tenant="acme", audience="elsewhere")
        case _:
            text = credential_of(ring, tenant="acme")
            assert main(["credential", "revoke", "--tenant", "acme", "--config", str(config)]) == 0
    monkeypatch.setenv("GATEWAY_CREDENTIAL", text)
    capsys.readouterr()

    code = main(["explain", "GET", "/v1/models", "--config", str(config)])

    deciding, last = capsys.readouterr().out.splitlines()
    assert code == 1
    assert deciding.startswith("✗ credential")
    assert "this decides" in deciding
    assert codes.get(kind, "invalid_api_key") in last
    assert text not in deciding + last
    assert "request id explain" not in last, "no id that the log could have"


async def test_explanation_is_what_the_gateway_does(config: Path, ring: KeyRing) -> None:
    """Every case, once explained and once sent."""
    settings = load(config, environ={})
    explained, answered = {}, {}
    async with ScriptedUpstream() as upstream:
        sections = settings.model_dump(exclude_unset=True)
        tenants = sections["tenants"]
        tenants["free"]["upstream"] = {"api_key": "sk-own", "project": "proj_free"}
        async with running_gateway(
            ring=ring, upstream={"base_url": upstream.base_url, "api_key": "sk-common"}, tenants=tenants
        ) as gateway:
            for name, case in CASES.items():
                credential = credential_for(ring, case)
                steps = await asyncio.to_thread(
                    lambda case=case, credential=credential: list(  # type: ignore[misc]
                        explain(settings, case.method, case.target, case.model, credential)
                    )
                )
                refusal = steps[-1].refusal
                explained[name] = (None, None) if refusal is None else (refusal.status, refusal.code)
                socket = case.target.startswith("/v1/realtime?")
                body = (
                    None if case.method in ("GET", "TRACE") else {"model": case.model} if case.model else {}
                )
                answer = await ask(
                    gateway,
                    case.method,
                    case.target,
                    body,
                    credential=credential,
                    headers=HANDSHAKE if socket else None,
                )
                answered[name] = (None, None) if answer.status == 200 else verdict(answer)

    assert explained == answered
    assert {code for _, code in explained.values()} >= {case.code for case in CASES.values()}


def test_own_path_is_explained_as_open_to_every_tenant(
    config: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    credential = credential_of(ring, ["files:read"], tenant="acme")
    monkeypatch.setenv("GATEWAY_CREDENTIAL", credential)

    assert main(["explain", "GET", "/gateway/me", "--config", str(config)]) == 0
    assert "this decides" not in capsys.readouterr().out


@pytest.mark.parametrize("target", ["/gateway/livez", "/gateway/readyz?by=lb"])
def test_health_checks_are_answered_whoever_asks(
    target: str, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CREDENTIAL", "nonsense")

    assert main(["explain", "GET", target, "--config", str(config)]) == 0
    said = capsys.readouterr().out
    assert "a health check: anybody may ask" in said
    assert "answered by the gateway itself" in said


def test_limits_that_exist_are_named(
    config: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATEWAY_CREDENTIAL", credential_for(ring, CASES["passes"]))

    main(["explain", *CHAT, "--model", "good", "--config", str(config)])

    (line,) = [line for line in capsys.readouterr().out.splitlines() if " limits " in line]
    assert "max_requests_per_1_minute = 60" in line


def test_limits_of_a_credential_decide_where_no_worker_could_keep_them(
    config: Path, ring: KeyRing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = {"max_requests_per_1_minute": 5}
    monkeypatch.setenv(
        "GATEWAY_CREDENTIAL", credential_of(ring, ["models:read"], tenant="free", limits=limits)
    )
    unlimited = config.read_text().partition("[tenants.measured]")[0]
    config.write_text(unlimited.replace("limits.max_requests_per_1_minute = 60\n", ""))
    asked = ["explain", "GET", "/v1/models", "--config", str(config)]

    assert main(asked) == 0
    assert main([*asked, "--set", "workers=2"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "this decides" in line]
    assert " limits " in line
    assert "redis_url" in line


def test_limits_of_several_workers_are_said_to_be_of_all_together(
    config: Path,
    ring: KeyRing,
    redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("GATEWAY_CREDENTIAL", credential_for(ring, CASES["passes"]))
    config.write_text(f"redis_url = '{redis.url}'\n{config.read_text()}")

    main(["explain", *CHAT, "--model", "good", "--config", str(config), "--workers", "2"])

    (line,) = [line for line in capsys.readouterr().out.splitlines() if " limits " in line]
    assert "= 60, of 2 workers together" in line


async def test_credential_on_the_command_line_is_refused_and_file_and_input_are_read(
    config: Path, ring: KeyRing, tmp_path: Path
) -> None:
    credential = credential_for(ring, CASES["passes"])
    file = tmp_path / "credential.jwt"
    file.write_text(f"Bearer {credential}\n")
    asked = ("explain", *CHAT, "--model", "good", "--config", str(config))

    on_argv = await run_command(*asked, credential)
    from_file = await run_command(*asked, f"@{file}")
    from_variable = await run_command(*asked, GATEWAY_CREDENTIAL=credential)

    assert on_argv.code == 1
    assert "process list" in on_argv.stderr
    assert credential not in on_argv.stdout + on_argv.stderr
    for done in (from_file, from_variable):
        assert (done.code, done.stderr) == (0, "")
        assert "Acme Ltd." in done.stdout
        assert credential not in done.stdout


async def test_entry_of_subjects_that_decides_is_told_and_one_that_nearly_does(tmp_path: Path) -> None:
    async with running_jwks_server() as issuer:
        issuer.publish(THEIRS)
        file = tmp_path / "gateway.toml"
        file.write_text(
            CONFIG
            + f'[issuers.cluster]\nissuer = "{LOGIN}"\naudience = "gateway"\njwks_url = "{issuer.url}"\n'
            'scopes = ["inference"]\n'
            '[issuers.cluster.subjects."system:serviceaccount:search:*"]\n'
            'tenant = "acme"\nscopes = ["models:read"]\n'
            '[issuers.cluster.subjects."system:serviceaccount:search:admin"]\n'
            'tenant = "acme"\nscopes = ["inference"]\n'
        )

        async def told(verb: tuple[str, ...], subject: str) -> tuple[int, str]:
            told = await run_command(
                *verb,
                *("--config", str(file), "--keys-dir", str(tmp_path / "keys")),
                GATEWAY_CREDENTIAL=their_credential(subject=subject),
            )
            return told.code, told.stdout

        ensure_ring(tmp_path / "keys")
        where = "issuers.cluster.subjects"
        decides = f'{where}."system:serviceaccount:search:*" decides'
        near = (
            f"none of {where} matches system:serviceaccount:serch:indexer; "
            "\"system:serviceaccount:search:*\" comes closest, and differs from its 'search:' on"
        )
        for verb in (("explain", "GET", "/v1/models"), ("credential", "inspect")):
            code, said = await told(verb, "system:serviceaccount:search:indexer")
            assert (code, decides in flat(said)) == (0, True), said
            code, said = await told(verb, "system:serviceaccount:serch:indexer")
            assert (code, near in flat(said)) == (1, True), said
        code, said = await told(("explain", *CHAT), "system:serviceaccount:search:admin")
        assert 'subjects."system:serviceaccount:search:admin" decides' in flat(said)


def flat(said: str) -> str:
    """Words without the lines into which they were broken."""
    return " ".join(said.split())
