"""What an operator can set about the log: `[log]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.settings.section import Section


class Log(Section):
    """The log of exchanges, on standard output, and of what the gateway itself has to say, on standard error."""

    format: Literal["json", "text"] = "json"
    """Of both: lines of JSON for programs, or aligned text for people."""

    start_seconds: float = Field(default=60.0, ge=0, le=7 * 86400)
    """An exchange that lasts longer has a line while it still runs, `log.start`; 0: none has."""

    slow_seconds: float = Field(default=10.0, ge=0, le=7 * 86400)
    """An exchange that took longer has its line in full, however few successes are logged."""

    sampled_successes: float = Field(default=1.0, ge=0, le=1)
    """The part of the successes that have a line; what failed, was refused, slow or not complete always has one."""

    refusals_per_second: int = Field(default=20, ge=1, le=10_000)
    """Refusals of missing and bad credentials (401) that have lines of their own in a second, by address (of IPv6: by
    network of 64 bits); more are counted in one line, `log.counted`."""
