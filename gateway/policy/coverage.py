"""What of all that operations use some limit counts, and what none does. Pure.

A limit *covers* an operation if it counts what the operation uses: LLM tokens, images, audio, the input of batches.
A limit on requests, slots included, covers nothing: it says how often something is asked for, not how much that is.
What is known to use nothing that costs needs no cover: `Operation.is_free`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from gateway.errors import UnmeteredOperation
from gateway.limits.terms import Dimension
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.usage.image_tool import IMAGE_TOOL

COUNTS: Final[Mapping[str, frozenset[Dimension]]] = {
    "tokens": frozenset({Dimension.TOKENS_PER_MINUTE, Dimension.TOKENS_PER_DAY}),
    "images": frozenset({Dimension.IMAGES_PER_MINUTE}),
    "audio_megabytes": frozenset({Dimension.AUDIO_MEGABYTES_PER_MINUTE}),
    "batch_input_tokens": frozenset({Dimension.BATCH_INPUT_TOKENS_PER_DAY}),
}
"""The limits that count what operations use, by the word of the table (`uses`)."""

IMAGES: Final = COUNTS["images"]
_NONE: Final[frozenset[Dimension]] = frozenset()


def covering(operation: Operation, *, socket: bool = False) -> frozenset[Dimension]:
    """The limits of which one covers the operation; none where what it uses is not counted, or not known.

    `socket`: it is asked for as a WebSocket, which is known for sessions alone.
    """
    if operation.is_unlisted or not operation.is_contained or (socket and not operation.is_session):
        return _NONE
    found = _NONE
    for use in operation.uses:
        if use != "tokens" or operation.counts_usage:
            found |= COUNTS.get(use, _NONE)
    return found


def check_covered(caller: Caller, operation: Operation, *, socket: bool) -> None:
    """Refuse what no limit of the caller can cover, where the tenant may do nothing else. Raises UnmeteredOperation.

    What only the limits of some models would cover may pass here, until the model is known.
    """
    if not caller.tenant.refuses_unmetered or not _costs(operation, socket=socket):
        return
    covers = covering(operation, socket=socket)
    if not caller.may_be_limited_by(covers):
        raise _refusal(caller, operation, covers)


def check_model_covered(
    caller: Caller, operation: Operation, model: str | None, limited: Collection[Dimension], *, socket: bool
) -> None:
    """Refuse, with its model known, what the limits that apply do not cover: they count what is `limited`.

    Raises UnmeteredOperation.
    """
    if not caller.tenant.refuses_unmetered or not _costs(operation, socket=socket):
        return
    covers = covering(operation, socket=socket)
    if covers.isdisjoint(limited):
        raise _refusal(caller, operation, covers, model)


def check_batch_covered(caller: Caller, operation: Operation) -> None:
    """Refuse to run, over the lines of a file, what uses something else than LLM tokens. Raises UnmeteredOperation."""
    if caller.tenant.refuses_unmetered and not operation.is_free and "tokens" not in operation.uses:
        uses = ", ".join(operation.uses) or "what nobody knows"
        raise _refused(caller, f"a batch of {operation.id} ({uses})", (), param="endpoint")


def check_image_tool_covered(caller: Caller, limited: Collection[Dimension]) -> None:
    """Refuse the tool that makes images where no limit counts them. Raises UnmeteredOperation."""
    if caller.tenant.refuses_unmetered and IMAGES.isdisjoint(limited):
        raise _refused(caller, f"the tool {IMAGE_TOOL} (images)", IMAGES, param="tools")


def _costs(operation: Operation, *, socket: bool) -> bool:
    return not operation.is_free or (socket and not operation.is_session)


def _refusal(
    caller: Caller, operation: Operation, covers: Collection[Dimension], model: str | None = None
) -> UnmeteredOperation:
    if operation.is_unlisted:
        return _refused(caller, "what the gateway does not know", covers)
    uses = f" ({', '.join(operation.uses)})" if operation.uses else ""
    named = "" if model is None else f" with the model {model[:128]!r}"
    return _refused(caller, f"the operation {operation.id}{named}{uses}", covers)


def _refused(
    caller: Caller, what: str, covers: Collection[Dimension], *, param: str | None = None
) -> UnmeteredOperation:
    limit = f"a limit that does ({' or '.join(sorted(covers))}), or " if covers else ""
    return UnmeteredOperation(
        f"No limit counts what {what} uses, and the tenant {caller.tenant.id} may do only what one counts. "
        f'Ask the gateway\'s operator for {limit}unmetered = "allow".',
        param=param,
    )
