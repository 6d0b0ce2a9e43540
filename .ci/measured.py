"""A pytest plugin: when all tests have passed, tell what the gateway costs by tests/benchmarks/stick.

    PYTHONPATH=.ci pytest -p measured

It stands above pytest's closing line, which stays the last one. It reports, and never fails the run: what costs more
may be worth it, and a machine that is shared measures badly.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_MOST_SECONDS = 240


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Print the report among pytest's own, once: the processes that share the tests out end before they could."""
    if exitstatus != pytest.ExitCode.OK or hasattr(terminalreporter.config, "workerinput"):
        return
    terminalreporter.section("what the gateway costs, by a bare relay")
    command = [sys.executable, "-m", "tests.benchmarks.stick"]
    try:
        done = subprocess.run(  # noqa: S603 (our own words)
            command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_MOST_SECONDS
        )
    except subprocess.TimeoutExpired:
        terminalreporter.line(f"not measured: not done after {_MOST_SECONDS} seconds")
        return
    for line in done.stdout.splitlines():
        terminalreporter.line(line)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        terminalreporter.line(f"not measured: {said[-1]}")
