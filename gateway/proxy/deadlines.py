"""How long an upstream may take for its answer, by what the operation's time goes into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from gateway.operations.table import Operation, Work
from gateway.settings.upstream import Upstream as UpstreamSettings

# No reasoning takes its time where records are read and written.
STORED_FIRST_BYTE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class ReplyDeadlines:
    """How long the upstream may take, in seconds."""

    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float


class DeadlineTable:
    """The deadlines in force by operation: those of its kind of work, else the general ones."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._by_id: dict[str, ReplyDeadlines] = {}

    def of(self, operation: Operation) -> ReplyDeadlines:
        """The deadlines of one operation."""
        deadlines = self._by_id.get(operation.id)
        if deadlines is None:
            deadlines = self._by_id[operation.id] = self._resolved(operation)
        return deadlines

    def _resolved(self, operation: Operation) -> ReplyDeadlines:
        settings = self._settings
        first_byte = settings.first_byte_timeout_seconds
        match operation.work:
            case Work.GENERATION:
                own = settings.timeouts.generation
            case Work.TRANSFER:
                own = settings.timeouts.transfer
            case Work.STORED:
                own = settings.timeouts.stored
                first_byte = min(first_byte, STORED_FIRST_BYTE_SECONDS)
            case never:
                assert_never(never)
        return ReplyDeadlines(
            own.first_byte_seconds or first_byte,
            own.idle_seconds or settings.idle_timeout_seconds,
            own.total_seconds or settings.total_timeout_seconds,
        )
