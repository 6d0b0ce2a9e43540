"""Speech, transcriptions and translations."""

from __future__ import annotations

import io
import itertools
import struct
import wave
from typing import Any

import pytest
from openai import (
    AsyncOpenAI,
    BadRequestError,
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # some transcript formats
class TestAudio:
    async def test_wav_plays(self, sdk: AsyncOpenAI) -> None:
        answer = await sdk.audio.speech.create(
            model="tts-1", voice="alloy", input="x" * 50, response_format="wav"
        )
        with wave.open(io.BytesIO(answer.content)) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24_000, 1, 2)
            samples = sound.readframes(sound.getnframes())
            assert sound.getnframes() == pytest.approx(3 * 24_000)
        heights = struct.unpack(f"<{len(samples) // 2}h", samples)
        assert len(samples) == len(answer.content) - 44
        assert max(heights) > 7000
        assert min(heights) < -7000
        # A melody without clicks: no jump from one sample to the next.
        assert max(abs(a - b) for a, b in itertools.pairwise(heights)) < 1500

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("mp3", "audio/mpeg"),
            ("opus", "audio/opus"),
            ("aac", "audio/aac"),
            ("flac", "audio/flac"),
            ("pcm", "audio/pcm"),
        ],
    )
    async def test_every_format_has_its_type_and_a_plausible_size(
        self, sdk: AsyncOpenAI, name: Any, content_type: str
    ) -> None:
        short = await sdk.audio.speech.create(model="m", voice="alloy", input="x" * 40, response_format=name)
        longer = await sdk.audio.speech.create(model="m", voice="alloy", input="x" * 80, response_format=name)
        assert short.response.headers["content-type"] == content_type
        assert 4_000 < len(short.content) < len(longer.content)

    async def test_a_text_too_long_to_speak_is_refused(self, sdk: AsyncOpenAI) -> None:
        with pytest.raises(BadRequestError, match="4096"):
            await sdk.audio.speech.create(model="m", voice="alloy", input="x" * 4097)

    async def test_a_transcript_comes_in_every_format(self, sdk: AsyncOpenAI) -> None:
        file = ("a.wav", bytes(96_000))
        whole = await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
        assert whole.text.startswith("Simulated transcription of a.wav, 96000 bytes")
        assert whole.usage is not None
        assert whole.usage.type == "tokens"
        text = await sdk.audio.transcriptions.create(model="m", file=file, response_format="text")
        assert text.strip() == whole.text
        srt = await sdk.audio.transcriptions.create(model="m", file=file, response_format="srt")
        assert srt.startswith("1\n00:00:00,000 --> 00:00:02,000\nSimulated")
        vtt = await sdk.audio.transcriptions.create(model="m", file=file, response_format="vtt")
        assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nSimulated")
        verbose = await sdk.audio.transcriptions.create(
            model="whisper-1", file=file, response_format="verbose_json"
        )
        assert (verbose.duration, verbose.segments and len(verbose.segments)) == (2.0, 1)
        translated = await sdk.audio.translations.create(model="whisper-1", file=file)
        assert translated.text.startswith("Simulated translation of a.wav")

    async def test_a_transcript_is_streamed(self, sdk: AsyncOpenAI) -> None:
        stream = await sdk.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.wav", bytes(96_000)), stream=True
        )
        events = [event async for event in stream]
        last = events[-1]
        assert last.type == "transcript.text.done"
        assert last.usage is not None
        said = "".join(event.delta for event in events if event.type == "transcript.text.delta")
        assert said == last.text
