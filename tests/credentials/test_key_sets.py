"""Keys of other issuers are fetched once for all workers of a machine, whatever the workers and the issuer do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.credentials.key_fetch import KeySource
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.key_sets import AskedFetch, Pace, SharedFetch
from gateway.credentials.principal import CredentialError
from gateway.credentials.trust import Trust
from gateway.operations.table import OperationTable
from gateway.settings.issuer import IssuerSettings
from gateway.settings.settings import Credentials
from tests.kit.jwks import LOGIN, NEXT, THEIRS, JwksServer, running_jwks_server, their_credential
from tests.kit.waiting import until

PACE = Pace(refresh_seconds=1.2, pause_seconds=0.3, fetch_seconds=0.5)
WORKERS = 4


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    async with running_jwks_server() as running:
        running.publish(THEIRS)
        yield running


class Machine:
    """What fetches for all, and the workers that ask it in messages, as over a channel."""

    def __init__(self, url: str, pace: Pace = PACE) -> None:
        self.results: list[str] = []
        self.shared = SharedFetch(fetched=lambda _, result: self.results.append(result), pace=pace)
        self.workers: list[Trust] = []
        self.is_gone = False
        self._pace = pace
        members = {"issuer": LOGIN, "audience": "gateway", "jwks_url": url, "tenant": "acme", "scopes": ["*"]}
        self._issuers = {"login": IssuerSettings.model_validate(members)}

    async def ask(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        if self.is_gone:
            raise ConnectionError
        answer = await self.shared.answer(orjson.loads(orjson.dumps(question)))
        told: Mapping[str, Any] = orjson.loads(orjson.dumps(answer))
        return told

    async def start(self) -> Trust:
        """Start another worker."""
        trust = Trust(
            Credentials(),
            self._issuers,
            ring=KeyRing.ephemeral(),
            vocabulary=OperationTable.load().vocabulary,
            fetch=AskedFetch(self.ask, pace=self._pace),
            pace=self._pace,
        )
        await trust.start()
        self.workers.append(trust)
        return trust

    def accepting(self, credential: str) -> int:
        """How many workers accept a credential."""
        return sum(accepts(worker, credential) for worker in self.workers)


def accepts(trust: Trust, credential: str) -> bool:
    try:
        trust.verifier.verify(credential)
    except CredentialError:
        return False
    return True


@asynccontextmanager
async def machine(server: JwksServer, **more: Any) -> AsyncIterator[Machine]:
    """Workers that were started at once."""
    running = Machine(server.url, **more)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(running.shared.close)
        await asyncio.gather(*(running.start() for _ in range(WORKERS)))
        for worker in running.workers:
            stack.push_async_callback(worker.close)
        yield running


async def down(_: web.Request) -> web.StreamResponse:
    return web.Response(status=503)


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def test_one_request_for_each_refresh_however_many_workers(server: JwksServer) -> None:
    async with machine(server) as running:
        assert running.accepting(their_credential()) == WORKERS
        assert len(server.requests) == 1
        for refreshes in (1, 2, 3):
            await until(lambda wanted=refreshes: len(server.requests) > wanted)  # type: ignore[misc]
            await asyncio.sleep(PACE.pause_seconds)
            assert len(server.requests) == 1 + refreshes
            assert all(worker.jwks_ages()["login"] < PACE.refresh_seconds for worker in running.workers)
        assert running.results == ["new", "same", "same", "same"]


async def test_workers_that_start_at_different_times_keep_step(server: JwksServer) -> None:
    running = Machine(server.url)
    began = time.monotonic()
    try:
        for _ in range(WORKERS):
            await running.start()
            assert len(server.requests) == 1, "who comes later gets what is known"
            await asyncio.sleep(PACE.refresh_seconds / 6)
        await until(lambda: time.monotonic() - began > 3.5 * PACE.refresh_seconds)
        assert len(server.requests) == 4
    finally:
        for worker in running.workers:
            await worker.close()
        await running.shared.close()


async def test_rotation_reaches_all_by_the_fetch_that_one_of_them_asked_for(server: JwksServer) -> None:
    async with machine(server, pace=Pace(pause_seconds=0.3)) as running:
        server.publish(NEXT)
        new = their_credential(NEXT)
        await asyncio.sleep(0.35)
        assert not accepts(running.workers[0], new)
        await until(lambda: accepts(running.workers[0], new))
        assert len(server.requests) == 2
        assert not accepts(running.workers[1], new), "nobody asked for it here yet"
        await until(lambda: running.accepting(new) == WORKERS)
        assert len(server.requests) == 2, "what one of them got is what the others get"
        assert running.accepting(their_credential()) == 0


async def test_a_miss_that_an_earlier_answer_does_not_help_is_looked_for_again(server: JwksServer) -> None:
    async with machine(server, pace=Pace(pause_seconds=0.6)) as running:
        first, second = running.workers[:2]
        await asyncio.sleep(0.65)
        assert not accepts(first, their_credential(NEXT))
        await until(lambda: len(server.requests) == 2)  # that fetch brought nothing new
        server.publish(THEIRS, NEXT)
        assert not accepts(second, their_credential(NEXT))
        await until(lambda: "new" in running.results[1:], within_seconds=2.0)
        assert len(server.requests) == 3
        await until(lambda: accepts(second, their_credential(NEXT)))


async def test_flood_of_unknown_kids_at_every_worker_makes_one_fetch_a_pause(server: JwksServer) -> None:
    async with machine(server) as running:
        started = time.monotonic()
        while (passed := time.monotonic() - started) < 5.5 * PACE.pause_seconds:
            for worker in running.workers:
                source = worker._jwks["login"]
                for number in range(50):
                    source.get(f"k{number}{passed}")
            await asyncio.sleep(0.005)
        assert 4 <= len(server.requests) <= 7


@pytest.mark.parametrize("behaviour", [down, hang], ids=["down", "hangs"])
async def test_an_issuer_in_trouble_is_asked_once_a_pause_and_said_once(
    server: JwksServer, behaviour: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with machine(server) as running:
        server.behaviour = behaviour
        await until(lambda: running.results.count("failed") == 3, within_seconds=10.0)
        assert len(server.requests) <= 5
        assert running.accepting(their_credential()) == WORKERS
        newcomer = await running.start()
        assert accepts(newcomer, their_credential()), "it gets the last good set, as its neighbours have it"
        await newcomer.close()
        server.publish(THEIRS, NEXT)
        await until(lambda: running.results[-1] == "new")
    assert caplog.text.count("cannot be fetched") == 1
    assert caplog.text.count("fetched again") == 1


async def test_newcomer_does_not_wait_for_a_fetch_that_hangs(server: JwksServer) -> None:
    async with machine(
        server, pace=Pace(refresh_seconds=1.0, pause_seconds=0.2, fetch_seconds=5.0)
    ) as running:
        server.behaviour = hang
        await until(lambda: len(server.requests) == 2)
        started = time.monotonic()
        await (await running.start()).close()
        assert time.monotonic() - started < 1.0


async def test_worker_that_goes_does_not_end_the_fetch_that_others_wait_for(server: JwksServer) -> None:
    released = asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(body=server.document)

    server.behaviour = slow
    running = Machine(server.url, Pace(fetch_seconds=5.0))
    starting = [asyncio.create_task(running.start()) for _ in range(2)]
    await server.asked.wait()
    starting[0].cancel()
    await asyncio.gather(starting[0], return_exceptions=True)
    released.set()
    other = await starting[1]
    assert accepts(other, their_credential())
    assert len(server.requests) == 1
    await other.close()
    await running.shared.close()


async def test_without_anybody_who_fetches_what_is_known_holds(server: JwksServer) -> None:
    async with machine(server) as running:
        running.is_gone = True
        await asyncio.sleep(2 * PACE.refresh_seconds)
        assert running.accepting(their_credential()) == WORKERS
        assert all(worker.jwks_ages()["login"] > PACE.refresh_seconds for worker in running.workers)
        running.is_gone = False
        await until(lambda: all(worker.jwks_ages()["login"] < 0.5 for worker in running.workers))


async def test_set_too_old_counts_for_no_worker_also_not_for_a_newcomer(server: JwksServer) -> None:
    now = float(int(time.monotonic()))  # sums of it are exact
    shared = SharedFetch(pace=PACE, clock=lambda: now)
    first = await shared("login", KeySource(server.url), max_age_seconds=300.0)
    server.behaviour = down
    now += 3600.0
    later = await shared("login", KeySource(server.url), max_age_seconds=300.0)
    await shared.close()

    assert (first.failed, first.age_seconds) == (False, 0.0)
    assert (later.failed, later.document, later.age_seconds) == (True, first.document, 3600.0)
