"""Errors that are kept: by a record, a task, or a reader that tells everybody who asks again."""

from __future__ import annotations


def forget_origin(error: BaseException) -> None:
    """Let an error that is kept go of the frames and the errors that it came from.

    They hold what the exchange held, and mostly whoever keeps the error: only the cycle collector could free that.
    """
    chain = [error]
    while chain:
        error = chain.pop()
        chain += [origin for origin in (error.__cause__, error.__context__) if origin is not None]
        error.__traceback__ = error.__cause__ = error.__context__ = None
