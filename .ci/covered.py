"""A pytest plugin: count the lines and branches of gateway/ that the tests take, and tell which they do not.

    PYTHONPATH=.ci pytest -p covered

slipcover puts a probe where a line or a branch begins and takes it out once it was hit. A tracer, which is what
coverage.py has on Python 3.11, is called for every line and doubles the time of the suite. Counted is what runs in
the tests' own process. The report stands above pytest's closing line, which stays the last one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import slipcover

_GATEWAY = str(Path(__file__).parent.parent / "gateway")

# Modules are counted when they are imported: pytest loads this before anything imports the gateway.
_counted = slipcover.Slipcover(branch=True, source=[_GATEWAY])
slipcover.ImportManager(_counted, slipcover.FileMatcher(sources=[_GATEWAY])).__enter__()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the report among pytest's own."""
    terminalreporter.section("lines and branches of gateway/ that were not taken")
    slipcover.print_coverage(_counted.get_coverage(), outfile=sys.stdout, skip_covered=True)
