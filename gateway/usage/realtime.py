"""What the events of a realtime session say of what it uses. Pure.

Of what a client says matter the responses that it asks for, and what it adds to the conversation for them to read; of
what the upstream says, which responses begin and end, how much of one went by, and how the session is set up. Sound,
of which there is most, is searched for a few bytes, and never parsed.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import orjson

from gateway.usage.prompt import prompt_estimate
from gateway.usage.reported import BYTES_PER_LLM_TOKEN, Usage
from gateway.wire.body_facts import AskedResponse
from gateway.wire.frame_format import unmask
from gateway.wire.half_characters import readings
from gateway.wire.strict_json import all_distinct
from gateway.wire.text_frames import are_ascii

HEARD_PER_SECOND = 10
SPOKEN_PER_SECOND = 20
"""LLM tokens of a second of sound that models hear, or speak."""

_PCM_BYTES_PER_SECOND = 48_000
_G711_BYTES_PER_SECOND = 8_000
_G711 = frozenset({"g711_ulaw", "g711_alaw", "audio/pcmu", "audio/pcma"})

_SOUND_BEGINS = b'{"type":"input_audio_buffer.append","audio":"'
_SOUND_MAY_BEGIN = re.compile(
    rb'\s*+\{\s*+(?:"event_id"\s*+:\s*+"[^"\\]*+"\s*+,\s*+)?'
    rb'"type"\s*+:\s*+"input_audio_buffer\.append"\s*+,\s*+"audio"\s*+:\s*+"'
)
_SOUND_ENDS = b'"}'
_FRONT_BYTES = 128
_QUOTE = 0x22

# Where servers write it: in front, behind an id of the server's own at most.
_TYPE_IN_FRONT = re.compile(
    rb'\s*+\{\s*+(?:"event_id"\s*+:\s*+"[^"\\]*+"\s*+,\s*+)?"type"\s*+:\s*+"([a-z_.]++)"'
)
_USUALLY_BEGINS = b'{"type":"'
_TELLING = frozenset(
    {
        b"error",
        b"response.created",
        b"response.done",
        b"session.created",
        b"session.updated",
        b"transcription_session.created",
        b"transcription_session.updated",
        b"input_audio_buffer.cleared",
        b"input_audio_buffer.committed",
        b"input_audio_buffer.speech_started",
        b"conversation.item.input_audio_transcription.completed",
        b"conversation.item.input_audio_transcription.failed",
    }
)
_ENDS_OF_TELLING = (
    *(b'.created"', b'.done"', b'.updated"', b'.cleared"', b'.committed"', b'.speech_started"'),
    *(b'.completed"', b'.failed"', b'"error"'),
)

_WRITTEN = re.compile(rb'"delta"\s*+:\s*+"((?:[^"\\]|\\.)*+)"')
_DELTA_IN_FRONT_BYTES = 1024
_RESPONSE_ID = b'"response_id":"'
_OF_RESPONSE = re.compile(rb'"response_id"\s*+:\s*+"([^"\\]*+)"')
_MOST_ID_BYTES = 256
_MAXIMA = ("max_output_tokens", "max_response_output_tokens")


def is_sound(payload: bytes, mask: bytes) -> bool:
    """Whether a client's event, masked so, is a piece of sound and nothing else, whoever reads it.

    It begins as such events do, all of it is ASCII, and from there to its end no text ends: each of the four ways in
    which a quotation mark may be masked is searched for, which takes a third of what it takes to lift the mask.
    """
    front = unmask(payload[:_FRONT_BYTES], mask)
    if front.startswith(_SOUND_BEGINS):
        begin = len(_SOUND_BEGINS)
    elif (found := _SOUND_MAY_BEGIN.match(front)) is not None and found[0].isascii():
        begin = found.end()
    else:
        return False
    last = len(payload) - len(_SOUND_ENDS)
    if last < begin or unmask(payload[last:], _turned(mask, last)) != _SOUND_ENDS:
        return False
    if not mask:
        return payload.find(_QUOTE, begin, last) < 0 and payload.isascii()
    body = payload[begin:last]
    for at, byte in enumerate(_turned(mask, begin)):
        part = body[at::4]
        if part.find(_QUOTE ^ byte) >= 0 or not are_ascii(part, byte):
            return False
    return True


def _turned(mask: bytes, at: int) -> bytes:
    """The mask as it begins so many bytes behind its own beginning."""
    turn = at % 4
    return mask[turn:] + mask[:turn]


def may_ask(event: bytes) -> bool:
    """Whether a client's event may be one that `asked_in` has something to say about."""
    # An escape could stand for any letter of its type; sound has none.
    return event.find(b'.create"') >= 0 or event.find(b"\\") >= 0


