"""The operators' page in front of whatever state a test makes up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from gateway.app.exposition import exposition_of_one
from gateway.app.health import MachineHealth, State, WorkerState
from gateway.app.operator_pages import OperatorPages
from gateway.app.operators import Operators
from gateway.app.private_listener import PrivateListener
from gateway.exchange.instruments import Registry

DRAWN = "document.querySelector('#tenants tbody tr')"
_WELL = WorkerState(0, 1, State.READY, 0.0, ready=True)


@dataclass(frozen=True)
class Served:
    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def served(
    told: Callable[[], object], *, port: int = 0, key: Callable[[], str | None] = lambda: None
) -> AsyncIterator[Served]:
    """A private listener that tells what `told` makes."""

    async def body() -> bytes:
        return orjson.dumps(told())

    listener = PrivateListener(
        "127.0.0.1",
        port,
        exposition=exposition_of_one(Registry(), lambda: _WELL),
        health=MachineHealth(lambda: [_WELL]),
        operators=OperatorPages(Operators(key), told=body),
    )
    try:
        yield Served(listener.start())
    finally:
        listener.stop()
