"""A message that has to be examined waits, and all behind it, in the direction to the client as in the other."""

from __future__ import annotations

import pytest

from gateway.wire.frame_format import Later, Verdict
from gateway.wire.frames import FrameRelay
from tests.kit.websocket import MORE, PING, TEXT, close_frame, frame

ONE, TWO = frame(TEXT, b'{"n":1,"x":"abc"}', masked=False), frame(TEXT, b'{"n":2}', masked=False)
HELD = frame(TEXT, b'{"held":"yes"}', masked=False)


def relay(watch_bytes: int = 1000) -> FrameRelay:
    def examine(message: bytes) -> Verdict:
        return Later.LATER if b"held" in message else None

    return FrameRelay(
        from_client=False,
        watch_bytes=watch_bytes,
        examine=examine,
        examine_bytes=watch_bytes,
        suspicious=lambda _part: False,
    )


def test_what_waits_is_passed_and_shown_in_its_order() -> None:
    judging = relay()
    assert judging.feed(ONE) == ONE
    assert judging.feed(HELD + TWO) == b""
    assert judging.examined == b'{"held":"yes"}'
    assert judging.take_texts() == [b'{"n":1,"x":"abc"}']
    assert judging.feed(TWO) == b""
    assert judging.decide(None) == HELD + TWO + TWO
    assert judging.take_texts() == [b'{"held":"yes"}', b'{"n":2}', b'{"n":2}']
    assert judging.feed(ONE) == ONE


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_pieces_and_fragments_change_nothing_of_that(size: int) -> None:
    judging = relay()
    fragments = frame(TEXT, b'{"he', masked=False, final=False)
    fragments += frame(PING, b"alive", masked=False) + frame(MORE, b'ld":1}', masked=False)
    sent = ONE + fragments + TWO + close_frame(1000, masked=False)
    passed = b""
    for start in range(0, len(sent), size):
        passed += judging.feed(sent[start : start + size])
        if judging.examined is not None:
            assert judging.examined == b'{"held":1}'
            assert b"ld" not in passed, "nothing of it has passed"
            passed += judging.decide(None)
    # A control frame may stand within a message, and goes before one that waits.
    assert sorted(passed) == sorted(sent)
    assert passed.index(b"alive") < passed.index(b'{"he')
    assert judging.take_texts() == [b'{"n":1,"x":"abc"}', b'{"held":1}', b'{"n":2}']
    assert judging.close_code == 1000


def test_one_for_which_there_is_no_room_passes_as_it_comes_and_is_shown_to_nobody() -> None:
    judging = relay()
    long = frame(TEXT, b'{"held":"%b"}' % (b"x" * 500), masked=False)
    assert judging.feed(long[:300]) == b""
    assert judging.overlook() == long[:300]
    assert judging.feed(long[300:] + TWO) == long[300:] + TWO
    assert judging.examined is None
    assert judging.take_texts() == [b'{"n":2}']


def test_one_that_is_longer_than_what_is_examined_passes_as_it_comes() -> None:
    judging = relay(watch_bytes=100)
    long = frame(TEXT, b'{"held":"%b"}' % (b"x" * 500), masked=False)
    passed = b"".join(judging.feed(long[start : start + 50]) for start in range(0, len(long), 50))
    assert passed == long
    assert judging.examined is None
    assert judging.feed(TWO) == TWO
    assert judging.take_texts() == [b'{"n":2}']


def test_what_is_said_beside_goes_in_front_of_a_message_that_waits() -> None:
    judging = relay()
    judging.feed(HELD)
    said = frame(TEXT, b'{"type":"error"}', masked=False)
    assert judging.insert_message(said) == said
    assert judging.decide(None) == HELD
