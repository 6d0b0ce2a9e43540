"""One gateway process: what is started and closed around the handler of exchanges, and how it drains."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from math import nan
from typing import Any

from aiohttp import web

from gateway.app.certificate_in_force import CertificateInForce
from gateway.app.health import OwnHealth
from gateway.app.long_exchanges import LongExchanges
from gateway.app.loop_lag import LoopLag
from gateway.app.outages import Outages
from gateway.app.own_state import OwnState
from gateway.app.place import Place
from gateway.app.prepared import Prepared, prepare
from gateway.app.private_listener import PRIVATE_FILES
from gateway.app.readiness import not_ready
from gateway.app.shared_redis import enter_redis
from gateway.app.tenants_in_force import TenantsInForce
from gateway.app.workers import refuse_uncounted
from gateway.exchange.exchange_log import ExchangeLog
from gateway.limits.terms import OnStoreFailure
from gateway.middleware.record import unseen
from gateway.middleware.services import Services
from gateway.middleware.withdrawal import Withdrawal
from gateway.proxy.acceptor import Acceptor
from gateway.proxy.bites import Turns
from gateway.proxy.client_connections import ClientConnections
from gateway.proxy.edge import EdgeServer
from gateway.proxy.edge_state import EdgeDeadlines, EdgeEvents, EdgeState
from gateway.proxy.handler import Handler
from gateway.proxy.incoming_body import BodyDeadlines
from gateway.proxy.session import GOODBYE_SECONDS
from gateway.proxy.upstream import Upstreams
from gateway.proxy.wheel import Wheel
from gateway.settings.edge import Edge
from gateway.settings.reloading import Configuration
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.wire.addresses import Proxies

_log = logging.getLogger("gateway.connections")
_MOST_UNASKED = 10_000
"""Connections of clients where nobody has said how many: more than one process serves well."""

_LINGERING = 32
"""Connections that are over, and left a moment for their client to read so."""

_FILES_OF_A_NEIGHBOUR = 2
"""What listens for another worker of the machine, in both address families."""

_FILES_OF_THE_PROCESS = 64
"""What is open beside connections: listeners, the loops, Redis, files that are read."""


class App:
    """What serves exchanges, from start to close."""

    def __init__(
        self,
        services: Services,
        upstreams: Upstreams,
        handler: Handler,
        *,
        turns: Turns,
        wheel: Wheel,
        tenants: TenantsInForce,
        withdrawal: Withdrawal,
        read_settings: Callable[[Seen], Settings] | None,
        place: Place,
        certificate: CertificateInForce,
        log: ExchangeLog,
        close_spans: Callable[[], None] | None,
    ) -> None:
        """`read_settings`: how what this process itself follows is read again."""
        self.services = services
        self.handler = handler
        self.server: EdgeServer | None = None
        self.loop_lag = lag = LoopLag(services.metrics.process.loop_lag, turns)
        lifecycle, trust = services.lifecycle, services.trust
        self.health = OwnHealth(
            lifecycle,
            lambda: not_ready(lifecycle, trust.missing_keys, upstreams.identities.missing()),
            turned_seconds_ago=lambda: lag.turned_seconds_ago,
            hung_seconds=services.settings.worker_hang_seconds,
        )
        self.state = OwnState(services, connections=lambda: self.open_connections, index=place.index)
        self.admin_key = services.settings.admin_key
        """The operator's, as it is in force; where there are several workers nobody asks them for it."""

        self._upstreams = upstreams
        self._turns = turns
        self._wheel = wheel
        self._tenants = tenants
        self._withdrawal = withdrawal
        self._place = place
        self._certificate = certificate
        self._log = log
        self._long = LongExchanges(
            lifecycle, wheel, after_seconds=services.settings.log.start_seconds, runs=log.runs
        )
        self._close_spans = close_spans
        self._outages = Outages(lambda: services.limiter.state().servers, lambda: tenants.on_store_failure)
        self._started = AsyncExitStack()
        self.configuration: Configuration[Settings] | None = None
        if read_settings is not None:
            self.configuration = Configuration(
                read=read_settings,
                take=self._take,
                loaded=services.metrics.configuration_loaded,
                tenants=lambda settings: settings.tenants,
            )

    async def prepare(self, settings: Settings) -> Prepared:
        """Do everything about new settings that can fail or takes a while, and change nothing.

        Raises SettingsInvalid. What is not committed is let go.
        """
        refuse_uncounted(settings, self._place, shared=self.services.settings.redis_url is not None)
        return await prepare(
            settings,
            services=self.services,
            tenants=self._tenants,
            upstreams=self._upstreams,
            certificate=self._certificate,
        )

    async def _take(self, settings: Settings) -> list[str]:
        prepared = await self.prepare(settings)
        prepared.commit()
        self.admin_key = settings.admin_key
        return prepared.waiting

    @property
    def open_connections(self) -> int:
        """Clients' connections."""
        return 0 if self.server is None else self.server.state.clients.open

    def store_policy(self, policy: OnStoreFailure) -> float:
        """1 where this decides while the limits' store is away; else there is nothing to show."""
        return 1.0 if self._tenants.on_store_failure is policy else nan

    async def start(self) -> EdgeServer:
        """Start everything that lives as long as the process; return what connections are handed to."""
        services, metrics = self.services, self.services.metrics
        edge = services.settings.edge
        async with AsyncExitStack() as started:
            started.push_async_callback(self._log.close)
            if self._close_spans is not None:
                started.push_async_callback(asyncio.to_thread, self._close_spans)
            started.push_async_callback(self._upstreams.close)
            started.push_async_callback(services.reading.close)
            await enter_redis(services.settings)
            for tenant in services.tenants.policies.values():
                await self._upstreams.open(tenant.access)
            for part in (
                services.registry,  # is told of tenants, and of what late answers made
                self._tenants,
                self._upstreams.identities,
                services.trust,
                self._withdrawal,
                services.ledger,
                services.guesses,
                services.limiter,
                services.late,  # counts in both until it is closed
                services.model_lists,
                services.slowest,
                self.loop_lag,
                self._long,
                self._outages,
            ):
                if part is None:
                    continue
                await part.start()
                started.push_async_callback(part.close)
            started.push_async_callback(self.state.close)
            if self.configuration is not None:
                await self.configuration.start(services.settings)
                started.push_async_callback(self.configuration.close)
            state = EdgeState(
                events=EdgeEvents(
                    unseen=unseen(
                        metrics=metrics, log=services.log, cors=services.cors, tracing=services.tracing
                    ),
                    refused=lambda reason: metrics.refused_connections.labels(reason).inc(),
                    closed=lambda reason: metrics.process.closed_connections.labels(reason).inc(),
                ),
                clients=ClientConnections(
                    _most_connections(edge, self._place),
                    peer_share=edge.peer_share,
                    proxies=Proxies(edge.trusted_proxies),
                ),
                most_lingering=_LINGERING,
                max_header_bytes=edge.max_header_bytes,
                deadlines=EdgeDeadlines(
                    header_seconds=edge.header_timeout_seconds,
                    body=BodyDeadlines(edge.body_idle_timeout_seconds, edge.body_timeout_seconds),
                    write_idle_seconds=edge.write_idle_timeout_seconds,
                    keepalive_seconds=edge.keepalive_seconds,
                ),
                turns=self._turns,
                wheel=self._wheel,
            )
            self.server = EdgeServer(self.handler, state)
            self._certificate.put_on(self.server)
            self._started = started.pop_all()
        services.lifecycle.started = True
        return self.server

    def stop_soon(self) -> None:
        """The whole gateway goes: load balancers are told so, and clients with each answer, which is their last here.

        A client that connects anew meanwhile is served all the same; by then its balancer may send it elsewhere.
        """
        self.services.lifecycle.stopping = True
        self.last_answers()

    def last_answers(self) -> None:
        """Have each answer be the last one of its connection: the next request belongs to another process."""
        if self.server is not None:
            self.server.state.last_answers = True

    async def drain(self, seconds: float, *, notice_seconds: float = 0.0) -> None:
        """Let what runs finish, for at most `seconds`, and return when nobody is connected any more.

        Nobody new is accepted by now. Who has not asked anything yet is waited for as long as for a request's head,
        who waits between two requests for `notice_seconds`: what they ask is answered, and the connection ends.
        """
        if self.server is None:
            return
        state, now = self.server.state, asyncio.get_running_loop().time()
        state.drain(
            first_until=now + self.services.settings.edge.header_timeout_seconds,
            next_until=now + notice_seconds,
        )
        try:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(0)  # who has just been let in is told of its connection by then
                await state.emptied()
        except TimeoutError:
            pass

    async def close(self) -> None:
        """Close what `start` opened, last first, and write the last lines."""
        await self._started.aclose()


