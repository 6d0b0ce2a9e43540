"""What a response of a session is taken to read."""

from __future__ import annotations

import pytest

from gateway.usage.conversation import Conversation
from gateway.usage.realtime import Settings
from gateway.usage.reported import Usage
from gateway.wire.body_facts import AskedResponse

SECOND_BYTES = 48_000
SOUND_EVENT_BYTES = SECOND_BYTES * 4 // 3 + 55
"""An event with a second of sound in it."""

ASKED = AskedResponse()


def test_first_response_reads_what_the_session_says_and_a_later_one_what_was_said() -> None:
    conversation = Conversation(Settings(prompt=50))
    conversation.add(7)
    assert conversation.prompt_of(ASKED) == 57
    conversation.add_answer(Usage(input=60, output=40), 7)
    assert conversation.prompt_of(ASKED) == 100
    conversation.add(5)
    assert conversation.prompt_of(ASKED) == 105


def test_what_is_added_while_a_response_runs_is_left_for_the_next() -> None:
    conversation = Conversation(Settings())
    conversation.add(10)
    begun_with = conversation.added
    conversation.add(3)
    conversation.add_answer(Usage(input=10, output=20), begun_with)
    assert conversation.prompt_of(ASKED) == 33


def test_response_with_an_input_of_its_own_reads_that() -> None:
    conversation = Conversation(Settings(prompt=50))
    conversation.add(7)
    assert conversation.prompt_of(AskedResponse(reads_own=True, prompt=4)) == 4


@pytest.mark.parametrize("detects_turns", [True, False])
def test_sound_that_waits_is_read_where_nobody_looks_for_speech(detects_turns: bool) -> None:
    conversation = Conversation(Settings(detects_turns=detects_turns))
    conversation.sent(SOUND_EVENT_BYTES)
    assert conversation.prompt_of(ASKED) == (0 if detects_turns else 10)
    conversation.take_sound("item_1")
    assert conversation.prompt_of(ASKED) == 10
    conversation.sent(SOUND_EVENT_BYTES)
    conversation.drop_sound()
    assert conversation.prompt_of(ASKED) == 10


def test_each_item_is_so_many_seconds_once() -> None:
    conversation = Conversation(Settings(transcribes=True))
    for item in ("item_1", "item_2", "item_3"):
        conversation.sent(SOUND_EVENT_BYTES)
        conversation.take_sound(item)
    assert [conversation.seconds_of("item_2") for _ in range(2)] == [1.0, 0.0]
    assert [conversation.seconds_of_all() for _ in range(2)] == [2.0, 0.0]
