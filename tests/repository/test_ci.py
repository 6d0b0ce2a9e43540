"""What CI and pre-commit run is written once, and what CI says of vulnerabilities is what was found."""

from __future__ import annotations

import os
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


PASSING = "def test_it() -> None: pass\n"


def measured(tmp_path: Path, stick: str, test: str = PASSING, *options: str) -> list[str]:
    """What pytest prints with the plugin, in a tree whose stick is this script."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "measured.py").write_text((CI / "measured.py").read_text("utf-8"), "utf-8")
    benchmarks = tmp_path / "tests" / "benchmarks"
    benchmarks.mkdir(parents=True)
    for package in (benchmarks.parent, benchmarks):
        (package / "__init__.py").touch()
    (benchmarks / "stick.py").write_text(stick)
    (tmp_path / "test_it.py").write_text(test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "measured",
        "-p",
        "no:cacheprovider",
        "test_it.py",
        *options,
    ]
    environ = os.environ | {"PYTHONPATH": str(tmp_path / ".ci")}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == ("assert 0" in test)
    return done.stdout.splitlines()


def test_what_is_measured_stands_above_the_closing_line_of_the_tests(tmp_path: Path) -> None:
    *lines, closing = measured(tmp_path, "print('a small JSON request costs 9 %')")
    assert "a small JSON request costs 9 %" in lines
    assert re.fullmatch(r"=+ 1 passed in .*=+", closing)


def test_a_measurement_that_fails_does_not_fail_the_run(tmp_path: Path) -> None:
    *lines, closing = measured(tmp_path, "print('one line')\nraise OSError('no core')")
    at = lines.index("one line")
    assert lines[at + 1] == "not measured: OSError: no core"
    assert "1 passed" in closing


def test_nothing_is_measured_where_a_test_failed(tmp_path: Path) -> None:
    lines = measured(tmp_path, "print('one line')", test="def test_it() -> None:\n    assert 0\n")
    assert "one line" not in lines
    assert "1 failed" in lines[-1]


def test_it_is_measured_once_where_several_processes_test(tmp_path: Path) -> None:
    stick = f"open({str(tmp_path / 'runs')!r}, 'a').write('one\\n')\nprint('one line')"
    assert "one line" in measured(tmp_path, stick, PASSING, "-n", "2")
    assert (tmp_path / "runs").read_text() == "one\n"


def test_ci_measures_when_it_tests() -> None:
    assert re.search(r'"\$bin/pytest" .*-p measured', (CI / "run").read_text("utf-8"))
