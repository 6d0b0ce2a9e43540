"""What a supervisor and a worker say to each other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.app.messages import Message, Messages, OtherEndGone
from tests.kit.waiting import until


class End:
    """One end, and what it has heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[Message, bytes]] = []
        self.is_over = False
        self.messages = Messages(self._hears, self._ended)

    def protocol(self) -> Messages:
        return self.messages

    def _hears(self, message: Message, rest: bytes) -> None:
        self.heard.append((message, rest))

    def _ended(self) -> None:
        self.is_over = True


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[End, End]]:
    ends = End(), End()
    loop = asyncio.get_running_loop()
    for end, one in zip(ends, socket.socketpair(), strict=True):
        one.setblocking(False)
        await loop.create_unix_connection(end.protocol, sock=one)
    yield ends
    for end in ends:
        end.messages.close()
        await end.messages.over()


async def test_messages_arrive_whole_and_in_order_however_large_they_are() -> None:
    async with pair() as (one, other):
        for number in range(100):
            one.messages.say("this", b"\n\0" * 10_000 * (number % 3), number=number)
        await until(lambda: len(other.heard) == 100)

    assert [message["number"] for message, _ in other.heard] == list(range(100))
    assert [len(rest) for _, rest in other.heard] == [20_000 * (number % 3) for number in range(100)]


async def test_question_gets_its_own_answer_whatever_else_is_said_and_asked() -> None:
    async with pair() as (one, other):
        first, second = (asyncio.create_task(one.messages.ask("which", b"", number=n)) for n in (1, 2))
        await until(lambda: len(other.heard) == 2)
        other.messages.say("something")
        for question, _ in reversed(other.heard):
            other.messages.answer(question, number=question["number"])

        assert [(await answer)["number"] for answer in (first, second)] == [1, 2]
        assert [message["say"] for message, _ in one.heard] == ["something"]


async def test_who_asks_somebody_that_is_gone_or_goes_is_told_so() -> None:
    async with pair() as (one, other):
        asked = asyncio.create_task(one.messages.ask("anything"))
        await until(lambda: other.heard)
        other.messages.close()
        with pytest.raises(OtherEndGone):
            await asked
        assert one.is_over
        with pytest.raises(OtherEndGone):
            await one.messages.ask("anything else")
        one.messages.say("to nobody")


async def test_what_was_said_before_a_close_is_heard() -> None:
    async with pair() as (one, other):
        one.messages.say("last", b"x" * 5_000_000)
        one.messages.close()
        await other.messages.over()

    assert [len(rest) for _, rest in other.heard] == [5_000_000]


async def test_length_that_nobody_would_say_ends_it() -> None:
    end = End()
    ours, its = socket.socketpair()
    ours.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: end.messages, sock=ours)
    its.sendall(b"\xff\xff\xff\xff")
    await end.messages.over()
    its.close()

    assert end.is_over
    assert not end.heard
