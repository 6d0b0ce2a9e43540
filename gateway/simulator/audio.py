"""Speech and transcription. wav and pcm are a real sine melody; the other formats are filler."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Iterator
from functools import cache
from typing import Final

from gateway.simulator.call import Call, Event, Handler, JsonObject, Reply, as_json
from gateway.simulator.errors import ApiError
from gateway.simulator.forms import Content
from gateway.simulator.wording import pieces

PCM_RATE_HZ: Final = 24_000
_PCM_BYTES_PER_SECOND: Final = 2 * PCM_RATE_HZ
_NOTES_HZ: Final = (262, 330, 392, 523, 392, 330, 294, 247)
_NOTE_SECONDS: Final = 0.25
_SECONDS_PER_CHARACTER: Final = 0.06
_MAX_CHARACTERS: Final = 4096
_PIECE_SECONDS: Final = 0.1

# Per format: content type, bytes per second, and what its filler repeats. That of mp3 is a silent frame.
_FILLERS: Final = {
    "mp3": ("audio/mpeg", 16_000, b"\xff\xfb\x90\x00" + bytes(413)),
    "opus": ("audio/opus", 4_000, b"OggS" + bytes(28)),
    "aac": ("audio/aac", 12_000, b"\xff\xf1\x50\x80" + bytes(28)),
    "flac": ("audio/flac", 24_000, b"fLaC" + bytes(28)),
}


@cache
def melody() -> bytes:
    """Two seconds of 16-bit mono PCM at 24 kHz that can be repeated without a click."""
    samples = array("h")
    for pitch_hz in _NOTES_HZ:
        # A whole number of cycles per note: each starts and ends at zero.
        cycles = round(pitch_hz * _NOTE_SECONDS)
        count = int(PCM_RATE_HZ * _NOTE_SECONDS)
        samples.extend(int(8000 * math.sin(2 * math.pi * cycles * n / count)) for n in range(count))
    return samples.tobytes()


async def create_speech(call: Call) -> Reply:
    body = await call.body("model", "input", "voice")
    if len(body["input"]) > _MAX_CHARACTERS:
        raise ApiError(400, f"The input is longer than {_MAX_CHARACTERS} characters.", param="input")
    seconds = max(1.0, len(body["input"]) * _SECONDS_PER_CHARACTER / float(body.get("speed") or 1))
    content_type, data, piece_bytes = _audio(body.get("response_format") or "mp3", seconds)
    pieces_of_audio = (data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes))
    return call.stream(pieces_of_audio, content_type)


def _audio(name: str, seconds: float) -> tuple[str, bytes, int]:
    """The content type, the bytes, and how many of them make a piece."""
    if name in _FILLERS:
        content_type, rate, unit = _FILLERS[name]
        return content_type, unit * math.ceil(seconds * rate / len(unit)), int(rate * _PIECE_SECONDS)
    pcm_bytes = 2 * int(seconds * PCM_RATE_HZ)
    pcm = (melody() * math.ceil(pcm_bytes / len(melody())))[:pcm_bytes]
    piece_bytes = int(_PCM_BYTES_PER_SECOND * _PIECE_SECONDS)
    match name:
        case "pcm":
            return "audio/pcm", pcm, piece_bytes
        case "wav":
            layout = struct.pack("<HHIIHH", 1, 1, PCM_RATE_HZ, _PCM_BYTES_PER_SECOND, 2, 16)
            head = b"RIFF" + struct.pack("<I", 36 + pcm_bytes) + b"WAVEfmt " + struct.pack("<I", 16) + layout
            return "audio/wav", head + b"data" + struct.pack("<I", pcm_bytes) + pcm, piece_bytes
        case _:
            raise ApiError(400, f"Unknown response_format '{name}'.", param="response_format")


async def create_transcription(call: Call) -> Reply:
    body = await call.body("file", "model")
    return _transcript(call, body, "transcribe", "Simulated transcription")


async def create_translation(call: Call) -> Reply:
    body = await call.body("file", "model")
    return _transcript(call, body, "translate", "Simulated translation")


def _transcript(call: Call, body: JsonObject, task: str, what: str) -> Reply:
    """The transcript names the file and its size: nothing was listened to."""
    file = body["file"]
    if not isinstance(file, Content):
        raise ApiError(400, "The file must be uploaded as a file.", param="file")
    text = f"{what} of {file.filename}, {file.length_bytes} bytes of audio that nobody listened to."
    seconds = round(file.length_bytes / _PCM_BYTES_PER_SECOND, 2)
    usage = _usage(body["model"], text, seconds)
    # Form fields are text.
    if body.get("stream") in ("true", "True", "1", True):
        return call.events(_transcript_events(text, usage))
    match body.get("response_format") or "json":
        case "json":
            return as_json({"text": text, "usage": usage} if task == "transcribe" else {"text": text})
        case "verbose_json":
            return as_json(_verbose(text, task, seconds) | {"usage": usage})
        case "text":
            return Reply(text.encode() + b"\n", content_type="text/plain; charset=utf-8")
        case "srt":
            lines = f"1\n{_clock(0, ',')} --> {_clock(seconds, ',')}\n{text}\n\n"
            return Reply(lines.encode(), content_type="application/x-subrip; charset=utf-8")
        case "vtt":
            lines = f"WEBVTT\n\n{_clock(0, '.')} --> {_clock(seconds, '.')}\n{text}\n\n"
            return Reply(lines.encode(), content_type="text/vtt; charset=utf-8")
        case other:
            raise ApiError(400, f"Unknown response_format '{other}'.", param="response_format")


def _verbose(text: str, task: str, seconds: float) -> JsonObject:
    measures = {"temperature": 0.0, "avg_logprob": 0.0, "compression_ratio": 1.0, "no_speech_prob": 0.0}
    segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": []} | measures
    return {"task": task, "language": "english", "duration": seconds, "text": text, "segments": [segment]}


def _transcript_events(text: str, usage: JsonObject) -> Iterator[Event]:
    for piece in pieces(text):
        yield None, {"type": "transcript.text.delta", "delta": piece}
    yield None, {"type": "transcript.text.done", "text": text, "usage": usage}


def _usage(model: str, text: str, seconds: float) -> JsonObject:
    """whisper-1 is paid by duration, its successors by what went in and out."""
    if model == "whisper-1":
        return {"type": "duration", "seconds": seconds}
    heard, written = math.ceil(seconds * 10), len(pieces(text))
    details = {"audio_tokens": heard, "text_tokens": 0}
    total = {"input_tokens": heard, "output_tokens": written, "total_tokens": heard + written}
    return {"type": "tokens", "input_token_details": details} | total


def _clock(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{thousandths:03}"


HANDLERS: Final[dict[str, Handler]] = {
    "createSpeech": create_speech,
    "createTranscription": create_transcription,
    "createTranslation": create_translation,
}
