"""The requests of one session of which each is a body as over HTTP: judged and admitted.

Each is judged as the operation's own bodies are, and takes from the limits what it would take over HTTP; one at a time
goes on in the slot that the session holds. What may not go up is answered by an `error` event in the API's shape, and
the session goes on.
"""

from __future__ import annotations

import orjson

from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import RequestGate, SessionVoice
from gateway.limits.charges import QuotaSet
from gateway.middleware.session_asked import Asked, SessionSlots, refused_event
from gateway.middleware.session_objects import SessionObjects
from gateway.middleware.session_permits import SessionPermits
from gateway.middleware.session_under_way import SessionUnderWay
from gateway.operations.table import Operation, OperationTable
from gateway.policy import requests as policy
from gateway.policy import socket_requests
from gateway.policy.coverage import check_image_tool_covered, check_model_covered
from gateway.policy.reading import Question
from gateway.usage.cost import cost_of
from gateway.usage.guesses import Guesses
from gateway.wire.body_facts import SocketRequest
from gateway.wire.request_body import RequestBody


class SessionRequests(RequestGate):
    """Judges and admits what the client of one session asks for."""

    def __init__(
        self,
        exchange: Exchange,
        permits: SessionPermits,
        operation: Operation,
        table: OperationTable,
        under_way: SessionUnderWay,
        *,
        guesses: Guesses,
        objects: SessionObjects,
    ) -> None:
        """`operation`: whose requests these are; `under_way` follows those that go up; `objects`: what is whose."""
        standing = exchange.standing
        assert standing is not None, "who calls is known"
        self._exchange = exchange
        self._operation = operation
        self._table = table
        question = policy.question_of(exchange.caller, operation)
        assert question is not None, "bodies of this operation name a model"
        self.question: Question = question
        self._slots = SessionSlots(standing, exchange.model)
        self._permits = permits
        self._under_way = under_way
        self._guesses = guesses
        self._objects = objects

    def begin(self, voice: SessionVoice) -> None:
        """The session is open."""
        self._permits.begin(voice)
        self._objects.begin()

    def end(self) -> None:
        """The session is no longer open."""
        self._under_way.end()

    async def admit(self, event: bytes, request: SocketRequest) -> bytes:
        """Judge a request, and reserve what it will use. Raises a GatewayError."""
        caller, operation, body = self._exchange.caller, self._operation, request.body
        goes_up, model = event, self._model_of(request)
        socket_requests.check_request(caller, operation, request, self._table, own=self._under_way.made)
        if socket_requests.names_model(request):
            default = policy.default_model(caller, operation) if model is None else None
            if default is not None and body.model_place is not None:
                place = body.model_place.filled(orjson.dumps(default))
                goes_up, model = b"".join(RequestBody((event,)).changed(place).pieces()), default
            policy.check_model_of_body(caller, operation, model)
        quotas = self._under_way.quotas_of(model)
        check_model_covered(caller, operation, model, quotas.dimensions, socket=False)
        if body.makes_images:
            check_image_tool_covered(caller, quotas.dimensions)
        if socket_requests.begins_response(request):
            asked = self._request(request, model, quotas)
            if request.kind != socket_requests.STEERS:  # it takes the place of the one that it steers
                self._slots.take(asked, self._under_way.requests())
            await self._objects.admit(request, asked)
        else:
            await self._objects.check(request)
            self._under_way.remarked(request)
        return goes_up

    def refusal(self, error: GatewayError, request: SocketRequest | None) -> bytes:
        """An `error` event; it is of the request's lane."""
        self._permits.told(error)
        return refused_event(error, None if request is None else request.lane)

    def _model_of(self, request: SocketRequest) -> str | None:
        fields = request.body.fields
        if fields is not None and fields.model is not None:
            return fields.model
        if socket_requests.names_model(request):
            return None
        made = self._under_way.continued(request)
        return None if made is None else made.model

    def _request(self, request: SocketRequest, model: str | None, quotas: QuotaSet) -> Asked:
        exchange, made = self._exchange, self._under_way.continued(request)
        cost = cost_of(
            self._operation,
            tenant=exchange.caller.tenant.id,
            model=model,
            facts=request.body,
            length_bytes=None,
            most_bytes=0,
            guesses=self._guesses,
        )
        if made is not None:
            cost = cost._replace(input=(cost.input or 0) + made.context)
        lane = request.lane
        if request.kind == socket_requests.STEERS and made is not None:
            lane, cost = made.lane, cost._replace(output=made.output, maximum=None)
        elif not request.generates:
            cost = cost._replace(output=0, maximum=None)
        continues = next((told for _, told in request.continues), None)
        return self._under_way.new(
            cost,
            quotas,
            model=model,
            lane=lane,
            continues=continues,
            is_sure=socket_requests.asks_surely(request),
            is_kept=request.body.store is not False,
        )
