"""Forwarding a WebSocket: an ordinary exchange until the handshake, then a session.

The upstream is connected before the client is accepted, so every refusal is still plain HTTP.
"""

from __future__ import annotations

import binascii
from base64 import b64decode

from gateway.errors import BadRequest, Ending, UpgradeRequired, UpstreamBroken, WebsocketUnsupported
from gateway.exchange.exchange import Exchange
from gateway.operations.table import OperationTable
from gateway.proxy.answer import Answer
from gateway.proxy.body_memory import BodyMemory
from gateway.proxy.call import Call, call_upstream
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.handler import Handler
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.reading import Reading
from gateway.proxy.relay import LENGTH, Relay
from gateway.proxy.request import Request
from gateway.proxy.session import Session
from gateway.proxy.upstream import Upstreams
from gateway.settings.edge import Edge
from gateway.wire.answer_head import Head
from gateway.wire.frame_format import accept_key
from gateway.wire.headers import SUBPROTOCOL_CREDENTIAL

_NOT_OFFERED = (SUBPROTOCOL_CREDENTIAL, b"openai-organization.", b"openai-project.")

# Extensions are negotiated per connection, and we relay frames: none is offered, none accepted.
# There is no body; a length, which could be nothing but 0, would say again that there is none.
_NOT_UPGRADED = frozenset(
    {
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"connection",
        b"content-length",
        b"upgrade",
    }
)

_HAVE_NONE = frozenset({200, 404, 405, 501})
"""What upstreams answer that have no such WebSocket: some leave the wish for one unheard."""


def forward_socket(
    upstreams: Upstreams,
    *,
    deadlines: DeadlineTable,
    edge: Edge,
    reading: Reading,
    memory: BodyMemory,
    most_seconds: float,
    relay: Relay,
    lifecycle: Lifecycle,
) -> Handler:
    """The handler for upgrade requests; a refusal by the upstream goes down by `relay`, as it came.

    `most_seconds`: how long a session may last.
    """

    async def handle(request: Request) -> Answer:
        exchange = request.exchange
        key = _checked_key(exchange, request)
        offered = _offered(exchange)
        call = await call_upstream(upstreams, deadlines, exchange)
        try:
            head = await _ask(call, offered)
            if head.status in _HAVE_NONE and (over_http := exchange.operation.over_http) is not None:
                instead = OperationTable.load().by_id(over_http)
                raise WebsocketUnsupported(
                    f"This upstream has no WebSocket here. Send the same by {instead.method} {instead.path}.",
                    detail=f"the upstream answered {head.status}",
                )
            if head.status != 101:
                answer = await relay.answer(request, call, head)
                call.reply.release()
                return answer
            _check_upgrade(head, key, offered)
            return await _converse(request, call, head)
        except BaseException as error:
            call.gave_up(error)
            call.reply.close()
            raise

    async def _ask(call: Call, offered: list[bytes]) -> Head:
        more = b"Sec-WebSocket-Protocol: %b\r\n" % b", ".join(offered) if offered else b""
        block = call.request_head(
            length=None, without=_NOT_UPGRADED, more=more + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        )
        return await call.ask(block)

    async def _converse(request: Request, call: Call, head: Head) -> Answer:
        exchange = call.exchange
        switched = Head(101, "Switching Protocols", head.fields)
        answer = relay.begin(request, call, switched, without=LENGTH)
        exchange.opened(switched)
        answer.flush_head()
        answer.finished = True
        session = Session(
            exchange,
            request.connection,
            call.reply,
            edge=edge,
            reading=reading,
            room=memory.room_for(exchange.caller.tenant.id),
            answers_room=memory.room_for(exchange.caller.tenant.id),
            most_seconds=most_seconds,
            hidden=call.to.secrets,
        )
        lifecycle.sessions[exchange.id] = session
        try:
            await session.run()
        finally:
            del lifecycle.sessions[exchange.id]
            session.stop()
            call.ended()
            call.reply.close()
        if exchange.ending is Ending.UPSTREAM_LOST:
            call.to.counts.cut()
        return answer

    return handle


def _checked_key(exchange: Exchange, request: Request) -> str:
    """The client's handshake key. Raises BadRequest or UpgradeRequired (RFC 6455, section 4.2.1)."""
    fields = exchange.head.fields
    versions = [value for name, value in fields if name.lower() == b"sec-websocket-version"]
    if versions != [b"13"]:
        raise UpgradeRequired("Only version 13 of the WebSocket protocol is spoken here.")
    keys = [value for name, value in fields if name.lower() == b"sec-websocket-key"]
    connection = b",".join(value for name, value in fields if name.lower() == b"connection").lower()
    valid = exchange.method == "GET" and not request.http10 and len(keys) == 1
    if valid and b"upgrade" in (part.strip() for part in connection.split(b",")):
        try:
            if len(b64decode(keys[0], validate=True)) == 16:
                return keys[0].decode("ascii")
        except (binascii.Error, ValueError):
            pass
    raise BadRequest("This is not a WebSocket handshake as RFC 6455 has it.", code="bad_handshake")


def _offered(exchange: Exchange) -> list[bytes]:
    """The subprotocols that the client offers, without those that stand for headers which do not go up."""
    return [name for name in exchange.head.subprotocols if not name.startswith(_NOT_OFFERED)]


def _check_upgrade(head: Head, key: str, offered: list[bytes]) -> None:
    """Raise UpstreamBroken unless the upstream accepted exactly what it was offered."""
    chosen = head.get(b"sec-websocket-protocol")
    names = [name.lower() for name, _ in head.fields]
    if (
        names.count(b"sec-websocket-accept") != 1
        or names.count(b"sec-websocket-protocol") > 1
        or (head.get(b"upgrade") or b"").lower() != b"websocket"
        or (head.get(b"sec-websocket-accept") or b"").decode("latin-1") != accept_key(key)
        or head.get(b"sec-websocket-extensions")
        or (chosen is not None and chosen not in offered)
    ):
        raise UpstreamBroken("The upstream's WebSocket handshake is not valid.")
