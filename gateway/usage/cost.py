"""What a request costs before anybody knows: the part that it says, the part that is guessed. Pure.

How the prompt is estimated stands in `prompt`. The answer is guessed at what the request allows it at most, times
the answers asked for; where it allows anything, at what `guesses` say of the model. Images are counted as
asked for, one where a form asks. Audio is the size of the body that carries it; where no length is stated, the
whole cap is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil
from operator import attrgetter
from typing import NamedTuple

from gateway.limits.charges import Charges, QuotaSet
from gateway.limits.terms import LLM_TOKENS, Dimension, Quota
from gateway.operations.table import Operation
from gateway.usage.guesses import Guesses
from gateway.usage.late_work import BY_BATCH
from gateway.usage.reported import Usage
from gateway.wire.body_facts import BodyFacts

_NOTHING_USED = {dimension: 0 for dimension in Dimension if dimension.settles}


class Cost(NamedTuple):
    """What one exchange is going to use, as far as its request says. None: it uses nothing of that kind."""

    input: int | None = None
    """LLM tokens of the prompt."""

    output: int = 0
    """LLM tokens of all answers: at most, where the request states a maximum, else as they are guessed."""

    answers: int = 1
    """How many answers these are."""

    maximum: str | None = None
    """The member in which the request states the most that each may have; None: it states none."""

    images: int | None = None
    """Images; of one that answers with LLM tokens a guess, for a tool is offered that makes some, or none."""

    audio_bytes: int | None = None
    audio_guess_bytes: int = 0
    batch_input: int | None = None
    """LLM tokens in the input file of a batch."""

    attached: int = 0
    """The part of `input` that is a guess at what images, audio and files are worth."""

    @property
    def texts(self) -> int:
        """The part of `input` that is none."""
        return (self.input or 0) - self.attached


class StatedAboveLimit(Exception):
    """A request states a maximum that the whole limit does not hold."""

    def __init__(self, quota: Quota, cost: Cost) -> None:
        super().__init__(quota.dimension.value)
        self.quota = quota
        """The limit that holds least."""

        self.asked = cost.output // cost.answers
        """LLM tokens, of each answer."""

        self.fitting = (quota.permits - cost.texts) // cost.answers
        """The largest maximum that fits; less than one where none does."""


def cost_of(
    operation: Operation,
    *,
    tenant: str,
    model: str | None,
    facts: BodyFacts,
    length_bytes: int | None,
    most_bytes: int,
    guesses: Guesses,
) -> Cost:
    """The cost of a request by its head and what was read in its body.

    `length_bytes` is the stated size of a body that streams, `most_bytes` the cap of one that states none.
    """
    fields = facts.fields
    if not operation.has_answers:
        return _cost_of_others(operation, facts, length_bytes=length_bytes, most_bytes=most_bytes)
    answers = (1 if fields is None else fields.choices) * facts.prompts
    if fields is None or fields.max_output is None:
        each, maximum = guesses.output(operation, tenant, model), None
    else:
        each, maximum = fields.max_output, fields.maximum
    images = 1 if facts.makes_images else None
    return Cost(facts.prompt, each * answers, answers, maximum, images, attached=facts.attached)


def _cost_of_others(
    operation: Operation, facts: BodyFacts, *, length_bytes: int | None, most_bytes: int
) -> Cost:
    """The cost of what has no answers whose length can be guessed."""
    fields = facts.fields
    if "images" in operation.uses:
        return Cost(images=1 if fields is None else fields.choices)
    if "audio_megabytes" in operation.uses:
        if length_bytes is None:
            return Cost(audio_bytes=0, audio_guess_bytes=most_bytes)
        return Cost(audio_bytes=length_bytes)
    if operation.late_kind in BY_BATCH and not operation.repeats_usage:
        # What it uses is charged when it is said; to begin, something must be left.
        return Cost(batch_input=1)
    if "tokens" not in operation.uses or not operation.counts_usage:
        return Cost()
    if operation.is_session:
        # What a session uses is charged as it is reported; to begin one, something must be left.
        return Cost(input=1)
    return Cost(input=facts.prompt, attached=facts.attached)


_ASKED: Mapping[str, Callable[[Cost], tuple[int | None, int]]] = {
    LLM_TOKENS: lambda cost: ((cost.input or 0) - cost.attached, cost.output + cost.attached),
    "images": lambda cost: (cost.images, 0),
    "audio_bytes": lambda cost: (cost.audio_bytes, cost.audio_guess_bytes),
    "batch_input": lambda cost: (cost.batch_input, 0),
}
"""What is known of what a limit counts before it is used, and what is guessed beside it; of other kinds nothing is.
None: it is not used."""

_NOT_ASKED: Callable[[Cost], tuple[int | None, int]] = lambda _: (0, 0)  # noqa: E731 (one of those above)

_OPTIONAL = tuple(
    (dimension, _ASKED.get(dimension.counts, _NOT_ASKED))
    for dimension in Dimension
    if dimension.counts and not dimension.is_reported
)
"""Limits of which many requests take nothing, and hear nothing."""

_BY_LLM_TOKENS = tuple(dimension for dimension in Dimension if dimension.counts == LLM_TOKENS)
_BY_OTHER_USAGE = tuple(
    (dimension, attrgetter(dimension.counts))
    for dimension in Dimension
    if dimension.is_reported and dimension not in _BY_LLM_TOKENS
)


def charges_for(quotas: QuotaSet, cost: Cost, *, reports: bool = False) -> Charges:
    """What to take from each quota; a guess is cut so that it fits, as long as what is known does.

    A stated maximum is no guess: raises StatedAboveLimit where it does not fit. Levels of requests and of what answers
    report are always told, so those are charged with nothing where nothing is used; others are left out. `reports`: the
    answer will report something, so at least one of it is taken, and a limit that is used up refuses.
    """
    if quotas.has_optional:
        quotas = quotas.without(_not_used(cost))
    permits = quotas.by_request.copy()
    known = permits.copy()
    for at, quota in quotas.measured:
        dimension = quota.dimension
        asked = _ASKED.get(dimension.counts, _NOT_ASKED)(cost)
        sure = asked[0] or 0
        amount = sure + asked[1]
        if amount > quota.permits:
            if (
                cost.maximum is not None
                and dimension.counts == LLM_TOKENS
                and sure + cost.output > quota.permits
            ):
                raise _above(quotas, cost)
            amount = max(sure, quota.permits)
        elif reports and not amount and dimension.is_reported:
            amount = 1
        permits[at], known[at] = amount, sure
    return Charges(quotas, permits, known)


def _above(quotas: QuotaSet, cost: Cost) -> StatedAboveLimit:
    """What is said of the limit that holds least: what fits it fits all."""
    reported = (quota for _, quota in quotas.measured if quota.dimension.counts == LLM_TOKENS)
    return StatedAboveLimit(min(reported, key=attrgetter("permits")), cost)


def _not_used(cost: Cost) -> frozenset[Dimension]:
    return frozenset([dimension for dimension, asked in _OPTIONAL if asked(cost)[0] is None])


def used_of(usage: Usage | None) -> dict[Dimension, int]:
    """What an answer used of what limits count that is reported; nothing where nobody knows."""
    amounts = dict.fromkeys(_BY_LLM_TOKENS, 0 if usage is None else usage.total)
    for dimension, used in _BY_OTHER_USAGE:
        amounts[dimension] = 0 if usage is None else ceil(used(usage))
    return amounts


def settlement(cost: Cost, *, usage: Usage | None, spent: bool, sent_bytes: int) -> Mapping[Dimension, int]:
    """What to put in place of the reservation when the exchange has ended.

    `spent`: the upstream took the work on. If it did not, nothing was used; if it did, what it reported counts,
    images and batches that nobody counted stay as they were reserved.
    """
    if not spent:
        return _NOTHING_USED
    amounts = used_of(usage)
    offered = cost.input is not None
    if usage is not None and (usage.images or (offered and not usage.estimated)):
        amounts[Dimension.IMAGES_PER_MINUTE] = usage.images
    if cost.audio_bytes is not None:
        amounts[Dimension.AUDIO_MEGABYTES_PER_MINUTE] = sent_bytes
    return amounts
