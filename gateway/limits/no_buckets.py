"""No store at all: what several workers have that share none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.limits.store import BucketStore, Census, Step, StoreUnavailable


class NoBuckets(BucketStore):
    """A BucketStore that keeps nothing, and says so of whatever is to be taken: whoever has a limit is refused.

    What each worker counted for itself would be granted as often as there are workers.
    """

    lease_seconds = 15.0

    def __init__(self, census: Census) -> None:
        self._census = census

    def put(self, step: Step) -> None:
        if step.permits:
            step.failed(no_store("limits"))
        else:
            step.done(True, ())

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        return list(leases)

    async def reset(self, keys: Iterable[str]) -> None:
        """Nothing: there are no buckets."""

    async def announce(self, worker: str) -> Census:  # noqa: ARG002 (nobody else can be told)
        return self._census

    def health(self) -> Mapping[str, bool]:
        return {}

    async def close(self) -> None:
        """Nothing: it holds nothing."""


def no_store(what: str) -> StoreUnavailable:
    """Why nobody can keep this, and what would help."""
    return StoreUnavailable(
        f"{what}: several workers count nothing together without redis_url", sent=False, for_good=True
    )
