"""Who reads the JSON that policy has to see: small documents at once, larger ones where nobody waits for them.

What may take longer than a few milliseconds is not done on the event loop, nor in a thread, for a parser keeps the
interpreter's lock: it is done in processes beside this one, one for documents of up to a megabyte and little
structure, and one for all others, so that these do not keep those waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, assert_never

from gateway.errors import JsonTooComplex
from gateway.policy.reading import Question, may_name_in_event, read_body, read_event
from gateway.policy.requests import bad_request
from gateway.proxy.reading_lane import Lane
from gateway.proxy.reading_process import Call, Found
from gateway.settings.edge import Edge
from gateway.wire.body_facts import BodyFacts, EventFacts
from gateway.wire.json_structure import Bounds
from gateway.wire.request_fields import BodyRefused

AT_ONCE_BYTES = 64 * 1024
_PLAIN_BYTES = 4 * 1024
_PLAIN_STRUCTURES = 3_000
_MIDDLE_BYTES = 2**20
_MIDDLE_STRUCTURES = 10_000


class Reading:
    """Reads documents for everybody in this process."""

    def __init__(self, edge: Edge, *, lost: Callable[[], None]) -> None:
        """`lost` counts the processes that died, or were ended because they took too long."""
        self._bounds = Bounds(edge.max_json_structures, edge.max_json_commas)
        seconds = edge.json_reading_timeout_seconds
        self._middle = Lane(seconds=seconds, lost=lost)
        self._large = Lane(seconds=seconds, lost=lost)

    @property
    def waiting(self) -> int:
        """Documents that wait for their turn."""
        return self._middle.waiting + self._large.waiting

    async def close(self) -> None:
        """End what was started."""
        await asyncio.gather(self._middle.close(), self._large.close())

    def at_once(self, pieces: Sequence[bytes], question: Question) -> BodyFacts:
        """What a request's body says for which `is_read_at_once` says so. Raises BadRequest."""
        try:
            return read_body(pieces[0] if len(pieces) == 1 else b"".join(pieces), question)
        except BodyRefused as refused:
            raise bad_request(refused.fault) from None

    async def body(self, tenant: str, pieces: Sequence[bytes], question: Question) -> BodyFacts:
        """What a request's body says. Raises BadRequest, JsonTooComplex or Overloaded."""
        if is_read_at_once(pieces):
            return self.at_once(pieces, question)
        facts: BodyFacts = await self.call(tenant, pieces, Call(read_body, (question,)))
        return facts

    async def event(self, tenant: str, event: bytes, question: Question) -> EventFacts:
        """What a client's event in a realtime session says. Raises JsonTooComplex or Overloaded."""
        if is_read_at_once((event,)):
            return read_event(event, question)
        facts: EventFacts = await self.call(tenant, (event,), Call(read_event, (question,)))
        return facts

    async def may_name_in_event(self, tenant: str, part: bytes, question: Question) -> bool:
        """Whether a part of an event could name something. Raises Overloaded."""
        named: bool = await self.call(tenant, (part,), Call(may_name_in_event, (question,)), bounded=False)
        return named

    async def answer(
        self, tenant: str, body: bytes, read: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> Any:
        """What a function reads in an answer's body, of whatever structure. Raises Overloaded."""
        if is_read_at_once((body,)):
            return read(body, *arguments)
        return await self.call(tenant, (body,), Call(read, arguments), bounded=False)

    async def call(self, tenant: str, pieces: Sequence[bytes], call: Call, *, bounded: bool = True) -> Any:
        """Call a function of a document in another process. Raises BadRequest, JsonTooComplex or Overloaded.

        `bounded`: the document is JSON, and may have so much structure and no more.
        """
        lane = self._large if _is_large(pieces) else self._middle
        found, value = await lane.ask(tenant, pieces, call, self._bounds if bounded else None)
        match found:
            case Found.ANSWER:
                return value
            case Found.REFUSED:
                raise bad_request(value)
            case Found.TOO_COMPLEX:
                raise self._too_complex()
            case Found.FAILED:
                raise RuntimeError(value)
            case never:
                assert_never(never)

    def _too_complex(self) -> JsonTooComplex:
        structures, commas = self._bounds
        return JsonTooComplex(
            f"The JSON has too much structure: outside of strings there may be {structures} of '{{', '[' and ':' "
            f"in all, and {commas} commas. Divide it among several requests, or send it as text in one string.",
            detail="edge.max_json_structures, edge.max_json_commas",
        )


def is_read_at_once(pieces: Sequence[bytes]) -> bool:
    """Whether reading takes a few milliseconds at most: by size, and between 4 and 64 KiB by structure too."""
    length = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
    if length <= _PLAIN_BYTES:
        return True
    if length > AT_ONCE_BYTES:
        return False
    return _structures(pieces) <= _PLAIN_STRUCTURES


def _is_large(pieces: Sequence[bytes]) -> bool:
    """Whether reading may take longer than a few dozen milliseconds."""
    return sum(map(len, pieces)) > _MIDDLE_BYTES or _structures(pieces) > _MIDDLE_STRUCTURES


def _structures(pieces: Sequence[bytes]) -> int:
    """What makes reading slow, counted with what stands in strings: it may be less, and is not more."""
    return sum(piece.count(mark) for piece in pieces for mark in (b"{", b"[", b","))
