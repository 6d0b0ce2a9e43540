"""Why one process should get no new work.

What ails Redis, an upstream or an issuer is no reason: all gateways have that in common, and somebody has to serve.
What has never had anything to open an upstream with is another matter: those that came before it have.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.app.health import Reason
from gateway.proxy.lifecycle import Lifecycle

_STARTING = Reason("starting", "It is starting.")
_STOPPING = Reason("stopping", "The gateway is stopping.")


def not_ready(
    lifecycle: Lifecycle, missing_keys: Iterable[str], shut_upstreams: Iterable[str] = ()
) -> tuple[Reason, ...]:
    """All reasons; none: it is ready. May be asked from any thread.

    That another process has come in its place is none: who is still sent here is served.
    """
    reasons = []
    if lifecycle.stopping:
        reasons.append(_STOPPING)
    elif not lifecycle.started:
        reasons.append(_STARTING)
    reasons += [
        Reason(
            "key_missing",
            f"Key {kid} signs credentials that other gateways on this Redis accept, and is not in keys_dir here. "
            "Give every gateway the same keys; where it was taken away on purpose, say so by "
            f"`gateway keys retire {kid}`.",
        )
        for kid in missing_keys
    ]
    reasons += [
        Reason(
            "upstream_identity_missing",
            f"Nothing opens an upstream yet, so nobody could be served: {what}. It is asked for again and again; "
            "gateway check --live asks once, and says what is wrong.",
        )
        for what in shut_upstreams
    ]
    return tuple(reasons)
