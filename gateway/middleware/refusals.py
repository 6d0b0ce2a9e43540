"""What a caller is told whose limit has no room: which limit and whose, what was asked, what is left, what would fit,
and when.

Nothing here decides. Numbers of LLM tokens are what was reserved: an estimate of the prompt, and the most that the
answers may have, or what they are guessed to have.
"""

from __future__ import annotations

from gateway.errors import LimitExceeded, LimitsUnavailable, NeverFits
from gateway.limits.arithmetic import format_reset
from gateway.limits.charges import Charges
from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import LLM_TOKENS, Decision, Dimension, Level, Quota, binds
from gateway.operations.table import Operation
from gateway.usage.cost import Cost, StatedAboveLimit

_NO_COST = Cost()
_COUNT = "n"
_FILE = "file"
_INPUT_FILE = "input_file_id"


def limits_unavailable(outage: StoreUnavailable) -> LimitsUnavailable:
    """What a caller is told whose limits nobody can check now, or ever."""
    if outage.for_good:
        return LimitsUnavailable(
            "Your credential has limits of its own, and this gateway has nowhere to keep them. Ask its operator for a "
            "credential without them.",
            detail=str(outage),
        )
    return LimitsUnavailable(
        "The limits cannot be checked at the moment. Try again shortly.", detail=str(outage)
    )


def stated_above(above: StatedAboveLimit, cost: Cost) -> NeverFits:
    """What a caller is told who states a maximum that the limit never holds."""
    limit, whose = _worded(above.quota)
    answers = f"{cost.answers} answers of up to" if cost.answers > 1 else "an answer of up to"
    fewer = (above.quota.permits - cost.texts) // max(1, above.asked)
    param = cost.maximum
    if above.fitting > 0:
        advice = f"The largest {cost.maximum} that fits is {above.fitting}"
        if fewer > 0 and cost.answers > 1:
            advice += f", or {_plural(fewer, 'answer')} of that length"
    elif fewer > 0:
        param = _COUNT
        advice = f"No {cost.maximum} fits so many answers, but {_plural(fewer, 'answer')} of that length"
    else:
        advice = f"No {cost.maximum} fits: make the request smaller"
    return NeverFits(
        f"This request asks for {answers} {above.asked} LLM tokens, with a prompt of about {cost.texts}: more than "
        f"the whole limit {limit}{whose}. {advice}; waiting cannot help.",
        param=param,
        detail=limit,
    )


def never_fits(quota: Quota, asked: int) -> NeverFits:
    """What a caller is told of whom one request costs more than the limit ever holds: so many permits."""
    limit, whose = _worded(quota)
    param: str | None = None
    match quota.dimension.counts:
        case "images":
            param, what = _COUNT, f"{asked} images"
            advice = f"The largest n that fits is {quota.capacity}"
        case "audio_bytes":
            param, what = _FILE, f"{_megabytes(asked)} megabytes of audio"
            advice = f"Send at most {_plural(quota.capacity, 'megabyte')} at once"
        case "batch_input":
            param, what = _INPUT_FILE, f"about {asked} LLM tokens in its input file"
            advice = f"Divide it into files of at most {quota.capacity} LLM tokens"
        case name if name == LLM_TOKENS:
            what = f"about {asked} LLM tokens in its prompt"
            advice = f"Shorten it by about {asked - quota.capacity} LLM tokens or more"
        case _:
            what, advice = f"{asked} {quota.dimension.unit}", "Make it smaller"
    return NeverFits(
        f"This request has {what}: more than the whole limit {limit}{whose}. {advice}; waiting cannot help.",
        param=param,
        detail=limit,
    )


def refusal_of(
    decision: Decision, charges: Charges, cost: Cost | None, operation: Operation
) -> NeverFits | LimitExceeded:
    """What a caller is told of whom a limit has no room for what these charges take."""
    quota = decision.refused_by
    assert quota is not None, "it was refused"
    at = charges.quotas.quotas.index(quota)
    if decision.never:
        return never_fits(quota, charges.permits[at] if charges.known is None else charges.known[at])
    level = decision.levels[at] if len(decision.levels) == len(charges) else None
    left = 0 if level is None else level.remaining
    asked, less = _asked(quota, charges.permits[at], left, cost or _NO_COST, operation)
    return _reached(decision, quota, f"{asked}{_left(quota, level)}. ", less)


def used_up(decision: Decision) -> LimitExceeded:
    """What a caller is told who asks for nothing now, and of whose limit nothing is left."""
    quota = decision.refused_by
    assert quota is not None, "something is used up"
    return _reached(decision, quota, "Nothing of it is left. ", "")


def _reached(decision: Decision, quota: Quota, what: str, otherwise: str) -> LimitExceeded:
    limit, whose = _worded(quota)
    seconds = decision.retry_after_seconds
    return LimitExceeded(
        f"Rate limit reached: {limit}{whose}. {what}Try again in {format_reset(seconds or 0)}{otherwise}.",
        type=quota.dimension.unit,
        retry_after_seconds=seconds,
        detail=limit,  # whose it is stays out of the log, which may be a minimal one
    )


def _asked(quota: Quota, permits: int, left: int, cost: Cost, operation: Operation) -> tuple[str, str]:
    """What the request takes of a limit, and what would fit at once."""
    match quota.dimension.counts:
        case "images":
            less = f", or ask for {_COUNT} = {left} now" if left else ""
            return f"This request asks for {_plural(permits, 'image')}", less
        case "audio_bytes":
            less = f", or send at most {_plural(left, 'megabyte')} now" if left else ""
            return f"This request has {_megabytes(permits)} megabytes of audio", less
        case "batch_input":
            return f"The batch has about {permits} LLM tokens in its input file", ""
        case name if name == LLM_TOKENS:
            return _asked_of_llm_tokens(permits, left, cost, operation)
    if quota.dimension is Dimension.CONCURRENT_REQUESTS:
        return "As many are running as may at one time", " or when one has ended"
    return "Each request takes one", ""


def _asked_of_llm_tokens(permits: int, left: int, cost: Cost, operation: Operation) -> tuple[str, str]:
    prompt = f"a prompt of about {cost.texts}"
    if cost.attached:
        prompt += f" and about {cost.attached} for what is attached"
    if not cost.output:
        return f"This request asks for about {permits} LLM tokens ({prompt})", ""
    each = cost.output // cost.answers
    answers = f"{cost.answers} answers" if cost.answers > 1 else "an answer"
    taken = "of up to" if cost.maximum is not None else "taken for"
    asked = f"This request asks for about {permits} LLM tokens ({prompt}, {answers} {taken} {each})"
    fitting = (left - cost.texts - cost.attached) // cost.answers
    if fitting < 1:
        return asked, ""
    if cost.maximum is not None:
        return asked, f", or lower {cost.maximum} to {fitting} now"
    if operation.maximum is not None:
        return asked, f", or state {operation.maximum} = {fitting} now"
    return asked, ""


def _left(quota: Quota, level: Level | None) -> str:
    if level is None or quota.dimension is Dimension.CONCURRENT_REQUESTS:
        return ""
    return f", and {level.remaining or 'none'} of {level.limit} {'are' if level.remaining > 1 else 'is'} left"


def _worded(quota: Quota) -> tuple[str, str]:
    """The limit, and whose it is."""
    whose = "".join(f" for {what} {name[:128]!r}" for what, name in binds(quota).items())
    return f"{quota.dimension.value} = {quota.capacity}", whose


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _megabytes(amount: int) -> str:
    return f"{amount / 1_000_000:.1f}"
