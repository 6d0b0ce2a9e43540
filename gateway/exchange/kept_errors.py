"""Errors that are kept: by a record, a task, or a reader that tells everybody who asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson


def forget_origin(error: BaseException) -> None:
    """Let an error that is kept go of the frames that it came through, and those that it came from of theirs.

    They hold what the exchange held, and mostly whoever keeps the error: only the cycle collector could free that.
    """
    for origin in _chain(error):
        origin.__traceback__ = None


def forget_cancellation(task: asyncio.Task[Any]) -> None:
    """Let a task that was cancelled go of the error of that, whose frames may know the task."""
    try:
        task.exception()
    except asyncio.CancelledError as cancelled:
        forget_origin(cancelled)


def lacked_memory(error: BaseException) -> bool:
    """Whether an error says, or was made of one that said, that memory does not suffice."""
    return any(
        isinstance(origin, MemoryError)
        or (isinstance(origin, orjson.JSONDecodeError) and origin.msg.startswith("Not enough memory"))
        or (isinstance(origin, RuntimeError) and str(origin) == "can't start new thread")
        for origin in _chain(error)
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], {id(error)}
    while waiting:
        error = waiting.pop()
        yield error
        for origin in (error.__cause__, error.__context__):
            if origin is not None and id(origin) not in seen:
                seen.add(id(origin))
                waiting.append(origin)
