"""What clients ask for over a WebSocket whose events are requests, each judged and admitted before it goes up."""

from __future__ import annotations

import asyncio

from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import RequestGate
from gateway.policy.requests import bad_request
from gateway.policy.socket_requests import read_socket_request
from gateway.proxy.examiner import Instead, Judged, Told
from gateway.proxy.reading import Reading, is_read_at_once
from gateway.proxy.reading_process import Call
from gateway.wire.body_facts import SocketRequest
from gateway.wire.frame_format import FrameRefused, Later, Verdict
from gateway.wire.request_fields import BodyRefused


class RequestExaminer:
    """Has the gate of one session judge its client's events, binary ones too: an upstream may read JSON out of either.

    What is too large to be seen whole ends the session (1009): then clients ask over HTTP.
    """

    asks = True
    suspicious = None

    def __init__(self, exchange: Exchange, reading: Reading, gate: RequestGate) -> None:
        self._tenant = exchange.caller.tenant.id
        self._reading = reading
        self._gate = gate

    def plain(self, payload: bytes, mask: bytes) -> bool:  # noqa: ARG002 (each is a request)
        """Whether an event needs not be seen."""
        return False

    def examine(self, event: bytes) -> Verdict:  # noqa: ARG002 (each may have to wait for its permits)
        """Judge a whole event: later."""
        return Later.LATER

    async def verdict_on(self, event: bytes, *, whole: bool) -> Judged:
        """What becomes of an event: it is refused in words, or goes up, maybe changed. It is always `whole`."""
        assert whole, "nothing is searched as it passes"
        request: SocketRequest | None = None
        try:
            request = await self._read(event)
            goes_up = await self._gate.admit(event, request)
        except GatewayError as refusal:
            return Told(self._gate.refusal(refusal, request))
        except Exception as defect:  # noqa: BLE001 (whatever it is, the event does not pass, nor wait for ever)
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a request was not examined", "exception": defect}
            )
            return FrameRefused(1011, "a message could not be examined")
        return None if goes_up is event else Instead(goes_up)

    async def _read(self, event: bytes) -> SocketRequest:
        """Raises BadRequest, JsonTooComplex or Overloaded."""
        question = self._gate.question
        if is_read_at_once((event,)):
            try:
                return read_socket_request(event, question)
            except BodyRefused as refused:
                raise bad_request(refused.fault) from None
        read: SocketRequest = await self._reading.call(
            self._tenant, (event,), Call(read_socket_request, (question,))
        )
        return read
