"""How the usage of one answer is known: read as it goes by, asked for where it would not come, else estimated."""

from __future__ import annotations

from time import monotonic

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import READABLE, AnswerChange, EventFilter, StreamObserver, Watch
from gateway.middleware.costs import Costs
from gateway.operations.table import UsageReport
from gateway.usage.cost import Cost
from gateway.usage.inflating import READABLE_CODINGS
from gateway.usage.likeness import Takes
from gateway.usage.reader import UsageReader
from gateway.usage.reported import BYTES_PER_LLM_TOKEN, Known, Usage, divided, filled
from gateway.wire.answer_head import Head
from gateway.wire.headers import RequestHead


class AnswerReading(StreamObserver):
    """Reads the usage of one answer."""

    __slots__ = ("_costs", "_exchange", "_metered", "_reader", "_unseen_per_second")

    def __init__(self, exchange: Exchange, costs: Costs, *, metered: bool, unseen_per_second: float) -> None:
        """`unseen_per_second`: LLM tokens that are made unseen, where a client does not stay to see them."""
        self._exchange = exchange
        self._costs = costs
        self._metered = metered
        self._unseen_per_second = unseen_per_second
        self._reader: UsageReader | None = None
        if metered:
            exchange.choose(self._ask_for_usage() or (None if is_readable(exchange.head) else READABLE))

    def opened(self, head: Head) -> Watch | None:
        """The head says whether there is anything to read, and how."""
        if self._reader is not None or not 200 <= head.status < 300:
            return None  # what is taken out of the stream has been read
        shape = head.shape
        kind, coding = (
            (head.get(b"content-type"), head.get(b"content-encoding")) if shape is None else shape.coded
        )
        reader = self._reader = UsageReader(kind, coding, estimates=self._metered)
        return reader.watcher

    def usual(self) -> Takes | None:
        """Most events report nothing."""
        return None if self._reader is None else self._reader.usual()

    def _without_added(self) -> EventFilter:
        """Read a stream of events, and leave out of it what nobody asked for."""
        self._reader, leaving_out = UsageReader.without_added()
        return leaving_out

    @property
    def awaits_report(self) -> bool:
        """An answer whose generation is over is about to say what it used."""
        reader = self._reader
        return reader is not None and reader.is_over(self._answers) and not reader.has_report

    def result(self, *, left: bool) -> tuple[Usage | None, Known | None]:
        """What was used, by report or else by estimate where one is wanted, and how it is known.

        `left`: its client did not stay to the end.
        """
        exchange, reader = self._exchange, self._reader
        if not exchange.spent:
            return None, None
        usage = None if reader is None else reader.finish()
        if usage is None or left or not usage.input or not usage.output:
            usage = self._completed(usage, left=left)
        # The characters that are spoken, which only the request says.
        if "audio_characters" in exchange.operation.uses and exchange.facts.characters:
            usage = (usage or Usage())._replace(characters=exchange.facts.characters)
        if usage is None:
            # Who is never told what an operation used is not charged for it either: no report lacks anything.
            return None, None if exchange.operation.reports is UsageReport.NONE else Known.UNREPORTED
        exchange.usage = usage
        return usage, Known.ESTIMATED if usage.estimated else Known.REPORTED

    def _estimate(self, *, left: bool) -> Usage:
        """The prompt, and the larger of what went by and what must be taken to have been made unseen."""
        exchange, reader, cost = self._exchange, self._reader, self._cost
        reserved = 0 if cost is None else cost.output
        output = 0 if reader is None else reader.went_by()
        if reader is not None and not reader.readable:
            sent = exchange.bytes_out // BYTES_PER_LLM_TOKEN if exchange.operation.has_output else 0
            output = max(output, reserved, sent)
        elif self._goes_on(left=left):
            output = max(output, reserved)
        elif left and exchange.asked_at is not None:
            unseen = int((monotonic() - exchange.asked_at) * self._unseen_per_second)
            output = max(output, min(reserved, unseen))
        prompt = self._prompt
        return Usage(input=prompt, output=output, total=prompt + output, estimated=True)

    def _completed(self, reported: Usage | None, *, left: bool) -> Usage | None:
        """What was reported, and what else is known, or wanted as an estimate, where that does not say all."""
        exchange, reader = self._exchange, self._reader
        if reported is not None and not reported.input and not reported.output:
            reported = divided(reported, self._prompt if exchange.operation.has_output else None)
        if "tokens" in exchange.operation.uses and (self._metered or (reader is not None and reader.unread)):
            return self._filled(reported, left=left)
        if reported is not None or not self._metered:
            return reported
        cost = self._cost
        if cost is not None and cost.images:
            return Usage(images=cost.images, estimated=True)
        # Such as a transcript, of which nothing is known before.
        written = reader.went_by() if reader is not None and reader.streams else 0
        return Usage(output=written, total=written, estimated=True) if written else None

    def _filled(self, reported: Usage | None, *, left: bool) -> Usage:
        """What was reported; estimated as far as that says nothing, or may have been said of the beginning alone."""
        of_beginning = left and self._goes_on_being_said
        if reported is not None and not of_beginning:
            has_all = reported.input and (reported.output or not self._exchange.operation.has_output)
            if has_all or reported.audio_seconds:
                return reported
        estimate = self._estimate(left=left)
        if reported is None:
            return estimate
        if not reported.total and not estimate.output and not left:
            return reported  # nothing was used, and nothing went by
        return filled(reported, estimate, of_beginning=of_beginning)

    @property
    def _goes_on_being_said(self) -> bool:
        return self._reader is not None and not self._reader.is_over(self._answers)

    @property
    def _cost(self) -> Cost | None:
        """What the request says that it will use; None where nobody limits or meters that."""
        cost = self._exchange.cost
        return self._costs.of(self._exchange) if cost is None and self._metered else cost

    @property
    def _prompt(self) -> int:
        exchange, cost = self._exchange, self._cost
        if cost is not None and cost.input is not None:
            return cost.input
        return exchange.facts.prompt if self._metered else exchange.bytes_in // BYTES_PER_LLM_TOKEN

    def _goes_on(self, *, left: bool) -> bool:
        """Whether work goes on after its answer, or without one: its usage shows when it is asked for, if ever."""
        exchange, reader = self._exchange, self._reader
        streams_to_its_end = reader is not None and reader.streams and not left
        return exchange.facts.background or (exchange.operation.goes_on and not streams_to_its_end)

    @property
    def _answers(self) -> int:
        """How many were asked for."""
        facts = self._exchange.facts
        return facts.prompts * (1 if facts.fields is None else facts.fields.choices)

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
