"""One request of a session whose events are requests, and what is told in its place where it may not go up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import Any

import orjson

from gateway.errors import GatewayError, LimitExceeded
from gateway.exchange.standing import Standing
from gateway.limits.charges import QuotaSet
from gateway.limits.terms import Quota
from gateway.middleware.session_permits import Reservation
from gateway.usage.cost import Cost
from gateway.usage.realtime import WentBy, estimated
from gateway.usage.reported import Usage

_SPOKEN_BYTES_PER_SECOND = 48_000


class Asked(Reservation):
    """One request, and what of its answer went by."""

    __slots__ = (
        *(
            "asked_at",
            "continues",
            "expires",
            "in_own_slot",
            "is_kept",
            "is_sure",
            "lane",
            "model",
            "remarks",
        ),
        "went_by",
    )

    def __init__(
        self,
        key: str,
        cost: Cost,
        quotas: QuotaSet,
        *,
        model: str | None,
        lane: str | None,
        continues: str | None,
        is_sure: bool = True,
        is_kept: bool = True,
    ) -> None:
        super().__init__(key, cost, quotas)
        self.is_kept = is_kept
        """Whether the upstream keeps its response."""

        self.is_sure = is_sure
        """Whether a response is known to begin because of it."""

        self.in_own_slot = False
        """Whether it goes on in the slot that its session holds, and takes no other."""

        self.remarks = 0
        """What its client has said to it while it ran, and may yet be told an error about."""

        self.model = model
        self.lane = lane
        self.continues = continues
        self.asked_at: float | None = None
        """When it went up, or began by itself; None while it waits to be admitted."""

        self.expires: asyncio.TimerHandle | None = None
        self.went_by = WentBy()

    @property
    def prompt(self) -> int:
        """LLM tokens that it has to read."""
        return self.cost.input or 0

    @property
    def written(self) -> int:
        """LLM tokens of its answer that went by."""
        return self.went_by.output(_SPOKEN_BYTES_PER_SECOND)

    def estimate(self) -> Usage:
        """What it used, by what went by."""
        return estimated(self.prompt, self.written)

    def left(self, unseen_per_second: float) -> Usage:
        """What it is taken to have used whose end nobody waited for, of an upstream that may make so much unseen."""
        unseen = 0
        if self.asked_at is not None:
            unseen = min(self.cost.output, int((monotonic() - self.asked_at) * unseen_per_second))
        return estimated(self.prompt, max(self.written, unseen))


class SessionSlots:
    """The slots that a session holds from its beginning, in which one response at a time goes on."""

    def __init__(self, standing: Standing, model: str | None) -> None:
        """`model`: that of the session, if it names one."""
        self._standing = standing
        self._held = _slots(standing.quotas_of(model))

    def take(self, request: Asked, others: Iterable[Asked]) -> None:
        """Have a request take what it needs beside, while `others` are under way."""
        slots = _slots(self._standing.quotas_of(request.model))
        if not slots:
            return
        request.in_own_slot = not any(other.in_own_slot for other in others)
        if request.in_own_slot:
            slots = [slot for slot in slots if slot not in self._held]
        request.quotas = QuotaSet.of((*request.quotas, *slots))


def _slots(quotas: QuotaSet) -> list[Quota]:
    return [quota for quota in quotas if not quota.dimension.period_seconds]


class Made:
    """What is remembered of a response that this connection made."""

    __slots__ = ("context", "is_kept", "key", "lane", "model", "output")

    def __init__(self, request: Asked) -> None:
        self.key = request.key
        self.is_kept = request.is_kept
        self.context = 0
        """LLM tokens that whoever continues it has to read."""

        self.lane = request.lane
        self.model = request.model
        self.output = request.cost.output


def let_rest(request: Asked) -> None:
    """Wait no longer for its answer to begin."""
    if request.expires is not None:
        request.expires.cancel()
        request.expires = None


def too_many(most: int) -> LimitExceeded:
    """The error for one more request than may be under way."""
    return LimitExceeded(
        f"This connection has {most} responses under way, which is as many as there may be. "
        "Go on when one of them has ended.",
        type="requests",
        retry_after_seconds=None,
        detail=f"{most} responses under way in one session",
    )


def refused_event(error: GatewayError, lane: str | None) -> bytes:
    """An `error` event as the API sends it here: with the status and the header fields that HTTP would have."""
    headers = {name.lower(): value for name, value in error.headers()}
    told: dict[str, Any] = {
        "type": "error",
        "status": error.status,
        "error": {**error.document(), "headers": headers},
        "headers": headers,
    }
    return orjson.dumps(told if lane is None else told | {"stream_id": lane})
