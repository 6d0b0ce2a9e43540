"""Answers that say what was made: read before they pass, so that it is recorded when the client knows of it.

Of a JSON answer that is not held what it says is read as it goes by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import orjson

from gateway.errors import Overloaded, UpstreamFault
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import AnswerRecorder, StreamObserver, Watch
from gateway.policy.makings import is_not_found, outline_of, reduced, says_error
from gateway.proxy.by_sight import codings_of, in_question
from gateway.proxy.call import Call
from gateway.proxy.reading import AT_ONCE_BYTES, Reading, is_read_at_once
from gateway.proxy.reply import Reply
from gateway.usage.inflating import knows, unpacking
from gateway.usage.outline import Outliner
from gateway.wire.answer_head import Head, is_event_stream
from gateway.wire.codings import decoded

_HELD_BYTES = 8 * 2**20
"""Of what is longer only that is read which has come by then: objects say who they are before all else."""

_ERROR_BYTES = 64 * 1024


def is_plain_document(exchange: Exchange, head: Head) -> bool:
    """Whether an answer says what it says in a document, which can be read as it comes."""
    return (
        200 <= head.status < 300
        and b"content-encoding" not in head.names.first
        and not is_event_stream(head)
        and not in_question(exchange, head)
    )


async def record_document(call: Call, head: Head, recorder: AnswerRecorder, reading: Reading) -> None:
    """Wait for a JSON answer, and have recorded what it says; all of it stays to be read.

    Raises the UpstreamFault of one that breaks off, once that is recorded which it has said.
    """
    reply, applied = call.reply, codings_of(head)
    try:
        body = await reply.peek(_HELD_BYTES)
    except UpstreamFault:
        if not applied:
            await recorder.answered(await _outlined(reply.come, recorder))
        raise
    if body is None:
        if not applied:
            await recorder.answered(await _outlined(reply.come, recorder))
        return
    text: bytes | None = body
    if applied:
        text = await asyncio.to_thread(decoded, body, applied, most_bytes=_HELD_BYTES)
    if text is None:
        return  # whose it is, nobody knows
    await record_whole(call.exchange.caller.tenant.id, text, recorder, reading)


async def record_whole(tenant: str, text: bytes, recorder: AnswerRecorder, reading: Reading) -> None:
    """Have recorded what a JSON answer says, all of which is there."""
    document: object
    try:
        if is_read_at_once((text,)):
            document = orjson.loads(text)
        else:
            document = await reading.answer(tenant, text, reduced, (outline_of(recorder.makes),))
    except orjson.JSONDecodeError:
        document = reduced(text, outline_of(recorder.makes))
    except Overloaded:
        document = await _outlined((text,), recorder)
    recorder.heard, recorder.refused = True, says_error(document)
    await recorder.answered(document)


async def _outlined(pieces: Iterable[bytes], recorder: AnswerRecorder) -> object:
    """What is asked for of a document, or of its beginning, read without keeping the loop for long."""
    outliner = Outliner(outline_of(recorder.makes))
    for piece in pieces:
        for at in range(0, len(piece), AT_ONCE_BYTES):
            outliner.feed(piece[at : at + AT_ONCE_BYTES])
            await asyncio.sleep(0)
    return outliner.finish()


async def is_the_apis_own(reply: Reply) -> bool:
    """Whether a 404 is the API's own, and not that of something in between; all of it stays to be read."""
    body = await reply.peek(_ERROR_BYTES)
    if not body:
        return False
    try:
        return is_not_found(orjson.loads(body))
    except orjson.JSONDecodeError:
        return False


class PassingDocument(StreamObserver):
    """Reads a JSON answer that nobody holds for what it says was made."""

    __slots__ = ("_kept", "_outliner", "_recorder")

    def __init__(self, recorder: AnswerRecorder) -> None:
        self._recorder = recorder
        self._kept = bytearray()
        self._outliner: Outliner | None = None

    def opened(self, head: Head) -> Watch | None:
        """Only a success that is no stream, and can be read."""
        applied = codings_of(head)
        if not 200 <= head.status < 300 or is_event_stream(head) or not knows(applied):
            return None
        return unpacking(applied, self._feed)

    def ended(self) -> None:
        """The exchange has ended: what has gone by is recorded soon."""
        if self._outliner is not None:
            self._recorder.passed(self._outliner.finish())
        elif self._kept:
            try:
                document = orjson.loads(self._kept)
            except orjson.JSONDecodeError:  # it broke off
                outliner = Outliner(outline_of(self._recorder.makes))
                outliner.feed(bytes(self._kept))
                document = outliner.finish()
            self._recorder.passed(document)

    def _feed(self, piece: bytes) -> None:
        if self._outliner is not None:
            self._outliner.feed(piece)
            return
        self._kept += piece
        if len(self._kept) > AT_ONCE_BYTES:
            self._outliner = Outliner(outline_of(self._recorder.makes))
            self._outliner.feed(bytes(self._kept))
            self._kept.clear()
