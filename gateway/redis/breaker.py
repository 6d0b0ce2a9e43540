"""Stop asking a server that does not answer; find out with one call at a time when it does again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import StrEnum

from redis.exceptions import ResponseError

_log = logging.getLogger(__name__)

FIRST_HOLD_SECONDS = 0.05
LONGEST_HOLD_SECONDS = 0.5
STEADY_SECONDS = 5.0
"""A server that fails again sooner than this is still the same trouble: the hold goes on growing."""


class BreakerState(StrEnum):
    CLOSED = "closed"
    """Calls pass."""
    OPEN = "open"
    """No call passes; after a hold the server is asked for a sign of life."""
    HALF_OPEN = "half_open"
    """It gave one: the next call passes alone, as a trial (a full or demoted server answers, but refuses)."""
    TRIAL = "trial"
    """That call is on its way; no other passes."""


class Breaker:
    """The state of one server, from what happened to the calls that were let through.

    One line is logged when it stops answering, one for each kind of refusal that it answers meanwhile, and one when all
    is well again, however often that is tried.
    """

    def __init__(self, server: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = server
        self.state = BreakerState.CLOSED
        self.hold_seconds = FIRST_HOLD_SECONDS
        self._clock = clock
        self._changed_at = clock() - STEADY_SECONDS
        self._told: set[type[BaseException]] = set()
        """The kinds of failure that have been logged since it answered last."""

    def lets_through(self) -> bool:
        """Whether a call may be made now. Who makes it reports one of succeeded, failed, withdrawn."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.TRIAL
            return True
        return False

    def succeeded(self) -> None:
        if self.state not in (BreakerState.HALF_OPEN, BreakerState.TRIAL):
            return
        self.state = BreakerState.CLOSED
        now = self._clock()
        _log.warning("Redis %s answers again after %.1f s", self.server, now - self._changed_at)
        self._changed_at = now

    def failed(self, reason: BaseException) -> None:
        if self.state is BreakerState.OPEN:
            return  # one of many calls that fared alike
        if self.state is BreakerState.CLOSED:
            now = self._clock()
            if now - self._changed_at >= STEADY_SECONDS:
                self.hold_seconds = FIRST_HOLD_SECONDS
            self._changed_at = now
            self._told = {type(reason)}
            self._log_failure(reason)
        else:
            self._hold_longer()
            self._tell_refusal(reason)
        self.state = BreakerState.OPEN

    def withdrawn(self) -> None:
        """The call proved nothing either way, or was never sent."""
        if self.state is BreakerState.TRIAL:
            self.state = BreakerState.HALF_OPEN

    def probed(self, failure: BaseException | None) -> None:
        """The outcome of asking an open breaker's server for a sign of life; None: there was one."""
        if self.state is not BreakerState.OPEN:
            return
        if failure is None:
            self.state = BreakerState.HALF_OPEN
        else:
            self._tell_refusal(failure)
            self._hold_longer()

    def _tell_refusal(self, reason: BaseException) -> None:
        if isinstance(reason, ResponseError) and type(reason) not in self._told:
            self._told.add(type(reason))
            self._log_failure(reason)

    def _log_failure(self, reason: BaseException) -> None:
        _log.warning("Redis %s fails: %s: %s", self.server, type(reason).__name__, reason)

    def _hold_longer(self) -> None:
        self.hold_seconds = min(2 * self.hold_seconds, LONGEST_HOLD_SECONDS)
