"""Whose fault it is: the errors of the gateway's own by who has to act, and when a tenant or an upstream fails."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from docs.dashboards.queries import Ask, But, Query, Wanted
from gateway import errors

ERRORS, EXCHANGES = "gateway_errors_total", "gateway_exchanges_total"
ANSWERS, CONNECTS = "gateway_upstream_answers_total", "gateway_upstream_connects_total"


def _codes(kind: type[errors.GatewayError]) -> Iterator[str]:
    """The codes of a branch of the tree of errors that exchanges end with, whatever else is imported."""
    for inner in kind.__subclasses__():
        if inner.__module__ == errors.__name__:
            yield inner.code
            yield from _codes(inner)


REDIS = (errors.LimitsUnavailable.code,)
LIMIT = (errors.LimitExceeded.code,)
TENANT = tuple(dict.fromkeys(_codes(errors.PermissionFault)))
UPSTREAM = tuple(dict.fromkeys(_codes(errors.UpstreamFault)))
GATEWAY = tuple(
    # Who speaks another HTTP has to act, though no request of his was read.
    code
    for code in dict.fromkeys(_codes(errors.GatewayFault))
    if code not in (*REDIS, errors.VersionRefused.code)
)
CLIENT = But((*REDIS, *LIMIT, *TENANT, *UPSTREAM, *GATEWAY))
"""The rest, whose codes are many."""

FAULTS: Mapping[str, Wanted] = {
    "client": CLIENT,
    "tenant": TENANT,
    "limit": LIMIT,
    "gateway": GATEWAY,
    "Redis": REDIS,
    "upstream": UPSTREAM,
}
FAILING = ("401", "403", "429", "5..", "broken", "timeout")
"""What an upstream does that no other request would have changed: our key, our limits there, itself."""

REFUSING = ("400", "404", "409", "413", "422", "4xx")
"""An upstream's answers that are owed to the request."""


def failed(ask: Ask, *by: str) -> Query:
    """Exchanges that failed through no fault of their client's or limits', per second, each once."""
    return ask.rates(
        [
            (EXCHANGES, {"status": "5xx"}),
            (EXCHANGES, {"ending": ("upstream_lost", "failed")}),
            # A session whose time has run out has been served.
            (EXCHANGES, {"ending": "timed_out", "status": But(("1xx",))}),
        ],
        *by,
    )


def share(part: Query, whole: Query) -> Query:
    """What part of a whole something is; nothing where the whole is nothing."""
    return part / whole.above(0)


def upstream_failing(ask: Ask, *by: str) -> Query:
    """The share of what an upstream was asked that it did not do, broke off, throttled or refused our key for."""
    failures: list[tuple[str, Mapping[str, Wanted]]] = [
        (ANSWERS, {"status": FAILING}),
        ("gateway_upstream_cut_answers_total", {}),
        (CONNECTS, {"result": ("failed", "timeout")}),
    ]
    asked: list[tuple[str, Mapping[str, Wanted]]] = [
        (ANSWERS, {}),
        (CONNECTS, {"result": ("failed", "timeout")}),
    ]
    return share(ask.rates(failures, *by), ask.rates(asked, *by))


def tenants_failing(ask: Ask) -> Query:
    """Tenants of whose exchanges more than half were refused or failed; who asks once in five minutes counts not."""
    bad = ask.rates([(EXCHANGES, {"status": ("4xx", "5xx", "none"), "tenant": But(("other",))})], "tenant")
    whole = ask.rate(EXCHANGES, "tenant", tenant=But(("other",)))
    return share(bad, whole.above(1 / 60)).above(0.5).how_many().or_zero()
