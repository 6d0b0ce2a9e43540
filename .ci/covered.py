"""A pytest plugin: count the lines and branches of gateway/ that the tests take, and tell which they do not.

    PYTHONPATH=.ci pytest -p covered

slipcover puts a probe where a line or a branch begins and takes it out once it was hit. A tracer, which is what
coverage.py has on Python 3.11, is called for every line and doubles the time of the suite. Counted is what runs in
the tests' own processes: where there are several, each hands over what it counted. The report stands above pytest's
closing line, which stays the last one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import slipcover

_GATEWAY = str(Path(__file__).parent.parent / "gateway")

# Modules are counted when they are imported: pytest loads this before anything imports the gateway.
_counted = slipcover.Slipcover(branch=True, source=[_GATEWAY])
slipcover.ImportManager(_counted, slipcover.FileMatcher(sources=[_GATEWAY])).__enter__()

_handed_over: list[dict[str, Any]] = []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what this process counted, where it is one of several."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["covered"] = orjson.dumps(_counted.get_coverage())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Keep what one of several processes counted; one that was killed tells nothing."""
    covered = getattr(node, "workeroutput", {}).get("covered")
    if covered is not None:
        _handed_over.append(orjson.loads(covered))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the report among pytest's own."""
    coverage = _counted.get_coverage()
    for other in _handed_over:
        slipcover.merge_coverage(coverage, other)
    terminalreporter.section("lines and branches of gateway/ that were not taken")
    slipcover.print_coverage(coverage, outfile=sys.stdout, skip_covered=True)
