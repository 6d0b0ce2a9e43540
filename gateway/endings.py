"""How an exchange can end."""

from enum import StrEnum


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
