"""A worker's end of what lies between it and its supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

from gateway.app.messages import Message, Messages


class SupervisorGone(Exception):
    """Nobody answers any more."""


class Control:
    """What the supervisor wants of this worker, in order, and what this worker asks of it.

    Orders are iterated over; they end when the supervisor is gone.
    """

    def __init__(self, control: socket.socket) -> None:
        self._socket = control
        self._orders: asyncio.Queue[tuple[Message, bytes] | None] = asyncio.Queue()
        self._messages = Messages(self._hears, self._ended)
        self._asked: dict[int, asyncio.Future[Message]] = {}
        self._questions = 0
        self._is_over = False

    async def start(self) -> None:
        """Hear what is said from now on."""
        self._socket.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._messages, sock=self._socket)

    def close(self) -> None:
        """Neither say nor hear anything more."""
        self._messages.close()

    @property
    def waits(self) -> bool:
        """Whether the supervisor has not taken all that was said."""
        return self._messages.waits

    def say(self, what: str, rest: bytes = b"", /, **members: object) -> None:
        """Tell the supervisor something."""
        self._messages.say(what, rest, **members)

    async def ask(self, what: str, **members: object) -> Message:
        """Ask the supervisor something, and return what it answers. Raises SupervisorGone."""
        if self._is_over:
            raise SupervisorGone
        self._questions += 1
        number = self._questions
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.say(what, b"", question=number, **members)
        try:
            return await answer
        finally:
            del self._asked[number]

    async def first(self) -> tuple[Message, bytes]:
        """The first order. Raises SupervisorGone."""
        order = await self._orders.get()
        if order is None:
            raise SupervisorGone
        return order

    async def orders(self) -> AsyncIterator[tuple[Message, bytes]]:
        """All others, until the supervisor is gone."""
        while (order := await self._orders.get()) is not None:
            yield order

    def _hears(self, message: Message, rest: bytes) -> None:
        answered: Any = message.get("answers")
        if answered is None:
            self._orders.put_nowait((message, rest))
        elif (asked := self._asked.get(answered)) is not None and not asked.done():
            asked.set_result(message)

    def _ended(self) -> None:
        self._is_over = True
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(SupervisorGone())
        self._orders.put_nowait(None)
