"""Credentials that are still shown though they expire soon: their answers say so, and operators see it by tenant."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from gateway.exchange.instruments import Gauges

LOOKED_AT_SECONDS = 60.0
"""How often it is noted of one of them that it is shown, at most."""

SHOWN_SECONDS = 600.0
"""One that has not been shown for so long has been replaced, or is needed no more."""

_MOST = 64
"""Expiries of one tenant that are remembered; the soonest are."""


def notice_of(expires_at: float) -> str:
    """The line of an answer to a credential that expires at this moment, in unix seconds."""
    return f"x-gateway-credential-expires: {datetime.fromtimestamp(expires_at, UTC):%Y-%m-%dT%H:%M:%SZ}\r\n"


class ExpiringCredentials:
    """What has been shown of late and expires soon, on a gauge by tenant."""

    def __init__(self, gauge: Gauges, *, clock: Callable[[], float] = time.time) -> None:
        self._gauge = gauge
        self._clock = clock
        self._shown: dict[str, dict[float, float]] = {}

    def shown(self, tenant: str, expires_at: float) -> None:
        """Note that a credential of a known tenant is shown."""
        shown = self._shown.get(tenant)
        if shown is None:
            shown = self._shown[tenant] = {}
            self._gauge.watch(partial(self.soonest, tenant), tenant)
        shown[expires_at] = self._clock()
        if len(shown) > _MOST:
            del shown[max(shown)]

    def soonest(self, tenant: str) -> float:
        """In how many seconds the first of them expires; not a number: none has been shown of late."""
        now = self._clock()
        shown = self._shown[tenant] = {
            expires_at: at
            for expires_at, at in self._shown[tenant].copy().items()
            if expires_at > now and now - at < SHOWN_SECONDS
        }
        return min(shown, default=math.nan) - now
