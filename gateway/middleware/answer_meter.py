"""How the usage of one answer is known: read as it goes by, asked for where it would not come, else estimated."""

from __future__ import annotations

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import READABLE, AnswerChange, EventFilter, StreamObserver, Takes, Watch
from gateway.usage.inflating import READABLE_CODINGS
from gateway.usage.reader import UsageReader
from gateway.usage.reported import Known, Usage
from gateway.wire.answer_head import Head
from gateway.wire.headers import RequestHead


class AnswerReading(StreamObserver):
    """Reads the usage of one answer."""

    __slots__ = ("_exchange", "_metered", "_reader")

    def __init__(self, exchange: Exchange, *, metered: bool) -> None:
        self._exchange = exchange
        self._metered = metered
        self._reader: UsageReader | None = None
        if metered:
            exchange.choose(self._ask_for_usage() or (None if is_readable(exchange.head) else READABLE))

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

    def result(self) -> tuple[Usage | None, Known | None]:
        """What was used, by report or else by estimate where one is wanted, and how it is known."""
        exchange = self._exchange
        if not exchange.spent:
            return None, None
        usage = None if self._reader is None else self._reader.finish()
        if usage is None and self._metered and "tokens" in exchange.operation.uses:
            usage = self._estimate()
        # The characters that are spoken, which only the request says.
        if "audio_characters" in exchange.operation.uses and exchange.facts.characters:
            usage = (usage or Usage())._replace(characters=exchange.facts.characters)
        if usage is None:
            return None, Known.UNREPORTED
        return usage, Known.ESTIMATED if usage.estimated else Known.REPORTED

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


def is_readable(head: RequestHead) -> bool:
    """Whether every encoding in which the client takes the answer can be read."""
    for at in head.names.all_of(b"accept-encoding") if b"accept-encoding" in head.names.first else ():
        for coding in head.fields[at][1].split(b","):
            if coding.partition(b";")[0].strip().lower() not in READABLE_CODINGS:
                return False
    return True
