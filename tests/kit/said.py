"""What a gateway logs and says: lines, each of them as the schema has it."""

from __future__ import annotations

from functools import cache
from typing import Any

import orjson
from jsonschema import Draft202012Validator

from gateway.exchange.log_fields import log_schema


@cache
def _validator(event: str) -> Draft202012Validator:
    (kind,) = (kind for kind in log_schema()["oneOf"] if kind["title"] == event)
    return Draft202012Validator(kind)


def checked(line: str | bytes) -> dict[str, Any]:
    """A line of the log, read; fails for one that the schema does not know."""
    said: dict[str, Any] = orjson.loads(line)
    problems = [error.message for error in _validator(said["event"]).iter_errors(said)]
    assert not problems, (problems, line)
    return said


def in_words(line: str) -> list[str]:
    """What a line of standard error says, as people would write it; one that is no line of the log, as it is."""
    if not line.startswith('{"event"'):
        return [line]
    said = checked(line)
    who = f"gateway: worker {said['worker']}" if said["process"] == "worker" else "gateway"
    return [f"{who}: {said['message']}", *said.get("exception", "").splitlines()]