def asked_in(event: bytes) -> tuple[AskedResponse | None, int]:
    """The response that a client's event asks for, and LLM tokens that it adds to the conversation."""
    try:
        document = orjson.loads(event)
    except orjson.JSONDecodeError:
        return _asked_in_halves(event)
    if type(document) is not dict:
        return None, 0
    if not all_distinct(event, document):
        return None, len(event) // BYTES_PER_LLM_TOKEN  # who knows which of the two is read
    match document.get("type"):
        case "conversation.item.create":
            return None, _prompt([document.get("item")])
        case "response.create":
            asked = document.get("response")
            asked = asked if type(asked) is dict else {}
            return (
                AskedResponse(
                    event_id=_id(document.get("event_id")),
                    most_output=_most(asked),
                    any_length=_is_unbounded(asked),
                    apart=asked.get("conversation") == "none",
                    reads_own=type(asked.get("input")) is list,
                    prompt=_prompt(asked.get("input"), asked.get("instructions"), asked.get("tools")),
                ),
                0,
            )
    return None, 0


def _asked_in_halves(event: bytes) -> tuple[AskedResponse | None, int]:
    """What is asked in an event with halves of characters, by whichever reader of these sees something."""
    for text in readings(event) or ():
        asked = asked_in(text)
        if asked != (None, 0):
            return asked
    return None, 0


def kind_in_front(text: bytes) -> bytes | None:
    """The type of a server's event, where it stands where servers write it."""
    if text.startswith(_USUALLY_BEGINS):
        begin = len(_USUALLY_BEGINS)
        return text[begin : text.find(_QUOTE, begin)]
    found = _TYPE_IN_FRONT.match(text)
    return None if found is None else found[1]


def tells(text: bytes, kind: bytes | None) -> bool:
    """Whether a server's event may say more than a piece of what a model made."""
    if kind is not None:
        return kind in _TELLING
    return any(text.find(end) >= 0 for end in _ENDS_OF_TELLING)


def parsed(text: bytes) -> dict[str, Any]:
    """A server's event; empty where it is none."""
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return document if type(document) is dict else {}


def response_of(text: bytes) -> bytes | None:
    """The response that an event with a piece of it belongs to, as it is written."""
    begin = text.find(_RESPONSE_ID, 0, _DELTA_IN_FRONT_BYTES)
    if begin >= 0:
        begin += len(_RESPONSE_ID)
        return text[begin : text.find(_QUOTE, begin)][:_MOST_ID_BYTES]
    found = _OF_RESPONSE.search(text, 0, _DELTA_IN_FRONT_BYTES)
    return None if found is None else found[1][:_MOST_ID_BYTES]


def id_of(response: dict[str, Any]) -> bytes:
    """What the upstream calls a response; empty where it says nothing that could be an id."""
    told = response.get("id")
    return told.encode("utf-8", "replace")[:_MOST_ID_BYTES] if type(told) is str else b""


