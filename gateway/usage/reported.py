"""What an answer used, in the kinds that cost differently, and how that is known."""

from enum import StrEnum
from itertools import compress
from operator import add
from typing import NamedTuple

BYTES_PER_LLM_TOKEN = 4
"""Of text, where nobody has counted."""

LONG_CONTEXT = 272_000
"""LLM tokens of input above which an answer costs more."""


class Usage(NamedTuple):
    """What one or more answers used. Counts are of LLM tokens where no other unit is named.

    A tuple, because whatever counts adds all its numbers at once.
    """

    input: int = 0
    """LLM tokens of what was sent."""

    cached_input: int = 0
    """Those of `input` that the upstream had in a cache."""

    cache_write: int = 0
    """Those of `input` that the upstream put into a cache."""

    output: int = 0
    """LLM tokens of the answer."""

    reasoning: int = 0
    """Those of `output` that were thought and not said."""

    total: int = 0
    """LLM tokens in all."""

    input_audio: int = 0
    """Those of `input` that are audio."""

    output_audio: int = 0
    """Those of `output` that are audio."""

    images: int = 0
    """Images that were made."""

    audio_seconds: float = 0.0
    """Seconds of audio that were transcribed or translated."""

    characters: int = 0
    """Characters that were spoken, which only the request says."""

    web_searches: int = 0
    """Calls of the web search tool."""

    file_searches: int = 0
    """Calls of the file search tool."""

    code_sessions: int = 0
    """Containers in which the code interpreter tool ran."""

    long_context: int = 0
    """Answers to more than 272,000 LLM tokens of `input`, which cost more."""

    video_seconds: int = 0
    """Seconds of video that were made."""

    tier: str = ""
    """The service tier that answered, `batch` in a batch; empty where nobody said."""

    estimated: bool = False
    """Whether nobody reported it, so that it was estimated."""

    def amounts(self) -> dict[str, float | str]:
        """What was used, by kind, in their order; a kind that was not used is absent."""
        return dict(compress(zip(Usage._fields, self, strict=True), self))

    def __add__(self, other: "Usage") -> "Usage":  # type: ignore[override]  # kinds are added, not joined
        added = Usage(*map(add, self[:NUMBERS], other[:NUMBERS]))
        return added._replace(tier=self.tier or other.tier, estimated=self.estimated or other.estimated)


NUMBERS = Usage._fields.index("tier")
"""How many of its fields are numbers: the first ones."""

KINDS = tuple(kind for kind in Usage._fields[:NUMBERS] if kind != "total")
"""The kinds that metrics show; the log has `total`, `tier` and `estimated` beside them."""

COUNTED = tuple({"audio_seconds": "milliseconds"}.get(kind, kind) for kind in KINDS)
"""What is counted of them, in whole numbers."""


class Known(StrEnum):
    """What is known of what an exchange used."""

    REPORTED = "reported"
    """The upstream said it."""

    ESTIMATED = "estimated"
    """Nobody said it, so that it was estimated."""

    UNREPORTED = "unreported"
    """Nobody said it, and nobody estimates it: the tenant is not metered."""


def filled(reported: Usage, estimate: Usage, *, of_beginning: bool = False) -> Usage:
    """What was reported; what it leaves open, or says to be nothing, is taken from an estimate, and it is marked then.

    `of_beginning`: it may have been said before all was written.
    """
    sent, said, total = reported.input, reported.output, reported.total
    sent = sent or estimate.input
    if of_beginning or not said:
        said = max(said, estimate.output)
    if (sent, said) == (reported.input, reported.output):
        return reported
    return reported._replace(input=sent, output=said, total=max(total, sent + said), estimated=True)


def divided(reported: Usage, prompt: int | None) -> Usage:
    """What was reported as a sum alone: as much as was sent, None for all of it, and the rest as said."""
    if not reported.total or reported.input or reported.output:
        return reported
    sent = reported.total if prompt is None else min(prompt, reported.total)
    return reported._replace(input=sent, output=reported.total - sent)
