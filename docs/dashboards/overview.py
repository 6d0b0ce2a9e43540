"""Is it us? Whose fault it is, what it costs, who it is, and which dashboard says more."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from docs.dashboards.faults import (
    ANSWERS,
    ERRORS,
    EXCHANGES,
    FAULTS,
    REFUSING,
    failed,
    share,
    tenants_failing,
    upstream_failing,
)
from docs.dashboards.page import Page, Row
from docs.dashboards.panels import LLM_TOKENS_PER_SECOND, bars, grid, lines, number
from docs.dashboards.queries import Ask, Query, but

ask = Ask()
_exchanges = ask.rate(EXCHANGES)
_no_redis = "No Redis in use"


def _fault(name: str) -> Query:
    """Errors of the gateway's own for which somebody has to act, per second."""
    return ask.rate(ERRORS, code=FAULTS[name]).or_zero().named(name)


WHOSE = Row(
    "Whose fault is it?",
    [
        number(
            "Client",
            "The share of exchanges that could not be served as they were sent: malformed, too large, with a bad "
            "credential, or refused by the upstream for what they ask.",
            "Nothing here is broken. See who it is under Tenants, and which error under Errors by code; a new "
            "release of one client, or somebody who tries credentials, looks like this.",
            share(_fault("client") + ask.rate(ANSWERS, status=REFUSING).or_zero(), _exchanges)
            .at_most(1)
            .or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.2, "yellow"), (0.6, "orange")),
            leads="tenants",
            loud=True,
        ),
        number(
            "Tenants failing",
            "How many tenants have more than half of their exchanges refused or failed, of those that ask at all.",
            "One or two: it is theirs (credential, model, scope, limit, or an upstream account of their own), and "
            "Tenants says what. Many: look to the right of this first.",
            tenants_failing(ask),
            unit=units.Short,
            empty="0",
            steps=((1, "orange"), (4, "red")),
            leads="tenants",
            loud=True,
        ),
        number(
            "Limit",
            "The share of admissions that a limit of this gateway refused.",
            "The gateway does what it was told. Tenants shows whose limit it is, which, and how full; raise it, or "
            "have the tenant slow down.",
            share(
                ask.rate("gateway_limiter_decisions_total", decision="refused"),
                ask.rate("gateway_limiter_decisions_total"),
            ).or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.05, "yellow"), (0.3, "orange")),
            leads="tenants",
            loud=True,
        ),
        number(
            "Gateway",
            "The share of exchanges that the gateway itself could not serve: overloaded, stopping, misconfigured, "
            "or a defect.",
            "It is us. Internals shows what is short: loop lag, CPU, memory of bodies, files, workers. The log "
            "lines name the error and its detail.",
            share(_fault("gateway"), _exchanges).at_most(1).or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.0001, "orange"), (0.01, "red")),
            leads="internals",
            loud=True,
        ),
        number(
            "Redis",
            "How many Redis servers do not answer.",
            "Limits follow on_store_failure now, and revocations and usage wait. Internals shows which server it "
            "is, the policy in force, and how slow the others are.",
            ask.min("gateway_redis_up", "server")
            .is_equal(0)
            .how_many()
            .or_else(ask.min("gateway_redis_up", "server").how_many() * 0),
            unit=units.Short,
            empty=_no_redis,
            steps=((1, "red"),),
            leads="internals",
            loud=True,
        ),
        number(
            "Upstream",
            "The share of what upstreams were asked that they failed, broke off, throttled, or refused our key for.",
            "It is them, or our account there. Upstreams shows which one and how: 401 and 403 are our key, 429 our "
            "limits there, 5xx and failed connects themselves.",
            upstream_failing(ask).at_most(1).or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.01, "yellow"), (0.05, "orange"), (0.2, "red")),
            leads="upstreams",
            loud=True,
        ),
    ],
)

