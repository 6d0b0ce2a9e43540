"""Whose fault it is: errors of the gateway's own by their code, credentials by what is wrong with them, and Redis."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from functools import partial
from math import nan

from gateway.credentials.principal import Check
from gateway.endings import GatewayError
from gateway.errors import Internal
from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spread, Spreads

_OTHER_CODE = "other"

EVENT_REFUSED = "event_refused"
UPSTREAM_UNREAD = "upstream_unread"

NARROWED_CODES = frozenset(
    {
        *("bad_form", "bad_framing", "bad_handshake", "bad_request_syntax", "duplicate_authorization"),
        *("duplicate_parameter", "invalid_host", "invalid_json", "invalid_type", "invalid_value"),
        *("method_override", EVENT_REFUSED, UPSTREAM_UNREAD),
    }
)
"""Codes that no class of errors has for its own; a test looks for all that are given anywhere."""

FRAME_CODES = {1008: EVENT_REFUSED, 1009: "request_too_large", 1011: Internal.code, 1013: "overloaded"}
"""What errors are called of which a client is told by the code of a close frame; any other is `bad_request`."""

# From a server on the same machine to the longest that anybody waits for one.
_REDIS_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


class FaultMetrics:
    """Instruments that tell a client's mistakes, a tenant's, and those of what stands behind the gateway apart."""

    def __init__(self, registry: Registry) -> None:
        self.errors = Counts(
            "gateway_errors",
            "Errors of the gateway's own, as answers, within sessions, or where an answer had to be cut.",
            ["tenant", "code"],
            registry=registry,
        )
        self.credential_refusals = Counts(
            "gateway_credential_refusals",
            "Credentials that were not accepted, by what is wrong with them.",
            ["reason"],
            registry=registry,
        )
        self.redis_seconds = Spreads(
            "gateway_redis_seconds",
            "How long a round trip to a Redis server took.",
            ["server"],
            bounds=_REDIS_SECONDS,
            registry=registry,
        )
        self.redis_up = Gauges(
            "gateway_redis_up",
            "1: this Redis server answers; 0: it does not.",
            ["server"],
            rule=Rule.MIN,
            registry=registry,
        )
        self.store_policy = Gauges(
            "gateway_limit_store_policy",
            "1: what decides while Redis is away.",
            ["policy"],
            rule=Rule.MAX,
            registry=registry,
        )
        self._answering: dict[str, set[Callable[[], bool]]] = {}

    def erred(self, tenant: str, code: str) -> None:
        """Count one error of the gateway's own."""
        self.errors.labels(tenant, code if code in CODES else _OTHER_CODE).inc()

    def credential_refused(self, check: Check) -> None:
        """Count one credential that was not accepted."""
        self.credential_refusals.labels(check.value).inc()

    def asks(self, server: str, is_up: Callable[[], bool]) -> RedisServer:
        """Somebody asks this Redis server from now on."""
        asking = self._answering.get(server)
        if asking is None:
            asking = self._answering[server] = set()
            self.redis_up.watch(partial(_answers, asking), server)
        asking.add(is_up)
        return RedisServer(self.redis_seconds, server, asking, is_up)


class RedisServer:
    """One Redis server, as one of those sees it who ask it."""

    __slots__ = ("_asking", "_is_up", "_seconds", "_server", "_spreads")

    def __init__(
        self, spreads: Spreads, server: str, asking: set[Callable[[], bool]], is_up: Callable[[], bool]
    ) -> None:
        self._spreads = spreads
        self._server = server
        self._seconds: Spread | None = None
        self._asking = asking
        self._is_up = is_up

    def took(self, seconds: float) -> None:
        """A round trip took so long."""
        spread = self._seconds
        if spread is None:
            spread = self._seconds = self._spreads.labels(self._server)
        # In place, not by `observe`: while few ask every exchange comes by here.
        spread.counts[bisect_left(spread.bounds, seconds)] += 1
        spread.sum += seconds

    def gone(self) -> None:
        """Nobody asks it any more this way."""
        self._asking.discard(self._is_up)


def _answers(asking: set[Callable[[], bool]]) -> float:
    """Whether a server answers all who ask it; nothing is to be shown of one that nobody asks any more."""
    return min([float(is_up()) for is_up in tuple(asking)], default=nan)


def _codes(kind: type[GatewayError]) -> Iterator[str]:
    yield kind.code
    for narrower in kind.__subclasses__():
        yield from _codes(narrower)


CODES = frozenset(_codes(GatewayError)) | NARROWED_CODES
"""Every code that an error of the gateway's own can have."""
