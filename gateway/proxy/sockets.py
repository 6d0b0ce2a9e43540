"""Forwarding a WebSocket: an ordinary exchange until the handshake, then bytes both ways as they come.

The upstream is connected before the client is accepted, so every refusal is still plain HTTP. After
the handshake each direction's frames are judged by `frames.py` and passed on unchanged; the
gateway's own pings and their answers never show on the other side.
"""

from __future__ import annotations

import asyncio
import binascii
import secrets
import time
from base64 import b64decode
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any

from aiohttp import web
from aiohttp.base_protocol import BaseProtocol

from gateway.errors import BadRequest, Ending, UpgradeRequired, UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.middleware.services import Services
from gateway.policy import requests as policy
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.answer import Answer, own_fields
from gateway.proxy.connection import abort, drained
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.http import Relay
from gateway.proxy.reply import Reply
from gateway.proxy.request import EXCHANGE, Handler
from gateway.proxy.upstream import UpstreamPool, Upstreams
from gateway.usage.reported import from_realtime_event
from gateway.wire import passing
from gateway.wire.frame_format import FrameRefused, accept_key, build_close
from gateway.wire.frames import FrameRelay
from gateway.wire.headers import SUBPROTOCOL_CREDENTIAL, Head

# How long the other side may take to answer a close frame, and the upstream to hang up after it.
CLOSING_SECONDS = 5.0
CREDENTIAL_SECONDS = 1.0
HANGING_UP_SECONDS = 1.0
# How long a close frame of our own gets before the connections go.
GOODBYE_SECONDS = 0.2
# Usage stands in short events; longer ones are not kept.
WATCHED_BYTES = 2**20

_NOT_OFFERED = (SUBPROTOCOL_CREDENTIAL, b"openai-organization.", b"openai-project.")

# Extensions are negotiated per connection, and we relay frames: none is offered, none accepted.
_NOT_UPGRADED = frozenset({b"sec-websocket-extensions", b"sec-websocket-protocol", b"connection", b"upgrade"})


def forward_socket(upstreams: Upstreams, services: Services, relay_answer: Relay) -> Handler:
    """The handler for upgrade requests; a refusal by the upstream goes down by `relay_answer`, as it came."""
    settings = services.settings
    deadlines = DeadlineTable(settings.upstream)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        key = _checked_key(request, exchange)
        exchange.forwarded_at = monotonic()
        assert exchange.tenant is not None
        access = exchange.access = upstreams.access_for(
            exchange.operation, exchange.tenant.access, exchange.upstream_secret
        )
        pool = await upstreams.open(access.base_url)
        reply = await pool.open()
        try:
            head = await _ask(exchange, access, pool, reply)
            if head.status != 101:
                answer = await relay_answer(request, exchange, reply, head)
                reply.release()
                return answer
            _check_upgrade(head, key, _offered(exchange))
            return await _converse(request, exchange, reply, head)
        except BaseException:
            reply.close()
            raise

    async def _ask(
        exchange: Exchange,
        access: UpstreamAccess,
        pool: UpstreamPool,
        reply: Reply,
    ) -> Head:
        request_head = exchange.head
        assert request_head is not None
        reply.expect(deadlines.of(exchange.operation))
        offered = _offered(exchange)
        block = b"GET %b HTTP/1.1\r\n%b%bConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" % (
            pool.target(exchange.target.encode("utf-8", "surrogateescape")),
            passing.for_upstream(
                request_head,
                host=pool.host,
                authorization=access.authorization,
                length=None,
                account=(*access.fields, *pool.proxy_fields),
                without=_NOT_UPGRADED,
            ),
            b"Sec-WebSocket-Protocol: %b\r\n" % b", ".join(offered) if offered else b"",
        )
        reply.transport.write(block)
        reply.start_clock()
        return await reply.read_head()

    async def _converse(
        request: web.BaseRequest, exchange: Exchange, reply: Reply, head: Head
    ) -> web.StreamResponse:
        exchange.head_at = monotonic()
        request_id = head.get(b"x-request-id")
        if request_id is not None:
            exchange.upstream_request_id = request_id.decode("latin-1")
        fields, unreadable = passing.for_client(head.fields)
        if unreadable:
            services.metrics.unreadable_headers.inc(unreadable)
        answer = Answer(101, "Switching Protocols", [*fields, *own_fields(exchange)])
        answer.begin(request, write_idle_seconds=settings.edge.write_idle_timeout_seconds)
        exchange.status = 101
        exchange.opened(head)
        answer.flush_head()
        answer.finished = True
        reply.upgraded()
        session = Session(request, exchange, reply, services)
        services.lifecycle.sessions.add(session)
        try:
            await session.run()
        finally:
            services.lifecycle.sessions.discard(session)
            session.stop()
            exchange.upstream_ended_at = monotonic()
            reply.close()
        return answer

    return handle


