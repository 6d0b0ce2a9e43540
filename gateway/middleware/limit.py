"""How much: takes permits before the upstream is asked, holds what must be held to the last byte, then settles.

Admission has two moments. At the door, with the head alone: slot, request permit and room for the body are taken
before a byte of it is read, and what fails there costs the client none. With the body: what it will use is taken
under the same id, all or nothing; what is refused then gives everything back. A small body that comes with its head,
or closely behind, is taken in one step. What streams is admitted at the door, by its stated size; if a form then
names a model that has limits of its own, those are a second step, and a form refused by it never reaches its end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic

import orjson

from gateway.errors import Ending, GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.standing import Standing
from gateway.limits.charges import QuotaSet
from gateway.limits.limiter import Limiter
from gateway.limits.terms import Dimension
from gateway.middleware.admission import Admission, Decided
from gateway.middleware.batch_input import BatchInput
from gateway.middleware.costs import Costs
from gateway.middleware.ownership import Ownership, says_stored
from gateway.objects.registry import Registry
from gateway.operations.table import OperationTable
from gateway.policy import requests as policy
from gateway.policy.coverage import check_image_tool_covered, check_model_covered
from gateway.proxy import body
from gateway.proxy.answer import Answer
from gateway.proxy.body_memory import BodyMemory, BodyRoom
from gateway.proxy.form_gate import watch_form
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.reading import Reading, is_read_at_once
from gateway.proxy.request import Request
from gateway.settings.edge import Edge
from gateway.usage.cost import Cost
from gateway.usage.guesses import Guesses
from gateway.usage.reported import BYTES_PER_LLM_TOKEN
from gateway.wire.body_facts import NOTHING_NAMED
from gateway.wire.request_body import RequestBody

_NO_COST = Cost()


def limit(
    *,
    limiter: Limiter,
    table: OperationTable,
    edge: Edge,
    reading: Reading,
    guesses: Guesses,
    costs: Costs,
    file_bytes: Callable[[Exchange, str], Awaitable[int | None]],
    decided: Decided,
    memory: BodyMemory,
    registry: Registry | None,
    batch_input: BatchInput,
) -> Middleware:
    """Admit the exchange, or refuse it naming the limit; settle it when it has ended, however it ended.

    `registry` knows whose what is that it names, and is asked beside the limits; of a batch `batch_input` says what the
    lines of its input file name.

    `file_bytes` tells the size of a file that the upstream has stored, by its id; None when it does not say.
    """

    def around(handler: Handler) -> Handler:
        async def limited(request: Request) -> Answer:
            exchange, standing = request.exchange, request.exchange.standing
            if exchange.operation.is_own or standing is None:
                return await handler(request)  # asking what is left takes nothing away
            head, caller = exchange.head, standing.caller
            whole = body.must_be_read(head, exchange.operation, caller)
            body.check_length(exchange.stated_bytes, whole=whole, edge=edge)
            admission = Admission(exchange, limiter, decided, guesses)
            room = memory.room_for(caller.tenant.id)
            exchange.body_gone = room.release
            stored, owning = standing.stored, None
            if stored is not None and (
                not standing.stored_if_said or (head.has_body and not whole) or "?" in exchange.target
            ):  # what a form names is seen as it goes by, what a body does when it has been read
                owning = Ownership(registry, exchange, stored, batch_input)
            try:
                if not whole:
                    await _admit_by_head(request, exchange, admission, room, owning)
                else:
                    if body.is_there(request, edge, room):
                        taken: tuple[bytes, ...] = (request.body.read_nowait(),)
                        at_once = is_read_at_once(taken)
                        if not at_once and (standing.quotas.quotas or owning is not None):
                            await _enter(exchange, admission, owning)  # it may have to wait to be read
                    else:
                        taken = await _take_in(request, exchange, admission, room, owning)
                        at_once = is_read_at_once(taken)
                    # As RequestBody(taken), without its frame: every body that is read becomes one.
                    exchange.body = tuple.__new__(RequestBody, (taken, ()))
                    if standing.question is not None:
                        exchange.facts = (
                            reading.at_once(taken, standing.question)
                            if at_once
                            else await reading.body(caller.tenant.id, taken, standing.question)
                        )
                    _judge(exchange, standing, exchange.body)
                    if stored is not None and owning is None and says_stored(exchange):
                        owning = Ownership(registry, exchange, stored, batch_input)
                    quotas = standing.quotas_of(exchange.model)
                    if caller.tenant.refuses_unmetered:
                        _check_covered(exchange, quotas)
                        if exchange.facts.makes_images:
                            check_image_tool_covered(caller, quotas.dimensions)
                    if quotas.quotas:
                        if quotas.measured:
                            exchange.cost = (
                                await _batch_cost(exchange, admission, quotas, owning)
                                if exchange.operation.is_batch
                                else costs.of(exchange)
                            )
                        if owning is None:
                            await admission.admit(quotas, hold=False)
                    if owning is not None:
                        await owning.admit(admission, quotas, hold=False)
                return await handler(request)
            except GatewayError as refusal:
                if refusal.ending is Ending.REFUSED and exchange.head_at is None:
                    admission.give_back()  # what of its body went up reached no end there
                raise
            finally:
                admission.settle()
                if owning is not None:
                    owning.ended()
                if room.held_bytes:  # else it went with the body
                    room.release()

        return limited

    async def _admit_by_head(
        request: Request, exchange: Exchange, admission: Admission, room: BodyRoom, owning: Ownership | None
    ) -> None:
        """Admit what has no body, or one that streams: that by its stated size."""
        head, limits = exchange.head, exchange.caller.tenant.limits
        standing = _standing(exchange)
        counted = standing.counts_images
        admit = admission.admit_form if counted or limits.models else None
        exchange.form = watch_form(
            exchange, admit=admit, counted=counted, owned=None if owning is None else owning.of_form
        )
        quotas = standing.quotas_of(exchange.model)
        form_may_cost_more = exchange.form is not None and bool(limits.models)
        if (
            standing.caller.tenant.refuses_unmetered
            and not form_may_cost_more
            and exchange.operation.over_http is None
        ):  # else its model is still to come
            _check_covered(exchange, quotas)
        if quotas.measured or form_may_cost_more:
            exchange.cost = (
                await _batch_cost(exchange, admission, quotas, owning)
                if exchange.operation.is_batch
                else costs.of(exchange)
            )
        if owning is not None:
            await owning.admit(admission, quotas, hold=head.has_body)
        elif quotas:
            await admission.admit(quotas, hold=head.has_body)
        if head.has_body:
            await room.take_for_stream(exchange.stated_bytes)
            body.invite(request, head)

    async def _take_in(
        request: Request, exchange: Exchange, admission: Admission, room: BodyRoom, owning: Ownership | None
    ) -> tuple[bytes, ...]:
        """Read a body that policy must see, and that has not come yet; what is large or slow has to be let in first."""
        head = exchange.head
        began = monotonic()
        at_once = False
        try:
            at_once = await body.comes_at_once(request, head, room)
        finally:
            if not at_once:
                exchange.held_seconds += monotonic() - began
        if not at_once:
            await _enter(exchange, admission, owning)
            await room.take(max(exchange.stated_bytes or 0, request.body.come_bytes))
            body.invite(request, head)
            began = monotonic()
        try:
            taken = await body.whole(request, edge, room)
        finally:  # a client that stops, or leaves, has taken that time too
            exchange.held_seconds += monotonic() - began
        if at_once and not is_read_at_once(taken) and (owning is not None or _standing(exchange).quotas):
            await _enter(exchange, admission, owning)  # it may have to wait for its turn to be read
        return taken

    async def _enter(exchange: Exchange, admission: Admission, owning: Ownership | None) -> None:
        """Take what does not depend on the body."""
        quotas = _standing(exchange).quotas_of(exchange.model)
        await (admission.enter(quotas) if owning is None else owning.enter(admission, quotas))

    def _judge(exchange: Exchange, standing: Standing, taken: RequestBody) -> None:
        """Let policy decide about a body that it has read; what it names is noted even where it is refused."""
        facts = exchange.facts
        if facts.fields is not None:
            exchange.model = facts.fields.model
        if facts.named is NOTHING_NAMED and not standing.asks_body:
            return
        caller, operation = standing.caller, standing.operation
        policy.check_body(caller, operation, facts, table)
        default = policy.default_model(caller, operation) if exchange.model is None else None
        if default is not None and facts.model_place is not None:
            exchange.body = taken.changed(facts.model_place.filled(orjson.dumps(default)))
            exchange.model = default
        policy.check_model_of_body(caller, operation, exchange.model)

    async def _batch_cost(
        exchange: Exchange, admission: Admission, quotas: QuotaSet, owning: Ownership | None
    ) -> Cost:
        """A batch costs what its input file has, and the upstream knows how much that is; asked where a limit asks."""
        if all(quota.dimension is not Dimension.BATCH_INPUT_TOKENS_PER_DAY for quota in quotas):
            return _NO_COST
        # A request that is refused anyway asks the upstream nothing.
        await _enter(exchange, admission, owning)
        if owning is not None:
            await owning.check_body()
        file_id = exchange.facts.input_file
        size_bytes = None if file_id is None else await file_bytes(exchange, file_id)
        # Of a file that is not there the upstream will make no batch.
        return Cost(batch_input=-(-(size_bytes or 0) // BYTES_PER_LLM_TOKEN))

    return around


def _check_covered(exchange: Exchange, quotas: QuotaSet) -> None:
    """Refuse what these do not count, where the tenant may do nothing else."""
    check_model_covered(
        exchange.caller, exchange.operation, exchange.model, quotas.dimensions, socket=exchange.is_socket
    )


def _standing(exchange: Exchange) -> Standing:
    assert exchange.standing is not None, "who calls is known by now"
    return exchange.standing