class GatewayRunner(web.BaseRunner):
    """Starts and ends an App around aiohttp's server, with production's settings."""

    __slots__ = ("_accepts", "_adopted", "_app", "_own")

    def __init__(self, app: App) -> None:
        # What outlives the drain time has had its time; to say so takes a moment.
        super().__init__(handle_signals=False, shutdown_timeout=GOODBYE_SECONDS + 0.3)
        self._app = app
        self._own: list[Acceptor] = []
        self._adopted: dict[int, Acceptor] = {}
        self._accepts = True

    @property
    def addresses(self) -> list[Any]:
        """Where connections are accepted."""
        return [address for acceptor in self._own for address in acceptor.addresses]

    @property
    def sockets(self) -> list[socket.socket]:
        """What listens for this process."""
        return [listening for acceptor in self._own for listening in acceptor.sockets]

    def accept(self, sockets: Iterable[socket.socket]) -> None:
        """Serve who comes to these sockets, which listen; they are closed when the runner ends, or stops accepting."""
        self._own.append(self._acceptor(sockets))

    def adopt(self, key: int, sockets: Iterable[socket.socket]) -> None:
        """Serve who comes to these sockets too, in the place of whoever does not.

        Nothing where that is so already, and where nobody is let in any more.
        """
        if self._accepts and key not in self._adopted:
            self._adopted[key] = self._acceptor(sockets)

    def release(self, key: int) -> None:
        """Leave the sockets that were adopted under this key to others; they stay open, with whoever waits there."""
        acceptor = self._adopted.pop(key, None)
        if acceptor is not None:
            acceptor.let_go()

    def leave(self) -> None:
        """Let nobody in any more, whoever waits: a successor accepts from the same sockets. Ours are closed."""
        self._app.services.limiter.leave()
        self._app.last_answers()
        self._accepts = False
        for acceptor in self._acceptors:
            acceptor.leave()

    def stop_accepting(self) -> None:
        """Let nobody in any more but whom the kernel has let in already; the sockets are closed."""
        self._accepts = False
        self._app.services.limiter.leave()
        for acceptor in self._acceptors:
            acceptor.close()

    @property
    def _acceptors(self) -> list[Acceptor]:
        return [*self._own, *self._adopted.values()]

    def _acceptor(self, sockets: Iterable[socket.socket]) -> Acceptor:
        assert self.server is not None, "set up first"
        refused = self._app.services.metrics.refused_connections
        return Acceptor(self.server, sockets, failed=lambda reason: refused.labels(reason).inc())

    async def cleanup(self) -> None:
        """End everything that is still open."""
        self.stop_accepting()
        await super().cleanup()

    async def shutdown(self) -> None:
        """Nobody is waited for any more."""
        self._app.services.lifecycle.cut()

    async def _make_server(self) -> web.Server:
        return await self._app.start()

    async def _cleanup_server(self) -> None:
        await self._app.close()


def make_runner(app: App) -> GatewayRunner:
    """The runner that production and tests share; once it is set up it accepts whom sockets bring."""
    return GatewayRunner(app)


def _most_connections(edge: Edge, place: Place) -> int:
    """How many clients may be connected: this worker's part of what was asked for, if there are files for them."""
    room = room_for_connections(place.workers)
    if not edge.max_connections:
        return min(room, _MOST_UNASKED)
    part = place.part(edge.max_connections)
    if part > room:
        _log.warning(
            "edge.max_connections is %d%s, but with %d files there is room for %d; raise the file limit",
            part,
            "" if place.workers == 1 else " for this worker",
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            room,
        )
    return min(part, room)


def room_for_connections(workers: int = 1) -> int:
    """Each client's connection needs another one upstream, and the rest of the process some files too, among them what
    listens for each of so many workers."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _MOST_UNASKED
    return max(
        1,
        (files - _FILES_OF_THE_PROCESS - _LINGERING - PRIVATE_FILES - _FILES_OF_A_NEIGHBOUR * (workers - 1))
        // 2,
    )
