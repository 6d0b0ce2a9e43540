"""What takes a store some work to say: read in the background while somebody looks, and shown as it was last read."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from gateway.app.state import MOST_CREDENTIALS, Credential, Spend, Used
from gateway.credentials.revocations import RevocationsUnavailable
from gateway.credentials.trust import Trust
from gateway.limits.store import StoreUnavailable
from gateway.usage.counters import COUNTERS, DAY_SECONDS, HOUR_SECONDS, ROWS_AT_ONCE, Period
from gateway.usage.ledger import UsageLedger

_READ_SECONDS = 30.0

_FIRST_SECONDS = 0.3
"""For a first reading: then who looks is told what is known."""

_REST = 4
"""Times as long as reading one tenant has taken nothing is read, for the store is everybody's; but no longer than"""
_REST_SECONDS = 0.1

_BATCH_REST_SECONDS = 0.015
"""After so many rows of one tenant as a store hands out together: reading them takes some milliseconds' work here."""

_LARGEST = 2**53
"""LLM tokens that are told of: whoever draws the state holds no more exactly. Upstreams may report any, and often."""

_REQUESTS, _INPUT, _OUTPUT = map(COUNTERS.index, ("requests", "input", "output"))
_NOTHING: Used = {"today": None, "month": None, "read": None}

_log = logging.getLogger("gateway.state")


@dataclass(frozen=True, slots=True)
class _Read:
    """What a tenant has used."""

    hour: int
    """In which the days before today were read: what they used is told a little late."""

    before: Spend
    """This month, before today."""

    today: Spend
    read: float


class Seldom:
    """Reads usage and the register of credentials, at most twice a minute, as long as somebody asks."""

    def __init__(
        self,
        *,
        ledger: UsageLedger,
        trust: Trust,
        clock: Callable[[], float] = time.time,
        read_seconds: float = _READ_SECONDS,
    ) -> None:
        """`read_seconds`: between two readings."""
        self.credentials: list[Credential] | None = None
        """Those that expire next; None: there is no register, or it could not be read."""

        self.more_credentials = False
        """Whether there are others."""

        self._ledger = ledger
        self._trust = trust
        self._clock = clock
        self._read_seconds = read_seconds
        self._used: dict[str, _Read] = {}
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None

    async def look(self, tenants: Sequence[str]) -> None:
        """Somebody looks at these tenants: see to it that what is known is not old. Does not wait for that."""
        if self._reading is not None:
            if not self._reading.done():
                return
            self._reading = None
        if self._read_at is not None and monotonic() - self._read_at < self._read_seconds:
            return
        is_first = self._read_at is None
        self._read_at = monotonic()
        self._reading = asyncio.create_task(self._read(tuple(tenants)))
        if is_first:
            await asyncio.wait({self._reading}, timeout=_FIRST_SECONDS)

    def used(self, tenant: str) -> Used:
        """What this tenant has used, as it was last read."""
        known = self._used.get(tenant)
        if known is None:
            return _NOTHING
        return {"today": known.today, "month": _sum(known.before, known.today), "read": known.read}

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _read(self, tenants: Sequence[str]) -> None:
        try:
            await self._read_credentials()
            await self._read_usage(tenants)
        except Exception:  # noqa: BLE001 (nobody awaits it; what was known before is shown on)
            _log.exception("reading what the state shows of usage and credentials failed")

    async def _read_credentials(self) -> None:
        try:
            found = await self._trust.next_to_expire(MOST_CREDENTIALS)
        except RevocationsUnavailable:
            found = None
        if found is None:
            self.credentials, self.more_credentials = None, False
            return
        issued, self.more_credentials = found
        self.credentials = [
            {"tenant": one.tenant, "subject": one.subject, "id": one.id, "expires": one.expires_at}
            for one in issued
        ]

    async def _read_usage(self, tenants: Sequence[str]) -> None:
        self._used = {tenant: self._used[tenant] for tenant in tenants if tenant in self._used}
        for tenant in tenants:
            began = monotonic()
            try:
                self._used[tenant] = await self._read_tenant(tenant, self._clock())
            except StoreUnavailable:
                self._used.pop(tenant, None)
                return
            await asyncio.sleep(min(_REST_SECONDS, _REST * (monotonic() - began)))

    async def _read_tenant(self, tenant: str, now: float) -> _Read:
        today, hour = Period.around(now, DAY_SECONDS), int(now) // HOUR_SECONDS
        known = self._used.get(tenant)
        before = (
            known.before
            if known is not None and known.hour == hour
            else await self._spent(tenant, _days_before(today))
        )
        return _Read(hour, before, await self._spent(tenant, [today]), now)

    async def _spent(self, tenant: str, periods: Sequence[Period]) -> Spend:
        requests = read = written = 0
        async for rows in self._ledger.read(tenant, periods):
            for row in rows:
                counts = row.counts
                requests += counts[_REQUESTS]
                read += counts[_INPUT]
                written += counts[_OUTPUT]
            if len(rows) >= ROWS_AT_ONCE:
                await asyncio.sleep(_BATCH_REST_SECONDS)
        return _of(requests, read, written)


def _days_before(today: Period) -> list[Period]:
    """The days of its month before this one."""
    day = datetime.fromtimestamp(today.start, UTC).day
    return [Period(today.start - back * DAY_SECONDS, DAY_SECONDS) for back in range(day - 1, 0, -1)]


def _sum(one: Spend, other: Spend) -> Spend:
    return _of(
        one["requests"] + other["requests"], one["input"] + other["input"], one["output"] + other["output"]
    )


def _of(requests: int, read: int, written: int) -> Spend:
    return {"requests": requests, "input": min(read, _LARGEST), "output": min(written, _LARGEST)}
