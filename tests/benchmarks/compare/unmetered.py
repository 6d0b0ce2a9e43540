"""The gateway without metering: what is left of a request when nobody reads what it used, nor counts it.

    python -m tests.benchmarks.compare.unmetered serve --config FILE

No setting does that, since usage is always told in log and metrics; together with a configuration without limits this
says what limits and metering cost in all.
"""

from __future__ import annotations

from gateway import middleware
from gateway.cli import main
from gateway.proxy.answer import Answer
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.request import Request


def _nothing(**_: object) -> Middleware:
    """A link that does nothing, at the cost of a link."""

    async def passing(request: Request, handler: Handler) -> Answer:
        return await handler(request)

    return passing


if __name__ == "__main__":
    vars(middleware)["meter"] = _nothing
    raise SystemExit(main())
