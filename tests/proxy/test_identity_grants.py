"""An endpoint is asked once for all who want to know, seldom while it grants nothing, and by somebody in any case."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pytest

from gateway.proxy.identity_endpoint import NothingGranted, WayOut, ask_endpoint
from gateway.proxy.identity_grants import AskedGrants, Known, Patience, SharedGrants
from gateway.settings.workload_identity import WorkloadIdentity
from tests.kit.identity import IdentityEndpoint, running_identity_endpoint
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import until

WAY = WayOut(None, None)
QUICK = Patience(first_seconds=0.05, most_seconds=0.2, refused_seconds=0.4, most_refused_seconds=1.6)


@pytest.fixture
async def shared() -> AsyncIterator[SharedGrants]:
    grants = SharedGrants(patience=QUICK)
    yield grants
    await grants.close()


def identity_of(endpoint: IdentityEndpoint, file: Path, account: str = "svc_a") -> WorkloadIdentity:
    return WorkloadIdentity.model_validate(endpoint.table(file, account))


async def asked(grants: SharedGrants, identity: WorkloadIdentity, refused: str | None = None) -> Known:
    return await grants("default", identity, WAY, refused=refused)


def key_of(known: Known) -> str:
    assert known.grant is not None
    return known.grant.key


async def test_who_asks_meanwhile_waits_for_the_same_answer_and_who_comes_later_has_it(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path
) -> None:
    identity = identity_of(endpoint, file)
    known = await asyncio.gather(*(asked(shared, identity) for _ in range(50)))
    known.append(await asked(shared, identity))

    assert {key_of(one) for one in known} == {endpoint.keys[0]}
    assert endpoint.requests == 1
    other = await asked(shared, identity_of(endpoint, file, "svc_b"))
    assert key_of(other) == endpoint.keys[1] != endpoint.keys[0]


async def test_who_gives_up_takes_the_answer_from_nobody(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path
) -> None:
    endpoint.hold.clear()
    identity = identity_of(endpoint, file)
    first, second = (asyncio.create_task(asked(shared, identity)) for _ in range(2))
    await until(lambda: endpoint.requests == 1)
    first.cancel()
    endpoint.hold.set()

    assert key_of(await second) == endpoint.keys[0]
    assert endpoint.requests == 1


async def test_while_nothing_is_granted_it_is_asked_less_and_less_often_whoever_wants_to_know(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path
) -> None:
    endpoint.believed = set()
    identity = identity_of(endpoint, file)
    end = monotonic() + 1.0
    while monotonic() < end:
        known = await asked(shared, identity)
        assert known.grant is None
        assert "invalid_grant" in (known.trouble or "")
        await asyncio.sleep(0.005)
    # After 0.05, 0.1, 0.2, 0.2, … seconds, and a fifth less at most.
    assert 3 <= endpoint.requests <= 9

    endpoint.believed = None
    while (known := await asked(shared, identity)).grant is None:
        await asyncio.sleep(0.005)
    assert known.trouble is None


async def test_what_was_granted_stays_known_while_it_cannot_be_renewed(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path
) -> None:
    endpoint.seconds = 0.3
    identity = identity_of(endpoint, file)
    first = await asked(shared, identity)
    endpoint.believed = set()
    await until(lambda: monotonic() > first.again_at)

    later = await asked(shared, identity)

    assert later.grant == first.grant
    assert later.trouble is not None
    assert later.again_at > monotonic() - 0.01


async def test_keys_that_are_refused_one_after_the_other_are_renewed_ever_less_often(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path
) -> None:
    identity = identity_of(endpoint, file)
    known = await asked(shared, identity)
    began = monotonic()
    while endpoint.requests < 4:
        known = await asked(shared, identity, refused=key_of(known))
        await asyncio.sleep(0.005)

    # At once, after 0.4 seconds, and 0.8 more.
    assert monotonic() - began >= 1.2
    for _ in range(20):
        known = await asked(shared, identity, refused=key_of(known))
    assert endpoint.requests == 4
    assert (await asked(shared, identity, refused=endpoint.keys[0])).grant == known.grant, "another is there"
    assert endpoint.requests == 4


async def test_another_process_is_told_the_same(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path
) -> None:
    async def ask(question: Mapping[str, object]) -> Mapping[str, Any]:
        answer = await shared.answer(orjson.loads(orjson.dumps(question)))
        told: Mapping[str, Any] = orjson.loads(orjson.dumps(answer))
        return told

    own = SharedGrants(patience=QUICK)
    workers = [AskedGrants(ask, own=own) for _ in range(3)]
    identity = identity_of(endpoint, file)

    known = [await worker("default", identity, WAY, refused=None) for worker in workers]

    assert known == [await asked(shared, identity)] * 3
    assert endpoint.requests == 1


async def test_where_nobody_answers_a_process_asks_by_itself(
    endpoint: IdentityEndpoint, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def ask(_: Mapping[str, object]) -> Mapping[str, Any]:
        raise ConnectionError

    worker = AskedGrants(ask, own=SharedGrants(patience=QUICK))

    known = await worker("default", identity_of(endpoint, file), WAY, refused=None)

    assert key_of(known) == endpoint.keys[0]
    assert "nobody answers who would renew its workload identity" in caplog.text
    await worker.close()


async def test_an_endpoint_that_hangs_keeps_no_other_waiting_and_nobody_asks_beside(
    shared: SharedGrants, endpoint: IdentityEndpoint, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.proxy.identity_grants.MOST_SECONDS", 0.1)
    beside = SharedGrants(patience=QUICK)

    async def ask(question: Mapping[str, Any]) -> Mapping[str, Any]:
        return await shared.answer(question)

    worker = AskedGrants(ask, own=beside)
    endpoint.hold.clear()
    many = [identity_of(endpoint, file, f"svc_{number}") for number in range(100)]
    async with running_identity_endpoint() as other:
        waiting = [asyncio.create_task(worker("one", one, WAY, refused=None)) for one in many]
        await until(lambda: endpoint.requests)
        began = monotonic()
        assert key_of(await worker("other", identity_of(other, file), WAY, refused=None)) == other.keys[0]
        assert monotonic() - began < 1
        known = await asyncio.gather(*waiting)

    assert {one.grant for one in known} == {None}
    assert endpoint.requests < len(many)  # the others wait for their turn still, and only there
    endpoint.hold.set()
    for one in many:
        while (await worker("one", one, WAY, refused=None)).grant is None:
            await asyncio.sleep(0.01)
    assert len({asked.account for asked in endpoint.asked}) == len(endpoint.asked) == len(many)
    await worker.close()


async def test_a_proxy_of_the_upstream_is_the_endpoints_too_and_its_login_is_told_nobody(
    upstream: ScriptedUpstream, file: Path
) -> None:
    async def grants(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"access_token":"granted-by-proxy","expires_in":60}'
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.plays(grants)
    proxy = f"http://me:canary-of-login@127.0.0.1:{upstream.port}"
    elsewhere = IdentityEndpoint()
    elsewhere.port = 9  # where nobody listens
    identity = identity_of(elsewhere, file)

    granted = await ask_endpoint(identity, WayOut(proxy, None))

    assert granted.key == "granted-by-proxy"
    assert upstream.requests[0].target == elsewhere.url
    assert (upstream.requests[0].get("proxy-authorization") or "").startswith("Basic ")
    away = WayOut("http://me:canary-of-login@127.0.0.1:9", None)
    with pytest.raises(NothingGranted, match="cannot be asked: ClientProxyConnectionError") as failed:
        await ask_endpoint(identity, away)
    assert "canary" not in str(failed.value)
    assert failed.value.result == "failed"
