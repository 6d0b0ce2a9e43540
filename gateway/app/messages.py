"""What a supervisor and a worker say to each other: JSON, with bytes behind it, over a pair of sockets.

A message is its length (four bytes, most significant first), a JSON object on one line, and what stands behind it.
Both ends may be of different releases, the supervisor's being the older one: what is not known is passed over.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping
from typing import Any, cast

import orjson

PROTOCOL = 1
"""Changed when a worker could not work under a supervisor of before."""

_LENGTH = struct.Struct(">I")
_MOST_BYTES = 256 * 2**20

Message = Mapping[str, Any]
"""What is said stands in `say`; a question has its number in `question`, what answers it in `answers`."""

Hears = Callable[[Message, bytes], None]


class OtherEndGone(Exception):
    """Nobody is there who would answer."""


class Messages(asyncio.Protocol):
    """One end. `hears` is called with every message but answers, `ended` once, when the other end is gone."""

    def __init__(self, hears: Hears, ended: Callable[[], None]) -> None:
        self._hears = hears
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._come = bytearray()
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._questions = 0
        self._over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        come = self._come
        come += data
        while len(come) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(come)
            if length > _MOST_BYTES:
                self.close()
                return
            end = _LENGTH.size + length
            if len(come) < end:
                return
            head, _, rest = bytes(come[_LENGTH.size : end]).partition(b"\n")
            del come[:end]
            self._heard(orjson.loads(head), rest)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._over.set()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(OtherEndGone())
        self._ended()

    @property
    def waits(self) -> bool:
        """Whether something said before has not been taken by the other end's socket yet."""
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    def say(self, what: str, rest: bytes = b"", /, **members: object) -> None:
        """Say something; lost where nobody is there any more."""
        if self._transport is None:
            return
        head = orjson.dumps({"say": what, **members})
        self._transport.write(b"".join((_LENGTH.pack(len(head) + 1 + len(rest)), head, b"\n", rest)))

    async def ask(self, what: str, rest: bytes = b"", /, **members: object) -> Message:
        """Ask something, and return what is answered. Raises OtherEndGone."""
        if self._transport is None:
            raise OtherEndGone
        self._questions += 1
        number = self._questions
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.say(what, rest, question=number, **members)
        try:
            return await answer
        finally:
            del self._asked[number]

    def answer(self, question: Message, **members: object) -> None:
        """Answer what was asked."""
        self.say("answer", answers=question["question"], **members)

    def close(self) -> None:
        """Say nothing more, once all that was said has been taken."""
        if self._transport is not None:
            self._transport.close()

    async def over(self) -> None:
        """Return when one end has closed it, and all that was said before has been heard."""
        await self._over.wait()

    def _heard(self, message: Message, rest: bytes) -> None:
        answered = message.get("answers")
        if answered is None:
            self._hears(message, rest)
        elif (asked := self._asked.get(answered)) is not None and not asked.done():
            asked.set_result(message)
