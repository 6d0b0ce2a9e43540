"""What the commands about limits and usage share: the Redis in which running gateways count."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gateway.settings.section import Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings

PATIENCE_SECONDS = 5.0
"""A person waits; Redis may be far away from their machine."""


@contextmanager
def counting_redis(settings: Settings, *, otherwise: str) -> Iterator[str]:
    """The URL of the Redis that counts; SettingsInvalid says where to look `otherwise`, without one."""
    url = revealed(settings.redis_url)
    if url is None:
        raise SettingsInvalid(
            [Problem("redis_url", f"is not set, so each gateway counts in its own memory; {otherwise}")]
        )
    breaker_log = logging.getLogger("gateway.redis.breaker")
    breaker_log.disabled = True  # the command says itself what could not be done
    try:
        yield url
    finally:
        breaker_log.disabled = False


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """Lines in columns; the first `left` of them flush left, the others, which are numbers, flush right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        cells = (
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def shown(name: str) -> str:
    """A name of somebody's choice, such that a terminal shows it and does nothing else."""
    return name if name.isprintable() else ascii(name)
