"""What a request costs before anybody knows: the part that it says, the part that is guessed. Pure.

How the prompt is estimated stands in `prompt`. The answer is guessed at what the request allows it at most, times
the answers asked for; where it allows anything, at what the operator expects of the model. Images are counted as
asked for, one where a form asks. Audio is the size of the body that carries it; where no length is stated, the
whole cap is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, assert_never

from gateway.limits.charges import Charges, QuotaSet
from gateway.limits.terms import Dimension
from gateway.operations.table import Operation
from gateway.usage.guesses import Guesses
from gateway.usage.reported import Usage
from gateway.wire.body_facts import BodyFacts

_NOTHING_USED = {dimension: 0 for dimension in Dimension if dimension.settles}


class Cost(NamedTuple):
    """What one exchange is going to use, as far as its request says. None: it uses nothing of that kind."""

    input: int | None = None
    """LLM tokens of the prompt."""

    output: int = 0
    """LLM tokens that are guessed beside them."""

    images: int | None = None
    audio_bytes: int | None = None
    audio_guess_bytes: int = 0
    batch_input: int | None = None
    """LLM tokens in the input file of a batch."""


def cost_of(
    operation: Operation,
    *,
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
    if "images" in operation.uses:
        return Cost(images=1 if fields is None else fields.choices)
    if "audio_megabytes" in operation.uses:
        if length_bytes is None:
            return Cost(audio_bytes=0, audio_guess_bytes=most_bytes)
        return Cost(audio_bytes=length_bytes)
    if "tokens" not in operation.uses or not operation.counts_usage:
        return Cost()
    if operation.is_session:
        # What a session uses is charged as it is reported; to begin one, something must be left.
        return Cost(input=1)
    if not operation.has_output:
        return Cost(input=facts.prompt)
    each = fields.max_output if fields is not None else None
    if each is None:
        each = guesses.output(operation, model)
    answers = (1 if fields is None else fields.choices) * facts.prompts
    return Cost(input=facts.prompt, output=each * answers)


def charges_for(quotas: QuotaSet, cost: Cost) -> Charges:
    """What to take from each quota; a guess is cut so that it fits, as long as what is known does.

    Levels of requests and LLM tokens are always reported, so those are charged with nothing where nothing is
    used; others are left out.
    """
    if quotas.has_optional:
        quotas = quotas.without(_not_used(cost))
    permits = quotas.by_request.copy()
    known = permits.copy()
    for at, quota in quotas.measured:
        dimension = quota.dimension
        sure, guessed = (
            (cost.input or 0, cost.output) if dimension.is_reported else _measured(dimension, cost)
        )
        amount = sure + guessed
        if amount > quota.permits:
            amount = max(sure, quota.permits)
        permits[at], known[at] = amount, sure
    return Charges(quotas, permits, known)


def _not_used(cost: Cost) -> frozenset[Dimension]:
    amounts = {
        Dimension.IMAGES_PER_MINUTE: cost.images,
        Dimension.AUDIO_MEGABYTES_PER_MINUTE: cost.audio_bytes,
        Dimension.BATCH_INPUT_TOKENS_PER_DAY: cost.batch_input,
    }
    return frozenset([dimension for dimension, amount in amounts.items() if amount is None])


def _measured(dimension: Dimension, cost: Cost) -> tuple[int, int]:
    """What is known of what counts here, and what is guessed beside it."""
    match dimension:
        case Dimension.IMAGES_PER_MINUTE:
            return cost.images or 0, 0
        case Dimension.AUDIO_MEGABYTES_PER_MINUTE:
            return cost.audio_bytes or 0, cost.audio_guess_bytes
        case Dimension.BATCH_INPUT_TOKENS_PER_DAY:
            return cost.batch_input or 0, 0
        case Dimension.TOKENS_PER_MINUTE | Dimension.TOKENS_PER_DAY:
            raise AssertionError("these are reported")
        case Dimension.REQUESTS_PER_MINUTE | Dimension.REQUESTS_PER_DAY | Dimension.CONCURRENT_REQUESTS:
            raise AssertionError("these are taken whatever is asked")
        case never:
            assert_never(never)


def settlement(cost: Cost, *, usage: Usage | None, spent: bool, sent_bytes: int) -> Mapping[Dimension, int]:
    """What to put in place of the reservation when the exchange has ended.

    `spent`: the upstream took the work on. If it did not, nothing was used; if it did, what it reported counts,
    images and batches that nobody counted stay as they were reserved.
    """
    if not spent:
        return _NOTHING_USED
    used = 0 if usage is None else usage.total
    amounts = {Dimension.TOKENS_PER_MINUTE: used, Dimension.TOKENS_PER_DAY: used}
    if usage is not None and usage.images:
        amounts[Dimension.IMAGES_PER_MINUTE] = usage.images
    if cost.audio_bytes is not None:
        amounts[Dimension.AUDIO_MEGABYTES_PER_MINUTE] = sent_bytes
    return amounts
