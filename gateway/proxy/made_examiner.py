"""What an upstream says in a session that it has made: recorded before the client hears of it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import ObjectRecorder
from gateway.proxy.examiner import Judged
from gateway.proxy.reading import Reading
from gateway.usage.response_events import said_of_made, says_made
from gateway.wire.frame_format import Later, Verdict

_MOST_KNOWN = 256
"""Responses of which later events say nothing new but at their end."""


class MadeExaminer:
    """Holds the events of one session's upstream that say what it has made until that is recorded, where that matters.

    What is not recorded can be reached by nobody, so that whatever cannot be read passes.
    """

    def __init__(
        self, exchange: Exchange, reading: Reading, recorder: ObjectRecorder, *, holds: bool
    ) -> None:
        """`holds`: the client must not know of what is not recorded yet."""
        self._holds = holds
        self._tasks: set[asyncio.Task[object]] = set()
        self._tenant = exchange.caller.tenant.id
        self._reading = reading
        self._recorder = recorder
        self._known: OrderedDict[str, None] = OrderedDict()

    def examine(self, event: bytes) -> Verdict:
        """Whether an event says what nobody has recorded."""
        if not says_made(event, self._known):
            return None
        if self._holds:
            return Later.LATER
        self._spawn(self.verdict_on(event, whole=True))
        return None

    async def verdict_on(self, event: bytes, *, whole: bool) -> Judged:  # noqa: ARG002 (they pass in any case)
        """Have it recorded; the event passes as it came."""
        try:
            document = await self._reading.answer(self._tenant, event, said_of_made, ())
            if document is not None:
                self._know(document["response"]["id"])
                # What is being recorded does not end with the session.
                await asyncio.shield(self._spawn(self._recorder.event(document)))
        except GatewayError:
            return None  # it could not be read in time
        except Exception as defect:  # noqa: BLE001 (whatever it is, nobody can reach what was made)
            asyncio.get_running_loop().call_exception_handler(
                {"message": "what a session made was not recorded", "exception": defect}
            )
        return None

    def _spawn(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _know(self, response_id: str) -> None:
        self._known[response_id] = None
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
