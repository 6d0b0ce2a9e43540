"""The gateway itself: workers, time and memory, Redis, keys and configuration, and what should be nothing."""

from __future__ import annotations

from collections.abc import Iterator

from grafana_foundation_sdk.models import units

from docs.dashboards.kept import KEYS, NOTHING, OBJECTS, STORE
from docs.dashboards.page import Page, Row
from docs.dashboards.panels import lines, number
from docs.dashboards.queries import Ask, Query

ask = Ask()
_EACH = ("instance", "worker")
_LAG = "gateway_event_loop_lag_seconds"
_no_target = "Prometheus has no target under this job."


def _quantiles(name: str) -> Iterator[Query]:
    return (ask.quantile(q, name).named(n) for q, n in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")))


NOW = Row(
    "Now",
    [
        number(
            "Configuration",
            "Whether what the files say is in force, everywhere.",
            "Wrong: the gateway runs on what it read before, and a restart would be refused. `gateway check` names "
            "every problem.",
            ask.min("gateway_configuration_valid"),
            unit=units.Short,
            empty=_no_target,
            words={1: ("in force", "green"), 0: ("wrong", "red")},
            loud=True,
        ),
        number(
            "Workers ready",
            "The share of workers' places where somebody serves newcomers.",
            "Below 100 %: a worker does not come up; its last words are in the log.",
            (
                ask.sum("gateway_worker_places", state="served") / ask.sum("gateway_worker_places").above(0)
            ).or_else(ask.min("up")),
            unit=units.PercentUnit,
            empty=_no_target,
            steps=((0, "red"), (0.5, "orange"), (0.999, "green")),
            loud=True,
        ),
        number(
            "Workers replaced",
            "Workers that died, hung or did not start, in the last hour.",
            "Each one cut its exchanges. The log has its last words, the kernel's log whether memory ran out.",
            ask.grown(
                "gateway_worker_restarts_total", over="1h", cause=("died", "hung", "not_started")
            ).or_zero(),
            unit=units.Short,
            empty="0",
            steps=((1, "orange"), (5, "red")),
            decimals=0,
            loud=True,
        ),
        number(
            "Longest lag",
            "The longest that any event loop has kept everybody waiting in the last minute or two.",
            "Above 0.1 s all streams of that worker stall. CPU, large JSON and the kernel's scheduling are the "
            "causes.",
            ask.max("gateway_event_loop_lag_max_seconds"),
            unit=units.Seconds,
            empty=_no_target,
            steps=((0.05, "yellow"), (0.25, "orange"), (1, "red")),
            loud=True,
        ),
        number(
            "Files",
            "The largest share of its files that any worker has open.",
            "At 100 % nobody can connect: raise the file limit; each exchange needs two.",
            (ask.max("process_open_fds", *_EACH) / ask.max("process_max_fds", *_EACH)).most(),
            unit=units.PercentUnit,
            empty=_no_target,
            steps=((0.5, "yellow"), (0.8, "red")),
            loud=True,
        ),
        number(
            "Certificate",
            "Until the certificate expires by which TLS is served.",
            "Renew it into the same files, which are followed; no client believes an expired one.",
            ask.min("gateway_tls_certificate_expires_seconds"),
            unit=units.DurationSeconds,
            empty="TLS is not served here",
            steps=((0, "red"), (14 * 86400, "orange"), (30 * 86400, "green")),
            loud=True,
        ),
    ],
)

WORKERS = Row(
    "Workers and machine",
    [
        lines(
            "Workers by state",
            "Workers by what they do; leaving ones finish their exchanges. Of one process nothing is shown.",
            "hung ones are replaced by themselves; starting for long means that they do not come up.",
            ask.sum("gateway_workers", "state"),
            unit=units.Short,
            empty="Every gateway is one process.",
            stacked=True,
        ),
        lines(
            "Workers replaced",
            "Workers replaced per minute, by why.",
            "asked is a restart by an operator; anything else is not meant to happen.",
            ask.rate("gateway_worker_restarts_total", "cause") * 60,
            unit=units.EventsPerMinute,
            empty="Every gateway is one process.",
        ),
        lines(
            "CPU",
            "Processor seconds per second, by worker: the ten busiest. One worker can use one.",
            "Near 1 a worker is full and everything of it slows down: more workers, or more pods.",
            ask.rate("process_cpu_seconds_total", *_EACH).top(),
            unit=units.Short,
            empty=_no_target,
            alarm=0.9,
        ),
        lines(
            "Memory",
            "Memory by worker: the ten largest.",
            "Growth that follows connections and bodies is well; one that never ends is not: please report it.",
            ask.sum("process_resident_memory_bytes", *_EACH).top(),
            unit=units.BytesIEC,
            empty=_no_target,
        ),
        lines(
            "Addresses",
            "Address space by worker: the ten largest.",
            "Far larger than Memory is usual; a limit on it (LimitAS, ulimit -v) would end the process.",
            ask.sum("process_virtual_memory_bytes", *_EACH).top(),
            unit=units.BytesIEC,
            empty=_no_target,
        ),
        lines(
            "Files",
            "The share of its files that a worker has open: the ten fullest.",
            "Above 80 %: raise the file limit; each exchange needs two.",
            (ask.max("process_open_fds", *_EACH) / ask.max("process_max_fds", *_EACH)).top(),
            unit=units.PercentUnit,
            empty=_no_target,
            alarm=0.8,
        ),
    ],
)

TIME = Row(
    "What clients wait for here",
    [
        lines(
            "Overhead",
            "What the gateway itself added before it asked the upstream, from the first readable byte on.",
            "Click on an exemplar for its request. Redis, waits for a connection, large JSON or a busy loop are "
            "its parts.",
            *_quantiles("gateway_overhead_seconds"),
            unit=units.Seconds,
            empty="Nobody has asked anything in this time.",
            logarithmic=True,
        ),
        lines(
            "Event loop lag",
            "By how much timers came too late: nobody was served meanwhile. p99 by worker, the ten worst.",
            "Above 20 ms: CPU, or one large thing at once; the exemplars of Overhead name requests of that moment.",
            ask.quantile(0.99, _LAG, *_EACH).top(),
            unit=units.Seconds,
            empty=_no_target,
            alarm=0.1,
        ),
        lines(
            "Longest lag",
            "The longest lag of the last minute or two, by worker: the ten worst.",
            "A single stall that the percentiles hide.",
            ask.max("gateway_event_loop_lag_max_seconds", *_EACH).top(),
            unit=units.Seconds,
            empty=_no_target,
        ),
        lines(
            "Waiting to be accepted",
            "Connections in the kernel's queue of each worker, and how many it holds: the ten longest.",
            "Above 0 for long: the loop is too busy to accept; at most, the kernel turns newcomers away, and no "
            "metric of ours shows them.",
            ask.max("gateway_listen_queue", *_EACH).top(),
            ask.max("gateway_listen_queue_most").named("most"),
            unit=units.Short,
            empty="This system does not tell.",
        ),
        lines(
            "Connections and exchanges",
            "Client connections that are open, exchanges being served on them, and those that hold slots or "
            "reservations.",
            "Many connections and few exchanges are idle SDK pools; keepalive_seconds ends them sooner.",
            ask.sum("gateway_client_connections").named("connections"),
            ask.sum("gateway_exchanges_in_flight").named("exchanges"),
            ask.sum("gateway_limit_held_exchanges").named("held by limits"),
            unit=units.Short,
            empty=_no_target,
        ),
        lines(
            "Connections turned away or closed",
            "Connections not let in, and ones closed for others, per minute, by why.",
            "full: edge.max_connections is reached. peer_share: one address has more than its share. handshake: "
            "TLS that nobody here speaks.",
            (ask.rate("gateway_refused_connections_total", "reason") * 60).named("refused"),
            (ask.rate("gateway_closed_connections_total", "reason") * 60).named("closed"),
            unit=units.EventsPerMinute,
            empty="None.",
        ),
        lines(
            "Refused before they were understood",
            "Requests per minute that were no HTTP that is served here, by status.",
            "Scanners, health checks in the wrong protocol, heads that are too large (431) or too slow (408).",
            ask.rate("gateway_refused_requests_total", "status") * 60,
            unit=units.RequestsPerMinute,
            empty="None.",
            stacked=True,
        ),
        lines(
            "Health checks",
            "Health checks on the public listener per minute, by check and status.",
            "readyz that is not 200 keeps clients away: /readyz says why.",
            ask.rate("gateway_health_checks_total", "check", "status") * 60,
            unit=units.RequestsPerMinute,
            empty="Nobody checks on the public listener.",
        ),
    ],
)

MEMORY = Row(
    "Memory of bodies, buffers and JSON",
    [
        lines(
            "Memory of request bodies",
            "What request bodies occupy, and may occupy at most.",
            "At most: bodies are refused. Raise edge.body_memory_bytes where the machine has more.",
            ask.sum("gateway_body_memory_bytes", state="held").named("held"),
            ask.sum("gateway_body_memory_bytes", state="most").named("most"),
            unit=units.BytesIEC,
            empty=_no_target,
        ),
        lines(
            "Buffered",
            "Bytes that wait to be taken: by clients, by upstreams, by whoever reads the log.",
            "clients: readers slower than their streams. log: standard output is not read; lines will be lost.",
            ask.sum("gateway_buffered_bytes", "where"),
            unit=units.BytesIEC,
            empty="Nothing waits.",
            stacked=True,
        ),
        lines(
            "Large JSON",
            "Large documents that wait for one of the processes that read them, and such processes lost per minute.",
            "Lost ones were killed or took too long; each cost one client a 503. See the memory of the machine.",
            ask.sum("gateway_json_waiting").named("waiting"),
            (ask.rate("gateway_json_readers_lost_total") * 60).named("lost per minute"),
            unit=units.Short,
            empty=_no_target,
        ),
    ],
    collapsed=True,
)

PAGE = Page(
    "internals",
    "Internals",
    "The gateway itself: workers, time and memory, Redis, keys and configuration, and what should be nothing.",
    ask,
    [NOW, WORKERS, TIME, STORE, OBJECTS, MEMORY, KEYS, NOTHING],
)
