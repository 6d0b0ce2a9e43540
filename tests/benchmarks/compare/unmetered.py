"""The gateway without metering: what is left of a request when nobody reads what it used, nor counts it.

    python -m tests.benchmarks.compare.unmetered serve --config FILE

No setting does that, since usage is always told in log and metrics; together with a configuration without limits this
says what limits and metering cost in all.
"""

from __future__ import annotations

from gateway import middleware
from gateway.cli import main
from gateway.proxy.handler import Middleware


def _nothing(**_: object) -> Middleware:
    """Nothing around the handler."""
    return lambda handler: handler


if __name__ == "__main__":
    vars(middleware)["meter"] = _nothing
    raise SystemExit(main())
