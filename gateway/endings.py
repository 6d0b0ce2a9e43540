"""How an exchange can end, and what every error that ends one has."""

import math
from enum import StrEnum

import orjson


class Ending(StrEnum):
    """How an exchange ended; a metric label, so a closed set."""

    COMPLETE = "complete"
    """The whole answer went to the client."""

    REFUSED = "refused"
    """By the gateway, with an error of its own."""

    CLIENT_LEFT = "client_left"
    """The client hung up, or stopped reading."""

    UPSTREAM_LOST = "upstream_lost"
    """The upstream could not be reached, broke off, or did not answer properly."""

    TIMED_OUT = "timed_out"
    """A deadline towards the upstream ran out, or a session's time or its credential."""

    WITHDRAWN = "withdrawn"
    """By the gateway: while it ran, what it ran on was taken away (credential, tenant, scope or model)."""

    DRAINED = "drained"
    """By a stop of the gateway, or of the process that served it."""

    FAILED = "failed"
    """By a defect of the gateway."""


NEVER = (("x-should-retry", "false"),)
"""What keeps the official SDKs from asking again."""

MOST_SLEEP_SECONDS = 120
"""The SDKs would sleep through whatever they are told: past this the caller should decide, not the client library."""

ROOM_BYTES = 16 * 1024
"""What is asked for before orjson writes: where it gets no memory it takes the process with it, Python says so."""


def waiting(seconds: float | None) -> tuple[tuple[str, str], ...]:
    """The header fields that say, rounded up, for how long to wait; None: waiting does not help."""
    if seconds is None:
        return NEVER
    fields = (
        ("retry-after", str(max(1, math.ceil(seconds)))),
        ("retry-after-ms", str(max(1, math.ceil(seconds * 1000)))),
    )
    return fields if seconds <= MOST_SLEEP_SECONDS else (*fields, *NEVER)


class GatewayError(Exception):
    """An exchange that the gateway refuses or cannot finish.

    `message` is for the caller and says what to do next; `detail` is for the log only.
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    ending: Ending = Ending.REFUSED
    fields: tuple[tuple[str, str], ...] = ()
    """The header fields that every error of this kind carries."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        detail: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """`code` and `retry_after_seconds`: narrower, or better known, than of its kind."""
        super().__init__(message)
        if retry_after_seconds is not None:
            self.fields = (("retry-after", str(max(1, math.ceil(retry_after_seconds)))),)
        self.message = message
        self.param = param
        self.detail = detail
        if code is not None:
            self.code = code

    def document(self) -> dict[str, str | None]:
        """The error as the API has it, in a body or in an event."""
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}

    def body(self) -> bytes:
        """The body of the answer."""
        bytes(ROOM_BYTES)  # raises MemoryError
        return orjson.dumps({"error": self.document()})

    def headers(self) -> list[tuple[str, str]]:
        """Headers that belong to this error, beside content type and length."""
        return list(self.fields)
