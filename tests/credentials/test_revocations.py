"""What is revoked is refused at once and stays refused, whatever becomes of the store that said so."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import threading
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import orjson
import pytest

from gateway.credentials.issue import IssuedCredential
from gateway.credentials.redis_credentials import RedisCredentials
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import Revocation, RevocationList, RevocationsUnavailable
from tests.kit import records
from tests.kit.redis import RedisServer, running_redis

NOW = int(time.time())  # Redis lets keys expire by its own clock
LATER = NOW + 86400


principal = partial(
    records.principal,
    scopes=frozenset({"models:read"}),
    credential_id="c1",
    issued_at=NOW,
    expires_at=LATER,
)


def revoked(*entries: Revocation) -> RevocationList:
    revocations = RevocationList()
    revocations.replace(entries, NOW)
    return revocations


ONE = Revocation(credential="c1", until=LATER)
TENANT = Revocation(tenant="acme", before=NOW + 1, until=LATER)
SUBJECT = Revocation(tenant="acme", subject="alice", before=NOW + 1, until=LATER)
ALL = frozenset({ONE, TENANT, SUBJECT})


# The list.


def test_nothing_is_revoked_at_first() -> None:
    assert not RevocationList().check(principal())


def test_credential_is_revoked_by_its_id_alone() -> None:
    revocations = revoked(ONE)
    assert revocations.check(principal(tenant="beta", subject="bob"))
    assert not revocations.check(principal(credential_id="c2"))


def test_tenant_is_revoked_with_all_its_subjects_and_nobody_else() -> None:
    revocations = revoked(TENANT)
    assert revocations.check(principal(subject="bob", credential_id="c2"))
    assert not revocations.check(principal(tenant="beta"))


def test_subject_is_revoked_in_its_own_tenant_only() -> None:
    revocations = revoked(SUBJECT)
    assert revocations.check(principal(credential_id="c2"))
    assert not revocations.check(principal(subject="bob"))
    assert not revocations.check(principal(tenant="beta"))


@pytest.mark.parametrize("entry", [TENANT, SUBJECT], ids=["tenant", "subject"])
def test_what_is_issued_from_that_second_on_is_spared(entry: Revocation) -> None:
    revocations = revoked(entry)
    assert revocations.check(principal(issued_at=NOW))
    assert not revocations.check(principal(issued_at=NOW + 1))


@pytest.mark.parametrize("subject", [None, "alice"])
def test_of_two_moments_the_later_counts_in_any_order(subject: str | None) -> None:
    entries = [
        Revocation(tenant="acme", subject=subject, before=before, until=LATER)
        for before in (NOW - 5, NOW + 5, NOW - 9)
    ]
    for order in (entries, entries[::-1]):
        assert revoked(*order).check(principal(issued_at=NOW + 4))


def test_entries_end_on_their_own() -> None:
    revocations = revoked(ONE, Revocation(credential="c2", until=NOW + 5))
    assert len(revocations) == 2
    revocations.expire(NOW + 4)
    assert revocations.check(principal(credential_id="c2"))
    revocations.expire(NOW + 5)
    assert len(revocations) == 1 and not revocations.check(principal(credential_id="c2"))
    assert revocations.check(principal())


def test_ended_entries_are_not_even_taken() -> None:
    assert len(revoked(Revocation(credential="c2", until=NOW))) == 0


def test_check_costs_next_to_nothing_among_a_hundred_thousand() -> None:
    revocations = revoked(
        *(Revocation(credential=f"x{n}", until=LATER) for n in range(50_000)),
        *(Revocation(tenant="acme", subject=f"s{n}", before=NOW + 1, until=LATER) for n in range(50_000)),
    )
    who = principal()
    fastest = 1.0
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(10_000):
            revocations.check(who)
        fastest = min(fastest, time.perf_counter() - started)
    assert fastest / 10_000 < 3e-6


@pytest.mark.parametrize("entry", ALL)
def test_revocation_survives_being_written_down(entry: Revocation) -> None:
    assert Revocation.read(orjson.loads(entry.encode())) == entry


@pytest.mark.parametrize(
    "members",
    [
        *(None, [], "c1", {}),
        {"credential": "c1"},
        {"until": LATER},
        {"tenant": "acme", "until": LATER},
        {"subject": "alice", "before": NOW, "until": LATER},
        {"credential": "c1", "tenant": "acme", "until": LATER},
        {"credential": 1, "until": LATER},
        {"credential": "c1", "until": "tomorrow"},
        {"credential": "c1", "until": True},
        {"tenant": "acme", "before": 1.5, "until": LATER},
        {"tenant": None, "before": NOW, "until": LATER},
        {"credential": "c1", "until": LATER, "note": "x"},
    ],
)
def test_anything_else_is_no_revocation(members: object) -> None:
    with pytest.raises(ValueError, match="revocation"):
        Revocation.read(members)


# The file.


def file_in(directory: Path) -> RevocationFile:
    return RevocationFile(directory, clock=lambda: NOW)


async def test_missing_file_revokes_nothing(tmp_path: Path) -> None:
    assert await file_in(tmp_path / "nowhere").changed() == frozenset()


async def test_file_tells_others_once_after_each_change(tmp_path: Path) -> None:
    writer, reader = file_in(tmp_path), file_in(tmp_path)
    await writer.add(ONE)
    assert await reader.changed() == frozenset({ONE})
    assert await reader.changed() is None
    await writer.add(TENANT)
    assert await reader.changed() == frozenset({ONE, TENANT})


async def test_file_is_private_and_so_is_a_directory_made_for_it(tmp_path: Path) -> None:
    store = file_in(tmp_path / "keys")
    await store.add(ONE)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in store.path.parent.iterdir()] == ["revocations.json"]


async def test_ended_revocations_leave_the_file_with_the_next_change(tmp_path: Path) -> None:
    await RevocationFile(tmp_path, clock=lambda: 0).add(Revocation(credential="old", until=NOW - 1))
    await file_in(tmp_path).add(ONE)
    assert await file_in(tmp_path).changed() == frozenset({ONE})


async def test_merging_what_is_known_writes_nothing(tmp_path: Path) -> None:
    store = file_in(tmp_path)
    await store.merge(ALL)
    before = store.path.stat()
    await store.merge({ONE, SUBJECT})
    after = store.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert await file_in(tmp_path).changed() == ALL


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"revocations": {}}',
        b'{"revocations": [1]}',
        b'{"revocations": [], "revocations": []}',
        b'{"revocations": [{"credential": "c1"}]}',
        b'{"revocations": [{"credential": "c1", "until": 1}',
        b"\xff\xfe",
    ],
    ids=repr,
)
async def test_file_that_cannot_be_read_is_never_an_empty_list(tmp_path: Path, content: bytes) -> None:
    store = file_in(tmp_path)
    await store.add(ONE)
    assert await store.changed() == frozenset({ONE})
    store.path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(RevocationsUnavailable, match=r"revocations\.json"):
            await store.changed()
    with pytest.raises(RevocationsUnavailable):
        await store.add(TENANT)
    assert store.path.read_bytes() == content, "what an operator may still repair is not overwritten"


async def test_file_that_vanishes_is_never_an_empty_list(tmp_path: Path) -> None:
    store = file_in(tmp_path)
    await store.add(ONE)
    await store.changed()
    store.path.unlink()
    with pytest.raises(RevocationsUnavailable, match="gone"):
        await store.changed()
    await store.add(TENANT)
    assert await store.changed() == frozenset({TENANT})


async def test_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file where the directory should be")
    with pytest.raises(RevocationsUnavailable, match="keys"):
        await file_in(tmp_path / "keys").add(ONE)


async def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        for n in range(10):
            entry = Revocation(credential=f"{writer}-{n}", until=LATER)
            asyncio.run(file_in(tmp_path).add(entry))

    threads = [threading.Thread(target=write, args=(writer,), daemon=True) for writer in range(5)]
    for thread in threads:
        thread.start()
    reader, seen = file_in(tmp_path), 0
    while any(thread.is_alive() for thread in threads):
        entries = await reader.changed()
        if entries is not None:
            assert len(entries) >= seen, "a reader never sees half a file"
            seen = len(entries)
        await asyncio.sleep(0.001)
    entries = await file_in(tmp_path).changed()
    assert entries is not None and len(entries) == 50


# Redis.


@contextlib.asynccontextmanager
async def opened(
    url: str, now: float = NOW, deadline_seconds: float = 0.5
) -> AsyncIterator[RedisCredentials]:
    store = RedisCredentials(url, clock=lambda: now, deadline_seconds=deadline_seconds)
    try:
        yield store
    finally:
        await store.close()


async def test_redis_tells_others_once_after_each_change(redis: RedisServer) -> None:
    async with opened(redis.url) as writer, opened(redis.unix_url) as reader:
        assert await reader.changed() == frozenset()
        assert await reader.changed() is None
        await writer.add(ONE)
        assert await reader.changed() == frozenset({ONE})
        assert await reader.changed() is None
        await writer.add(TENANT)
        await writer.add(SUBJECT)
        assert await reader.changed() == ALL


async def test_who_comes_later_is_told_everything(redis: RedisServer) -> None:
    async with opened(redis.url) as writer:
        for entry in ALL:
            await writer.add(entry)
    async with opened(redis.url) as reader:
        assert await reader.changed() == ALL


async def test_ended_revocations_leave_redis_with_a_later_change(redis: RedisServer) -> None:
    async with opened(redis.url) as writer:
        await writer.add(Revocation(credential="old", until=NOW + 10))
    async with opened(redis.url, now=NOW + 60) as writer:
        await writer.add(ONE)
        assert "old" in redis.command("ZRANGE", "gateway:{credentials}:revoked", 0, -1)
    async with opened(redis.url, now=NOW + 71) as writer:
        await writer.add(ONE)
        assert "old" not in redis.command("ZRANGE", "gateway:{credentials}:revoked", 0, -1)


async def test_redis_that_lost_its_data_is_told_again(redis: RedisServer) -> None:
    async with opened(redis.url) as reader, opened(redis.url) as newcomer:
        await reader.add(ONE)
        await reader.changed()
        redis.command("FLUSHALL")
        assert await newcomer.changed() == frozenset()
        assert await reader.changed() == frozenset({ONE}), "what was known holds"
        assert await newcomer.changed() == frozenset({ONE}), "and everybody knows it again"
        assert await reader.changed() == frozenset({ONE})  # the version that it wrote itself
        assert await reader.changed() is None


async def test_version_of_a_redis_that_began_anew_is_never_taken_for_the_old_one(redis: RedisServer) -> None:
    async with opened(redis.url) as reader, opened(redis.url) as writer:
        await writer.add(ONE)
        await reader.changed()
        redis.command("FLUSHALL")
        await writer.add(TENANT)
        assert await reader.changed() == frozenset({ONE, TENANT})


async def test_what_is_remembered_from_elsewhere_is_told_to_redis(redis: RedisServer) -> None:
    async with opened(redis.url) as first, opened(redis.url) as second:
        first.remember({ONE, Revocation(credential="ended", until=NOW)})
        assert await first.changed() == frozenset({ONE})
        assert await second.changed() == frozenset({ONE})


async def test_thousands_are_written_back(redis: RedisServer) -> None:
    many = {Revocation(credential=f"c{n}", until=LATER) for n in range(2500)}
    async with opened(redis.url) as first, opened(redis.url) as second:
        first.remember(many)
        await first.changed()
        assert await second.changed() == frozenset(many)


async def test_member_that_cannot_be_read_takes_nothing_from_the_others(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        redis.command("ZADD", "gateway:{credentials}:revoked", LATER, '{"planet":"mars"}')
        await store.add(ONE)
        assert await store.changed() == frozenset({ONE})


async def test_new_revocations_arrive_though_lost_ones_cannot_be_written_back(redis: RedisServer) -> None:
    """A replica is read, and refuses to be written."""
    async with opened(redis.url) as writer, opened(redis.url) as reader:
        reader.remember({TENANT})
        await writer.add(ONE)
        redis.command("REPLICAOF", "127.0.0.1", "1")
        try:
            assert await reader.changed() == frozenset({ONE, TENANT})
        finally:
            redis.command("REPLICAOF", "NO", "ONE")
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(RevocationsUnavailable):
                    await reader.changed()
                    if "acme" in redis.command("ZRANGE", "gateway:{credentials}:revoked", 0, -1):
                        break
                await asyncio.sleep(0.05)


async def test_redis_that_is_gone_or_frozen_is_said_in_time(tmp_path: Path) -> None:
    with running_redis() as server:
        async with opened(server.url, deadline_seconds=0.2) as store:
            await store.changed()
            server.freeze()
            started = time.monotonic()
            with pytest.raises(RevocationsUnavailable, match="127"):
                await store.changed()
            assert time.monotonic() - started < 0.5
            server.thaw()
            server.stop()
            with pytest.raises(RevocationsUnavailable):
                await store.add(ONE)
            server.start()
            async with asyncio.timeout(5):
                while True:
                    try:
                        await store.changed()
                        break
                    except RevocationsUnavailable:
                        await asyncio.sleep(0.05)


# The register.


def issued(number: int, expires_at: int = LATER) -> IssuedCredential:
    return IssuedCredential(
        f"c{number}", "acme", "alice", ("models:read",), ("gpt-4o",), "k1", NOW, expires_at
    )


async def test_register_lists_what_has_not_expired_first_to_expire_first(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        for one in (issued(1, LATER + 2), issued(2, LATER + 1), issued(3, NOW)):
            await store.register(one)
        assert await store.issued() == [issued(2, LATER + 1), issued(1, LATER + 2)]
    async with opened(redis.url, now=LATER + 1) as store:
        assert await store.issued() == [issued(1, LATER + 2)]


async def test_register_vanishes_with_the_last_that_expires(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        for one in (issued(1, LATER + 2), issued(2, LATER + 1)):
            await store.register(one)
    ttl = int(redis.command("TTL", "gateway:{credentials}:issued").strip().lstrip(":"))
    assert abs(ttl - (LATER + 2 - time.time())) < 5


async def test_register_forgets_the_expired_when_something_is_added(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        await store.register(issued(1, NOW + 1))
    async with opened(redis.url, now=NOW + 2) as store:
        await store.register(issued(2))
    assert redis.command("ZCARD", "gateway:{credentials}:issued").strip() == ":1"


async def test_entry_of_another_version_is_passed_over(redis: RedisServer) -> None:
    async with opened(redis.url) as store:
        redis.command("ZADD", "gateway:{credentials}:issued", LATER, '{"id":"x"}')
        redis.command("ZADD", "gateway:{credentials}:issued", LATER, "x")
        await store.register(issued(1))
        assert await store.issued() == [issued(1)]
