"""What a process shows of itself whenever somebody looks: how old what it does is, and what waits in it."""

from __future__ import annotations

from functools import partial

from gateway.exchange.exchange_log import ExchangeLog
from gateway.exchange.process_metrics import ProcessMetrics
from gateway.proxy.bites import Turns
from gateway.proxy.client_channel import ClientChannel
from gateway.proxy.lifecycle import Lifecycle


def show_process(metrics: ProcessMetrics, *, lifecycle: Lifecycle, turns: Turns, log: ExchangeLog) -> None:
    """Let the gauges look there."""
    for transport, is_socket in (("http", False), ("websocket", True)):
        age = partial(lifecycle.oldest_seconds, is_socket=is_socket)
        metrics.oldest_exchange.watch(age, transport)
    metrics.buffered.watch(partial(_unsent_bytes, turns, to_clients=True), "clients")
    metrics.buffered.watch(partial(_unsent_bytes, turns, to_clients=False), "upstreams")
    metrics.buffered.watch(lambda: log.waiting_bytes, "log")


def _unsent_bytes(turns: Turns, *, to_clients: bool) -> float:
    return sum(
        connection.unsent_bytes
        for connection in tuple(turns.unread)  # whoever asks may be on another thread
        if isinstance(connection, ClientChannel) is to_clients
    )