class Settings(NamedTuple):
    """How a session is set up, as far as that says what it will use."""

    most_output: int | None = None
    """LLM tokens of a response that says nothing else; None: any number."""

    prompt: int = 0
    """LLM tokens that every response reads."""

    transcribes: bool = False
    """Whether it is there to write down what it hears, and answers nothing."""

    detects_turns: bool = False
    """Whether the server finds out what of the sound is speech, and takes nothing else for an item."""

    heard_bytes_per_second: int = _PCM_BYTES_PER_SECOND
    spoken_bytes_per_second: int = _PCM_BYTES_PER_SECOND

    @classmethod
    def of(cls, event: dict[str, Any]) -> Settings | None:
        """What an event of the server says of them; None where it says nothing."""
        session = event.get("session")
        if type(session) is not dict:
            return None
        kind = str(event.get("type"))
        audio = session.get("audio")
        audio = audio if type(audio) is dict else {}
        return cls(
            _most(session),
            _prompt(None, session.get("instructions"), session.get("tools")),
            kind.startswith("transcription_session.")
            or session.get("type") == "transcription"
            or session.get("object") == "realtime.transcription_session",
            type(_turns(audio.get("input")) or session.get("turn_detection")) is dict,
            _bytes_per_second(_format(audio.get("input")) or session.get("input_audio_format")),
            _bytes_per_second(_format(audio.get("output")) or session.get("output_audio_format")),
        )


class WentBy:
    """What of one response went by, counted as cheaply as its pieces allow."""

    __slots__ = ("_pieces", "_sound_bytes", "_sounds", "_text_bytes")

    def __init__(self) -> None:
        self._pieces = 0
        self._text_bytes = 0
        self._sounds = 0
        self._sound_bytes = 0

    def add(self, kind: bytes | None, text: bytes) -> None:
        """Take an event that holds a piece of it: sound is measured, and text is found."""
        if kind is not None and kind.endswith(b"audio.delta"):
            self._sounds += 1
            at = text.find(b'"delta"', 0, _DELTA_IN_FRONT_BYTES)
            self._sound_bytes += len(text) - max(at, 0)
            return
        self._pieces += 1
        found = _WRITTEN.search(text)
        if found is not None:
            self._text_bytes += found.end(1) - found.start(1)

    def output(self, bytes_per_second: int) -> int:
        """How many LLM tokens that must have been: one at least for each piece."""
        spoken = SPOKEN_PER_SECOND * decoded(self._sound_bytes) // bytes_per_second
        return max(self._pieces, self._text_bytes // BYTES_PER_LLM_TOKEN) + max(self._sounds, spoken)


def estimated(prompt: int, output: int) -> Usage:
    """What a response must have used of which nobody says it."""
    return Usage(input=prompt, output=output, total=prompt + output, estimated=True)


def decoded(base64_bytes: int) -> int:
    """How many bytes that many of base64 stand for."""
    return base64_bytes * 3 // 4


def _prompt(items: object, *others: object) -> int:
    """About how many LLM tokens items of a conversation have, and what else is read with them.

    Sound in them is left out: it is counted with all that the client sends.
    """
    written = [_without_sound(item) for item in items] if type(items) is list else []
    return prompt_estimate({"input": written, "others": list(others)}).total


def _without_sound(item: Any) -> Any:
    content = item.get("content") if type(item) is dict else None
    if type(content) is not list or not any(type(part) is dict and "audio" in part for part in content):
        return item
    return item | {"content": [{**part, "audio": ""} if type(part) is dict else part for part in content]}


def _most(settings: dict[str, Any]) -> int | None:
    if _is_unbounded(settings):
        return None
    return max(_maxima(settings), default=None)


def _is_unbounded(settings: dict[str, Any]) -> bool:
    """Whether one of the maxima is no number: `inf`, or what nobody knows how it is read."""
    return any(type(most) is not int or most <= 0 for most in _maxima(settings))


def _maxima(settings: dict[str, Any]) -> list[Any]:
    """Both, for who knows which of them is read."""
    return [most for name in _MAXIMA if (most := settings.get(name)) is not None]


def _id(value: object) -> str | None:
    return value if type(value) is str and len(value) <= _MOST_ID_BYTES else None


def _format(side: object) -> object:
    """The format of one side of a session's sound, by its name."""
    if type(side) is not dict:
        return None
    found = side.get("format")
    return found.get("type") if type(found) is dict else found


def _turns(side: object) -> object:
    return side.get("turn_detection") if type(side) is dict else None


def _bytes_per_second(name: object) -> int:
    return _G711_BYTES_PER_SECOND if type(name) is str and name in _G711 else _PCM_BYTES_PER_SECOND
