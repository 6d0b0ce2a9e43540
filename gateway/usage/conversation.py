"""How much the responses of one session have to read: what has been said in it, and what has come in since. Pure.

A prompt is taken for what the last response of the conversation read and wrote, and what has been added to it since:
items, and sound that was taken for one or, where the server does not look for speech, may be.
"""

from __future__ import annotations

from gateway.usage.heard import Heard
from gateway.usage.realtime import HEARD_PER_SECOND, Settings
from gateway.usage.reported import Usage
from gateway.wire.body_facts import AskedResponse


class Conversation:
    """One session's, as far as that can be seen from what goes by."""

    __slots__ = ("_context", "_heard", "added", "settings")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        """How the session is set up, as last heard."""

        self.added = 0
        """LLM tokens that have been added since a response last read all there was."""

        self._context = 0
        """What that one read and wrote."""

        self._heard = Heard()

    def prompt_of(self, asked: AskedResponse) -> int:
        """LLM tokens that a response reads which begins now."""
        prompt = asked.prompt
        if not asked.reads_own:
            prompt += (self._context or self.settings.prompt) + self.added
            if not self.settings.detects_turns:
                prompt += self._read_of(self._heard.waiting)
        return prompt

    def add(self, prompt: int) -> None:
        """A client adds so many LLM tokens."""
        self.added += prompt

    def add_answer(self, used: Usage, added: int) -> None:
        """A response has read what there was, of which so much was added then, and has written."""
        self._context = used.input + used.output
        self.added = max(0, self.added - added)

    def sent(self, event_bytes: int) -> None:
        """A client's event went up."""
        self._heard.add(event_bytes)

    def speech_began(self) -> None:
        """The server hears a voice."""
        self._heard.speech_began(self.settings.heard_bytes_per_second)

    def take_sound(self, item: str) -> None:
        """The server takes the sound that waits for an item."""
        heard = self._heard.take(item if self.settings.transcribes else None)
        self.added += self._read_of(heard)

    def drop_sound(self) -> None:
        """Nobody waits for it any more."""
        self._heard.take()

    def seconds_of(self, item: str) -> float:
        """How long the sound of an item was, which has been written down or never will be."""
        return self._heard.written_down(item) / self.settings.heard_bytes_per_second

    def seconds_of_all(self) -> float:
        """The same of all others, which are forgotten by that."""
        return self._heard.not_written_down() / self.settings.heard_bytes_per_second

    def _read_of(self, sound_bytes: int) -> int:
        """What models read in so much sound."""
        return sound_bytes * HEARD_PER_SECOND // self.settings.heard_bytes_per_second
