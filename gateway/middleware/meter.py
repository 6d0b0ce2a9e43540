"""What was used: reads usage from the answer as it goes by, asks for it where it would not come, counts it.

Who has no limit on usage is charged for what answers report, and no answer is changed. Where usage has to be
known (`Caller.metered`) streams of chat and completions are asked to report it (rewrite (a)), answers
come in an encoding that can be read, and what nobody reported is estimated. A session says what it used response
by response, and is counted and charged so.
"""

from __future__ import annotations

import asyncio

from gateway.errors import ClientLeft, UpstreamTimeout
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import READABLE, AnswerChange, EventFilter, StreamObserver, Takes, Watch
from gateway.limits.limiter import Limiter
from gateway.middleware.session_meter import SessionReading
from gateway.proxy.answer import Answer
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.request import Request
from gateway.usage.ledger import UsageLedger
from gateway.usage.reader import UsageReader
from gateway.usage.reported import Usage
from gateway.wire.answer_head import Head
from gateway.wire.headers import RequestHead

_READABLE_CODINGS = frozenset({b"", b"identity", b"gzip", b"x-gzip", b"deflate"})


def meter(*, ledger: UsageLedger, limiter: Limiter) -> Middleware:
    """Know what each exchange used by the time it ends, and count it once."""

    def around(handler: Handler) -> Handler:
        async def metered(request: Request) -> Answer:
            exchange = request.exchange
            if exchange.operation.is_own:
                return await handler(request)
            standing = exchange.standing
            assert standing is not None
            reading = None
            if exchange.is_socket:
                exchange.observers.append(SessionReading(exchange, ledger, limiter))
            elif exchange.operation.counts_usage:
                reading = _Reading(exchange, metered=standing.metered)
                exchange.observers.append(reading)
            abandoned = False
            try:
                return await handler(request)
            except (asyncio.CancelledError, ClientLeft, UpstreamTimeout):
                abandoned = True
                raise
            finally:
                exchange.spent = spent = _took_on(exchange, abandoned=abandoned)
                usage = None  # a session's has been counted as it went on
                if reading is not None:
                    exchange.usage = usage = reading.result()
                # A model that the upstream knows nothing of is whatever a client makes up.
                counted = standing.counted(exchange.model if spent else "")
                ledger.count(counted, usage, bytes_in=exchange.bytes_in, bytes_out=exchange.bytes_out)

        return metered

    return around


def _took_on(exchange: Exchange, *, abandoned: bool) -> bool:
    """Whether the upstream took the work on; one that had the request when its client left did, for all we know."""
    if exchange.head_at is None:
        return abandoned and exchange.bytes_in > 0
    status = exchange.status
    return status is not None and (200 <= status < 300 or status == 101)


class _Reading(StreamObserver):
    """Reads the usage of one answer."""

    __slots__ = ("_exchange", "_metered", "_reader")

    def __init__(self, exchange: Exchange, *, metered: bool) -> None:
        self._exchange = exchange
        self._metered = metered
        self._reader: UsageReader | None = None
        if metered:
            exchange.choose(self._ask_for_usage() or (None if _readable(exchange.head) else READABLE))

    def opened(self, head: Head) -> Watch | None:
        """The head says whether there is anything to read, and how."""
        if self._reader is not None or not 200 <= head.status < 300:
            return None  # what is taken out of the stream has been read
        reader = self._reader = UsageReader(
            head.get(b"content-type"), head.get(b"content-encoding"), estimates=self._metered
        )
        return reader.watcher

    def usual(self) -> Takes | None:
        """Most events report nothing."""
        return None if self._reader is None else self._reader.usual()

    def _without_added(self) -> EventFilter:
        """Read a stream of events, and leave out of it what nobody asked for."""
        self._reader, leaving_out = UsageReader.without_added()
        return leaving_out

    def result(self) -> Usage | None:
        """What was used, by report or else by estimate where one is wanted."""
        exchange = self._exchange
        if not exchange.spent:
            return None
        usage = None if self._reader is None else self._reader.finish()
        if usage is None and self._metered and "tokens" in exchange.operation.uses:
            usage = self._estimate()
        if "audio_characters" not in exchange.operation.uses:
            return usage
        # The characters that are spoken, which only the request says.
        characters = exchange.facts.characters
        return (usage or Usage())._replace(characters=characters) if characters else usage

    def _estimate(self) -> Usage:
        exchange, reader = self._exchange, self._reader
        cost = exchange.cost
        prompt = None if cost is None else cost.input
        if prompt is None:
            prompt = exchange.facts.prompt
        if reader is None:
            return Usage(input=prompt, total=prompt, estimated=True)
        estimate = reader.estimate(prompt)
        if cost is None or (reader.readable and not self._goes_on(reader)):
            return estimate
        # What cannot be read, or goes on where nobody looks, must not cost less than what can be seen.
        output = max(estimate.output, cost.output)
        return estimate._replace(output=output, total=prompt + output)

    def _goes_on(self, reader: UsageReader) -> bool:
        """Whether the answer came before the work was done: its usage shows when it is asked for, if ever."""
        exchange = self._exchange
        return exchange.facts.background or (exchange.operation.goes_on and not reader.streams)

    def _ask_for_usage(self) -> AnswerChange | None:
        """Rewrite (a)."""
        exchange = self._exchange
        asking = exchange.facts.asks_for_usage
        if asking is None or exchange.body is None:
            return None
        exchange.body = exchange.body.changed(asking)
        return AnswerChange(events=self._without_added)


def _readable(head: RequestHead) -> bool:
    """Whether every encoding in which the client takes the answer can be read."""
    for at in head.names.all_of(b"accept-encoding") if b"accept-encoding" in head.names.first else ():
        for coding in head.fields[at][1].split(b","):
            if coding.partition(b";")[0].strip().lower() not in _READABLE_CODINGS:
                return False
    return True
