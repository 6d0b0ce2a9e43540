"""What compose starts has no password that everybody knows, is bounded, and keeps what must be kept."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings.settings import Settings
from gateway.settings.sources import load
from tests.kit.redis import RedisServer

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EVERY = pytest.mark.parametrize("service", SERVICES)


def made(folder: Path) -> str:
    """Run what makes the secrets, with a folder in the place of its volumes; the password."""
    script = SERVICES["secrets"]["command"][0].replace("$$", "$").replace("/run/secrets", str(folder))
    # Only root can give files away, and who is to have them is known in the image alone.
    script = re.sub(r"^chown (\w+) (\S+)$", r"echo \1 \2", script, flags=re.MULTILINE)
    for readers in ("redis", "gateway"):
        (folder / readers).mkdir(exist_ok=True)
    done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
    assert done.stdout in ("", "redis redis/redis.conf\n10001 gateway/redis_url\n")
    return (folder / "redis" / "redis.conf").read_text().split()[1]


def options(command: list[str]) -> dict[str, str]:
    """What redis-server is told."""
    return dict(zip(command[2::2], command[3::2], strict=True))


@EVERY
def test_a_service_is_bounded_and_may_do_and_write_little(service: str) -> None:
    told = SERVICES[service]
    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told.get("cap_add", []) == (["CHOWN"] if service == "secrets" else [])
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert told["mem_limit"]
    assert told["pids_limit"]
    assert told["logging"]["options"].keys() >= {"max-size", "max-file"}
    for port in told.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@EVERY
def test_a_service_that_runs_on_tells_whether_it_is_well(service: str) -> None:
    told = SERVICES[service]
    if "build" in told:  # as the image says
        assert "HEALTHCHECK" in (DEPLOY.parent / "Dockerfile").read_text("utf-8")
    else:
        assert ("healthcheck" in told) == (told["restart"] != "no")


@EVERY
def test_an_image_is_of_one_version(service: str) -> None:
    image = SERVICES[service].get("image", "python:3.12")
    assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?(@sha256:[0-9a-f]{64})?$", image)


@EVERY
def test_what_is_mounted_is_a_folder_and_declared(service: str) -> None:
    for mount in SERVICES[service].get("volumes", ()):
        source, target, *mode = mount.split(":")
        if source.startswith("."):
            assert (DEPLOY / source).is_dir(), mount
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
        assert target.startswith("/")


def test_no_password_stands_anywhere_in_it() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    assert not re.search(r"(?i)password[\"']?\s*[:=]\s*[\"']?\w", text)
    assert not re.search(r"redis://[^$\s]*:[^$@\s]+@", text)
    environ = SERVICES["grafana"]["environment"]
    assert environ["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environ["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environ["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"


def test_every_first_start_makes_a_password_of_its_own_and_later_ones_keep_it(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    passwords = [made(first), made(second), made(first)]

    assert passwords[0] == passwords[2] != passwords[1]
    assert re.fullmatch(r"[0-9a-f]{64}", passwords[0])
    for file in (first / "redis" / "redis.conf", first / "gateway" / "redis_url"):
        assert file.stat().st_mode & 0o777 == 0o600


def test_redis_lets_in_the_gateway_and_nobody_else_and_is_healthy(tmp_path: Path) -> None:
    password = made(tmp_path)
    told = options(SERVICES["redis"]["command"])
    assert told == {"--appendonly": "yes", "--maxmemory": "256mb", "--maxmemory-policy": "noeviction"}
    configured = SERVICES["redis"]["command"][1].replace("/run/secrets", str(tmp_path))
    server = RedisServer(tmp_path / "data", config=Path(configured).read_text())
    environ = {"GATEWAY_REDIS_URL": SERVICES["gateway"]["environment"]["GATEWAY_REDIS_URL"]}
    environ["GATEWAY_REDIS_URL"] = environ["GATEWAY_REDIS_URL"].replace("/run/secrets", str(tmp_path))
    server.start()
    try:
        url = load(environ=environ).redis_url
        assert url is not None
        assert url.get_secret_value() == f"redis://:{password}@redis:6379/0"
        healthy = SERVICES["redis"]["healthcheck"]["test"][1].replace("$$", "$")
        healthy = healthy.replace("/run/secrets", str(tmp_path))
        healthy = healthy.replace("redis-cli", f"redis-cli -p {server.port}")
        assert subprocess.run(["sh", "-c", healthy], check=False).returncode == 0
        without = subprocess.run(
            ["redis-cli", "-p", str(server.port), "ping"], capture_output=True, check=False
        )
        assert b"NOAUTH" in without.stdout
    finally:
        server.stop()


def test_the_gateway_has_the_time_it_needs_to_stop() -> None:
    settings = Settings()
    [minutes] = re.findall(r"^(\d+)m$", SERVICES["gateway"]["stop_grace_period"])
    assert 60 * int(minutes) > settings.drain_notice_seconds + settings.drain_seconds + 10


def test_prometheus_reaches_the_gateway_and_alertmanager() -> None:
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    [scraped] = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    [alerted] = prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"]
    assert {scraped.split(":")[0], alerted.split(":")[0]} == {"gateway", "alertmanager"}
    port = alerted.split(":")[1]
    assert SERVICES["alertmanager"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_alertmanager_tells_nobody_until_it_is_told_whom() -> None:
    alertmanager = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text("utf-8"))
    receivers = {receiver["name"]: receiver for receiver in alertmanager["receivers"]}
    assert receivers[alertmanager["route"]["receiver"]].keys() == {"name"}
    assert "webhook_configs" in receivers["webhook"]
