"""What CI and pre-commit run is written once, and what CI says of vulnerabilities is what was found."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / ".ci"

Package = dict[str, object]


def steps() -> list[str]:
    return re.findall(r"^([a-z]+)\(\) \{", (CI / "checks").read_text("utf-8"), re.MULTILINE)


def test_pre_commit_runs_every_step_of_the_checks_and_fetches_nothing() -> None:
    configuration = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    assert re.findall(r"entry: bash \.ci/checks (\w+)", configuration) == steps()
    assert re.findall(r"repo: (\S+)", configuration) == ["local"]


def test_ci_runs_every_step_of_the_checks_or_the_whole_suite() -> None:
    run = (CI / "run").read_text("utf-8")
    named = re.findall(r"bash \.ci/checks (.+)$", run, re.MULTILINE)
    assert named == [" ".join(step for step in steps() if step != "repository")]
    assert re.search(r'"\$bin/pytest" (?!.*tests/)', run)


def audited(tmp_path: Path, *packages: Package) -> subprocess.CompletedProcess[str]:
    report = tmp_path / "report.json"
    report.write_bytes(orjson.dumps({"dependencies": packages, "fixes": []}))
    return subprocess.run(
        [sys.executable, CI / "audit.py", report], capture_output=True, text=True, check=False
    )


CLEAN: Package = {"name": "clean", "version": "1.0", "vulns": []}
UNKNOWN: Package = {"name": "unknown", "skip_reason": "Dependency not found"}
VULNERABLE: Package = {
    "name": "broken",
    "version": "1.0",
    "vulns": [{"id": "CVE-2026-0001", "fix_versions": ["1.1"], "aliases": [], "description": ""}],
}


def test_a_known_vulnerability_fails_the_audit(tmp_path: Path) -> None:
    audit = audited(tmp_path, CLEAN, VULNERABLE, UNKNOWN)
    assert audit.returncode == 1
    assert "VULNERABLE: broken 1.0: CVE-2026-0001, mended in 1.1" in audit.stdout


def test_an_audit_tells_packages_found_clean_from_those_never_asked_about(tmp_path: Path) -> None:
    audit = audited(tmp_path, CLEAN, UNKNOWN)
    assert audit.returncode == 0
    assert "does not know them: unknown\n1 packages audited, 0 known" in audit.stdout


@pytest.mark.parametrize("packages", [(UNKNOWN,), (UNKNOWN, UNKNOWN)])
def test_an_audit_that_could_ask_about_nothing_says_so(tmp_path: Path, packages: tuple[Package, ...]) -> None:
    audit = audited(tmp_path, *packages)
    assert audit.returncode == 0
    assert audit.stdout.startswith("NOT AUDITED")
    assert "0 known" not in audit.stdout


def test_an_audit_without_a_report_says_so() -> None:
    command = [sys.executable, str(CI / "audit.py"), str(ROOT / "none.json")]
    audit = subprocess.run(command, capture_output=True, text=True, check=True)
    assert audit.stdout.startswith("NOT AUDITED")
