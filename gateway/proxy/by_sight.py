"""Answers of upstreams that call a stream something else, or encode what was asked for plainly: seen for what they are.

Some servers send their events as text, as bytes, as JSON or as nothing; what a body begins with tells. It is
looked at only where a stream was asked for, or nobody knows, and goes down under the name that it came with.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import EventFilter
from gateway.proxy.reply import Reply
from gateway.usage.inflating import Inflater, Unreadable, knows
from gateway.wire.answer_head import Head, as_event_stream, may_be_event_stream
from gateway.wire.codings import codings
from gateway.wire.sse import begins_like_events

_BEGINNING_BYTES = 1024
"""Of an encoded body: so much tells what it begins with, or nothing does."""

_WHOLE = (None, b"\n", b"\r")
"""What the last byte is of events that were not cut off."""


def codings_of(head: Head) -> tuple[bytes, ...]:
    """The content codings of an answer, in the order in which they were applied."""
    if b"content-encoding" not in head.names.first:
        return ()
    return codings(head.fields[at][1] for at in head.names.all_of(b"content-encoding"))


def in_question(exchange: Exchange, head: Head) -> bool:
    """Whether an answer may be a stream of events that is called something else."""
    fields = exchange.facts.fields
    return (
        exchange.operation.counts_usage
        and (fields is None or fields.stream)
        and 200 <= head.status < 300
        and may_be_event_stream(head)
    )


async def seen_as_it_begins(reply: Reply, head: Head) -> Head:
    """The head of an answer in question as it ought to be: waits for what its body begins with, which stays there."""
    applied = codings_of(head)
    if applied and not knows(applied):
        return head

    def tells(begin: bytes) -> bool | None:
        return _packed_events(begin, applied) if applied else begins_like_events(begin)

    return as_event_stream(head) if await reply.begins(tells) else head


def seen_whole(head: Head, body: bytes) -> Head:
    """As `seen_as_it_begins`, of a body that is there."""
    return as_event_stream(head) if begins_like_events(body) else head


def _packed_events(begin: bytes, applied: Sequence[bytes]) -> bool | None:
    text: list[bytes] = []
    try:
        Inflater(tuple(applied), text.append).feed(begin[:_BEGINNING_BYTES])
    except Unreadable:
        return False
    tells = begins_like_events(b"".join(text))
    return False if tells is None and len(begin) >= _BEGINNING_BYTES else tells


class Unpacked:
    """Stands in front of a change of events that came encoded: what is changed goes down plainly."""

    def __init__(self, applied: tuple[bytes, ...], changing: EventFilter) -> None:
        self._text: list[bytes] = []
        self._inflater = Inflater(applied, self._text.append)
        self._changing = changing
        self._last: bytes | None = None
        """The last byte that was unpacked; empty where nothing could be of what has come, None where nothing has."""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what may pass. Raises UpstreamBroken."""
        text = self._text
        try:
            self._inflater.feed(piece)
        except Unreadable:
            raise unreadable() from None
        if text:
            self._last = text[-1][-1:]
        elif self._last is None:
            self._last = b""
        passing = b"".join([self._changing.feed(part) for part in text])
        text.clear()
        return passing

    def usual(self) -> None:
        """Each piece is unpacked."""

    def end(self) -> bytes:
        """The end of it. Raises UpstreamBroken where it was cut off amid an event, which the client could not see."""
        if self._last not in _WHOLE and not self._inflater.has_ended:
            raise UpstreamBroken("The upstream broke off its encoding in the middle of an event.")
        return self._changing.end()


def unreadable() -> UpstreamBroken:
    """The error for what has to be changed and cannot be."""
    return UpstreamBroken("The upstream's answer cannot be read, and may not pass unread.")
