"""What the events of a session say, read without parsing those of which there are most."""

from __future__ import annotations

import os
from base64 import b64encode
from typing import Any

import orjson
import pytest

from gateway.usage.realtime import (
    Settings,
    WentBy,
    asked_in,
    is_sound,
    kind_in_front,
    may_ask,
    response_of,
    tells,
)
from gateway.wire.body_facts import AskedResponse
from gateway.wire.frame_format import unmask

SOUND = b64encode(bytes(range(256)) * 20)
BEGIN = b'{"type":"input_audio_buffer.append","audio":"'

SOUNDS = [
    BEGIN + SOUND + b'"}',
    BEGIN + b'"}',
    b'{ "event_id": "mine", "type": "input_audio_buffer.append", "audio": "' + SOUND + b'"}',
]
NO_SOUNDS = [
    b"",
    b"{}",
    BEGIN,
    BEGIN + SOUND,
    BEGIN + SOUND + b'","type":"response.create"}',
    BEGIN + SOUND + b'","x":{"type":"response.create"}}',
    BEGIN + SOUND + b'\\"","response":{}}',
    b'{"type":"response.create","audio":"' + SOUND + b'"}',
    b'{"audio":"' + SOUND + b'","type":"input_audio_buffer.append"}',
    b'{"type":"input_audio_buffer.append","type":"response.create","audio":"' + SOUND + b'"}',
]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("event", SOUNDS)
def test_sound_is_known_by_its_beginning_and_by_what_it_lacks(event: bytes, masked: bool) -> None:
    for _ in range(20):
        mask = os.urandom(4) if masked else b""
        assert is_sound(unmask(event, mask), mask)
    assert not may_ask(event)


@pytest.mark.parametrize("event", NO_SOUNDS)
def test_whatever_could_be_anything_else_is_no_sound(event: bytes) -> None:
    for _ in range(20):
        mask = os.urandom(4)
        assert not is_sound(unmask(event, mask), mask)


@pytest.mark.parametrize("at", range(8))
def test_quotation_mark_is_found_wherever_it_stands(at: int) -> None:
    mask = os.urandom(4)
    assert not is_sound(unmask(BEGIN + b"A" * at + b'"' + b"A" * (7 - at) + b'"}', mask), mask)


def event_of(kind: str, **members: Any) -> bytes:
    return orjson.dumps({"type": kind, **members})


def test_what_a_client_asks_for_is_read() -> None:
    asked = event_of(
        "response.create",
        event_id="mine",
        response={
            "max_output_tokens": 30,
            "conversation": "none",
            "input": [{"type": "message", "content": [{"type": "input_text", "text": "x" * 400}]}],
            "instructions": "y" * 40,
        },
    )
    response, added = asked_in(asked)
    assert response is not None
    assert response._replace(prompt=0) == AskedResponse("mine", 30, apart=True, reads_own=True)
    assert 110 <= response.prompt <= 130
    assert added == 0
    assert asked_in(event_of("response.create")) == (AskedResponse(), 0)
    assert may_ask(asked)
    assert may_ask(b'{"type":"response\\u002ecreate"}')


def test_sound_in_an_item_is_no_text() -> None:
    content = [{"type": "input_audio", "audio": SOUND.decode()}, {"type": "input_text", "text": "x" * 400}]
    asked, added = asked_in(event_of("conversation.item.create", item={"role": "user", "content": content}))
    assert asked is None
    assert 100 <= added <= 120


@pytest.mark.parametrize("odd", [b"{", b"[]", b"7", b"\xff", b'{"type":"response.creat"}', b'{"type":7}'])
def test_what_nobody_can_read_asks_for_nothing(odd: bytes) -> None:
    assert asked_in(odd) == (None, 0)


def test_event_that_readers_could_read_differently_counts_as_text() -> None:
    twice = b'{"type":"conversation.item.create","item":{"text":"%b"},"type":"x"}' % (b"y" * 4000)
    assert asked_in(twice) == (None, len(twice) // 4)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"type":"response.done","response":{}}', b"response.done"),
        (b'{ "event_id" : "e" , "type" : "response.done"}', b"response.done"),
        (b'{"response":{"type":"x"},"type":"response.done"}', None),
        (b"[]", None),
    ],
)
def test_type_of_an_event_is_read_where_servers_write_it(text: bytes, kind: bytes | None) -> None:
    assert kind_in_front(text) == kind
    assert tells(text, kind) is (text != b"[]")


def test_pieces_of_responses_tell_nothing_more() -> None:
    said = event_of("response.output_text.delta", response_id="resp_1", delta='he said "response.done"')
    assert not tells(said, kind_in_front(said))
    assert not tells(said, None), "wherever its type stands"
    assert response_of(said) == b"resp_1"
    assert response_of(b'{"type" : "x", "response_id" : "resp_2"}') == b"resp_2"
    assert response_of(b"{}") is None


def test_what_went_by_is_one_at_least_for_each_piece_and_more_for_long_ones() -> None:
    went_by = WentBy()
    for _ in range(3):
        went_by.add(b"response.output_text.delta", b'{"delta":"a","x":1}')
    assert went_by.output(48_000) == 3
    went_by.add(b"response.function_call_arguments.delta", b'{"delta" : "%b"}' % (b"x" * 400))
    assert went_by.output(48_000) == 100
    went_by.add(b"response.output_audio.delta", b'{"delta":"%b"}' % b64encode(bytes(48_000)))
    assert went_by.output(48_000) == 120
    assert went_by.output(8_000) == 220, "of six times as many seconds"


@pytest.mark.parametrize(
    ("kind", "session", "settings"),
    [
        ("session.created", {"max_output_tokens": "inf"}, Settings()),
        ("session.updated", {"max_response_output_tokens": 70}, Settings(most_output=70)),
        ("session.updated", {"type": "transcription"}, Settings(transcribes=True)),
        (
            "transcription_session.updated",
            {"input_audio_format": "g711_ulaw"},
            Settings(None, 0, True, False, 8000),
        ),
        (
            "session.updated",
            {
                "audio": {
                    "input": {"format": {"type": "audio/pcmu"}},
                    "output": {"format": {"type": "audio/pcm"}},
                }
            },
            Settings(heard_bytes_per_second=8000),
        ),
        ("session.updated", {"audio": [], "instructions": "x" * 40}, Settings(prompt=10)),
    ],
)
def test_settings_of_a_session_are_read_as_the_server_tells_them(
    kind: str, session: dict[str, Any], settings: Settings
) -> None:
    found = Settings.of({"type": kind, "session": session})
    assert found is not None
    assert found._replace(prompt=0) == settings._replace(prompt=0)
    assert settings.prompt <= found.prompt <= settings.prompt + 5


def test_event_without_a_session_says_nothing_of_it() -> None:
    assert Settings.of({"type": "rate_limits.updated"}) is None
