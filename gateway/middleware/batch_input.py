"""Whose the objects are that the lines of a batch's input file name: the upstream runs them as the account's own.

Where several tenants have one account the file is read before the batch is made, and what its lines name has to be
the tenant's, as if each had been sent by itself. The answers that lines ask to be kept are nobody's: no answer says
that they were made.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from gateway.errors import BadRequest, SharedUpstream
from gateway.exchange.exchange import Exchange
from gateway.limits.store import StoreUnavailable
from gateway.objects.registry import Registry
from gateway.objects.store import Named
from gateway.operations.table import OperationTable
from gateway.policy import requests as policy
from gateway.policy.batch_lines import LineRefused, LinesRead, read_lines
from gateway.policy.ownership import why_closed
from gateway.policy.unknown_objects import unavailable, unknown
from gateway.proxy.reading import Reading
from gateway.stored_errors import ObjectUnknown
from gateway.wire.body_facts import Reference

_AT_ONCE_BYTES = 2**20
_LONGEST_LINE_BYTES = 16 * 2**20
_MOST_BYTES = 200 * 2**20
"""What the API takes."""

_MOST_NAMED = 50_000
_LOOKED_UP_AT_ONCE = 1000

FilePieces = Callable[[Exchange, str], AsyncGenerator[bytes, None]]
"""The content of a file that the upstream has stored, asked for as the exchange's tenant. Raises an UpstreamFault."""


class BatchInput:
    """Reads input files for the batches of one process."""

    def __init__(
        self, *, pieces: FilePieces, reading: Reading, table: OperationTable, registry: Registry | None
    ) -> None:
        self._pieces = pieces
        self._reading = reading
        self._table = table
        self._registry = registry

    async def check(self, exchange: Exchange) -> None:
        """Raise the refusal of a batch whose lines name what is not the tenant's, or cannot be read."""
        facts, caller = exchange.facts, exchange.caller
        endpoint = facts.endpoint
        if facts.input_file is None or endpoint is None:
            raise BadRequest(
                "A batch needs an 'endpoint' and an 'input_file_id' here, for what its lines name is looked up.",
                param="endpoint" if endpoint is None else "input_file_id",
            )
        operation = self._table.match("POST", endpoint).operation
        question = policy.question_of(caller, operation)
        if question is None:
            return  # whatever such a body says, it names nothing
        question = question._replace(
            model_path=None,
            models=False,
            inside=(),
            batch=False,
            prompt=False,
            default_model=False,
            usage=False,
        )
        named: dict[Reference, int] = {}
        count = 0
        async with aclosing(self._pieces(exchange, facts.input_file)) as pieces:
            async for lines in _whole_lines(pieces):
                read: LinesRead = await self._reading.answer(
                    caller.tenant.id, lines, read_lines, (question, endpoint, count)
                )
                count += read.lines
                for number, reference in read.named:
                    named.setdefault(reference, number)
                if len(named) > _MOST_NAMED:
                    raise _refused(
                        f"The lines of the input file name more than {_MOST_NAMED} stored objects."
                    )
                if read.refused is not None:
                    raise _line_refused(exchange, read.refused)
        await self._look_up(exchange, named)

    async def _look_up(self, exchange: Exchange, named: dict[Reference, int]) -> None:
        """Raise the refusal of the first line that names what the tenant does not have."""
        registry, scope = self._registry, exchange.caller.tenant.scope
        if registry is None or scope is None:
            raise unavailable()
        asked = list(named)
        for at in range(0, len(asked), _LOOKED_UP_AT_ONCE):
            portion = asked[at : at + _LOOKED_UP_AT_ONCE]
            try:
                owned = await registry.look(scope, [Named(one.kind, one.id) for one in portion])
            except StoreUnavailable as outage:
                raise unavailable(outage) from outage
            for reference, may in zip(portion, owned, strict=True):
                if not may:
                    raise _unknown_in(named[reference], reference)


async def _whole_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A file, as many whole lines at a time as are read well at once."""
    kept, size = bytearray(), 0
    async for piece in pieces:
        size += len(piece)
        kept += piece
        if size > _MOST_BYTES:
            raise _refused("The input file is larger than 200 MB.")
        if len(kept) < _AT_ONCE_BYTES:
            continue
        end = kept.rfind(b"\n") + 1
        if end:
            yield bytes(kept[:end])
            del kept[:end]
        elif len(kept) > _LONGEST_LINE_BYTES:
            raise _refused("A line of the input file is longer than 16 MiB.")
    if kept:
        yield bytes(kept)


def _unknown_in(line: int, reference: Reference) -> ObjectUnknown:
    told = unknown(reference)
    return ObjectUnknown(
        f"Line {line} of the input file, {reference.member!r}: {told.message}",
        status=told.status,
        param="input_file_id",
        told_code=told.document()["code"],
    )


def _line_refused(exchange: Exchange, refused: LineRefused) -> BadRequest | SharedUpstream:
    what = f"line {refused.line} of the input file {refused.why}"
    if refused.closed is not None:
        return exchange.caller.not_told_apart(what, why_closed(refused.closed), "input_file_id")
    return _refused(f"{what[0].upper()}{what[1:]}.")


def _refused(message: str) -> BadRequest:
    return BadRequest(message, param="input_file_id")
