"""Pieces that differ in nothing but what a model wrote are told from all others at a glance."""

from __future__ import annotations

import pytest

from gateway.usage.likeness import Likeness


@pytest.mark.parametrize("text", [b'"', b"\\", b"a.done", b"\n", b"\r", b""])
def test_what_may_be_more_than_a_text_is_looked_at(text: bytes) -> None:
    likeness = Likeness()
    assert not likeness.took(b"word")
    likeness.learn(b'data: {"content":"word"}\n\n')

    assert likeness.took(b'data: {"content":"words"}\n\n')
    assert not likeness.took(b'data: {"content":"%b"}\n\n' % text)
    assert (likeness.count, likeness.size_bytes) == (1, 5)


CHAT = b'data: {"choices":[{"delta":{"content":"TEXT"}}],"usage":null,"obfuscation":"PADDING"}\n\n'
RESPONSES = b'event: d\ndata: {"sequence_number":NUMBER,"delta":"TEXT","obfuscation":"PADDING"}\n\n'


@pytest.mark.parametrize("shape", [CHAT, RESPONSES, RESPONSES.replace(b'":', b'": ')])
def test_what_else_changes_from_event_to_event_makes_none_unlike(shape: bytes) -> None:
    def event(number: bytes, text: bytes, padding: bytes) -> bytes:
        return shape.replace(b"NUMBER", number).replace(b"TEXT", text).replace(b"PADDING", padding)

    likeness = Likeness()
    likeness.learn(event(b"7", b"word", b"aB3"))

    assert likeness.took(event(b"12345", b" more, of it", b"0Az" * 9))
    assert likeness.took(event(b"12346", b"it", b""))
    assert (likeness.count, likeness.size_bytes) == (2, 14)
    for text, padding in ((b'"', b"a"), (b"a", b'","x":"'), (b"", b"a"), (b"a\\", b"a"), (b"a", b"a.done")):
        assert not likeness.took(event(b"8", text, padding))


def test_what_comes_first_may_be_several_events_or_another_one() -> None:
    likeness = Likeness()
    likeness.learn(b'data: {"role":"assistant","content":"a"}\n\n')
    likeness.learn(b'data: {"x":1}\n\ndata: {"content":"a"}\n\ndata: {"content":"b"}\n\n')

    assert likeness.took(b'data: {"content":"c"}\n\n')


def test_a_chunk_is_known_by_its_body_and_only_with_all_of_its_framing() -> None:
    likeness = Likeness()
    likeness.learn(b'data: {"content":"word"}\n\n')
    event = b'data: {"content":"words"}\n\n'
    begin = b"%x\r\n" % len(event)

    assert likeness.took(begin + event + b"\r\n", begin)
    assert (likeness.count, likeness.size_bytes) == (1, 5)
    for other in (
        event,
        begin + event,
        event + b"\r\n",
        b"1a\r\n" + event + b"\r\n",
        begin + event + b"\n\n",
    ):
        assert not likeness.took(other, begin)
    assert not likeness.took(begin + b"x" * len(event) + b"\r\n", begin)
