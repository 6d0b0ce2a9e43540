"""Sees what becomes of work that reports later: objects that are made, and those that show their usage when asked for.

It looks at the answers of operations whose row says so, as they go by.
What it has seen it says when the exchange has ended, for by then is known what that itself was counted with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import READABLE, StreamObserver, Watch
from gateway.middleware.answer_meter import is_readable
from gateway.policy.accounts import storage_of
from gateway.usage.deltas import Deltas
from gateway.usage.inflating import knows, unpacking
from gateway.usage.late_objects import id_of, shown_by
from gateway.usage.late_reader import ObjectDocument, ObjectEvents
from gateway.usage.late_register import LateRegister
from gateway.usage.late_work import NOTHING_USED, Claim, Maker, Note, Part, Place, Shown
from gateway.usage.reported import Known, Usage
from gateway.wire.answer_head import Head, is_event_stream
from gateway.wire.codings import codings
from gateway.wire.headers import is_json

_MOST_LOGGED = 3
_BACKGROUND = b"background"
_RESPONSE = "response_id"


def watch_late_work(exchange: Exchange, register: LateRegister, now: Callable[[], float]) -> LateWatch | None:
    """What watches an exchange that may make or show such an object; None where nothing of it can be seen later."""
    operation, standing = exchange.operation, exchange.standing
    kind = operation.late_kind
    if kind is None or exchange.is_socket or exchange.caller.shares(operation):
        return None
    if kind == "response" and not operation.repeats_usage and not _begins_in_background(exchange):
        return None  # its own answer says what it used
    watch = LateWatch(exchange, kind, register, now)
    exchange.observers.append(watch)
    if standing is not None and exchange.change is None and not is_readable(exchange.head):
        exchange.choose(READABLE)
    return watch


class LateWatch(StreamObserver):
    """Watches one answer."""

    __slots__ = ("_exchange", "_kind", "_now", "_reader", "_register")

    def __init__(
        self, exchange: Exchange, kind: str, register: LateRegister, now: Callable[[], float]
    ) -> None:
        """`now`: the time in unix seconds."""
        self._exchange = exchange
        self._kind = kind
        self._register = register
        self._now = now
        self._reader: ObjectDocument | ObjectEvents | None = None

    def opened(self, head: Head) -> Watch | None:
        """Only what is JSON, or events, of a success that can be read."""
        if not 200 <= head.status < 300 or head.status == 206:
            return None
        encodings = codings((head.get(b"content-encoding") or b"",))
        if not knows(encodings):
            return None
        if is_event_stream(head):
            self._reader = ObjectEvents(self._kind, Deltas() if self._reads_what_others_wrote else None)
        elif is_json(head.get(b"content-type") or b""):
            self._reader = ObjectDocument()
        else:
            return None
        return unpacking(encodings, self._reader.feed)

    def read(self) -> Usage | None:
        """The answer has ended: what its client has read of a response whose usage it did not stay to see."""
        reader = self._reader
        if not isinstance(reader, ObjectEvents) or reader.deltas is None:
            return None
        objects = reader.objects()
        if any(one.get("background") is not True or shown_by(one, self._kind) for one in objects):
            return None  # it has been counted, or is counted now
        output = reader.deltas.estimate()
        if not output:
            return None
        return Usage(output=output, total=output, estimated=True)

    def ended(self) -> None:
        """The exchange has ended, and what it used has been counted."""
        try:
            self._tell()
        except Exception:  # noqa: BLE001 (whatever an observer does, the exchange goes on)
            if self._exchange.observer_failed is not None:
                self._exchange.observer_failed()

    def _tell(self) -> None:
        if self._reader is None:
            return
        objects, exchange = self._reader.objects(), self._exchange
        if exchange.operation.repeats_usage:
            if exchange.usage is not None:
                self._note_read(exchange.usage)
            self._claim_all(filter(None, (shown_by(one, self._kind) for one in objects)))
            return
        for one in reversed(objects):
            object_id = id_of(one, self._kind)
            if object_id is not None:
                self._made(object_id, shown_by(one, self._kind))
                return

    def _claim_all(self, shown: Iterable[Shown]) -> None:
        """Others were made before: by whom is remembered, or else by who asks."""
        exchange, now = self._exchange, self._now()
        seen: list[Shown] = []
        for one in shown:
            claim = Claim(
                self._key(one.id), exchange.id, self._maker(), one, counts_unknown=one.counts_unknown(now)
            )
            if self._register.claim(claim) and len(seen) < _MOST_LOGGED:
                seen.append(one)
        exchange.shown = tuple(seen)

    def _note_read(self, usage: Usage) -> None:
        """Somebody has read so much of an object of which nobody may ever ask what it used."""
        exchange, maker = self._exchange, self._maker()
        part = Part(maker.subject, maker.model, maker.operation, usage, known=exchange.known or "")
        exchange.made = exchange.params[_RESPONSE]
        self._register.note(Note(self._key(exchange.made), exchange.id, maker, part, is_charged=False))

    @property
    def _reads_what_others_wrote(self) -> bool:
        exchange = self._exchange
        standing = exchange.standing
        if standing is None or not standing.metered:
            return False
        return exchange.operation.repeats_usage and _RESPONSE in exchange.params

    def _made(self, object_id: str, shown: Shown | None) -> None:
        """This exchange has made it, or worked on it."""
        exchange, key = self._exchange, self._key(object_id)
        maker = self._maker()
        cost, usage = exchange.cost, exchange.usage
        part = Part(
            maker.subject,
            maker.model,
            maker.operation,
            NOTHING_USED if usage is None else usage,
            (cost.batch_input or 0) if cost is not None else 0,
            exchange.known or "",
        )
        if exchange.known is not Known.REPORTED:
            exchange.made = object_id
            self._register.note(Note(key, exchange.id, maker, part))
        if shown is not None:
            own = part if exchange.known is Known.REPORTED else None
            self._register.claim(Claim(key, exchange.id, maker, shown, counts_unknown=True, own=own))

    def _key(self, object_id: str) -> str:
        tenant = self._exchange.caller.tenant
        place = Place(storage_of(tenant.access.base_url), tenant.id)
        return place.key(self._kind, object_id)

    def _maker(self) -> Maker:
        exchange, principal = self._exchange, self._exchange.caller.principal
        return Maker(
            exchange.caller.tenant.id,
            principal.subject,
            exchange.model or "",
            exchange.operation.id,
            principal.credential_id,
            principal.limits,
        )


def _begins_in_background(exchange: Exchange) -> bool:
    """Whether the answer may come before the work is done; of a body that nobody has read, whether it says the word."""
    if exchange.facts.background:
        return True
    standing, body = exchange.standing, exchange.body
    if standing is None or standing.metered or body is None:
        return False
    return any(_BACKGROUND in piece for piece in body.received)
