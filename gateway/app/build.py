"""All wiring: from settings to an app. Used by production and tests alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from gateway.app.account_memory import AccountMemory
from gateway.app.certificate_in_force import CertificateInForce
from gateway.app.own_paths import own_paths
from gateway.app.place import ALONE, Place
from gateway.app.prepared import administration, show_identities, show_issuers
from gateway.app.process import App
from gateway.app.process_gauges import show_process
from gateway.app.public_health import health_first
from gateway.app.readiness import not_ready
from gateway.app.state import MOST_EXCHANGES
from gateway.app.tenants_in_force import TenantsInForce
from gateway.app.workers import body_memory_bytes, refuse_uncounted
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.key_sets import Fetch, SharedFetch
from gateway.credentials.trust import Trust
from gateway.exchange.exchange_log import ExchangeLog
from gateway.exchange.log_forms import encoder
from gateway.exchange.log_writer import LogWriter
from gateway.exchange.metrics import Metrics
from gateway.exchange.slowest import Slowest
from gateway.limits.limiter import Limiter
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.no_buckets import NoBuckets
from gateway.limits.store import BucketStore, Census
from gateway.limits.terms import OnStoreFailure
from gateway.middleware import build_middlewares, compose
from gateway.middleware.authorize import check_head
from gateway.middleware.late_counting import LateCounting
from gateway.middleware.services import Services
from gateway.middleware.withdrawal import Withdrawal
from gateway.objects.registry import Registry
from gateway.objects.unrecorded import Unrecorded
from gateway.operations.table import OperationTable
from gateway.policy.model_names import configured_models
from gateway.policy.tenants import ways_in_use
from gateway.proxy.account_watch import AccountWatch
from gateway.proxy.answer import EXPOSED, Answer
from gateway.proxy.bites import Turns
from gateway.proxy.body_memory import BodyMemory
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.handler import Handler
from gateway.proxy.http import forward
from gateway.proxy.identities import Identities
from gateway.proxy.identity_endpoint import WayOut
from gateway.proxy.identity_grants import AskedGrants, AskGrants, Grants, SharedGrants
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.model_lists import ModelLists
from gateway.proxy.owned_lists import list_owned
from gateway.proxy.piece_gaps import PieceGaps
from gateway.proxy.reading import Reading
from gateway.proxy.relay import Relay
from gateway.proxy.request import Request
from gateway.proxy.sockets import forward_socket
from gateway.proxy.stored_files import file_bytes, file_pieces
from gateway.proxy.upstream import Upstreams
from gateway.proxy.wheel import Wheel
from gateway.redis.observer import Observer
from gateway.settings.section import revealed
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.traces.collector import spans_to
from gateway.traces.tracing import Tracing
from gateway.traces.writer import Export
from gateway.usage.counters import UsageStore
from gateway.usage.guesses import Guesses, LengthStore
from gateway.usage.late_register import LateRegister
from gateway.usage.late_work import LateWorkStore
from gateway.usage.ledger import UsageLedger
from gateway.usage.memory_late_work import MemoryLateWork
from gateway.usage.memory_usage import MemoryUsage
from gateway.usage.no_usage import NoUsage
from gateway.wire.cors import Cors

_STANDARD_ERROR = 2


def build_app(
    settings: Settings,
    *,
    ring: KeyRing,
    keys_dir: Path | None = None,
    log_descriptor: int = 1,
    store: BucketStore | None = None,
    read_settings: Callable[[Seen], Settings] | None = None,
    place: Place = ALONE,
    fetch: Fetch | None = None,
    ask_grants: AskGrants | None = None,
    export_spans: Export | None = None,
) -> App:
    """Wire one gateway process. Raises SettingsInvalid for what only shows when things are put together.

    With `read_settings` tenants and issuers follow the configuration while the process runs; with
    `keys_dir`, where `ring` came from, keys and revocations follow that folder. The caps of `settings` are the
    machine's, of which this process gets what its `place` says. `fetch` is how keys of other issuers are asked for;
    None: this process fetches them itself. `ask_grants` asks who has what workload identities are granted, in the same
    way. `export_spans` takes those
    of exchanges, in the place of a collector.
    """
    table = OperationTable.load()
    metrics = Metrics()
    metrics.models.names.configure(configured_models(settings))
    log = ExchangeLog(
        LogWriter(
            log_descriptor,
            dropped=metrics.process.log_lines_dropped.inc,
            instead=LogWriter(_STANDARD_ERROR, dropped=metrics.process.log_lines_dropped.inc),
        ),
        settings.log,
        encode=encoder(settings.log.format, log_descriptor),
        worker=place.index,
        dropped=metrics.process.log_lines_dropped.inc,
        withheld=lambda reason: metrics.process.log_lines_withheld.labels(reason).inc(),
    )
    redis_url = revealed(settings.redis_url)
    refuse_uncounted(settings, place, shared=redis_url is not None)
    registry = _registry(redis_url, settings.redis_prefix, keys_dir, metrics)
    tenants = TenantsInForce(
        settings,
        table=table,
        registry=registry,
        unrecorded=Unrecorded(keys_dir),
        memory=AccountMemory(
            redis_url=redis_url,
            redis_prefix=settings.redis_prefix,
            keys_dir=keys_dir,
            redis_observer=metrics.faults,
        ),
    )
    accounts = AccountWatch(tenants.book)
    turns, wheel = Turns(), Wheel()
    certificate = CertificateInForce(settings)
    metrics.certificate_expires.watch(certificate.expires_in_seconds)
    trust = Trust(
        settings.credentials,
        settings.issuers,
        ring=ring,
        vocabulary=table.vocabulary,
        keys_dir=keys_dir,
        redis_url=redis_url,
        redis_prefix=settings.redis_prefix,
        redis_observer=metrics.faults,
        fetch=fetch or SharedFetch(fetched=metrics.jwks_fetched),
        ring_loaded=lambda result: metrics.key_ring_loads.labels(result).inc(),
        tells_keys=True,
    )
    grants: Grants = SharedGrants(asked=metrics.identity_asked)
    if ask_grants is not None:
        grants = AskedGrants(ask_grants, own=SharedGrants(asked=metrics.identity_asked))
    identities = Identities(
        grants, ways=lambda: ways_in_use(tenants.book.policies), way=WayOut.of(settings.upstream)
    )
    upstreams = Upstreams(
        settings.upstream.model_copy(
            update={"max_connections": place.part(settings.upstream.max_connections)}
        ),
        administration=administration(settings),
        identities=identities,
        http_proxy=revealed(settings.upstream.http_proxy),
        metrics=metrics.upstream,
        turns=turns,
        wheel=wheel,
        accounts=accounts,
        deployment=lambda: trust.deployment.name,
    )
    stores = _stores(redis_url, settings.redis_prefix, place, metrics.faults)
    memory = BodyMemory(
        most_bytes=body_memory_bytes(settings, place),
        share=settings.edge.body_memory_share,
        refused=lambda tenant, reason: metrics.process.body_memory_refusals.labels(tenant, reason).inc(),
        first=lambda tenant: metrics.process.body_memory_held.watch(partial(memory.held_by, tenant), tenant),
    )
    limiter = Limiter(
        store or stores.buckets,
        own_workers=place.workers,
        worker_index=place.index,
        expected_replicas=settings.expected_replicas,
        capped=metrics.limits.capped,
        decided=metrics.limits.decided,
        levelled=metrics.limits.levelled,
    )
    span_writer = spans_to(
        settings.traces, worker=place.index, lost=metrics.process.spans_lost.inc, export=export_spans
    )
    ledger = UsageLedger(stores.usage, lost=metrics.usage_lost.inc)
    late_counting = LateCounting(ledger=ledger, limiter=limiter, tenants=tenants.book, metrics=metrics)
    reading = Reading(settings.edge, lost=metrics.process.json_readers_lost.inc)
    services = Services(
        settings=settings,
        table=table,
        trust=trust,
        tenants=tenants.book,
        limiter=limiter,
        ledger=ledger,
        late=None
        if stores.late_work is None
        else LateRegister(stores.late_work, heard=late_counting.heard, lost=metrics.late_work_lost.inc),
        registry=registry,
        guesses=Guesses(settings.expected_output, stores.lengths),
        metrics=metrics,
        log=log.ended,
        lifecycle=Lifecycle(),
        slowest=Slowest(MOST_EXCHANGES),
        reading=reading,
        memory=memory,
        model_lists=ModelLists(
            upstreams=upstreams,
            tenants=tenants.book,
            reading=reading,
            names=metrics.models.names,
            every_seconds=settings.upstream.model_list_seconds,
            loaded=metrics.models.listed,
        ),
        cors=Cors(settings.cors_origins, exposed=EXPOSED) if settings.cors_origins else None,
        tracing=None
        if span_writer is None
        else Tracing(ratio=settings.traces.ratio, write=span_writer.write),
        administers=lambda: upstreams.administers,
        file_bytes=partial(file_bytes, upstreams),
        file_pieces=partial(file_pieces, upstreams),
    )
    withdrawal = Withdrawal(
        trust=trust,
        tenants=tenants.book,
        table=table,
        lifecycle=services.lifecycle,
        check_head=lambda exchange, caller: check_head(
            exchange,
            caller,
            administration=upstreams.administers,
            uncontained=settings.allow_uncontained,
        ),
    )
    trust.tell(withdrawal.look_soon)
    tenants.tell(withdrawal.look_soon)
    app = App(
        services,
        upstreams,
        health_first(
            compose(build_middlewares(services), _dispatch(services, upstreams, wheel)),
            ready=lambda: not not_ready(services.lifecycle, trust.missing_keys, identities.missing()),
            answered=lambda check, status: metrics.health_checks.labels(check, status).inc(),
        ),
        turns=turns,
        wheel=wheel,
        tenants=tenants,
        withdrawal=withdrawal,
        read_settings=read_settings,
        place=place,
        certificate=certificate,
        log=log,
        close_spans=None if span_writer is None else span_writer.close,
    )
    _show_state(app, upstreams)
    show_process(metrics.process, lifecycle=services.lifecycle, turns=turns, log=log)
    return app


class _Stores(NamedTuple):
    """Where is kept what exchanges take and use."""

    buckets: BucketStore
    usage: UsageStore
    late_work: LateWorkStore | None
    """Who made what reports its usage later; None where each worker would count it."""

    lengths: LengthStore | None
    """How long answers have been, as far as all gateways know; None: each process knows its own."""


def _stores(redis_url: str | None, prefix: str, place: Place, observer: Observer) -> _Stores:
    if not redis_url:
        if place.workers > 1:
            return _Stores(NoBuckets(Census(place.index, place.workers)), NoUsage(), None, None)
        return _Stores(MemoryBuckets(), MemoryUsage(), MemoryLateWork(), None)
    from gateway.limits.redis_buckets import RedisBuckets
    from gateway.usage.redis_late_work import RedisLateWork
    from gateway.usage.redis_lengths import RedisLengths
    from gateway.usage.redis_usage import RedisUsage
    from gateway.usage.redis_wire import UsageWire

    wire = UsageWire(redis_url, prefix=prefix, observer=observer)
    return _Stores(
        RedisBuckets(redis_url, prefix=prefix, observer=observer),
        RedisUsage(wire),
        RedisLateWork(wire),
        RedisLengths(wire),
    )


def _registry(redis_url: str | None, prefix: str, keys_dir: Path | None, metrics: Metrics) -> Registry | None:
    if not redis_url:
        return None
    from gateway.objects.redis_objects import RedisObjects

    store = RedisObjects(redis_url, prefix=prefix, observer=metrics.faults)
    return Registry(store, keys_dir=keys_dir, heard=metrics.objects)


def _dispatch(services: Services, upstreams: Upstreams, wheel: Wheel) -> Handler:
    """What stands at the end of the middlewares: the gateway itself, a WebSocket, or anything else over HTTP."""
    settings = services.settings
    edge, deadlines = settings.edge, DeadlineTable(settings.upstream)
    relay = Relay(
        reading=services.reading,
        wheel=wheel,
        gaps=PieceGaps(services.metrics.models.piece_gap, wheel),
        sse_comment_seconds=edge.sse_comment_seconds,
    )
    http = forward(upstreams, deadlines=deadlines, edge=edge, relay=relay, wheel=wheel)
    socket = forward_socket(
        upstreams,
        deadlines=deadlines,
        edge=edge,
        reading=services.reading,
        memory=services.memory,
        most_seconds=settings.upstream.websocket_timeout_seconds,
        relay=relay,
        lifecycle=services.lifecycle,
    )
    owned_list = list_owned(
        upstreams,
        deadlines=deadlines,
        relay=relay,
        reading=services.reading,
        registry=services.registry,
    )
    own = own_paths(
        trust=services.trust,
        limiter=services.limiter,
        ledger=services.ledger,
    )

    def dispatch(request: Request) -> Awaitable[Answer]:
        exchange = request.exchange
        if exchange.operation.may_be_apart:
            if exchange.operation.is_own:
                return own(request)
            if exchange.standing is not None and exchange.standing.listed is not None:
                return owned_list(request)
        return socket(request) if exchange.is_socket else http(request)

    return dispatch


def _show_state(app: App, upstreams: Upstreams) -> None:
    """Let the gauges show what is, whenever somebody looks."""
    services, metrics = app.services, app.services.metrics
    trust, state = services.trust, services.limiter.state
    metrics.mistaken_accounts.watch(lambda: upstreams.accounts.mistaken(monotonic()))
    metrics.in_flight.watch(lambda: services.lifecycle.in_flight)
    metrics.process.loop_lag_max.watch(lambda: app.loop_lag.longest_seconds)
    metrics.process.json_waiting.watch(lambda: services.reading.waiting)
    metrics.process.connections.watch(lambda: app.open_connections)
    metrics.process.body_memory.watch(lambda: services.memory.held_bytes, "held")
    metrics.process.body_memory.watch(lambda: services.memory.most_bytes, "most")
    metrics.limits.stores.watch(lambda: sum(state().servers.values()), "up")
    metrics.limits.stores.watch(lambda: sum(not up for up in state().servers.values()), "down")
    metrics.limits.workers.watch(lambda: state().workers)
    metrics.limits.held.watch(lambda: state().open_exchanges)
    metrics.limits.late.watch(lambda: state().late_settlements)
    metrics.usage_waiting.watch(lambda: services.ledger.waiting)
    metrics.late_work_waiting.watch(lambda: services.late.waiting if services.late else 0)
    if (registry := services.registry) is not None:
        metrics.objects.waiting.watch(lambda: registry.waiting)
        metrics.objects.lost.watch(lambda: registry.lost)
    metrics.revocations.watch(lambda: len(trust.revocations))
    metrics.revocations_age.watch(trust.revocations_age_seconds)
    show_issuers(services, services.settings)
    show_identities(services, upstreams)
    if services.settings.redis_url is not None:
        for policy in OnStoreFailure:
            metrics.faults.store_policy.watch(partial(app.store_policy, policy), policy.value)
