"""What the log says of an exchange, once it is over or while it runs.

No line ever holds a credential, a key, a body or a query string. What exchanges of one standing have alike is made once
and copied.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.exchange.exchange import Exchange, Times
from gateway.exchange.harmless import cut, short
from gateway.exchange.log_fields import EXCHANGE, EXCHANGE_FIELDS, START
from gateway.wire.path_shape import path_shape

_ID_LIMIT = 64

_HIDDEN = frozenset({"client", "subject", "credential", "model"})
"""What is not said of who wants little logged."""

_SAID_WHERE_KNOWN = frozenset(name for name, field in EXCHANGE_FIELDS.items() if field.rare) - _HIDDEN

_at = datetime.fromtimestamp


def access_record(exchange: Exchange, times: Times, *, worker: int = 0) -> dict[str, Any]:
    """What is logged of an exchange; durations in milliseconds, sizes in body bytes."""
    standing, usage = exchange.standing, exchange.usage
    way = (
        exchange.method,
        exchange.model,
        exchange.status,
        exchange.ending,
        exchange.known,
        exchange.upstream,
        exchange.upstream_status,
        exchange.attempts,
        None if usage is None else usage.tier,
    )
    alike = None if standing is None else standing.lines.get(way)
    if alike is None:
        alike = _alike(exchange, worker)
        if standing is not None:
            standing.keep_line(way, alike)
    started = exchange.started_time
    whole, first_byte, upstream, overhead = times
    record = alike | {
        "time": _at(started, UTC),
        "ended": _at(started + whole, UTC),
        "request_id": exchange.id,
        # In milliseconds, to the microsecond; `round` to so many digits takes four times as long.
        "duration_ms": int(whole * 1_000_000 + 0.5) / 1000,
        "overhead_ms": int(overhead * 1_000_000 + 0.5) / 1000,
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
    }
    there = exchange.upstream_request_id
    if there is not None:
        record["upstream_request_id"] = (
            there if len(there) <= _ID_LIMIT and there.isprintable() else short(there)
        )
    if "client" in record:
        record["client"] = exchange.client
    if "path" in record:
        record["path"] = path_shape(exchange.target)
    if first_byte is not None:
        record["first_byte_ms"] = int(first_byte * 1_000_000 + 0.5) / 1000
    if upstream is not None:
        record["upstream_ms"] = int(upstream * 1_000_000 + 0.5) / 1000
    if exchange.trace is not None:
        record["trace_id"] = exchange.trace.trace_id
    if exchange.waited_seconds:
        record["waited_ms"] = int(exchange.waited_seconds * 1_000_000 + 0.5) / 1000
    if usage is not None:
        record["usage"] = usage.amounts()
    if exchange.reserved is not None:
        record["reserved"] = exchange.reserved
    if exchange.made is not None:
        record["object"] = short(cut(exchange.made, _ID_LIMIT))
    recorder = exchange.recorder
    if recorder is not None and recorder.created:
        record["created"] = recorder.created
        scope = exchange.caller.tenant.scope
        record["storage"] = None if scope is None else scope.storage
    if exchange.shown:
        record["object_usage"] = {
            short(cut(one.id, _ID_LIMIT)): one.usage.amounts() for one in exchange.shown
        }
    error = exchange.error
    if error is None:
        detail = exchange.detail
    else:
        record["error"] = error.code
        detail = error.detail
    if detail:
        record["detail"] = short(detail)
    return record


def start_record(exchange: Exchange, times: Times, *, worker: int = 0) -> dict[str, Any]:
    """What is logged of an exchange that goes on: what is known of it now."""
    record = access_record(exchange, times, worker=worker)
    del record["ended"], record["ending"]
    record["event"] = START
    return record


def _alike(exchange: Exchange, worker: int) -> dict[str, Any]:
    """A line in which there stands what exchanges of one standing have alike that went and ended alike."""
    principal, tenant = exchange.caller.principal, exchange.caller.tenant
    operation = exchange.operation
    said = {
        "event": EXCHANGE,
        "tenant": principal.tenant or None,
        "subject": principal.subject or None,
        "credential": short(principal.credential_id) or None,
        "issuer": short(principal.issuer) or None,
        "method": exchange.method[:32],
        "operation": operation.id,
        "model": short(exchange.model),
        "status": exchange.status,
        "ending": exchange.ending,
        "upstream": exchange.upstream,
        "upstream_status": exchange.upstream_status,
        "attempts": exchange.attempts,
        "worker": worker,
        "usage_known": exchange.known,
        "served_tier": short(exchange.usage.tier) if exchange.usage is not None else None,
    }
    left_out = {name for name in _SAID_WHERE_KNOWN if not said.get(name)}
    if tenant.settings.logging == "minimal":
        left_out |= _HIDDEN
    if exchange.target and (operation.is_unlisted or not operation.path):
        left_out.discard("path")
    return {name: said.get(name) for name in EXCHANGE_FIELDS if name not in left_out}
