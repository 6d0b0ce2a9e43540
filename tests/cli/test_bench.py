"""`gateway bench` measures a configuration as it is, charges nobody, asks nobody and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.bench.processes import family
from gateway.cli import main
from gateway.cli.bench.configuration import chosen_tenant, described, document
from gateway.cli.bench.measured import AREAS
from gateway.cli.bench.report import show
from gateway.limits.terms import MOST_PERMITS
from gateway.operations.table import OperationTable
from gateway.policy.tenants import tenant_policies
from gateway.settings.limits import Limits
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from tests.kit.command import run_command
from tests.kit.redis import RedisServer
from tests.kit.tls import served_pair
from tests.kit.upstream import ScriptedUpstream

PACKAGE = Path(__file__).parents[2] / "gateway"
LIMITED = """
[tenants.acme]
metering = true
[tenants.acme.limits]
max_requests_per_1_minute = 3
max_tokens_per_1_minute = 100
max_concurrent_requests = 1
[tenants.acme.limits.models."gpt-4o*"]
max_requests_per_1_day = 1
"""


async def test_a_limited_tenant_is_measured_and_charged_nothing(
    tmp_path: Path, redis: RedisServer, upstream: ScriptedUpstream
) -> None:
    config = tmp_path / "gateway.toml"
    # It may touch no keys but its own.
    redis.command("ACL", "SETUSER", "bench", "on", ">pw", "~gateway:bench:*", "+@all")
    config.write_text(
        f'redis_url = "redis://bench:pw@127.0.0.1:{redis.port}/0"\nkeys_dir = "{tmp_path}/keys"\n'
        f'[upstream]\nbase_url = "{upstream.base_url}"\n{LIMITED}'
    )
    redis.command("SET", "gateway:{acme}", "somebody's")
    done = await run_command("bench", "--config", str(config), "--seconds", "5", "--json")
    assert (done.code, done.stderr) == (0, "")
    found = orjson.loads(done.stdout)
    assert (found["tenant"], found["problems"], found["tls"]) == ("acme", [], False)
    assert all(min(rounds) > 0 for rounds in found["cpu_us"].values())
    assert found["cpu_us"].keys() == {"request", "event", "answer_megabyte", "upload_megabyte"}
    assert found["memory_bytes"]["rest"] > 2**20
    assert sum(found["request_areas"][0].values()) == pytest.approx(1, abs=0.01)
    for name in ("event_delay_us", "first_event_us"):
        assert found[name]["direct"]["count"] > 0 < found[name]["gateway"]["count"]
    assert redis.command("KEYS", "*") == "*1\r\n$14\r\ngateway:{acme}\r\n"
    assert upstream.connections == 0
    assert not (tmp_path / "keys").exists()


async def test_a_tenant_that_may_little_is_measured_by_what_it_may(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[upstream]\napi_key = "env:KEY"\nmax_connections = 8\n'
        '[tenants.large]\n[tenants.small]\nscopes = ["chat.completions:write"]\nmodels = ["house-*"]\n'
    )
    config.chmod(0o600)
    done = await run_command(
        "bench", "--config", str(config), "--tenant", "small", "--seconds", "5", KEY="sk-never-used"
    )
    assert (done.code, done.stderr) == (0, "")
    assert "Tenant small: limits in memory: none; usage of streams read." in done.stdout
    assert "Upstream: embedded, with TLS." in done.stdout
    assert "an event, 4 streams" in done.stdout
    assert "large answer" not in done.stdout
    assert "Went wrong" not in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_interrupted_it_ends_all_that_it_started(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "bench"),
        stdout=PIPE,
        stderr=PIPE,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
    )
    started: set[int] = set()
    async with asyncio.timeout(30):
        while len(started) < 3:  # the upstream and two gateways
            started = set(family(process.pid)) - {process.pid}
            await asyncio.sleep(0.01)
    process.send_signal(number)
    _, said = await process.communicate()
    assert process.returncode == 130
    assert said == b"gateway: ended before it was measured\n"
    assert not any(Path(f"/proc/{child}").exists() for child in started)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tenant", "none"], "the configuration has no tenant 'none'; there are acme, off, reader"),
        (["--tenant", "off"], "tenants.off: is disabled; name another one with --tenant"),
        (["--tenant", "reader"], "tenants.reader.scopes: do not have chat.completions:write"),
        (["--config", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (["--set", "nothing=1"], "nothing: "),
        (["--set", "redis_url=redis://127.0.0.1:1/0"], "redis_url: Redis at 127.0.0.1:1 cannot be asked"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_the_reason(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(
        '[tenants.acme]\n[tenants.off]\nenabled = false\n[tenants.reader]\nscopes = ["models:read"]\n'
    )
    assert main(["bench", "--config", str(config), *arguments]) == 1
    assert f"gateway: {said}" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["4", "0", "-1", "nan", "inf", "1e9", "long"])
def test_a_time_that_is_none_is_wrong_usage(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["bench", f"--seconds={seconds}"])
    assert refused.value.code == 2
    assert "expected 5 to 3600 seconds" in capsys.readouterr().err


def configured(**flags: Any) -> Settings:
    return load(flags=flags, environ={})


def test_what_is_measured_is_the_configuration_with_limits_that_nobody_reaches(tmp_path: Path) -> None:
    jwks = tmp_path / "keys.json"
    jwks.write_text("{}")
    settings = configured(
        redis_url="redis://:secret@localhost/0",
        **served_pair(tmp_path),
        limits={"max_requests_per_1_day": 5, "subjects": {"*": {"max_requests_per_1_minute": 1}}},
        edge={"keepalive_seconds": 7.0},
        issuers={
            "idp": {
                "issuer": "https://idp",
                "audience": "x",
                "jwks_file": jwks,
                "tenant": "acme",
                "scopes": ["*"],
            }
        },
        upstream={"base_url": "https://api.example/v1", "api_key": "sk-real", "http_proxy": "http://proxy"},
        tenants={
            "acme": {
                "models": ["gpt-4o*"],
                "stored_objects": "own",
                "upstream": {"api_key": "sk-own", "project": "proj", "base_url": "https://own.example/v1"},
                "limits": {
                    "max_audio_megabytes_per_1_minute": 2,
                    "models": {"gpt-*": {"max_tokens_per_1_minute": 9}},
                },
            },
            "beta": {},
        },
    )
    plain = document(settings, "acme", base_url="http://127.0.0.1:9/v1", ca_file="", limited=True)
    assert b"sk-real" not in orjson.dumps(plain)
    assert b"sk-own" not in orjson.dumps(plain)
    assert b"example" not in orjson.dumps(plain)
    assert b"***" not in orjson.dumps(plain)
    read = Settings.model_validate(plain)
    assert read.tls_certificate is read.tls_key is None
    assert (read.edge.keepalive_seconds, read.issuers, list(read.tenants)) == (7.0, {}, ["acme"])
    assert read.redis_url is not None
    assert read.redis_url.get_secret_value() == "redis://:secret@localhost/0"
    tenant = read.tenants["acme"]
    assert (tenant.models, tenant.upstream.project) == (("gpt-4o*",), "proj")
    limits = read.limits_of(tenant)
    assert limits.max_requests_per_1_day == MOST_PERMITS
    assert limits.max_audio_megabytes_per_1_minute == MOST_PERMITS // 10**6
    assert limits.models["gpt-*"].max_tokens_per_1_minute == MOST_PERMITS
    assert limits.subjects["*"].max_requests_per_1_minute == MOST_PERMITS
    assert described(settings, "acme") == (
        "limits in Redis: max_requests_per_1_day, max_audio_megabytes_per_1_minute, models.max_tokens_per_1_minute, "
        "subjects.max_requests_per_1_minute; usage of streams read"
    )
    unlimited = Settings.model_validate(
        document(settings, "acme", base_url="http://127.0.0.1:9/v1", ca_file="", limited=False)
    )
    assert unlimited.limits_of(unlimited.tenants["acme"]) == Limits()


def test_no_identity_is_shown_to_anybody() -> None:
    identity = {"token_file": "/own/file", "identity_provider_id": "idp_1", "service_account_id": "svc_1"}
    settings = configured(
        upstream={"workload_identity": identity},
        tenants={"acme": {"upstream": {"workload_identity": identity}}},
    )
    plain = document(settings, "acme", base_url="http://127.0.0.1:9/v1", ca_file="", limited=True)
    read = Settings.model_validate(plain)
    assert read.upstream.workload_identity is read.tenants["acme"].upstream.workload_identity is None
    assert tenant_policies(read, OperationTable.load())["acme"].access.api_key == "sk-of-the-bench"


def test_every_setting_of_production_is_measured_as_it_is() -> None:
    settings = load(
        PACKAGE.parent / "config" / "production.toml",
        environ={"OPENAI_API_KEY": "sk-x", "REDIS_URL": "redis://localhost/0"},
    )
    tenant = chosen_tenant(settings, None)
    read = Settings.model_validate(
        document(settings, tenant, base_url="http://127.0.0.1:9/v1", ca_file="", limited=True)
    )
    assert (read.edge, read.credentials) == (settings.edge, settings.credentials)
    assert read.upstream.timeouts == settings.upstream.timeouts
    assert read.upstream.max_connections == settings.upstream.max_connections
    assert read.limits_of(read.tenants[tenant]).capacities().keys() == (
        settings.limits_of(settings.tenants[tenant]).capacities().keys()
    )


def test_every_area_of_the_code_is_there() -> None:
    for module in AREAS:
        path = PACKAGE.parent / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), module
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - {"simulator", "bench"}
    assert all(areas_of(room) for room in rooms)


def areas_of(room: str) -> str:
    return AREAS.get(f"gateway.{room}", AREAS["gateway"])


def spread(p50: float, p99: float) -> dict[str, float]:
    return {"p50": p50, "p99": p99}


FOUND: dict[str, Any] = {
    "tenant": "acme",
    "configuration": "limits in memory: none; usage of streams not read",
    "tls": False,
    "own_core": True,
    "extent": {"streams": 200, "silent": 500, "idle": 1000},
    "start_seconds": 0.514,
    "cpu_us": {"request": [100.0, 110.0, 90.0], "event": [20.0, 22.0]},
    "request_cpu_us_without_limits": [80.0, 81.0, 82.0],
    "latency_us": {
        "direct": {"per_second": 900, "latency": spread(100, 900), "late": spread(50, 100)},
        "gateway": {"per_second": 900, "latency": spread(350, 800), "late": spread(50, 100)},
    },
    "event_delay_us": {"direct": spread(40, 400), "gateway": spread(90, 900)},
    "first_event_us": {"direct": spread(50_100, 51_000), "gateway": spread(50_600, 53_000)},
    "slip_us": spread(10, 100),
    "memory_bytes": {"rest": 61_000_000, "silent_stream": 24_576, "idle_connection": 12_288},
    "request_areas": [
        {"limits": 0.2, "event loop": 0.8},
        {"limits": 0.3, "event loop": 0.7},
        {"event loop": 1.0},
    ],
    "problems": [],
}


def test_the_report_says_what_it_costs_what_it_adds_and_what_costs_what(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(FOUND)
    text = re.sub(" +", " ", capsys.readouterr().out)
    for line in (
        "a small JSON request, saturated 100 µs 90.0–110 10,000 requests/s",
        "an event of a stream 21.0 µs 20.0–22.0 47,619 events/s",
        "a small JSON request, at 900 a second 0.25 ms 0.00 ms 0.10 ms / 0.90 ms",
        "an event, 200 streams × 20 a second 0.05 ms 0.50 ms 0.04 ms / 0.40 ms",
        "Memory: 61 MB at rest, 24 KiB for a silent stream, 12 KiB for an idle connection (of 500 and 1,000).",
        "Start: 0.51 s.",
        "event loop 80% 70%–100% 80.0 µs",
        "limits 20% 0%–30% 20.0 µs",
        "Without limits a small JSON request costs 81.0 µs",
        "cost 20.0 µs (8.0–29.0).",
    ):
        assert line in text, text
    assert "Disturbed" not in text
    assert "one core only" not in text


def test_the_report_says_what_disturbed_it_and_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        FOUND | {"slip_us": spread(0, 30_000), "own_core": False, "problems": ["uploads: 1 × cut, of 2 sent"]}
    )
    text = capsys.readouterr().out
    assert "There is one core only" in text
    assert "Disturbed: this machine was late by up to 30.00 ms." in text
    assert "Went wrong: uploads: 1 × cut, of 2 sent" in text
