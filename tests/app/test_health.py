"""Health: what is said of one process and of several, and that it is true."""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.app.exposition import exposition_of_one
from gateway.app.health import Condition, MachineHealth, OwnHealth, Reason, State, WorkerState
from gateway.app.loop_lag import LoopLag
from gateway.app.private_listener import PrivateListener
from gateway.exchange.instruments import Registry, Spread
from gateway.proxy.bites import Turns
from gateway.proxy.lifecycle import Lifecycle
from tests.kit.waiting import until


def worker(index: int = 0, *, state: State = State.READY, ago: float = 0.0, **more: object) -> WorkerState:
    reasons = more.get("reasons", ())
    assert isinstance(reasons, tuple)
    ready = bool(more.get("ready", state is State.READY and not reasons))
    return WorkerState(index, 1000 + index, state, ago, ready=ready, reasons=reasons)


def codes(condition: Condition) -> list[str]:
    reasons = condition.document["reasons"]
    assert isinstance(reasons, list)
    return [reason["code"] for reason in reasons]


def test_a_machine_lives_while_any_loop_turns_and_is_ready_while_any_worker_is() -> None:
    lacking = Reason("key_missing", "Key k is missing.")
    health = MachineHealth(
        lambda: [worker(0, state=State.HUNG, ago=25.0), worker(1, reasons=(lacking,)), worker(2)],
    )

    assert health.live().ok
    assert health.ready().ok
    assert codes(health.ready()) == [], "what ails one worker stands with it"
    document = orjson.loads(orjson.dumps(health.ready().document))
    assert document["status"] == "ready"
    assert document["pid"] == os.getpid()
    assert document["workers"][:2] == [
        {
            "index": 0,
            "pid": 1000,
            "state": "hung",
            "turned_seconds_ago": 25.0,
            "ready": False,
            "reasons": [
                {"code": "loop_hung", "message": "The loop of worker 0 has not turned for 25 seconds."}
            ],
        },
        {
            "index": 1,
            "pid": 1001,
            "state": "ready",
            "turned_seconds_ago": 0.0,
            "ready": False,
            "reasons": [{"code": "key_missing", "message": "Key k is missing."}],
        },
    ]


def test_a_machine_whose_workers_are_all_not_ready_says_every_reason_once() -> None:
    lacking, starting = Reason("key_missing", "Key k is missing."), Reason("starting", "It is starting.")
    ready = MachineHealth(
        lambda: [
            worker(0, reasons=(lacking,)),
            worker(1, reasons=(lacking,)),
            worker(2, state=State.STARTING, reasons=(starting,)),
            worker(3, state=State.HUNG, ago=4.0),
        ]
    ).ready()

    assert not ready.ok
    assert ready.document["status"] == "not ready"
    assert codes(ready) == ["key_missing", "starting", "loop_hung"]


def test_a_worker_whose_successor_has_come_does_not_make_a_machine_ready() -> None:
    ready = MachineHealth(lambda: [worker(0, state=State.LEAVING, ready=True)]).ready()

    assert not ready.ok
    assert codes(ready) == ["no_worker"]


def test_a_machine_without_workers_lives_until_no_loop_has_turned_for_long() -> None:
    """Workers that die again and again are replaced, but not for ever."""
    workers: list[WorkerState] = []
    health = MachineHealth(lambda: workers, still_seconds=0.3)
    assert health.live().ok
    assert not health.ready().ok
    time.sleep(0.2)
    workers.append(worker(state=State.STARTING))
    assert health.live().ok
    workers.clear()
    time.sleep(0.2)
    assert health.live().ok, "one turned its loop a moment ago"
    time.sleep(0.2)
    dead = health.live()

    assert not dead.ok
    assert codes(dead) == ["no_loop_turns"]


def test_a_supervisor_can_add_what_else_there_is_to_say() -> None:
    health = MachineHealth(lambda: [worker()], more=lambda: {"restart": {"state": "done"}})

    assert health.live().document["restart"] == {"state": "done"}
    assert health.ready().document["restart"] == {"state": "done"}


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """Ask from another thread than the loop's."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, orjson.loads(answer.read())
    finally:
        connection.close()


async def test_a_process_whose_loop_is_blocked_says_so_itself() -> None:
    """The loop is blocked by what blocks loops; the listener's thread answers all the same."""
    lag = LoopLag(Spread(()), Turns())
    await lag.start()
    lifecycle = Lifecycle()
    lifecycle.started = True
    health = OwnHealth(
        lifecycle,
        tuple,
        turned_seconds_ago=lambda: lag.turned_seconds_ago,
        hung_seconds=0.5,
        still_seconds=2.0,
    )
    listener = PrivateListener(
        "127.0.0.1", 0, exposition=exposition_of_one(Registry(), health.worker), health=health
    )
    port = listener.start()
    seen: list[tuple[int, dict[str, Any]]] = []

    def look() -> None:
        for path, at in (("/livez", 0.1), ("/readyz", 1.0), ("/livez", 1.0), ("/livez", 2.5)):
            time.sleep(max(0.0, began + at - time.monotonic()))
            seen.append(ask(port, path))

    began = time.monotonic()
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    time.sleep(3)
    await asyncio.to_thread(looking.join)
    await until(lambda: ask_ok(health.ready))

    statuses = [status for status, _ in seen]
    assert statuses == [200, 503, 200, 503]
    assert [said["status"] for _, said in seen] == ["live", "not ready", "live", "not live"]
    hung = seen[1][1]
    assert [(one["state"], one["ready"]) for one in hung["workers"]] == [("hung", False)]
    assert 0.5 <= hung["workers"][0]["turned_seconds_ago"] < 3
    assert [reason["code"] for reason in hung["reasons"]] == ["loop_hung"]
    assert health.live().ok
    await asyncio.to_thread(listener.stop)
    await lag.close()


def ask_ok(condition: Callable[[], Condition]) -> bool:
    return condition().ok


@pytest.mark.parametrize("stage", ["starting", "stopping"])
def test_a_process_that_starts_or_stops_lives(stage: str) -> None:
    lifecycle = Lifecycle()
    lifecycle.started = lifecycle.stopping = stage == "stopping"
    reasons = (Reason(stage, "So it is."),)
    health = OwnHealth(lifecycle, lambda: reasons, turned_seconds_ago=lambda: 0.0, hung_seconds=10.0)

    assert health.live().ok
    assert codes(health.ready()) == [stage]
