"""Upstreams: what they answer and how soon, what is left of our limits there, and the connections to them."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from docs.dashboards.faults import ANSWERS, CONNECTS, FAILING, share, upstream_failing
from docs.dashboards.page import Page, Row
from docs.dashboards.panels import bars, lines, number
from docs.dashboards.queries import Ask

ask = Ask("upstream")
_SECONDS, _POOL, _MOST = (
    "gateway_upstream_answer_seconds",
    "gateway_upstream_connections",
    "gateway_upstream_connections_most",
)
_WAITS = "gateway_upstream_waits_total"
_RISING = ((0, "red"), (0.05, "orange"), (0.2, "green"))
_none = "No upstream was asked anything in this time."
_limits = ("upstream", "model", "dimension")
_left = share(
    ask.min("gateway_upstream_limit_remaining", *_limits), ask.min("gateway_upstream_limit", *_limits)
)
_pool_used = share(ask.sum(_POOL, "upstream", state="busy"), ask.sum(_MOST, "upstream"))

NOW = Row(
    "Now",
    [
        number(
            "Failing",
            "The share of what was asked that upstreams failed, broke off, throttled, or refused our key for.",
            "The three numbers to the right say which of it; the status in Answers says more.",
            upstream_failing(ask).at_most(1).or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.01, "yellow"), (0.05, "orange"), (0.2, "red")),
            loud=True,
        ),
        number(
            "Our key refused",
            "Answers 401 and 403 per second.",
            "Our key there was revoked, or lacks a right: replace upstream.api_key (or the tenant's) and reload. "
            "Tenants can do nothing.",
            ask.rate(ANSWERS, status=("401", "403")).or_zero(),
            unit=units.OpsPerSecond,
            empty="0",
            steps=((0.001, "red"),),
            loud=True,
        ),
        number(
            "Throttled there",
            "Answers 429 per second.",
            "Our account's limit is used up: What is left, below, says which. Have it raised, or lower the limits "
            "of tenants that share it.",
            ask.rate(ANSWERS, status="429").or_zero(),
            unit=units.OpsPerSecond,
            empty="0",
            steps=((0.01, "orange"), (1, "red")),
            loud=True,
        ),
        number(
            "Connects failed",
            "Attempts to connect that failed or took too long, per second.",
            "Names, routes, firewalls, or they are down: the log's `detail` has the error of the system. no_files "
            "is our own file limit.",
            ask.rate(CONNECTS, result=("failed", "timeout", "no_files")).or_zero(),
            unit=units.OpsPerSecond,
            empty="0",
            steps=((0.01, "orange"), (0.5, "red")),
            loud=True,
        ),
        number(
            "Fullest pool",
            "The share of the connections that may be open to one upstream which are busy.",
            "At 100 % the next exchange waits: raise upstream.max_connections, or bound who holds them with "
            "max_concurrent_requests.",
            _pool_used.most(),
            unit=units.PercentUnit,
            empty="No connection yet",
            steps=((0.7, "yellow"), (0.9, "red")),
            loud=True,
        ),
        number(
            "Least left",
            "Of the limits that upstreams tell of, the share that is left of the lowest.",
            "At 0 they answer 429. It says nothing of limits that they do not tell.",
            _left.least(),
            unit=units.PercentUnit,
            empty="None is told",
            steps=_RISING,
            loud=True,
        ),
    ],
)

IDENTITY = Row(
    "Workload identities",
    [
        lines(
            "Opened for",
            "Until what a workload identity opens an upstream with expires, unless it is renewed: the ten shortest.",
            "A saw whose teeth end at a third is well. Below 0 everybody who goes that way is answered 503: the log's "
            "`detail`, and gateway check --live, say why.",
            ask.min("gateway_upstream_identity_expires_seconds", "upstream").lowest(),
            unit=units.DurationSeconds,
            empty="No upstream is opened by a workload identity.",
        ),
        lines(
            "Not renewed since",
            "Since it should have been renewed: the ten worst.",
            "Above 0 for minutes: its file, its endpoint, or the way there; standard error has the words.",
            ask.max("gateway_upstream_identity_overdue_seconds", "upstream").top(),
            unit=units.DurationSeconds,
            empty="No upstream is opened by a workload identity.",
        ),
        lines(
            "Endpoints asked",
            "Times that endpoints were asked what identities open, per minute, by result.",
            "refused: the endpoint's words are on standard error. no_subject: there is nothing in the file.",
            ask.rate("gateway_upstream_identity_exchanges_total", "result") * 60,
            unit=units.EventsPerMinute,
            empty="None was asked lately.",
        ),
    ],
)

ANSWER = Row(
    "Answers",
    [
        lines(
            "Answers by status",
            "What upstreams answered, per second; classes where the status says nothing of whose fault it is.",
            "401 and 403: our key. 429: our limits there. 5xx, 529: themselves. 400 to 422: our clients' requests.",
            ask.rate(ANSWERS, "status"),
            unit=units.RequestsPerSecond,
            empty=_none,
            stacked=True,
        ),
        lines(
            "Answers by upstream",
            "Answers per second, by upstream: the ten most asked.",
            "One that falls to nothing while others go on: its tenants have stopped, or nobody gets through to it.",
            ask.rate(ANSWERS, "upstream").top(),
            unit=units.RequestsPerSecond,
            empty=_none,
            stacked=True,
        ),
        lines(
            "Failing, by upstream",
            "The share of what each was asked that it failed, broke off, throttled, or refused our key for: the "
            "ten worst.",
            "One: it. All: the network between, or something of ours; Connects says.",
            upstream_failing(ask, "upstream").top(),
            unit=units.PercentUnit,
            empty="No upstream failed.",
            alarm=0.05,
        ),
        lines(
            "Failures by upstream and status",
            "Answers that blame nobody who asked, per second: the ten most frequent pairs.",
            "The pair says who to call, and why.",
            ask.rate(ANSWERS, "upstream", "status", status=FAILING).top(),
            unit=units.OpsPerSecond,
            empty="None.",
        ),
        lines(
            "Broken off",
            "Answers per second that had begun and broke off, or fell silent: their clients saw them cut.",
            "One upstream: it restarts, or something before it cuts long answers. All: the network.",
            ask.rate("gateway_upstream_cut_answers_total", "upstream").top(),
            unit=units.OpsPerSecond,
            empty="None.",
        ),
        lines(
            "Asked again",
            "Requests per second that were sent once more on a new connection, because the first one had gone "
            "stale.",
            "A few are well. Many: something between closes idle connections sooner than "
            "upstream.keepalive_seconds.",
            ask.rate("gateway_upstream_asked_again_total", "upstream").top(),
            unit=units.OpsPerSecond,
            empty="None.",
        ),
    ],
)

TIME = Row(
    "Time",
    [
        lines(
            "Until the answer begins",
            "From having been asked to the head of the answer, of all that are chosen.",
            "The upstream's own time: nothing of ours is in it. What is not streamed takes as long as it is "
            "generated.",
            *(ask.quantile(q, _SECONDS).named(n) for q, n in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))),
            unit=units.Seconds,
            empty=_none,
        ),
        lines(
            "Until the answer begins, by upstream",
            "p95 by upstream: the ten slowest.",
            "One that grows alone is slow: its status page, or What is left, may say why.",
            ask.quantile(0.95, _SECONDS, "upstream").top(),
            unit=units.Seconds,
            empty=_none,
        ),
        lines(
            "Connecting",
            "p95 of making a connection, TLS included, by upstream: the ten slowest.",
            "Tens of milliseconds to another region are well. Seconds: packets are lost on the way, or names "
            "resolve slowly.",
            ask.quantile(0.95, "gateway_upstream_connect_seconds", "upstream").top(),
            unit=units.Seconds,
            empty="No new connection was needed.",
        ),
    ],
)

LEFT = Row(
    "What is left of our limits there",
    [
        bars(
            "What is left",
            "The share of each limit that an upstream told was left: the ten lowest.",
            "At 0 % it answers 429. The limits of tenants that share the account should add up to less.",
            _left.lowest(),
            unit=units.PercentUnit,
            empty="No upstream has told of its limits lately.",
            steps=_RISING,
            most=1,
        ),
        lines(
            "What was left",
            "The same over time: the ten lowest.",
            "A saw that touches 0 is a limit that is too small for what is asked in bursts.",
            _left.lowest(),
            unit=units.PercentUnit,
            empty="No upstream has told of its limits lately.",
            most=1,
        ),
        lines(
            "In their units",
            "What was left in requests, LLM tokens or whatever the upstream counts: the ten lowest.",
            "Compare it with one large request: what does not fit is throttled though something is left.",
            ask.min("gateway_upstream_limit_remaining", *_limits).lowest(),
            unit=units.Short,
            empty="No upstream has told of its limits lately.",
            logarithmic=True,
        ),
    ],
)

POOL = Row(
    "Connections",
    [
        lines(
            "Connections by state",
            "Connections that are busy or idle, and exchanges that wait for one.",
            "waiting above 0: the pool is full. busy that does not fall: answers that are not read to their end.",
            ask.sum(_POOL, "state"),
            unit=units.Short,
            empty="No upstream was asked yet.",
        ),
        lines(
            "Pool in use, by upstream",
            "The share of the connections that may be open to an upstream which are busy: the ten fullest.",
            "Above 90 %: raise upstream.max_connections, if files and memory allow.",
            _pool_used.top(),
            unit=units.PercentUnit,
            empty="No upstream was asked yet.",
            alarm=0.9,
        ),
        lines(
            "Connects by result",
            "Attempts to connect, per second.",
            "Many that are connected: connections do not live long enough to be used again. failed and timeout: "
            "the log's `detail` says which error.",
            ask.rate(CONNECTS, "result"),
            unit=units.OpsPerSecond,
            empty="No new connection was needed.",
            stacked=True,
        ),
        lines(
            "Waits by result",
            "Exchanges per second that had to wait for a connection, by how that ended.",
            "refused: nothing came free in time, and the client was answered 503. left: the client gave up.",
            ask.rate(_WAITS, "result"),
            unit=units.OpsPerSecond,
            empty="Nobody had to wait.",
            stacked=True,
        ),
        lines(
            "How long they waited",
            "How long exchanges waited for a connection to come free.",
            "It is part of Overhead. More connections, or fewer at once of the tenant that holds most.",
            *(
                ask.quantile(q, "gateway_upstream_wait_seconds").named(n)
                for q, n in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
            ),
            unit=units.Seconds,
            empty="Nobody had to wait.",
        ),
        lines(
            "Who holds them",
            "Connections held by tenant and upstream: the ten with most.",
            "One that holds most of a full pool: max_concurrent_requests bounds it.",
            ask.sum("gateway_upstream_connections_held", "upstream", "tenant").top(),
            unit=units.Short,
            empty="No connection is held.",
        ),
    ],
)

PAGE = Page(
    "upstreams",
    "Upstreams",
    "What upstreams answer and how soon, what is left of our limits there, and the connections to them.",
    ask,
    [NOW, ANSWER, TIME, LEFT, POOL, IDENTITY],
)
