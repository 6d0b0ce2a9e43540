"""What the upstream of one session was asked, each a request as over HTTP: followed to its end, and settled.

An upstream answers what is asked in one lane in its order, so that its events say whose answer they are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic

from gateway.errors import Ending
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import StreamObserver
from gateway.limits.charges import QuotaSet
from gateway.middleware.session_asked import Asked, Made, let_rest, too_many
from gateway.middleware.session_permits import SessionPermits
from gateway.middleware.session_responses import ASKED_SECONDS, MOST_OPEN
from gateway.operations.table import Operation
from gateway.usage import response_events
from gateway.usage.cost import Cost
from gateway.usage.guesses import Guesses
from gateway.usage.reported import Usage
from gateway.usage.response_events import ENDS, Told
from gateway.wire.body_facts import SocketRequest

MOST_REMEMBERED = 1000
"""Responses of one session that it may continue; older ones are forgotten."""


class SessionUnderWay(StreamObserver):
    """Follows what the client of one session has asked for."""

    def __init__(
        self,
        exchange: Exchange,
        permits: SessionPermits,
        operation: Operation,
        *,
        guesses: Guesses,
        unseen_per_second: float,
        count: Callable[[Usage, str | None], None],
        named: Callable[[str], None],
    ) -> None:
        """`operation`: whose requests these are; `unseen_per_second`: LLM tokens that an upstream may make unseen.

        `count` is told what was used of which model, `named` which models have answered.
        """
        standing = exchange.standing
        assert standing is not None, "who calls is known"
        self._exchange = exchange
        self._standing = standing
        self._operation = operation
        self._permits = permits
        self._guesses = guesses
        self._unseen_per_second = unseen_per_second
        self._count = count
        self._named = named
        self._numbered = 0
        self._asked: list[Asked] = []
        """Those that the upstream was or will be asked, and that it has not begun to answer, in their order."""

        self._late: deque[Asked] = deque(maxlen=MOST_OPEN)
        """Those that have been given back, and may begin all the same."""

        self._open: dict[str, Asked] = {}
        """Those that it has, by the ids of the responses."""

        self._made: dict[str, Made] = {}
        """By the ids of the responses, those that began last behind."""

        self.nothing_made: Callable[[Asked], None] = _said_to_nobody
        """Is told what was asked for and came to nothing; set by whoever notes what is about to be made."""

        self._remarks = 0
        """What was said to none of those that run, and may yet be told an error about."""

    # What is asked

    @property
    def made(self) -> Mapping[str, Made]:
        """The responses of this session, by their ids."""
        return self._made

    def requests(self) -> Iterable[Asked]:
        """All that is under way."""
        return (*self._asked, *self._open.values())

    def continued(self, request: SocketRequest) -> Made | None:
        """The response of this session that a request is about."""
        return next((made for _, told in request.continues if (made := self._made.get(told))), None)

    def quotas_of(self, model: str | None) -> QuotaSet:
        """What a request is charged to whatever runs beside it: all but slots."""
        quotas = self._standing.quotas_of(model)
        return QuotaSet.of(quota for quota in quotas if quota.dimension.period_seconds)

    def new(
        self,
        cost: Cost,
        quotas: QuotaSet,
        *,
        model: str | None,
        lane: str | None,
        continues: str | None,
        is_sure: bool = True,
        is_kept: bool = True,
    ) -> Asked:
        """A request of this session, which nobody waits for yet."""
        self._numbered += 1
        key = f"{self._exchange.id}.{self._numbered}"
        return Asked(
            key,
            cost,
            quotas,
            model=model,
            lane=lane,
            continues=continues,
            is_sure=is_sure,
            is_kept=is_kept,
        )

    def answered(self, response_id: str, *, lane: str | None, continues: str | None) -> Asked | Made | None:
        """What is known of the request whose answer this is, or will be once the event that says so has passed."""
        return self._made.get(response_id) or self._found(lane, continues)

    def take_back(self, request: Asked) -> None:
        """A request that has been reserved does not go up after all."""
        if request in self._asked:
            let_rest(request)
            self._asked.remove(request)
            self._permits.give_back(request)
        self.nothing_made(request)

    async def reserve(self, request: Asked) -> None:
        """Have a request reserved, whose answer is waited for from now on. Raises a GatewayError."""
        if len(self._asked) + len(self._open) >= MOST_OPEN:
            raise too_many(MOST_OPEN)
        self._asked.append(request)
        refusal = await self._permits.refusal_of(request)
        if refusal is not None:
            self._asked.remove(request)
            raise refusal
        request.asked_at = monotonic()
        self._wait_for(request)

    def remarked(self, request: SocketRequest) -> None:
        """Something is said to a response that runs, which has to read it; an error about this ends no response."""
        running = next((one for _, told in request.continues if (one := self._open.get(told))), None)
        if running is None:
            self._remarks += 1
            return
        running.remarks += 1
        cost = running.cost
        running.cost = cost._replace(input=(cost.input or 0) + request.body.prompt)

    def _wait_for(self, request: Asked) -> None:
        request.expires = asyncio.get_running_loop().call_later(ASKED_SECONDS, self._not_begun, request)

    def _not_begun(self, request: Asked) -> None:
        """The upstream has not begun an answer for long: it may have to wait for another, else it never will."""
        if self._open:
            self._wait_for(request)
        else:
            self._came_to_nothing(request)
            self._late.append(request)

    def end(self) -> None:
        """The session is no longer open: nothing more begins."""
        self._permits.end()
        for request in self._asked:
            let_rest(request)

    def finish(self) -> None:
        """The session has ended: settle what is open by what went by, and by what may have been made unseen."""
        self.end()
        lanes = {request.lane for request in self._open.values()}
        for request in self._asked:
            if request.asked_at is None or request.lane in lanes:
                self._permits.settle(request, Usage())  # nobody has begun it
            else:
                lanes.add(request.lane)
                self._over(request, self._left(request))
        for request in self._open.values():
            self._over(request, self._left(request))
        self._asked.clear()
        self._late.clear()
        self._open.clear()
        self._made.clear()
        self.nothing_made = _said_to_nobody  # who is told knows this one

    # What the upstream says

    def answer_message(self, text: bytes) -> None:
        """Most events hold a piece of a response, and are only measured."""
        told = response_events.told(text)
        if told is None:
            if self._open and self._standing.metered and (kind := response_events.is_delta(text)) is not None:
                self._went_by(kind, text)
        elif told.kind == response_events.BEGINS:
            self._began(told)
        elif told.kind in ENDS:
            self._ended(told)
        elif told.kind == "error":
            self._refused(told)
        else:
            self._not_steered(told)

    def _went_by(self, kind: bytes, text: bytes) -> None:
        if len(self._open) == 1:
            [request] = self._open.values()
        else:
            lane = response_events.lane_of(text)
            found = next((one for one in self._open.values() if one.lane == lane), None)
            if found is None:
                return
            request = found
        request.went_by.add(kind, text)

    def _began(self, told: Told) -> None:
        """A response begins: the one that was asked for, or one that follows another by itself."""
        response_id = told.response
        if response_id is None or response_id in self._open:
            return
        request = self._awaited(told) or self._unasked(told)
        if len(self._open) >= 2 * MOST_OPEN:
            eldest = self._open.pop(next(iter(self._open)))
            self._over(eldest, self._left(eldest))
        if request.model is not None:
            self._named(request.model)
        self._open[response_id] = request
        self._made[response_id] = Made(request)
        if len(self._made) > MOST_REMEMBERED:
            del self._made[next(iter(self._made))]

    def _awaited(self, told: Told) -> Asked | None:
        """The request that this answers; it is waited for no more."""
        waiting = self._sure(told.lane)
        found = self._found(told.lane, told.continues)
        if found is None:
            return None
        self._asked.remove(found)
        let_rest(found)
        found.lane = told.lane
        # It may be any of them that the upstream has begun: who leaves before its end pays for the longest prompt.
        found.cost = found.cost._replace(input=max(one.cost.input or 0 for one in waiting))
        return found

    def _found(self, lane: str | None, continues: str | None) -> Asked | None:
        waiting = self._sure(lane)
        return next((one for one in waiting if one.continues == continues), waiting[0] if waiting else None)

    def _sure(self, lane: str | None) -> list[Asked]:
        """Of what waits, that of which a response is known to begin, if there is any."""
        waiting = self._waiting(lane)
        return [one for one in waiting if one.is_sure] or waiting

    def _waiting(self, lane: str | None) -> list[Asked]:
        """What has gone up in a lane and has no answer yet; an upstream that knows no lanes answers in none."""
        waiting = [one for one in self._asked if one.asked_at is not None]
        of_lane = [one for one in waiting if one.lane == lane]
        return waiting if lane is None and not of_lane else of_lane

    def _unasked(self, told: Told) -> Asked:
        """A response that nobody waits for here is charged when it has ended: it cannot be taken back."""
        before = self._made.get(told.continues or "")
        late = next((one for one in self._late if one.lane == told.lane), None)
        if late is not None:
            self._late.remove(late)
            cost, model = late.cost, late.model
        elif before is not None:
            cost, model = Cost(input=before.context, output=before.output), before.model
        else:
            cost, model = Cost(input=0), self._exchange.model
        request = self.new(cost, self.quotas_of(model), model=model, lane=told.lane, continues=told.continues)
        request.asked_at = monotonic()
        return request

    def _ended(self, told: Told) -> None:
        request = self._open.pop(told.response or "", None) or self._awaited(told)
        if request is None:
            if told.used is not None:
                self._count(told.used, self._exchange.model)
                self._permits.charge(told.used, self.quotas_of(self._exchange.model))
            return
        used, written = told.used, request.written
        if used is None or (not used.total and written):
            if not self._standing.metered or (ENDS[told.kind] == "failed" and not written):
                self._permits.settle(request, used or Usage())
                return
            used = request.estimate() if ENDS[told.kind] != "cancelled" else self._left(request)
        made = self._made.get(told.response or "")
        if made is not None:
            # One that only prepares others may report nothing of what it has taken in.
            made.context = (used.input or request.prompt) + used.output
        self._over(request, used)

    def _refused(self, told: Told) -> None:
        """The upstream does not do what it was asked, or no longer."""
        if not told.is_of_stream and self._is_of_remark(told.lane):
            return
        waiting = next(iter(self._waiting(told.lane)), None)
        running = next((key for key, one in self._open.items() if one.lane == told.lane), None)
        if running is not None and (told.is_of_stream or waiting is None):
            request = self._open.pop(running)
            if request.written:
                self._over(request, request.estimate())
            else:
                self._permits.settle(request, Usage())
        elif waiting is not None:
            self._came_to_nothing(waiting)
            self.nothing_made(waiting)

    def _is_of_remark(self, lane: str | None) -> bool:
        """Whether an error may be about something that was said to a response. Each explains one."""
        remarked = next((one for one in self._open.values() if one.remarks and one.lane == lane), None)
        if remarked is not None:
            remarked.remarks -= 1
        elif self._remarks:
            self._remarks -= 1
        else:
            return False
        return True

    def _not_steered(self, told: Told) -> None:
        for request in self._asked:
            if request.asked_at is not None and request.continues == told.continues:
                self._came_to_nothing(request)
                self.nothing_made(request)
                return

    def _came_to_nothing(self, request: Asked) -> None:
        let_rest(request)
        self._asked.remove(request)
        self._permits.settle(request, Usage())

    # What it cost

    def _left(self, request: Asked) -> Usage:
        """What a response is taken to have used whose end nobody waited for."""
        is_lost = self._exchange.ending is Ending.UPSTREAM_LOST
        return request.left(0.0 if is_lost else self._unseen_per_second)

    def _over(self, request: Asked, used: Usage) -> None:
        if used.estimated and not self._standing.metered:
            self._permits.settle(request, Usage())  # nobody wants to know
            return
        self._count(used, request.model)
        if request.cost.maximum is None and not used.estimated:
            tenant = self._exchange.caller.tenant.id
            self._guesses.had(self._operation, tenant, request.model, used.output)
        self._permits.settle(request, used)


def _said_to_nobody(request: Asked) -> None:
    """Nobody has noted that something was about to be made."""
