"""What was used: reads usage from the answer as it goes by, asks for it where it would not come, counts it.

Who has no limit on usage is charged for what answers report, and no answer is changed. Where usage has to be
known (`TenantPolicy.meters`) streams of chat and completions are asked to report it (rewrite (a)), answers
come in an encoding that can be read, and what nobody reported is estimated.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from aiohttp import web

from gateway.errors import BadRequest, ClientLeft, ClientStalled, UpstreamTimeout
from gateway.exchange.exchange import Exchange
from gateway.middleware.services import Services
from gateway.operations.own import GROUP
from gateway.proxy.request import EXCHANGE, Handler, Middleware
from gateway.usage.cost import prompt_estimate, reports_usage
from gateway.usage.counters import Entry, named
from gateway.usage.included import AddedUsageFilter, with_included_usage
from gateway.usage.reader import UsageReader
from gateway.usage.reported import Usage
from gateway.wire.headers import Head, RequestHead, media_type
from gateway.wire.json_members import TooIntricate

_SILENT_STREAMS = frozenset({"createChatCompletion", "createCompletion"})
"""Operations whose streams report usage only when they are asked to."""

_RUNS = frozenset({"createRun", "createThreadAndRun", "submitToolOuputsToRun"})
_READABLE = frozenset({b"", b"identity", b"gzip", b"x-gzip", b"deflate"})


def meter(services: Services) -> Middleware:
    """Know what each exchange used by the time it ends, and count it once."""
    ledger = services.ledger

    async def middleware(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        operation, policy, principal = exchange.operation, exchange.tenant, exchange.principal
        if operation.group == GROUP:
            return await handler(request)
        assert policy is not None
        assert principal is not None
        reading = None
        if exchange.head_upgrades:
            exchange.usage_heard.append(lambda usage: _count(exchange, usage, requests=0))
        elif reports_usage(operation):
            reading = _Reading(exchange, metered=policy.meters(principal))
            exchange.observers.append(reading)
        abandoned = False
        try:
            return await handler(request)
        except (asyncio.CancelledError, ClientLeft, ClientStalled, UpstreamTimeout):
            abandoned = True
            raise
        finally:
            exchange.spent = _took_on(exchange, abandoned=abandoned)
            if reading is not None:
                exchange.usage = reading.result()
            _count(exchange, None if exchange.head_upgrades else exchange.usage, requests=1)

    def _count(exchange: Exchange, usage: Usage | None, *, requests: int) -> None:
        assert exchange.principal is not None
        # A model that the upstream knows nothing of is whatever a client makes up.
        model = named(exchange.model) if exchange.spent or not requests else ""
        ledger.count(
            exchange.principal.tenant,
            Entry(named(exchange.principal.subject), model, exchange.operation.id),
            usage,
            requests=requests,
            bytes_in=exchange.bytes_in if requests else 0,
            bytes_out=exchange.bytes_out if requests else 0,
        )

    return middleware


def _took_on(exchange: Exchange, *, abandoned: bool) -> bool:
    """Whether the upstream took the work on; one that had the request when its client left did, for all we know."""
    if exchange.head_at is None:
        return abandoned and exchange.bytes_in > 0
    return exchange.status is not None and (200 <= exchange.status < 300 or exchange.status == 101)


class _Reading:
    """Reads the usage of one answer: a StreamObserver, unless the answer is filtered on its way."""

    def __init__(self, exchange: Exchange, *, metered: bool) -> None:
        self._exchange = exchange
        self._metered = metered
        self._reader: UsageReader | None = None
        self._streams = False
        if metered:
            assert exchange.head is not None
            exchange.plain_answer = not _readable(exchange.head)
            self._ask_for_usage()

    def opened(self, head: Head) -> None:
        """The head says whether there is anything to read, and how."""
        if 200 <= head.status < 300:
            content_type = head.get(b"content-type")
            self._streams = media_type(content_type or b"") == b"text/event-stream"
            self._reader = UsageReader(content_type, head.get(b"content-encoding"), estimates=self._metered)

    def request_piece(self, piece: bytes) -> None:
        """Nothing: what was asked for is not what was used."""

    def answer_piece(self, piece: bytes) -> None:
        """Read on, unless the filter has seen it: it sees more than goes to the client."""
        if self._reader is not None and self._exchange.answer_filter is None:
            self._reader.feed(piece)

    def unfiltered(self, piece: bytes) -> None:
        """Read what comes before the filter."""
        if self._reader is not None:
            self._reader.feed(piece)

    def result(self) -> Usage | None:
        """What was used, by report or else by estimate where one is wanted."""
        if not self._exchange.spent:
            return None
        usage = None if self._reader is None else self._reader.finish()
        if usage is None and self._metered and "tokens" in self._exchange.operation.usage_dimensions:
            usage = self._estimate()
        characters = self._characters()
        return replace(usage or Usage(), characters=characters) if characters else usage

    def _estimate(self) -> Usage:
        exchange, reader = self._exchange, self._reader
        cost = exchange.cost
        prompt = None if cost is None else cost.input
        if prompt is None:
            prompt = 0 if exchange.fields is None else prompt_estimate(exchange.fields.document)
        if reader is None:
            return Usage(input=prompt, total=prompt, estimated=True)
        estimate = reader.estimate(prompt)
        if cost is None or (reader.readable and not self._goes_on()):
            return estimate
        # What cannot be read, or goes on where nobody looks, must not cost less than what can be seen.
        output = max(estimate.output, cost.output)
        return replace(estimate, output=output, total=prompt + output)

    def _goes_on(self) -> bool:
        """Whether the answer came before the work was done: its usage shows when it is asked for, if ever."""
        exchange = self._exchange
        in_background = exchange.fields is not None and exchange.fields.document.get("background") is True
        return in_background or (exchange.operation.id in _RUNS and not self._streams)

    def _characters(self) -> int:
        """The characters that are spoken, which only the request says."""
        exchange = self._exchange
        if exchange.operation.id != "createSpeech" or exchange.fields is None:
            return 0
        text = exchange.fields.document.get("input")
        return len(text) if isinstance(text, str) else 0

    def _ask_for_usage(self) -> None:
        """Rewrite (a), first half. Raises BadRequest for a body in which nobody finds a place for it."""
        exchange = self._exchange
        fields, body = exchange.fields, exchange.body
        if exchange.operation.id not in _SILENT_STREAMS or fields is None or not fields.stream or not body:
            return
        try:
            asking = with_included_usage(body)
        except TooIntricate:
            raise BadRequest(
                "The body is too intricate to be searched for stream_options.", code="invalid_json"
            ) from None
        if asking is not body:
            exchange.body = asking
            exchange.plain_answer = True
            exchange.answer_filter = _Filter(self)


class _Filter:
    """An AnswerFilter: rewrite (a), second half. What it takes out has been read."""

    def __init__(self, reading: _Reading) -> None:
        self._reading = reading
        self._added = AddedUsageFilter()

    def feed(self, piece: bytes) -> bytes:
        self._reading.unfiltered(piece)
        return self._added.feed(piece)

    def finish(self) -> bytes:
        return self._added.finish()


def _readable(head: RequestHead) -> bool:
    """Whether every encoding in which the client takes the answer can be read."""
    for name, value in head.fields:
        if name.lower() == b"accept-encoding":
            for coding in value.split(b","):
                if coding.partition(b";")[0].strip().lower() not in _READABLE:
                    return False
    return True
