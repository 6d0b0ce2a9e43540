"""How much: takes permits before the upstream is asked, holds what must be held to the last byte, then settles.

Admission has two moments. At the door, with the head alone: what fails there costs the client no
byte of its body. With the body: everything is taken in one step, all or nothing. Only a form that
streams is admitted at the door, by its stated size; if it then names a model that has limits of its
own, those are a second step, and a form refused by it never reaches its end and costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

import orjson
from aiohttp import web

from gateway.errors import LimitExceeded, LimitsUnavailable, NeverFits
from gateway.exchange.exchange import Exchange
from gateway.limits.arithmetic import format_reset
from gateway.limits.limiter import Limiter
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import Charge, Decision, Dimension, Quota, binds
from gateway.middleware.services import Services
from gateway.operations.own import GROUP
from gateway.policy.requests import check_body
from gateway.proxy import body as intake
from gateway.proxy.request import EXCHANGE, Handler, Middleware
from gateway.usage.cost import Cost, Guesses, charges_for, cost_of, reports_usage, settlement
from gateway.usage.reported import BYTES_PER_LLM_TOKEN, Usage

_BY_REQUEST = frozenset(
    {Dimension.REQUESTS_PER_MINUTE, Dimension.REQUESTS_PER_DAY, Dimension.CONCURRENT_REQUESTS}
)
"""Limits for which it does not matter what is asked."""

_ON_USAGE = frozenset({Dimension.TOKENS_PER_MINUTE, Dimension.TOKENS_PER_DAY})
_NO_COST = Cost()
_JUDGED_AT_ONCE_BYTES = 256 * 1024


def limit(services: Services) -> Middleware:
    """Admit the exchange, or refuse it naming the limit; settle it when it has ended, however it ended."""
    limiter, edge, table = services.limiter, services.settings.edge, services.table
    guesses = Guesses(services.settings.expected_output)

    async def middleware(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        if exchange.operation.group == GROUP:
            return await handler(request)  # asking what is left takes nothing away
        head, policy, principal = exchange.head, exchange.tenant, exchange.principal
        assert head is not None
        assert policy is not None
        assert principal is not None
        whole = intake.must_be_read(head, exchange)
        intake.check_length(head, whole=whole, edge=edge)
        quotas = policy.limits.of_caller(principal)
        if whole:
            if head.expect_continue and quotas:
                # The client waits for our word: look before it sends what would be refused.
                await _look(exchange, quotas)
            intake.invite(request, head)
            started = monotonic()
            exchange.body = await intake.whole(request, edge)
            exchange.held_seconds = monotonic() - started
            if len(exchange.body) <= _JUDGED_AT_ONCE_BYTES:
                _judge(exchange)
            else:
                await asyncio.to_thread(_judge, exchange)  # the loop is everybody's
        else:
            intake.watch_form(exchange, head, limited=bool(policy.limits.models))
        quotas += policy.limits.of_model(exchange.model)
        form_may_cost_more = bool(policy.limits.models) and exchange.form_gate is not None
        if not quotas and not form_may_cost_more:
            if not whole:
                intake.invite(request, head)
            return await handler(request)
        admission = _Admission(exchange, limiter, quotas)
        exchange.cost = await _cost(exchange, quotas, form_may_cost_more=form_may_cost_more)
        try:
            if quotas:
                _heed(exchange, await _asked(exchange, admission.admit(hold=form_may_cost_more)))
                services.metrics.decided(policy.id, "granted")
            if form_may_cost_more:
                exchange.before_form_end = _second_step(admission)
            if not whole:
                intake.invite(request, head)
            return await handler(request)
        finally:
            admission.settle()

    def _judge(exchange: Exchange) -> None:
        """Read what policy must see in a body that was taken in, and decide about it."""
        intake.read_fields(exchange)
        check_body(exchange, table)

    async def _look(exchange: Exchange, quotas: Iterable[Quota]) -> None:
        """Refuse what could not be admitted even if it used nothing."""
        _heed(exchange, await _asked(exchange, limiter.look(charges_for(quotas, _NO_COST))))
        exchange.decision = None

    async def _cost(exchange: Exchange, quotas: Sequence[Quota], *, form_may_cost_more: bool) -> Cost:
        """What the request says that it will use; not looked for where no limit asks for it."""
        asked = {quota.dimension for quota in quotas} - _BY_REQUEST
        if not asked and not form_may_cost_more:
            return _NO_COST
        if exchange.operation.id == "createBatch":
            if Dimension.BATCH_INPUT_TOKENS_PER_DAY not in asked:
                return _NO_COST
            await _look(exchange, quotas)  # a request that is refused anyway asks the upstream nothing
            return await _batch_cost(exchange)
        assert exchange.head is not None
        return cost_of(
            exchange.operation,
            model=exchange.model,
            fields=exchange.fields,
            body=exchange.body,
            length_bytes=exchange.head.content_length,
            most_bytes=edge.max_body_bytes,
            guesses=guesses,
        )

    async def _batch_cost(exchange: Exchange) -> Cost:
        """A batch costs what its input file has, and the upstream knows how much that is."""
        file_id = orjson.loads(exchange.body or b"{}").get("input_file_id")
        size_bytes = await services.file_bytes(exchange, file_id) if isinstance(file_id, str) else None
        # Of a file that is not there the upstream will make no batch.
        return Cost(batch_input=-(-(size_bytes or 0) // BYTES_PER_LLM_TOKEN))

    def _second_step(admission: _Admission) -> Callable[[], Awaitable[None]]:
        async def admit_model() -> None:
            exchange = admission.exchange
            assert exchange.tenant is not None
            quotas = exchange.tenant.limits.of_model(exchange.model)
            if quotas:
                admission.refused = True
                _heed(exchange, await _asked(exchange, admission.admit_more(quotas)))
                admission.refused = False

        return admit_model

    async def _asked(exchange: Exchange, asking: Awaitable[Decision]) -> Decision:
        try:
            return await asking
        except StoreUnavailable as error:
            assert exchange.tenant is not None
            services.metrics.decided(exchange.tenant.id, "unavailable")
            raise LimitsUnavailable(
                "The limits cannot be checked at the moment. Try again shortly.", detail=str(error)
            ) from error

    def _heed(exchange: Exchange, decision: Decision) -> None:
        """Note the levels for the answer; raise what the decision says."""
        assert exchange.tenant is not None
        before = exchange.decision
        exchange.decision = (
            decision if before is None else replace(decision, levels=(*before.levels, *decision.levels))
        )
        if not decision.allowed:
            assert decision.refused_by is not None
            services.metrics.decided(exchange.tenant.id, "refused", decision.refused_by.dimension.value)
            _refuse(decision)

    return middleware


class _Admission:
    """What one exchange takes from its quotas, until it is settled."""

    def __init__(self, exchange: Exchange, limiter: Limiter, quotas: tuple[Quota, ...]) -> None:
        self.exchange = exchange
        self.refused = False
        """A later step was not granted: everything goes back."""

        self._limiter = limiter
        self._quotas = quotas

    def admit(self, *, hold: bool) -> Awaitable[Decision]:
        """Ask for everything that is known to be needed."""
        exchange, cost = self.exchange, self.exchange.cost or _NO_COST
        charges = charges_for(self._quotas, cost)
        on_usage = [charge.quota for charge in charges if charge.quota.dimension in _ON_USAGE]
        if on_usage and exchange.head_upgrades:
            # A session may last for hours: what it uses is charged response by response.
            exchange.usage_heard.append(partial(_charge, self._limiter, on_usage))
        elif on_usage and reports_usage(exchange.operation):
            hold = True  # even where nothing is reserved, something will be reported
        return self._limiter.admit(exchange.id, charges, hold=hold or None)

    def admit_more(self, quotas: tuple[Quota, ...]) -> Awaitable[Decision]:
        """Ask for what the same exchange needs of other accounts."""
        return self._limiter.admit(
            self.exchange.id, charges_for(quotas, self.exchange.cost or _NO_COST), hold=True
        )

    def settle(self) -> None:
        """Put what was used in place of what was taken. Never raises and never waits."""
        exchange = self.exchange
        if self.refused:
            self._limiter.cancel_soon(exchange.id)
            return
        usage = None if exchange.head_upgrades else exchange.usage
        used = settlement(
            exchange.cost or _NO_COST, usage=usage, spent=exchange.spent, sent_bytes=exchange.bytes_in
        )
        self._limiter.settle_soon(exchange.id, used)


def _charge(limiter: Limiter, quotas: Iterable[Quota], usage: Usage) -> None:
    limiter.charge_soon([Charge(quota, usage.total) for quota in quotas])


def _refuse(decision: Decision) -> None:
    quota = decision.refused_by
    assert quota is not None
    limit = f"{quota.dimension.value} = {quota.capacity}"
    whose = "".join(f" for {what} {name[:128]!r}" for what, name in binds(quota).items())
    if decision.never:
        raise NeverFits(
            f"This request alone costs more than the whole limit {limit}{whose}. "
            "Make it smaller; waiting cannot help.",
            detail=limit,
        )
    refusal = LimitExceeded(
        f"Rate limit reached: {limit}{whose}. Try again in {format_reset(decision.retry_after_seconds or 0)}.",
        type=quota.dimension.unit,
        retry_after_seconds=decision.retry_after_seconds,
    )
    refusal.detail = limit  # whose it is stays out of the log, which may be a minimal one
    raise refusal
