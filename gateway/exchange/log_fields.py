"""What the lines of the log say: every field of each kind of line, its meaning, and what it can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.endings import Ending
from gateway.usage.reported import Known, Usage

EXCHANGE, START, COUNTED, PROCESS = "log.exchange", "log.start", "log.counted", "log.process"


class LogField(NamedTuple):
    """One field of a line."""

    meaning: str
    form: Mapping[str, Any]
    """What it can be, as JSON Schema."""

    rare: bool = False
    """Whether there are lines of its kind without it."""


def _or_null(form: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**form, "type": [form["type"], "null"]}


_TEXT: Mapping[str, Any] = {"type": "string"}
_COUNT: Mapping[str, Any] = {"type": "integer", "minimum": 0}
_NUMBER: Mapping[str, Any] = {"type": "number", "minimum": 0}
_STATUS: Mapping[str, Any] = {"type": "integer", "minimum": 100, "maximum": 999}
_TIME: Mapping[str, Any] = {"type": "string", "format": "date-time", "pattern": "^[0-9T:.-]+Z$"}
_USAGE: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        name: {"type": "string"}
        if name == "tier"
        else {"type": "boolean"}
        if name == "estimated"
        else _NUMBER
        for name in Usage._fields
    },
    "additionalProperties": False,
}
_QUIET = "left out where the tenant's `logging` is `minimal`"

EXCHANGE_FIELDS: Mapping[str, LogField] = {
    "event": LogField("`log.exchange`.", {"const": EXCHANGE}),
    "time": LogField("When the request's first byte could have been read, in UTC.", _TIME),
    "ended": LogField("When the exchange was over, in UTC.", _TIME),
    "request_id": LogField("The exchange's id, which the client has as `x-gateway-request-id`.", _TEXT),
    "trace_id": LogField(
        "The trace that it is part of; only where the client says so, in `traceparent`, or traces are exported.",
        {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        rare=True,
    ),
    "upstream_request_id": LogField("The upstream's `x-request-id`.", _or_null(_TEXT)),
    "client": LogField(
        f"The client's address; behind trusted proxies what they say that it is; {_QUIET}.",
        _or_null(_TEXT),
        rare=True,
    ),
    "tenant": LogField("Who pays, once the credential has verified.", _or_null(_TEXT)),
    "subject": LogField(f"Who calls, in the same way; {_QUIET}.", _or_null(_TEXT), rare=True),
    "credential": LogField(
        f"The id of the credential, its `jti`, once it has verified; {_QUIET}.", _or_null(_TEXT), rare=True
    ),
    "issuer": LogField("Who issued it, its `iss`.", _or_null(_TEXT)),
    "method": LogField("As it was sent.", _TEXT),
    "operation": LogField("Its id, as in the metrics.", _TEXT),
    "path": LogField(
        "The words of the path, `*` in the place of ids and of all else; only where no operation names it.",
        _TEXT,
        rare=True,
    ),
    "model": LogField(f"Where it is known; {_QUIET}.", _or_null(_TEXT), rare=True),
    "status": LogField("What went to the client; null where nothing did.", _or_null(_STATUS)),
    "ending": LogField(
        "How the exchange ended, as in the metrics.", {"enum": [ending.value for ending in Ending]}
    ),
    "duration_ms": LogField("From the request's first byte to the last of the answer.", _NUMBER),
    "first_byte_ms": LogField(
        "From the request's first byte to that of the answer's body.", _or_null(_NUMBER)
    ),
    "upstream_ms": LogField(
        "The upstream's part, connecting included; null where it was not asked.", _or_null(_NUMBER)
    ),
    "overhead_ms": LogField(
        "What the gateway itself added before it asked the upstream, or in all where it did not.", _NUMBER
    ),
    "waited_ms": LogField(
        "The part of it that was spent waiting for a connection to come free; only where there was any.",
        _NUMBER,
        rare=True,
    ),
    "upstream": LogField("Which upstream was asked, by its name; null where none was.", _or_null(_TEXT)),
    "upstream_status": LogField(
        "What it answered; null where it did not. The last answer, where it was asked again.",
        _or_null(_STATUS),
    ),
    "attempts": LogField("How often it was asked.", _COUNT),
    "bytes_in": LogField("Body bytes that went up.", _COUNT),
    "bytes_out": LogField("Body bytes that went down.", _COUNT),
    "worker": LogField(
        "Which worker it was, from 0 on; its successor after a restart has the same number.", _COUNT
    ),
    "usage_known": LogField(
        "`reported`, `estimated` or `unreported`, as in the metrics; only where something was used.",
        {"enum": [known.value for known in Known]},
        rare=True,
    ),
    "served_tier": LogField(
        "The service tier that served, in the upstream's words; only where the answer names one.",
        _TEXT,
        rare=True,
    ),
    "usage": LogField(
        "What was used, by kind as in the metrics and with its `total`; the `tier` where the answer names one; "
        "`estimated` where nobody reported it.",
        _USAGE,
        rare=True,
    ),
    "reserved": LogField(
        "LLM tokens that were reserved for it, of the limit that took most; only where one counts them.",
        _COUNT,
        rare=True,
    ),
    "created": LogField(
        "What the upstream says was made for this tenant, each as its kind and its id; only where something was that "
        "the registry of stored objects has, or is to have. Not the items of answers, and no more than 2 KiB. Such a "
        "line is never left out.",
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
            "minItems": 1,
        },
        rare=True,
    ),
    "storage": LogField(
        "Where that is stored, as the registry of stored objects calls it; only beside `created`.",
        _TEXT,
        rare=True,
    ),
    "object": LogField(
        "The id of what it made, or worked on, where that says later what it used.", _TEXT, rare=True
    ),
    "object_usage": LogField(
        "What the answer said of objects that were made before, by their ids: counted once, for who made each, and no "
        "part of what this exchange used.",
        {"type": "object", "additionalProperties": _USAGE},
        rare=True,
    ),
    "error": LogField("The code of the gateway's own error; only where there was one.", _TEXT, rare=True),
    "detail": LogField(
        "Its cause, or why a session ended, which the client is not told; only where there is one.",
        _TEXT,
        rare=True,
    ),
}
"""Of an exchange that is over."""

START_FIELDS: Mapping[str, LogField] = {
    **{name: field for name, field in EXCHANGE_FIELDS.items() if name not in ("ended", "ending")},
    "event": LogField("`log.start`.", {"const": START}),
    "duration_ms": LogField("For how long it has run.", _NUMBER),
}
"""Of one that has run for `log.start_seconds`, and still does: as far as it is known then."""

COUNTED_FIELDS: Mapping[str, LogField] = {
    "event": LogField("`log.counted`.", {"const": COUNTED}),
    "time": LogField("When the second began that it is about, in UTC.", _TIME),
    "client": LogField(
        "The address, of IPv6 the network; null: of all that were one too many to be told apart.",
        _or_null(_TEXT),
    ),
    "refusals": LogField(
        "How many exchanges were refused without a line of their own, by the code of the error.",
        {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}, "minProperties": 1},
    ),
    "worker": LogField("As above.", _COUNT),
}
"""Of refusals that were too many in one second to have lines of their own."""

PROCESS_FIELDS: Mapping[str, LogField] = {
    "event": LogField("`log.process`.", {"const": PROCESS}),
    "time": LogField("When it was said, in UTC.", _TIME),
    "level": LogField("How much it matters.", {"enum": ["debug", "info", "warning", "error", "critical"]}),
    "process": LogField(
        "What says it: the `gateway` that is one process, the `supervisor` of several, a `worker`, or a `reader` of "
        "large JSON documents.",
        {"enum": ["gateway", "supervisor", "worker", "reader"]},
    ),
    "worker": LogField("Which worker it is, or whose reader; only of those.", _COUNT, rare=True),
    "pid": LogField("The id of the process.", _COUNT),
    "logger": LogField("Which part of it.", _TEXT),
    "message": LogField("What there is to be said.", _TEXT),
    "exception": LogField("Where it came from, of what nobody had foreseen.", _TEXT, rare=True),
}
"""Of what the processes themselves have to say, on standard error."""

LINES: Mapping[str, Mapping[str, LogField]] = {
    EXCHANGE: EXCHANGE_FIELDS,
    START: START_FIELDS,
    COUNTED: COUNTED_FIELDS,
    PROCESS: PROCESS_FIELDS,
}
"""Every kind of line, by its `event`."""


def log_schema() -> dict[str, Any]:
    """The JSON Schema of every line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of the gateway's log",
        "type": "object",
        "required": ["event"],
        "oneOf": [
            {
                "title": event,
                "properties": {
                    name: {"description": field.meaning, **field.form} for name, field in fields.items()
                },
                "required": [name for name, field in fields.items() if not field.rare],
                "additionalProperties": False,
            }
            for event, fields in LINES.items()
        ],
    }