COSTS = Row(
    "What it costs",
    [
        number(
            "Exchanges",
            "Requests whose answers have ended, per second.",
            "Far fewer than an hour ago: clients do not reach the gateway, or wait; see In flight and the targets "
            "below.",
            _exchanges.or_zero(),
            unit=units.RequestsPerSecond,
            empty="0",
        ),
        number(
            "Not served",
            "The share of exchanges that failed through no fault of their client and no limit of ours.",
            "This is what the error budget is spent on. The row above says by whom.",
            share(failed(ask), _exchanges).or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.001, "yellow"), (0.01, "orange"), (0.05, "red")),
        ),
        number(
            "In flight",
            "Exchanges being served now.",
            "Rising while exchanges per second do not: the upstream has slowed down, or answers are not read. See "
            "Oldest exchange, and first byte below.",
            ask.sum("gateway_exchanges_in_flight").or_zero(),
            unit=units.Short,
            empty="0",
            leads="models",
        ),
        number(
            "First byte, p95",
            "Within this time 95 of 100 streamed generations had begun to be answered, as their clients feel it.",
            "Compare Overhead below: where that is small it is the upstream, and Upstreams says which.",
            ask.quantile(0.95, "gateway_generation_first_byte_seconds"),
            unit=units.Seconds,
            empty="No generation was streamed",
            steps=((5, "yellow"), (15, "orange"), (60, "red")),
            leads="models",
        ),
        number(
            "LLM tokens out",
            "LLM tokens that were generated, per second, whoever asked.",
            "A fall without a fall of exchanges: answers break off, or their usage is not reported.",
            ask.rate("gateway_usage_total", kind="output").or_zero(),
            unit=LLM_TOKENS_PER_SECOND,
            empty="0",
            leads="models",
        ),
        number(
            "Alerts",
            "How many alerts fire now; Prometheus keeps that of the rules in deploy/prometheus.",
            "The table below names them and their culprits; docs/runbooks.md has a heading for each.",
            ask.max("ALERTS", "alertname", "tenant", "upstream", alertstate="firing").how_many().or_zero(),
            unit=units.Short,
            empty="0",
            steps=((1, "orange"), (4, "red")),
        ),
    ],
)

OVER_TIME = Row(
    "Since when, and who",
    [
        lines(
            "Errors by whose fault",
            "The gateway's own errors per second, by who has to act.",
            "The colour that grows says who. The log lines of that time have the code in `error` and more in "
            "`detail`.",
            *(_fault(name) for name in FAULTS),
            unit=units.OpsPerSecond,
            empty="No errors",
            stacked=True,
            size=(12, 8),
        ),
        grid(
            "Firing alerts",
            "What fires now, how badly, whose fault it is, and who it is about.",
            "docs/runbooks.md has a heading for each; begin with the critical ones. Empty is good.",
            {
                "firing": (
                    ask.max(
                        "ALERTS", "severity", "alertname", "fault", "tenant", "upstream", alertstate="firing"
                    ),
                    units.Short,
                    (),
                )
            },
            by=("severity", "alertname", "fault", "tenant", "upstream"),
            empty="No alert fires, or Prometheus has not the rules of deploy/prometheus.",
            size=(12, 8),
        ),
        bars(
            "Tenants that fail most",
            "The share of a tenant's exchanges that failed through no fault of theirs and no limit: the ten worst.",
            "One alone: its upstream account or models. All alike: the upstream, Redis or the gateway.",
            share(failed(ask, "tenant"), ask.rate(EXCHANGES, "tenant")).top(),
            unit=units.PercentUnit,
            empty="Nobody's exchanges failed.",
            steps=((0.01, "yellow"), (0.05, "orange"), (0.2, "red")),
            most=1,
            leads="tenants",
        ),
        bars(
            "Upstreams that fail most",
            "The share of what each upstream was asked that it failed, broke off, throttled, or refused our key "
            "for.",
            "Upstreams shows how. Where a model is served elsewhere too, tenants can be moved: tenants.ID.upstream.",
            upstream_failing(ask, "upstream").top(),
            unit=units.PercentUnit,
            empty="No upstream failed.",
            steps=((0.01, "yellow"), (0.05, "orange"), (0.2, "red")),
            most=1,
            leads="upstreams",
        ),
        bars(
            "Errors by code",
            "The gateway's own errors per second: the ten most frequent.",
            "docs/errors.md says of each code what to do about it.",
            ask.rate(ERRORS, "code").top(),
            unit=units.OpsPerSecond,
            empty="No errors in this time.",
            steps=((0, "yellow"),),
            leads="tenants",
        ),
    ],
)

