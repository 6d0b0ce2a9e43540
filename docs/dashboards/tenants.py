"""Who uses what, whose limits are full, and whose exchanges go wrong."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from docs.dashboards.faults import ERRORS, EXCHANGES, failed, share
from docs.dashboards.page import Page, Row
from docs.dashboards.panels import PER_MINUTE, bars, grid, lines, number
from docs.dashboards.queries import WHOLE, Ask, but

ask = Ask("tenant")
_USAGE, _DECISIONS = "gateway_usage_total", "gateway_limiter_decisions_total"
_quiet = "Nobody has asked anything in this time."

WHO = Row(
    "Who",
    [
        grid(
            "Tenants at a glance",
            "The fifty that ask most: exchanges per second, how many failed or were refused, LLM tokens per "
            "minute, and the fullest of their limits.",
            "Sort by a column: who fails, who is throttled, whose limit is full. Choose one above to see that one "
            "alone.",
            {
                "exchanges/s": (ask.rate(EXCHANGES, "tenant").top(50), units.RequestsPerSecond, ()),
                "failed": (
                    share(failed(ask, "tenant"), ask.rate(EXCHANGES, "tenant")).top(50),
                    units.PercentUnit,
                    ((0.01, "yellow"), (0.05, "red")),
                ),
                "4xx": (
                    share(ask.rate(EXCHANGES, "tenant", status="4xx"), ask.rate(EXCHANGES, "tenant")).top(50),
                    units.PercentUnit,
                    ((0.2, "yellow"), (0.5, "orange")),
                ),
                "throttled/s": (
                    ask.rate(_DECISIONS, "tenant", decision="refused").top(50),
                    units.OpsPerSecond,
                    ((0.01, "orange"),),
                ),
                "LLM tokens in/min": (
                    (ask.rate(_USAGE, "tenant", kind="input") * 60).top(50),
                    units.Short,
                    (),
                ),
                "LLM tokens out/min": (
                    (ask.rate(_USAGE, "tenant", kind="output") * 60).top(50),
                    units.Short,
                    (),
                ),
                "fullest limit": (
                    ask.max("gateway_limit_used_ratio", "tenant").top(50),
                    units.PercentUnit,
                    ((0.8, "yellow"), (0.95, "red")),
                ),
            },
            by=("tenant",),
            empty=_quiet,
        ),
        lines(
            "Exchanges",
            "Exchanges that ended, per second: the ten tenants that ask most.",
            "A jump of one is a batch or a loop; what it may ask is its max_requests_per_1_minute.",
            ask.rate(EXCHANGES, "tenant").top(),
            unit=units.RequestsPerSecond,
            empty=_quiet,
            stacked=True,
        ),
        lines(
            "In flight",
            "Exchanges being served now: the ten tenants with most; other: whose caller is not known yet.",
            "One that holds nearly all holds the upstream's connections as well: max_concurrent_requests bounds it.",
            ask.sum("gateway_exchanges_in_flight", "tenant").top(),
            unit=units.Short,
            empty="Nothing is being served.",
            stacked=True,
        ),
        lines(
            "Failed",
            "The share of a tenant's exchanges that failed through no fault of theirs and no limit: the ten worst.",
            "One alone: its upstream account, its models. All alike: begin on Overview.",
            share(failed(ask, "tenant"), ask.rate(EXCHANGES, "tenant")).top(),
            unit=units.PercentUnit,
            empty="Nobody's exchanges failed.",
            alarm=0.05,
        ),
    ],
)

LIMITS = Row(
    "Limits",
    [
        bars(
            "Fullest limits",
            "How much of each limit is in use now: the ten fullest.",
            "At 100 % the next request is refused. Raise the limit under tenants.ID.limits, or find who uses it "
            "up: the log has `reserved` and `usage` of each exchange.",
            ask.max("gateway_limit_used_ratio", "tenant", "dimension").top(),
            unit=units.PercentUnit,
            empty="No limit is in use.",
            steps=((0.8, "yellow"), (0.95, "red")),
            most=1,
        ),
        lines(
            "Limits in use",
            "How much of each limit was in use: the ten fullest.",
            "A saw just below 100 % is a tenant at its limit all the time; a flat line there is a debt being paid "
            "off.",
            ask.max("gateway_limit_used_ratio", "tenant", "dimension").top(),
            unit=units.PercentUnit,
            empty="No limit is in use.",
            alarm=1,
        ),
        lines(
            "Throttled, by which limit",
            "Requests refused by a limit, per second, by tenant and the limit that refused: the ten most.",
            "The limit is named as in the configuration. Refusals without an end mean that the client does not "
            "wait for retry-after.",
            ask.rate(_DECISIONS, "tenant", "dimension", decision="refused").top(),
            unit=units.OpsPerSecond,
            empty="No limit refused anything.",
            stacked=True,
        ),
        lines(
            "Reserved beside used",
            "LLM tokens per minute that limits reserved at admission, and that were settled when the answers were "
            "known.",
            "Far more reserved than settled: clients state a max_tokens that they never need, and are throttled "
            "for it.",
            ask.rate("gateway_limited_llm_tokens_total", "moment") * 60,
            unit=PER_MINUTE,
            empty="No limit counts LLM tokens of anything in this time.",
        ),
        lines(
            "Used of what was reserved",
            "Settled LLM tokens as a share of those reserved: the ten tenants that use least of it.",
            "Below 10 %: ask the tenant to state smaller maxima, and it gets more through the same limit.",
            share(
                ask.rate("gateway_limited_llm_tokens_total", "tenant", moment="settled"),
                ask.rate("gateway_limited_llm_tokens_total", "tenant", moment="reserved"),
            ).lowest(),
            unit=units.PercentUnit,
            empty="No limit counts LLM tokens of anything in this time.",
        ),
        lines(
            "Decided without the limit store",
            "Steps of admissions that were decided while Redis did not answer, by what decided.",
            "Limits are only shared out among workers (local), off (open) or refuse all (closed) meanwhile: see "
            "Redis on Internals.",
            ask.rate("gateway_limiter_decisions_without_store_total", "by", "decision"),
            unit=units.OpsPerSecond,
            empty="The store has decided everything.",
        ),
    ],
)

USAGE = Row(
    "Usage",
    [
        lines(
            "LLM tokens out",
            "LLM tokens generated per minute: the ten tenants with most.",
            "What it costs is on your upstream's price list; max_tokens_per_1_day bounds a tenant.",
            (ask.rate(_USAGE, "tenant", kind="output") * 60).top(),
            unit=PER_MINUTE,
            empty="Nothing was generated.",
            stacked=True,
        ),
        lines(
            "Usage by kind",
            "Everything that was used, per minute; cached_input is part of input, reasoning of output.",
            "input that grows without cached_input: prompts have begun to differ at their start.",
            ask.rate(_USAGE, "kind") * 60,
            unit=PER_MINUTE,
            empty="Nothing was used.",
        ),
        lines(
            "What is known of it",
            "Exchanges that used something, per minute, by what is known: reported, estimated, or nothing.",
            "unreported is missing from all usage; which operation it is, the log says by `usage_known`.",
            ask.rate("gateway_usage_exchanges_total", "known") * 60,
            unit=PER_MINUTE,
            empty="Nothing was used.",
            stacked=True,
        ),
        grid(
            "Used in the time shown",
            "LLM tokens in and out of the fifty tenants that generated most, over the whole time chosen above.",
            "For accounts by day and month ask `gateway usage`, which outlives Prometheus.",
            {
                "output": (ask.grown(_USAGE, "tenant", over=WHOLE, kind="output").top(50), units.Short, ()),
                "input": (ask.grown(_USAGE, "tenant", over=WHOLE, kind="input").top(50), units.Short, ()),
                "cached input": (
                    ask.grown(_USAGE, "tenant", over=WHOLE, kind="cached_input").top(50),
                    units.Short,
                    (),
                ),
                "reasoning": (
                    ask.grown(_USAGE, "tenant", over=WHOLE, kind="reasoning").top(50),
                    units.Short,
                    (),
                ),
            },
            by=("tenant",),
            empty="Nothing was used.",
            size=(16, 8),
        ),
        number(
            "Reports out of measure",
            "Reports of usage above a hundred times a limit in the time shown, of which a hundred times were "
            "charged.",
            "An upstream counts wrongly, or one answer was enormous; the tenant owes until it is paid off or "
            "forgiven.",
            ask.grown("gateway_limit_reports_capped_total", over=WHOLE).or_zero(),
            unit=units.Short,
            empty="0",
            steps=((1, "red"),),
            size=(8, 8),
        ),
    ],
)

WRONG = Row(
    "What goes wrong",
    [
        lines(
            "Errors by code",
            "The gateway's own errors per second: the ten most frequent.",
            "docs/errors.md says of each code what to do. Choose a tenant above to see theirs alone.",
            ask.rate(ERRORS, "code").top(),
            unit=units.OpsPerSecond,
            empty="No errors.",
            stacked=True,
        ),
        lines(
            "Errors by tenant and code",
            "The ten most frequent pairs.",
            "One pair that stands out is somebody to call; click on it for the log lines, which name subject and "
            "client.",
            ask.rate(ERRORS, "tenant", "code").top(),
            unit=units.OpsPerSecond,
            empty="No errors.",
        ),
        lines(
            "Credentials refused",
            "Refused credentials per second, by what is wrong with them.",
            "A surge of one reason: an expired one that is still in use, a retired key, or somebody who tries. The "
            "log has the address.",
            ask.rate("gateway_credential_refusals_total", "reason"),
            unit=units.OpsPerSecond,
            empty="No credential was refused.",
            stacked=True,
        ),
        lines(
            "How exchanges ended",
            "Everything that did not complete, per second.",
            "client_left: the client gave up, mostly for waiting; withdrawn: a right was taken away while it ran.",
            ask.rate(EXCHANGES, "ending", ending=but("complete")),
            unit=units.RequestsPerSecond,
            empty="All exchanges of this time completed.",
            stacked=True,
        ),
        lines(
            "Credentials that expire",
            "Until the first credential of a tenant expires, of those in use that do within seven days: the ten "
            "next.",
            "Issue another with `gateway credentials issue`, and have it taken into use.",
            ask.min("gateway_credential_expires_seconds", "tenant").lowest(),
            unit=units.DurationSeconds,
            empty="None that is in use expires within seven days.",
        ),
        lines(
            "Tenants on one account",
            "Tenants of whom the upstream says that they share an account that one of them counts as its own.",
            "They may reach each other's stored objects: `gateway check --live` names them.",
            ask.max("gateway_mistaken_accounts").or_zero(),
            unit=units.Short,
            empty="0",
            alarm=1,
        ),
    ],
)

HOLD = Row(
    "What they hold",
    [
        lines(
            "Exchanges at once, on average",
            "Seconds of exchanges per second: how many a tenant has had open on average. The ten with most.",
            "Against max_concurrent_requests: who is near it waits for its own.",
            ask.rate("gateway_exchange_seconds_total", "tenant").top(),
            unit=units.Short,
            empty=_quiet,
            stacked=True,
        ),
        lines(
            "Body bytes",
            "Bytes per second, in from clients and out to them: the ten largest streams.",
            "Large and steady: files or audio. Past the machine's network everybody slows down.",
            ask.rate("gateway_body_bytes_total", "tenant", "direction").top(),
            unit=units.BytesPerSecondIEC,
            empty=_quiet,
        ),
        lines(
            "Memory of request bodies",
            "Memory that the bodies of a tenant's requests occupy: the ten with most.",
            "Near a tenant's share (edge.body_memory_share) its next large body is refused, and nobody else's.",
            ask.sum("gateway_body_memory_held_bytes", "tenant").top(),
            unit=units.BytesIEC,
            empty="No body is held in memory.",
            stacked=True,
        ),
        lines(
            "Bodies without room",
            "Requests per minute whose body found no room in memory, by tenant and reason.",
            "share: that tenant's own; full: all together, and edge.body_memory_bytes or the machine is too small.",
            (ask.rate("gateway_body_memory_refusals_total", "tenant", "reason") * 60).top(),
            unit=units.RequestsPerMinute,
            empty="Every body found room.",
        ),
        lines(
            "Upstream connections",
            "Connections to upstreams that a tenant's exchanges hold: the ten with most.",
            "One that holds most of a full pool makes others wait: max_concurrent_requests bounds it.",
            ask.sum("gateway_upstream_connections_held", "tenant").top(),
            unit=units.Short,
            empty="No connection is held.",
            stacked=True,
        ),
        lines(
            "Waits for a connection",
            "Exchanges per second that had to wait for a connection to come free, by tenant and result: the ten "
            "most.",
            "The pool is too small for what is asked at once, or an upstream has slowed down: see Upstreams.",
            ask.rate("gateway_upstream_waits_total", "tenant", "result").top(),
            unit=units.OpsPerSecond,
            empty="Nobody had to wait.",
        ),
    ],
    collapsed=True,
)

PAGE = Page(
    "tenants",
    "Tenants",
    "Who uses what, whose limits are full and which limit throttles, and whose exchanges go wrong.",
    ask,
    [WHO, LIMITS, USAGE, WRONG, HOLD],
)