class Session:
    """One open WebSocket: two directions, their heartbeat, and the reasons for which it may end."""

    def __init__(
        self, request: web.BaseRequest, exchange: Exchange, reply: Reply, services: Services
    ) -> None:
        edge = services.settings.edge
        prefix = secrets.token_bytes(8)
        signs = policy.event_signs(exchange)
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._lifecycle = services.lifecycle
        self._heartbeat_seconds = edge.websocket_heartbeat_seconds
        self._write_idle_seconds = edge.write_idle_timeout_seconds
        self._client = request.protocol
        self._upstream = reply.protocol
        self._verdict: Ending | None = None
        self._ended: asyncio.Future[Ending] = self._loop.create_future()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._up = _Direction(
            self,
            FrameRelay(
                from_client=True,
                max_message_bytes=edge.max_websocket_message_bytes,
                own_prefix=prefix,
                examine=None if signs is None else partial(policy.refuse_event, exchange),
                suspicious=signs,
            ),
            self._client,
            self._upstream,
            exchange.request_piece,
        )
        self._down = _Direction(
            self,
            FrameRelay(
                from_client=False,
                max_message_bytes=edge.max_websocket_message_bytes,
                own_prefix=prefix,
                watch_bytes=WATCHED_BYTES,
            ),
            self._upstream,
            self._client,
            self._answer_piece,
        )
        assert exchange.principal is not None
        self._revoked = partial(services.trust.revocations.check, exchange.principal)
        self._limits = (
            (services.settings.upstream.websocket_timeout_seconds, "session time limit reached"),
            (exchange.principal.expires_at - time.time(), "credential expired"),
        )

    async def run(self) -> None:
        """Relay until either side has ended it; `exchange.ending` says how it ended."""
        seconds, reason = min(self._limits)
        self._timers["limit"] = self._loop.call_later(max(0.0, seconds), self.end_politely, 1008, reason)
        self._beat()
        self._check_credential()
        self._upstream.set_parser(self._down, None)
        self._client.set_parser(self._up)  # type: ignore[arg-type]  # any object that can be fed
        self._exchange.ending = await self._ended

    def stop(self) -> None:
        """Let go of timers and tasks."""
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()

    def end_politely(self, code: int, reason: str) -> None:
        """Say goodbye to both sides for a reason of our own, and end when they have heard it."""
        self._up.say(build_close(code, reason, masked=True))
        self._down.say(build_close(code, reason, masked=False))
        self._exchange.detail = reason
        self._conclude(Ending.DRAINED if self._lifecycle.draining else Ending.TIMED_OUT, GOODBYE_SECONDS)

    def refused(self, direction: _Direction, refusal: FrameRefused) -> None:
        """A peer broke the rules: tell it so, and tell the other that it is over."""
        from_client = direction is self._up
        self._exchange.detail = f"{'client' if from_client else 'upstream'}: {refusal.reason}"
        if from_client:
            self._down.say(build_close(refusal.close_code, refusal.reason, masked=False))
            self._up.say(build_close(1001, "", masked=True))
        else:
            self._up.say(build_close(refusal.close_code, refusal.reason, masked=True))
            self._down.say(build_close(1011, "the upstream broke the protocol", masked=False))
        self._conclude(Ending.REFUSED if from_client else Ending.UPSTREAM_LOST, GOODBYE_SECONDS)

    def closing(self) -> None:
        """A close frame passed: the other side answers it and the upstream hangs up, or time does."""
        answered = self._up.relay.close_code is not None and self._down.relay.close_code is not None
        self._conclude(Ending.COMPLETE, HANGING_UP_SECONDS if answered else CLOSING_SECONDS)

    def lost(self, direction: _Direction) -> None:
        """A connection is gone."""
        if self._verdict is not None:
            self._end(self._verdict)
        elif direction is self._down:
            self._down.say(build_close(1011, "the upstream broke off", masked=False))
            self._end(Ending.UPSTREAM_LOST)
        else:
            self._end(Ending.CLIENT_LEFT)

    def hold(self, source: BaseProtocol, sink: BaseProtocol) -> None:
        """Stop reading from `source` until `sink` has taken what it was sent."""
        transport = source.transport
        if transport is None or not transport.is_reading():
            return
        transport.pause_reading()
        self._spawn(self._resume(transport, sink))

    async def _resume(self, transport: asyncio.Transport, sink: BaseProtocol) -> None:
        try:
            async with asyncio.timeout(self._write_idle_seconds):
                await drained(sink)
        except TimeoutError:
            self._end(Ending.CLIENT_LEFT if sink is self._client else Ending.TIMED_OUT)
            if sink is self._client:
                abort(self._client)
            return
        except ConnectionError:
            return  # whoever lost it has been told
        if not transport.is_closing():
            transport.resume_reading()

    def _beat(self) -> None:
        """Ask a silent side for a sign of life; end the session of one that gave none."""
        for direction, towards in ((self._up, self._down), (self._down, self._up)):
            if direction.heard or direction.paused:
                direction.asked = False
            elif direction.asked:
                self._exchange.detail = "no sign of life"
                self._end(Ending.CLIENT_LEFT if direction is self._up else Ending.UPSTREAM_LOST)
                return
            else:
                direction.asked = True
                towards.say_ping()
            direction.heard = False
        self._timers["beat"] = self._loop.call_later(self._heartbeat_seconds, self._beat)

    def _check_credential(self) -> None:
        """End the session of a credential that has been revoked meanwhile."""
        if self._revoked():
            self.end_politely(1008, "credential revoked")
            return
        self._timers["credential"] = self._loop.call_later(CREDENTIAL_SECONDS, self._check_credential)

    def _answer_piece(self, piece: bytes) -> None:
        if self._exchange.first_byte_at is None:
            self._exchange.first_byte_at = monotonic()
        self._exchange.answer_piece(piece)
        for text in self._down.relay.take_texts():
            used = from_realtime_event(text)
            if used is not None:
                self._exchange.heard_usage(used)

    def _conclude(self, ending: Ending, within_seconds: float) -> None:
        """How it ends is settled; when it does is up to the peers, for a while."""
        if self._verdict is None:
            self._verdict = self._exchange.ending = ending
        if "closing" in self._timers:
            self._timers["closing"].cancel()
        self._timers["closing"] = self._loop.call_later(within_seconds, self._end, self._verdict)

    def _end(self, ending: Ending) -> None:
        if not self._ended.done():
            self._ended.set_result(ending)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Direction:
    """What aiohttp's protocols feed after the upgrade: judges, passes on, then shows."""

    def __init__(
        self,
        session: Session,
        relay: FrameRelay,
        source: BaseProtocol,
        sink: BaseProtocol,
        show: Callable[[bytes], None],
    ) -> None:
        self.relay = relay
        self.heard = True
        self.asked = False
        self._session = session
        self._source = source
        self._sink = sink
        self._show = show

    @property
    def paused(self) -> bool:
        """Whether we do not listen because the other side does not read."""
        transport = self._source.transport
        return transport is not None and not transport.is_reading()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """Bytes from the source."""
        self.heard = True
        refusal = None
        try:
            passed = self.relay.feed(data)
        except FrameRefused as refused:
            refusal = refused
            passed = refused.passed
        if passed:
            self._send(passed)
            self._show(passed)
        if refusal is not None:
            self._session.refused(self, refusal)
        elif self.relay.close_code is not None:
            self._session.closing()
        return False, b""

    def feed_eof(self) -> None:
        """The source's connection is gone."""
        self._session.lost(self)

    def say(self, frame: bytes) -> None:
        """Send a frame of our own to the sink, when its turn has come."""
        self._send(self.relay.insert(frame))

    def say_ping(self) -> None:
        """Ask the sink for a sign of life."""
        self._send(self.relay.ping())

    def _send(self, data: bytes) -> None:
        transport = self._sink.transport
        if not data or transport is None or transport.is_closing():
            return
        transport.write(data)
        if self._sink.writing_paused:
            self._session.hold(self._source, self._sink)


