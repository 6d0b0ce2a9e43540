"""The unit of deploy/ is one that systemd takes, gives the gateway what it needs, and little else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.settings.settings import Settings
from gateway.settings.sources import load

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "gateway.service"
MOST_EXPOSED = 15
"""Tenths, by `systemd-analyze security`: of 10.0, where nothing is closed, to 0.0."""


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with the command where it is on this machine."""
    installed = Path(sys.executable).parent / "gateway"
    file = tmp_path / "gateway.service"
    file.write_text(UNIT.read_text("utf-8").replace("/opt/gateway/bin/gateway", str(installed)))
    return file


def analyzed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def services() -> dict[str, list[str]]:
    """Each key of the unit with all its values."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", UNIT.read_text("utf-8"), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_systemd_takes_the_unit_without_a_word(unit: Path) -> None:
    verified = analyzed("verify", unit)

    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_the_service_is_exposed_to_little(unit: Path) -> None:
    judged = analyzed("security", "--offline=true", f"--threshold={MOST_EXPOSED}", unit)

    assert judged.returncode == 0, judged.stdout


def test_systemd_waits_longer_than_the_gateway_drains() -> None:
    settings = Settings()
    [minutes] = re.findall(r"^(\d+)min$", services()["TimeoutStopSec"][0])

    assert 60 * int(minutes) > settings.drain_notice_seconds + settings.drain_seconds + 10


def test_the_key_of_the_upstream_is_the_credential_that_systemd_reads(tmp_path: Path) -> None:
    [credential] = services()["LoadCredential"]
    name, _, _ = credential.partition(":")
    (tmp_path / name).write_text("sk-of-the-upstream\n")
    environ = dict(line.split("=", 1) for line in services()["Environment"])
    values = {
        key: value.replace("%d", str(tmp_path)).replace("%S", "/var/lib") for key, value in environ.items()
    }

    settings = load(UNIT.parents[2] / "config" / "gateway.toml", environ=values)

    assert settings.upstream.api_key is not None
    assert settings.upstream.api_key.get_secret_value() == "sk-of-the-upstream"
    assert settings.keys_dir == Path("/var/lib/gateway/keys")