_budget = ask.recorded("gateway:error_budget:ratio")
BUDGET = Row(
    "The error budget",
    [
        lines(
            "How fast it burns",
            "How many times faster than it lasts the error budget was spent in the last 5 minutes, hour and 6 "
            "hours, by the rules of deploy/prometheus: at 1 it lasts exactly.",
            "Above 14.4 an hour costs two days of it, and somebody is woken. The row on top says whose fault it is.",
            *(
                (ask.recorded(f"gateway:failures:ratio{over}").most() / _budget.most()).named(over)
                for over in ("5m", "1h", "6h")
            ),
            unit=units.Short,
            empty="Nobody has asked anything, or Prometheus has not the rules of deploy/prometheus.",
            alarm=14.4,
            size=(12, 8),
        ),
        lines(
            "How fast tenants burn it",
            "The same of the last hour by tenant: the ten fastest.",
            "One alone: its upstream account, its models. All alike: ours, Redis, or the upstream.",
            (ask.recorded("gateway:tenant_failures:ratio1h").most("tenant") / _budget.most()).top(),
            unit=units.Short,
            empty="Nobody has asked anything, or Prometheus has not the rules of deploy/prometheus.",
            alarm=14.4,
            size=(12, 8),
        ),
    ],
)

TRAFFIC = Row(
    "Traffic",
    [
        lines(
            "Answers by status",
            "Exchanges that ended, by what their client was answered; none: nothing was.",
            "Red is failures and yellow refusals, whoever is to blame; the row on top says who.",
            ask.rate(EXCHANGES, "status"),
            unit=units.RequestsPerSecond,
            empty="Nobody has asked anything in this time.",
            stacked=True,
        ),
        lines(
            "How exchanges ended",
            "Everything that did not complete, per second.",
            "upstream_lost and timed_out are the upstream's, failed is a defect of ours, drained a stop, withdrawn "
            "a right taken away; client_left alone is a client that gave up, mostly for waiting too long.",
            ask.rate(EXCHANGES, "ending", ending=but("complete")),
            unit=units.RequestsPerSecond,
            empty="All exchanges of this time completed.",
            stacked=True,
        ),
        lines(
            "Operations",
            "Exchanges per second, by operation: the ten most frequent.",
            "A jump of one operation is mostly one tenant's batch; Tenants says whose.",
            ask.rate(EXCHANGES, "operation").top(),
            unit=units.RequestsPerSecond,
            empty="Nobody has asked anything in this time.",
            stacked=True,
        ),
    ],
)

TIME = Row(
    "Time: ours and theirs",
    [
        lines(
            "First byte of generations",
            "From the moment a request was readable to the first byte of its streamed answer.",
            "Click on an exemplar for its request. Compare the two panels to the right: one of them has grown with "
            "it.",
            *(
                ask.quantile(q, "gateway_generation_first_byte_seconds").named(name)
                for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            unit=units.Seconds,
            empty="No generation was streamed in this time.",
        ),
        lines(
            "Ours: overhead",
            "What the gateway itself added before it asked the upstream, from the first readable byte on.",
            "Milliseconds are well. More: loop lag, CPU, Redis or a wait for a connection, which Internals and "
            "Upstreams show.",
            *(
                ask.quantile(q, "gateway_overhead_seconds").named(name)
                for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            unit=units.Seconds,
            empty="Nobody has asked anything in this time.",
        ),
        lines(
            "Theirs: until an upstream answers",
            "From having been asked to the head of its answer, p95 by upstream.",
            "The one that grows is slow. What it has left of our limits, and its errors, are on Upstreams.",
            ask.quantile(0.95, "gateway_upstream_answer_seconds", "upstream").top(),
            unit=units.Seconds,
            empty="No upstream has answered in this time.",
        ),
    ],
)

TARGETS = Row(
    "Gateways",
    [
        lines(
            "Scraped",
            "Which gateways Prometheus reaches: 1, or 0 where it does not.",
            "A gateway at 0 is down, or its private listener does not answer; what it served shows on no panel "
            "meanwhile.",
            ask.max("up", "instance"),
            unit=units.Short,
            empty="Prometheus has no target under this job.",
            most=1,
        ),
        lines(
            "Running for",
            "How long each gateway has been running.",
            "A line that falls to 0 is a restart that nobody may have asked for; see Workers replaced on Internals.",
            ask.age("process_start_time_seconds", "instance"),
            unit=units.DurationSeconds,
            empty="Prometheus has no target under this job.",
        ),
        grid(
            "Versions",
            "Which version runs where.",
            "Two versions for longer than a rollout takes: it has stopped half way.",
            {"running": (ask.max("gateway_build_info", "instance", "version"), units.Short, ())},
            by=("instance", "version"),
            empty="Prometheus has no target under this job.",
            size=(8, 8),
        ),
    ],
    collapsed=True,
)

PAGE = Page(
    "overview",
    "Overview",
    "Is it us? Whose fault it is, what it costs and who it is; a click on a number leads on.",
    ask,
    [WHOSE, COSTS, OVER_TIME, BUDGET, TRAFFIC, TIME, TARGETS],
)
