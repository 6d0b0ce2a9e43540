"""What was used: reads usage from the answer as it goes by, asks for it where it would not come, counts it.

Who has no limit on usage is charged for what answers report, and no answer is changed. Where usage has to be
known (`Caller.metered`) streams of chat and completions are asked to report it (rewrite (a)), answers
come in an encoding that can be read, and what nobody reported is estimated. A session says what it used response
by response, and is counted and charged so.
"""

from __future__ import annotations

import asyncio
from time import time

from gateway.errors import ClientLeft, UpstreamTimeout
from gateway.exchange.exchange import Exchange
from gateway.limits.limiter import Limiter
from gateway.middleware.admission import Decided
from gateway.middleware.answer_meter import AnswerReading
from gateway.middleware.costs import Costs
from gateway.middleware.late_watch import watch_late_work
from gateway.middleware.session_meter import SessionMeter
from gateway.objects.registry import Registry
from gateway.operations.table import OperationTable, Rewrite, UsageReport
from gateway.proxy.answer import Answer
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.model_lists import ModelLists
from gateway.proxy.request import Request
from gateway.usage.guesses import Guesses
from gateway.usage.late_register import LateRegister
from gateway.usage.ledger import UsageLedger
from gateway.usage.reported import Known


def meter(
    *,
    ledger: UsageLedger,
    limiter: Limiter,
    table: OperationTable,
    late: LateRegister | None,
    guesses: Guesses,
    costs: Costs,
    decided: Decided,
    lists: ModelLists,
    registry: Registry | None,
    unseen_tokens_per_second: float,
) -> Middleware:
    """Know what each exchange used by the time it ends, and count it once; `late` has what is said after that.

    `lists` learns which models there are from answers that list them; `registry` knows whose the objects are that the
    requests of sessions name.

    `unseen_tokens_per_second`: LLM tokens that an upstream may have made unseen, where a client has left it.
    """

    def around(handler: Handler) -> Handler:
        async def metered(request: Request) -> Answer:
            exchange = request.exchange
            operation = exchange.operation
            if operation.is_own:
                return await handler(request)
            standing = exchange.standing
            assert standing is not None
            reading: AnswerReading | SessionMeter | None = None
            models = None
            if exchange.is_socket:
                reading = SessionMeter(
                    exchange,
                    ledger=ledger,
                    limiter=limiter,
                    table=table,
                    guesses=guesses,
                    decided=decided,
                    registry=registry,
                    unseen_per_second=unseen_tokens_per_second,
                )
            elif operation.counts_usage:
                reading = AnswerReading(
                    exchange, costs, metered=standing.metered, unseen_per_second=unseen_tokens_per_second
                )
                exchange.observers.append(reading)
            elif operation.rewrite is Rewrite.MODEL_LIST:
                models = lists.watch(exchange)
            watch = None
            if operation.late_kind is not None and late is not None:
                watch = watch_late_work(exchange, late, time)
            abandoned = left = False
            try:
                return await handler(request)
            except (asyncio.CancelledError, ClientLeft):
                abandoned = left = True
                raise
            except UpstreamTimeout:
                abandoned = True
                left = request.connection.writing_paused  # no time was left it by a client that does not read
                raise
            finally:
                exchange.spent = spent = _took_on(exchange, abandoned=abandoned)
                usage = known = None
                if reading is not None:
                    usage, known = reading.result(left=left)
                elif watch is not None and (usage := watch.read()) is not None:
                    exchange.usage, known = usage, Known.ESTIMATED
                elif spent and operation.reports is UsageReport.LATER and not operation.is_free:
                    known = Known.UNREPORTED  # until what it made is asked for
                exchange.known = known
                # A model that the upstream knows nothing of is whatever a client makes up.
                model, tier = exchange.model if spent else "", "" if usage is None else usage.tier
                counted = standing.counted(model, tier)
                ledger.count(counted, usage, known, bytes_in=exchange.bytes_in, bytes_out=exchange.bytes_out)
                if watch is not None:
                    watch.ended()
                if models is not None:
                    models.ended()

        return metered

    return around


def _took_on(exchange: Exchange, *, abandoned: bool) -> bool:
    """Whether the upstream took the work on; one that had the request when its client left did, for all we know."""
    if exchange.head_at is None:
        return abandoned and exchange.asked_at is not None
    status = exchange.status
    return status is not None and (200 <= status < 300 or status == 101)
