"""What Internals shows of that which outlives a request: Redis, keys and configuration, and what should be nothing."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard, units

from docs.dashboards.page import Row
from docs.dashboards.panels import grid, lines
from docs.dashboards.queries import Ask

ask = Ask()
_REDIS = "gateway_redis_seconds"
_no_target = "Prometheus has no target under this job."
_no_redis = "No Redis is in use."

STORE = Row(
    "Redis, limits and usage",
    [
        lines(
            "Servers",
            "Which Redis servers answer: 1, or 0 where one gateway finds that it does not.",
            "0: the server or the way to it. Until it is back the policy to the right decides.",
            ask.min("gateway_redis_up", "server"),
            unit=units.Short,
            empty=_no_redis,
            most=1,
        ),
        lines(
            "Round trips",
            "How long a round trip takes, by server: p99.",
            "It is part of Overhead. Above some milliseconds: the server is busy (slowlog), far away, or swaps.",
            ask.quantile(0.99, _REDIS, "server").top(),
            unit=units.Seconds,
            empty=_no_redis,
        ),
        lines(
            "Round trips per second",
            "How often each server was asked.",
            "One for each admission that was alone; concurrent ones share it.",
            ask.count(_REDIS, "server").top(),
            unit=units.OpsPerSecond,
            empty=_no_redis,
        ),
        grid(
            "Where Redis fails",
            "The on_store_failure that is in force: what decides while Redis does not answer.",
            "local: shares of the limits by worker. open: no limits. closed: everybody is refused. It is yours to "
            "choose.",
            {"gateways": (ask.sum("gateway_limit_store_policy", "policy"), units.Short, ())},
            by=("policy",),
            empty="Limits are in memory.",
            size=(8, 8),
        ),
        lines(
            "Servers that count limits",
            "By whether they answer, as limits see it.",
            "down: limits follow the policy. Of a cluster one server that is down concerns some tenants only.",
            ask.max("gateway_limit_store_servers", "state"),
            unit=units.Short,
            empty="Limits are in memory.",
        ),
        lines(
            "Decided without the store",
            "Steps of admissions per second that were decided while the store did not answer, by what decided.",
            "Over at once when Redis is back. With policy closed these were refusals.",
            ask.rate("gateway_limiter_decisions_without_store_total", "by", "decision"),
            unit=units.OpsPerSecond,
            empty="The store has decided everything.",
        ),
        lines(
            "Waiting to be told",
            "What waits for Redis to come back: settlements of limits, usage, and objects that were made.",
            "Rising: Redis does not answer, or is slower than what is asked. Past a bound usage is lost, which the "
            "last row shows.",
            ask.sum("gateway_limit_late_settlements").named("settlements"),
            ask.sum("gateway_usage_waiting").named("usage"),
            ask.sum("gateway_late_work_waiting").named("objects"),
            unit=units.Short,
            empty=_no_target,
        ),
        lines(
            "Workers that share limits",
            "How many workers share the limits, as last heard.",
            "Fewer than run: one of them does not reach Redis. It matters while the policy local decides.",
            ask.max("gateway_limit_workers"),
            unit=units.Short,
            empty="Limits are in memory.",
        ),
    ],
)

_no_objects = "Nobody has asked yet, or no Redis is in use."

OBJECTS = Row(
    "Stored objects",
    [
        lines(
            "Look-ups",
            "How often it is asked per second whose stored objects are, by what came of it.",
            "unknown: a tenant named what it has not made; the log has the exchanges. unavailable: Redis does not "
            "answer, and requests that name stored objects are refused.",
            ask.rate("gateway_object_look_ups_total", "result"),
            unit=units.OpsPerSecond,
            empty=_no_objects,
        ),
        lines(
            "Look-ups: time",
            "How long a look-up takes: p99 and the median.",
            "It runs beside admission, and is part of Overhead.",
            ask.quantile(0.99, "gateway_object_look_up_seconds").named("p99"),
            ask.quantile(0.5, "gateway_object_look_up_seconds").named("median"),
            unit=units.Seconds,
            empty=_no_objects,
        ),
        lines(
            "What becomes of objects",
            "Stored objects per second, by what became of them.",
            "waiting: Redis could not be told in time; until it is they are out of reach. lost: there was no room to "
            "wait, and the log has each.",
            ask.rate("gateway_objects_total", "became"),
            unit=units.OpsPerSecond,
            empty="Nobody has made any.",
        ),
        lines(
            "Waiting to be recorded",
            "Answers of which the registry has still to be told, on disk and in memory, by gateway.",
            "It falls when Redis answers again. Not falling although it does: the log says why.",
            ask.max("gateway_objects_waiting", "instance"),
            unit=units.Short,
            empty="No Redis is in use.",
        ),
        lines(
            "Inference that went through unrecorded",
            "Exchanges per second that made something while the registry was away, and went through all the same.",
            "What they made is recorded late. Many: Redis is away.",
            ask.rate("gateway_objects_unrecorded_inference_total"),
            unit=units.OpsPerSecond,
            empty=_no_target,
        ),
        lines(
            "Tenants whose entries are lost",
            "Tenants in force of whose stored objects Redis has forgotten what it knew.",
            "`gateway objects import` brings it back; `gateway objects acknowledge` says that it is gone.",
            ask.max("gateway_objects_lost_tenants", "instance"),
            unit=units.Short,
            empty="No Redis is in use.",
            alarm=1,
        ),
    ],
    collapsed=True,
)

KEYS = Row(
    "Configuration, keys and revocations",
    [
        lines(
            "Reloads",
            "Attempts to reload the configuration, per minute, by result.",
            "failed: the files are wrong, and nothing has changed; `gateway check` says what.",
            ask.rate("gateway_configuration_loads_total", "result") * 60,
            unit=units.EventsPerMinute,
            empty="Nobody has reloaded since the start.",
        ),
        lines(
            "In force",
            "Whether the files are what is in force, by gateway: 1, or 0 where they are wrong.",
            "One of many at 0: its copy of the files differs.",
            ask.min("gateway_configuration_valid", "instance"),
            unit=units.Short,
            empty=_no_target,
            most=1,
        ),
        lines(
            "In force since",
            "How long ago what is in force was read, by gateway.",
            "One of many that is older than the last change: it was not told to reload, or its copy of the files "
            "differs.",
            ask.age("gateway_configuration_loaded_timestamp_seconds", "instance"),
            unit=units.DurationSeconds,
            empty=_no_target,
        ),
        lines(
            "Operators refused",
            "Requests for the private listener's page and state that were refused, per minute, by why.",
            "wrong_key and too_many: somebody tries. The private listener should be reached by operators alone.",
            ask.rate("gateway_operator_refusals_total", "reason") * 60,
            unit=units.RequestsPerMinute,
            empty="Nobody was refused.",
        ),
        lines(
            "Loads of the key directory",
            "Loads of the gateway's own keys, per minute, by result.",
            "failed: the keys of before hold, and a start would be refused. Standard error says which file.",
            ask.rate("gateway_key_ring_loads_total", "result") * 60,
            unit=units.EventsPerMinute,
            empty="The keys have not changed since the start.",
        ),
        lines(
            "Issuers' keys: left",
            "Until the keys of another issuer count no more, unless they are fetched again.",
            "At 0 its credentials are answered 503. Its JWKS address does not answer: Fetches below.",
            ask.min("gateway_jwks_stale_in_seconds", "issuer"),
            unit=units.DurationSeconds,
            empty="No other issuers, or their keys are fresh.",
        ),
        lines(
            "Issuers' keys: age",
            "Since the keys of another issuer were last confirmed.",
            "Longer than jwks_refresh_seconds: fetches fail.",
            ask.max("gateway_jwks_age_seconds", "issuer"),
            unit=units.DurationSeconds,
            empty="There are no other issuers.",
        ),
        lines(
            "Fetches of issuers' keys",
            "Fetches per minute, by issuer and result.",
            "failed: the log says why; the last good keys count meanwhile.",
            ask.rate("gateway_jwks_fetches_total", "issuer", "result") * 60,
            unit=units.EventsPerMinute,
            empty="There are no other issuers.",
        ),
        lines(
            "Revocations",
            "Revocations in force.",
            "Few that last: credentials that live shorter need fewer.",
            ask.max("gateway_revocations"),
            unit=units.Short,
            empty="No store of revocations.",
        ),
        lines(
            "Revocations: age",
            "Since the revocations were last confirmed by their store, by gateway.",
            "Above a minute: new ones do not count there, because Redis does not answer.",
            ask.max("gateway_revocations_age_seconds", "instance"),
            unit=units.DurationSeconds,
            empty="No store of revocations.",
            alarm=60,
        ),
        lines(
            "Certificate",
            "Until the certificate expires by which TLS is served, by gateway.",
            "Renew it into the same files, which are followed.",
            ask.min("gateway_tls_certificate_expires_seconds", "instance"),
            unit=units.DurationSeconds,
            empty="TLS is not served here.",
        ),
    ],
    collapsed=True,
)


def _nothing(title: str, name: str, shows: str, act: str, *by: str) -> dashboard.Panel:
    """A counter that should stand still."""
    counted = ask.grown(name, *by)
    return lines(
        title,
        shows,
        act,
        counted if by else counted.or_zero(),
        unit=units.Short,
        empty="None, as it should be.",
        size=(6, 6),
    )


NOTHING = Row(
    "Should be nothing",
    [
        _nothing(
            "Usage lost",
            "gateway_usage_lost_total",
            "Exchanges that will be missing from the usage counters.",
            "Redis did not listen for too long; `gateway usage` says in which hours something is missing.",
        ),
        _nothing(
            "Objects forgotten",
            "gateway_late_work_lost_total",
            "Objects of which their store will never be told.",
            "What they use later may be counted for who asks, or not at all. Redis did not listen for too long.",
        ),
        _nothing(
            "Log lines dropped",
            "gateway_log_lines_dropped_total",
            "Log lines lost because standard output was not read fast enough.",
            "Whatever collects the log is too slow, or stopped.",
        ),
        _nothing(
            "Log lines withheld",
            "gateway_log_lines_withheld_total",
            "Log lines that were not written, as configured, by why: sampled successes, or past the budget.",
            "budget: somebody sends bad credentials by the thousand; the log counts them by address.",
            "reason",
        ),
        _nothing(
            "Observers dropped",
            "gateway_observer_failures_total",
            "Readers of streams that failed and were dropped; the stream itself went on.",
            "A defect: its usage is estimated. Please report it with the log line.",
        ),
        _nothing(
            "Spans lost",
            "gateway_spans_lost_total",
            "Spans of traces that nobody took in time.",
            "The collector does not answer or is too slow; exchanges do not wait for it.",
        ),
        _nothing(
            "Series folded",
            "gateway_series_folded_total",
            "Counts that went to a series `other`, because 20,000 series are the most there may be.",
            "Too many tenants with too many operations or models; see Series.",
        ),
        _nothing(
            "Workers' metrics refused",
            "gateway_worker_metrics_refused_total",
            "What workers said they had counted and could not be shown.",
            "Two releases run side by side for too long, or a defect.",
        ),
        lines(
            "Series",
            "Series that the gateways show, by gateway.",
            "Near 20,000 what is new is counted as `other`.",
            ask.sum("gateway_series", "instance"),
            unit=units.Short,
            empty=_no_target,
            alarm=20_000,
            size=(8, 6),
        ),
        lines(
            "Scrapes: time",
            "How long Prometheus waited for the metrics, by gateway.",
            "Near its scrape_timeout: a scrape is lost, and with it a point of every panel.",
            ask.max("scrape_duration_seconds", "instance"),
            unit=units.Seconds,
            empty=_no_target,
            size=(8, 6),
        ),
        lines(
            "Scrapes: samples",
            "How many samples a scrape brought, by gateway.",
            "Near the sample_limit of your Prometheus, all of them are refused.",
            ask.max("scrape_samples_scraped", "instance"),
            unit=units.Short,
            empty=_no_target,
            size=(8, 6),
        ),
    ],
    collapsed=True,
)