def _checked_key(request: web.BaseRequest, exchange: Exchange) -> str:
    """The client's handshake key. Raises BadRequest or UpgradeRequired (RFC 6455, section 4.2.1)."""
    assert exchange.head is not None
    fields = exchange.head.fields
    versions = [value for name, value in fields if name.lower() == b"sec-websocket-version"]
    if versions != [b"13"]:
        raise UpgradeRequired("Only version 13 of the WebSocket protocol is spoken here.")
    keys = [value for name, value in fields if name.lower() == b"sec-websocket-key"]
    connection = b",".join(value for name, value in fields if name.lower() == b"connection").lower()
    lengths = {name.lower() for name, _ in fields} & {b"content-length", b"transfer-encoding"}
    # A length would make the upstream take the first frames for a body.
    valid = request.method == "GET" and request.version == (1, 1) and len(keys) == 1 and not lengths
    if valid and b"upgrade" in (part.strip() for part in connection.split(b",")):
        try:
            if len(b64decode(keys[0], validate=True)) == 16:
                return keys[0].decode("ascii")
        except (binascii.Error, ValueError):
            pass
    raise BadRequest("This is not a WebSocket handshake as RFC 6455 has it.", code="bad_handshake")


def _offered(exchange: Exchange) -> list[bytes]:
    """The subprotocols that the client offers, without those that stand for headers which do not go up."""
    assert exchange.head is not None
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
