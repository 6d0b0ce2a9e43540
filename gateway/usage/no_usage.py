"""No counters at all: what several workers have that share no store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from gateway.limits.no_buckets import no_store
from gateway.usage.counters import Batch, Period, Row


class NoUsage:
    """A UsageStore that forgets what it is told, and says so to who asks: no worker knows what all have counted."""

    counts_since: float | None = None

    async def add(self, batch: Batch) -> None:
        """Forget it."""

    async def read(
        self,
        tenant: str,  # noqa: ARG002 (whoever asks for whatever is told the same)
        periods: Sequence[Period],  # noqa: ARG002
        *,
        subject: str | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[Sequence[Row], None]:
        raise no_store("usage")
        yield ()  # which makes it a generator

    async def close(self) -> None:
        """Nothing: it holds nothing."""
