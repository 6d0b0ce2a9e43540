"""A running process learns of new keys, lost keys and revocations within two seconds, and forgets none of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.issue import issue
from gateway.credentials.key_ring import (
    REVOCATIONS_FILE,
    KeyRing,
    ensure_ring,
    fingerprint,
    retire,
    rotate,
    save,
)
from gateway.credentials.key_sets import Pace, SharedFetch
from gateway.credentials.keys import Algorithm, Key, KeyProblem
from gateway.credentials.principal import CredentialError, CredentialNotAccepted, CredentialRevoked
from gateway.credentials.redis_credentials import RedisCredentials
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import Revocation
from gateway.credentials.trust import Trust
from gateway.operations.scopes import Vocabulary
from gateway.settings.issuer import IssuerSettings
from gateway.settings.section import SettingsInvalid
from gateway.settings.settings import Credentials
from tests.kit.jwks import LOGIN, NEXT, THEIRS, JwksServer, running_jwks_server, their_credential
from tests.kit.redis import running_redis
from tests.kit.waiting import until

KNOWN = ("models:read", "chat.completions:write")
ACCEPTED = Credentials()
SOON_SECONDS = 2.0
"""What is promised to operators."""


@asynccontextmanager
async def trusting(
    keys_dir: Path | None = None,
    issuers: dict[str, IssuerSettings] | None = None,
    accepted: Credentials = ACCEPTED,
    **more: Any,
) -> AsyncIterator[Trust]:
    ring = KeyRing.ephemeral() if keys_dir is None else ensure_ring(keys_dir)[0]
    trust = Trust(
        accepted,
        issuers or {},
        ring=ring,
        vocabulary=Vocabulary(dict.fromkeys(KNOWN, 1)),
        keys_dir=keys_dir,
        **more,
    )
    await trust.start()
    try:
        yield trust
    finally:
        await trust.close()


def credential(ring: KeyRing, **more: Any) -> str:
    members = {"tenant": "acme", "subject": "alice", "scopes": ["models:read"], "ttl_seconds": 600, **more}
    return issue(ring, ACCEPTED, **members).credential


def login(url: str, **more: Any) -> dict[str, IssuerSettings]:
    members = {
        "issuer": LOGIN,
        "audience": "gateway",
        "jwks_url": url,
        "tenant": "acme",
        "scopes": ["models:read"],
        **more,
    }
    return {"login": IssuerSettings.model_validate(members)}


def accepts(trust: Trust, presented: str) -> bool:
    try:
        trust.verifier.verify(presented)
    except CredentialError:
        return False
    return True


async def soon(condition: Callable[[], bool], within_seconds: float = SOON_SECONDS) -> None:
    """Wait until it holds; fails when that takes longer than promised."""
    await until(condition, within_seconds)


# Our own keys.


async def test_rotation_and_retirement_are_followed_without_a_signal(tmp_path: Path) -> None:
    loads: list[str] = []
    async with trusting(tmp_path, ring_loaded=loads.append) as trust:
        before = credential(trust.ring)
        new = rotate(tmp_path)
        after = credential(KeyRing.load(tmp_path))
        assert not accepts(trust, after)
        await soon(lambda: accepts(trust, after))
        assert accepts(trust, before)
        assert trust.ring.signing_key is not None and trust.ring.signing_key.kid == new.kid
        [old] = [key.kid for key in trust.ring if key.kid != new.kid]
        retire(tmp_path, old)
        await soon(lambda: not accepts(trust, before))
        assert accepts(trust, after)
        assert {"loaded"} == set(loads)


async def test_unusable_key_directory_leaves_the_last_good_ring_in_force(tmp_path: Path) -> None:
    loads: list[str] = []
    async with trusting(tmp_path, ring_loaded=loads.append, poll_seconds=0.1) as trust:
        presented = credential(trust.ring)
        await soon(lambda: "loaded" in loads)
        (tmp_path / "bad.json").write_text("{}")
        await soon(lambda: "failed" in loads)
        assert accepts(trust, presented)
        (tmp_path / "bad.json").unlink()
        await soon(lambda: loads == ["loaded", "failed", "loaded"])
        tmp_path.rename(tmp_path.with_name("away"))
        await soon(lambda: loads[3:] == ["failed"])
        assert accepts(trust, presented)


async def test_keys_that_are_gone_before_the_first_look_count_no_more(tmp_path: Path) -> None:
    async with trusting(tmp_path) as trust:
        presented = credential(trust.ring)
        for file in tmp_path.glob("*.json"):
            file.unlink()
        await soon(lambda: not accepts(trust, presented))


async def test_unchanged_directory_is_loaded_once(tmp_path: Path) -> None:
    loads: list[str] = []
    async with trusting(tmp_path, ring_loaded=loads.append, poll_seconds=0.05):
        await asyncio.sleep(0.3)  # nothing more comes
    assert loads == ["loaded"]


def test_fingerprint_changes_with_every_change_of_a_key_file_and_with_nothing_else(tmp_path: Path) -> None:
    seen = [fingerprint(tmp_path)]
    key = Key.generate(Algorithm.EDDSA, "a")
    save(tmp_path, key)
    seen.append(fingerprint(tmp_path))
    save(tmp_path, Key.generate(Algorithm.EDDSA, "a"))
    seen.append(fingerprint(tmp_path))
    (tmp_path / "b.json").write_text("{}")
    seen.append(fingerprint(tmp_path))
    (tmp_path / "b.json").unlink()
    (tmp_path / REVOCATIONS_FILE).write_text("{}")
    (tmp_path / ".draft").write_text("{}")
    assert fingerprint(tmp_path) == seen[2]
    assert len(set(seen)) == 4
    assert fingerprint(tmp_path / "missing") is None


def test_revocations_beside_the_keys_are_no_key_and_no_key_takes_their_name(tmp_path: Path) -> None:
    ensure_ring(tmp_path)
    (tmp_path / REVOCATIONS_FILE).write_text("{}")
    (tmp_path / REVOCATIONS_FILE).chmod(0o600)
    assert len(KeyRing.load(tmp_path)) == 1
    with pytest.raises(KeyProblem, match="revocations"):
        rotate(tmp_path, kid="revocations")


# Revocations.


async def test_revocation_in_the_file_is_known_to_every_process_within_two_seconds(tmp_path: Path) -> None:
    async with trusting(tmp_path) as first, trusting(tmp_path) as second:
        alice, bob = credential(first.ring), credential(first.ring, subject="bob")
        assert all(accepts(trust, who) for trust in (first, second) for who in (alice, bob))
        now = int(time.time())
        await RevocationFile(tmp_path).add(
            Revocation(tenant="acme", subject="alice", before=now + 1, until=now + 600)
        )
        await soon(lambda: not accepts(first, alice) and not accepts(second, alice))
        with pytest.raises(CredentialRevoked):
            first.verifier.verify(alice)
        assert accepts(first, bob) and accepts(second, bob)


async def test_revocation_is_known_before_the_first_request(tmp_path: Path) -> None:
    ring, _ = ensure_ring(tmp_path)
    alice = credential(ring)
    now = int(time.time())
    await RevocationFile(tmp_path).add(Revocation(tenant="acme", before=now + 1, until=now + 600))
    async with trusting(tmp_path) as trust:
        assert not accepts(trust, alice)


async def test_revocation_in_redis_is_known_to_every_process_within_two_seconds(tmp_path: Path) -> None:
    with running_redis() as server:
        ring, _ = ensure_ring(tmp_path)
        async with (
            trusting(tmp_path, redis_url=server.url) as first,
            trusting(tmp_path, redis_url=server.unix_url) as second,
        ):
            alice = credential(ring)
            identity = first.verifier.verify(alice).credential_id
            assert accepts(second, alice)
            await add(server.url, identity)
            await soon(lambda: not accepts(first, alice) and not accepts(second, alice))
            assert 0 <= first.revocations_age_seconds() < 2


async def test_what_was_revoked_holds_while_redis_is_gone_and_when_it_comes_back_empty(
    tmp_path: Path,
) -> None:
    with running_redis() as server:
        ring, _ = ensure_ring(tmp_path)
        alice, bob = credential(ring), credential(ring, subject="bob")
        async with trusting(tmp_path, redis_url=server.url, poll_seconds=0.1) as trust:
            await add(server.url, trust.verifier.verify(alice).credential_id)
            await soon(lambda: not accepts(trust, alice))
            server.stop()
            await until(lambda: trust.revocations_age_seconds() > 0.5)
            assert not accepts(trust, alice) and accepts(trust, bob)
            async with trusting(tmp_path, redis_url=server.url) as newcomer:
                assert not accepts(newcomer, alice), "a process that starts meanwhile knows it too"
                assert accepts(newcomer, bob)
                assert newcomer.revocations_age_seconds() == float("inf")
            server.start()
            await soon(lambda: trust.revocations_age_seconds() < 0.5, within_seconds=4)
            assert not accepts(trust, alice)
            async with trusting(redis_url=server.url) as stranger:
                assert len(stranger.revocations) == 1, "and Redis knows it again"


async def test_what_the_file_remembers_is_told_to_a_redis_that_has_lost_it(tmp_path: Path) -> None:
    with running_redis() as server:
        ring, _ = ensure_ring(tmp_path)
        alice = credential(ring)
        now = int(time.time())
        await RevocationFile(tmp_path).add(Revocation(tenant="acme", before=now + 1, until=now + 600))
        async with trusting(tmp_path, redis_url=server.url, poll_seconds=0.1) as trust:
            assert not accepts(trust, alice)
            await asyncio.sleep(0.5)
            assert not accepts(trust, alice)
            async with trusting(redis_url=server.url) as stranger:
                assert len(stranger.revocations) == 1


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("spoil", [cut_off, empty])
@pytest.mark.parametrize("redis", [False, True])
async def test_what_was_revoked_is_not_accepted_again_by_who_cannot_read_it(
    tmp_path: Path, spoil: Callable[[Path], None], redis: bool
) -> None:
    """A start is refused then, for the file alone knows it: Redis, if any, is gone."""
    ring, _ = ensure_ring(tmp_path)
    now = int(time.time())
    await RevocationFile(tmp_path).add(Revocation(tenant="acme", before=now + 1, until=now + 600))
    url = "redis://127.0.0.1:1/0" if redis else None
    async with trusting(tmp_path, redis_url=url) as trust:
        assert not accepts(trust, credential(ring))
    spoil(tmp_path / REVOCATIONS_FILE)

    with pytest.raises(SettingsInvalid, match=REVOCATIONS_FILE):
        async with trusting(tmp_path, redis_url=url):
            pass


async def test_frozen_redis_delays_nothing(tmp_path: Path) -> None:
    with running_redis() as server:
        async with trusting(tmp_path, redis_url=server.url) as trust:
            server.freeze()
            new = rotate(tmp_path)
            await soon(lambda: trust.ring.get(new.kid) is not None, within_seconds=2.5)
            server.thaw()


async def test_keys_that_cannot_be_written_beside_do_no_harm_with_redis(tmp_path: Path) -> None:
    """As with keys mounted read-only: the file is kept where it can be."""
    with running_redis() as server:
        ring, _ = ensure_ring(tmp_path)
        (tmp_path / REVOCATIONS_FILE).mkdir()
        async with trusting(tmp_path, redis_url=server.url) as trust:
            alice = credential(ring)
            await add(server.url, trust.verifier.verify(alice).credential_id)
            await soon(lambda: not accepts(trust, alice))


async def add(url: str, credential_id: str) -> None:
    store = RedisCredentials(url)
    try:
        await store.add(Revocation(credential=credential_id, until=int(time.time()) + 600))
    finally:
        await store.close()


# Other issuers.


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    async with running_jwks_server() as running:
        running.publish(THEIRS)
        yield running


async def test_credential_of_another_issuer_is_accepted_from_the_start(server: JwksServer) -> None:
    fetches: list[tuple[str, str]] = []
    fetch = SharedFetch(fetched=lambda *told: fetches.append(told))
    async with trusting(issuers=login(server.url), fetch=fetch) as trust:
        assert trust.verifier.verify(their_credential()).tenant == "acme"
        assert fetches == [("login", "new")]
        assert 0 <= trust.jwks_ages()["login"] < 2


async def test_rotation_at_another_issuer_is_followed_and_what_it_withdrew_is_refused(
    server: JwksServer,
) -> None:
    async with trusting(issuers=login(server.url), pace=Pace(pause_seconds=0.1)) as trust:
        before, after = their_credential(THEIRS), their_credential(NEXT)
        assert accepts(trust, before)
        server.publish(NEXT)
        assert not accepts(trust, after), "this one is refused, and no request waits"
        assert accepts(trust, before)
        await soon(lambda: accepts(trust, after))
        assert not accepts(trust, before), "though it was verified before"


async def test_hanging_issuer_delays_neither_start_nor_requests(server: JwksServer) -> None:
    async def hang(_: object) -> Any:
        await asyncio.sleep(60)

    server.behaviour = hang
    started = time.monotonic()
    async with trusting(issuers=login(server.url)) as trust:
        assert 4.5 < time.monotonic() - started < 6, "bounded by the deadline of one fetch"
        own = credential(trust.ring)
        started = time.monotonic()
        assert accepts(trust, own) and not accepts(trust, their_credential())
        assert time.monotonic() - started < 0.1
        assert trust.jwks_ages() == {"login": float("inf")}


async def test_reload_keeps_the_keys_of_an_issuer_that_is_down(server: JwksServer) -> None:
    async with trusting(issuers=login(server.url)) as trust:
        presented = their_credential()
        assert accepts(trust, presented)
        server.behaviour = server_down
        trust.prepare(ACCEPTED, login(server.url, scopes=["chat.completions:write"]))()
        assert trust.verifier.verify(presented).scopes == frozenset()
        assert len(server.requests) == 1


async def test_reload_takes_over_new_issuers_and_drops_old_ones(server: JwksServer) -> None:
    async with trusting() as trust:
        presented = their_credential()
        assert not accepts(trust, presented)
        trust.prepare(ACCEPTED, login(server.url))()
        await soon(lambda: accepts(trust, presented))
        trust.prepare(ACCEPTED, {})()
        assert not accepts(trust, presented)
        assert trust.jwks_ages() == {}


async def test_reload_takes_over_the_rules_for_credentials(server: JwksServer) -> None:
    async with trusting() as trust:
        presented = credential(trust.ring)
        assert accepts(trust, presented)
        trust.prepare(Credentials(max_lifetime_seconds=599), {})()
        assert not accepts(trust, presented)
        trust.prepare(Credentials(max_lifetime_seconds=600), {})()
        assert accepts(trust, presented)


async def test_bad_settings_change_nothing(server: JwksServer) -> None:
    async with trusting(issuers=login(server.url)) as trust:
        presented = their_credential()
        for wrong in (login(server.url, scopes=["nonsense"]), login(server.url, issuer=ACCEPTED.issuer)):
            with pytest.raises(SettingsInvalid):
                trust.prepare(ACCEPTED, wrong)
        assert accepts(trust, presented)
        with pytest.raises(CredentialNotAccepted):
            trust.verifier.verify(their_credential(NEXT))


async def server_down(_: object) -> Any:
    raise RuntimeError("down")


async def test_nothing_runs_after_the_end(tmp_path: Path, server: JwksServer) -> None:
    with running_redis() as redis:
        before = asyncio.all_tasks()
        async with trusting(tmp_path, login(server.url), redis_url=redis.url) as trust:
            trust.prepare(ACCEPTED, login(server.url + "?other"))()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
