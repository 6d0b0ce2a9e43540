"""Which keys a gateway lacks that its peers' credentials need, as they tell each other through Redis."""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway.credentials.key_ring import KeyRing, add, retire, rotate
from gateway.credentials.keys import Key
from gateway.credentials.redis_credentials import RedisCredentials
from gateway.credentials.shared_keys import GRACE_SECONDS, SharedKeys, gateway_name, needed
from tests.kit.clock import Clock
from tests.kit.redis import RedisServer

OLD, NEW, STRAY = (frozenset({name}) for name in ("old", "new", "stray"))


@pytest.mark.parametrize(
    ("everybody", "used", "expected"),
    [
        # A newcomer with a key of its own, which nobody uses, or none at all.
        ([OLD, STRAY], OLD, OLD),
        ([OLD, OLD, frozenset()], OLD, OLD),
        # A key runs ahead of the others, and is in use at once: most need not have it yet.
        ([OLD | NEW, OLD, OLD], OLD | NEW, OLD),
        ([OLD | NEW, OLD | NEW, OLD], OLD | NEW, OLD | NEW),
        # A key is taken away from one after another.
        ([OLD | NEW, OLD | NEW, NEW], OLD | NEW, OLD | NEW),
        ([OLD | NEW, NEW, NEW], OLD | NEW, NEW),
        # Nobody uses it any more.
        ([OLD | NEW, OLD | NEW, NEW], NEW, NEW),
        # Everybody signs with a key of their own, and all are in use: somebody has to serve.
        ([OLD, NEW], OLD | NEW, frozenset()),
        ([OLD | NEW, NEW | STRAY, OLD | STRAY], OLD | NEW | STRAY, frozenset()),
        # Those who knew it are gone.
        ([STRAY], OLD, frozenset()),
        ([], OLD, frozenset()),
    ],
)
def test_a_key_is_needed_while_it_is_in_use_and_at_least_half_have_it(
    everybody: list[frozenset[str]], used: frozenset[str], expected: frozenset[str]
) -> None:
    assert needed(everybody, used) == expected


class Machine:
    """A gateway's keys, as one process of it tells and hears of them."""

    def __init__(self, redis: RedisServer, keys_dir: Path, clock: Clock) -> None:
        self.keys_dir = keys_dir
        self.redis = RedisCredentials(redis.url)
        self.keys = SharedKeys(self.redis, KeyRing.load(keys_dir), name=gateway_name(keys_dir), clock=clock)
        self.used: dict[str, float] = {}

    @property
    def kid(self) -> str:
        """Of the key that signs."""
        key = KeyRing.load(self.keys_dir).signing_key
        assert key is not None
        return key.kid

    def verifies(self, kid: str, *, for_seconds: float = 600.0) -> None:
        """A credential is shown whose signature is that of this key."""
        self.used[kid] = time.time() + for_seconds

    def lacks(self) -> list[str]:
        """The kids of keys that it should have."""
        return list(self.keys.missing)

    def reloads(self) -> None:
        self.keys.use(KeyRing.load(self.keys_dir))


class Machines:
    """Several, on one Redis; a round lets each say and hear everything."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        self.clock = Clock(1000.0)
        self._redis = redis
        self._directory = directory
        self._all: list[Machine] = []

    def start(self, name: str, *, like: Machine | None = None) -> Machine:
        """One whose folder has the keys of another, or a key of its own."""
        keys_dir = self._directory / name
        if like is not None:
            shutil.copytree(like.keys_dir, keys_dir)
        elif not keys_dir.exists():
            add(keys_dir, Key.generate("EdDSA"))
        machine = Machine(self._redis, keys_dir, self.clock)
        self._all.append(machine)
        return machine

    async def stop(self, machine: Machine) -> None:
        self._all.remove(machine)
        await machine.redis.close()

    async def round(self, *, after_seconds: float = 10.0) -> None:
        self.clock.advance(after_seconds)
        for _ in range(3):  # one asks, says, and hears what others said meanwhile
            for machine in self._all:
                await machine.keys.look(machine.used)
            self.clock.advance(5.0)


@pytest.fixture
async def machines(redis: RedisServer, tmp_path: Path) -> AsyncIterator[Machines]:
    machines = Machines(redis, tmp_path)
    async with AsyncExitStack() as stack:
        yield machines
        for machine in machines._all:
            stack.push_async_callback(machine.redis.close)


async def test_a_newcomer_that_lacks_what_its_peers_accept_says_which_key_at_once(machines: Machines) -> None:
    old = machines.start("old")
    old.verifies(old.kid)
    await machines.round()
    newcomer = machines.start("newcomer")
    await newcomer.keys.look({})

    assert newcomer.lacks() == [old.kid]
    assert old.lacks() == []
    await machines.round(after_seconds=2 * GRACE_SECONDS)
    assert old.lacks() == [], "nobody uses the newcomer's own key"


async def test_however_many_come_with_wrong_keys_they_do_not_outvote_those_that_serve(
    machines: Machines,
) -> None:
    old = machines.start("old")
    old.verifies(old.kid)
    await machines.round()
    wrong = [machines.start(f"wrong-{number}") for number in range(5)]
    for _ in range(3):
        await machines.round()

    assert [machine.lacks() for machine in wrong] == [[old.kid]] * 5
    assert old.lacks() == []


async def test_it_is_ready_as_soon_as_the_key_is_in_its_folder(machines: Machines) -> None:
    old = machines.start("old")
    old.verifies(old.kid)
    await machines.round()
    newcomer = machines.start("newcomer")
    await newcomer.keys.look({})
    assert newcomer.lacks()
    shutil.copy(old.keys_dir / f"{old.kid}.json", newcomer.keys_dir)
    newcomer.reloads()

    assert newcomer.lacks() == []


async def test_a_key_that_runs_ahead_makes_nobody_unready_before_it_can_have_come(machines: Machines) -> None:
    first = machines.start("first")
    second = machines.start("second", like=first)
    first.verifies(first.kid)
    await machines.round()

    rotate(first.keys_dir)
    first.reloads()
    first.verifies(first.kid)
    await machines.round()
    await machines.round(after_seconds=GRACE_SECONDS / 2)
    assert second.lacks() == []
    await machines.round(after_seconds=GRACE_SECONDS)
    assert second.lacks() == [first.kid], "it had the time, and refuses what the first accepts"


async def test_a_key_of_one_among_many_makes_nobody_unready_however_long(machines: Machines) -> None:
    first = machines.start("first")
    others = [machines.start(name, like=first) for name in ("second", "third")]
    rotate(first.keys_dir)
    first.reloads()
    first.verifies(first.kid)
    for _ in range(3):
        await machines.round(after_seconds=GRACE_SECONDS)

    assert [machine.lacks() for machine in others] == [[], []]


async def test_a_key_that_is_taken_out_of_folders_one_by_one_is_missed_by_nobody(machines: Machines) -> None:
    """Where it was before it has been taken away, whatever the others still accept."""
    all_of_them = [machines.start("first")]
    all_of_them += [machines.start(name, like=all_of_them[0]) for name in ("second", "third")]
    kid = all_of_them[0].kid
    for machine in all_of_them:
        machine.verifies(kid)
        rotate(machine.keys_dir, kid="new")  # the same kid everywhere is not the same key
        machine.reloads()
    await machines.round()
    for machine in all_of_them:
        retire(machine.keys_dir, kid)
        machine.reloads()
        await machines.round(after_seconds=2 * GRACE_SECONDS)
        assert [one.lacks() for one in all_of_them] == [[], [], []]


async def test_a_key_whose_credentials_have_all_expired_is_needed_by_nobody(machines: Machines) -> None:
    old = machines.start("old")
    old.verifies(old.kid, for_seconds=-1)
    await machines.round()
    newcomer = machines.start("newcomer")
    await newcomer.keys.look({})

    assert newcomer.lacks() == []


async def test_a_key_that_is_retired_in_so_many_words_is_needed_by_nobody(machines: Machines) -> None:
    """As when it has become known to others: what still has it must not hold up what has it no more."""
    old = machines.start("old")
    old.verifies(old.kid)
    await machines.round()
    newcomer = machines.start("newcomer")
    await newcomer.keys.look({})
    assert newcomer.lacks() == [old.kid]

    assert await old.redis.key_retired(old.kid)
    old.verifies(old.kid, for_seconds=9000)
    await machines.round()
    await machines.round()
    assert newcomer.lacks() == []
    assert not await old.redis.key_retired("never-heard-of")


async def test_what_a_gateway_said_that_is_gone_does_not_hold(machines: Machines, redis: RedisServer) -> None:
    old = machines.start("old")
    old.verifies(old.kid)
    await machines.round()
    # Its word has run out, as it does after half a minute.
    (gateway,) = redis.command("HKEYS", "gateway:{credentials}:keys").split("\r\n")[2::2][:1]
    word = redis.command("HGET", "gateway:{credentials}:keys", gateway).split("\r\n")[1]
    redis.command("HSET", "gateway:{credentials}:keys", gateway, f"{int(time.time()) - 1} {word.split()[1]}")
    await machines.stop(old)
    newcomer = machines.start("newcomer")
    await newcomer.keys.look({})

    assert newcomer.lacks() == []
    assert redis.command("HLEN", "gateway:{credentials}:keys") == ":0\r\n"


async def test_what_is_known_holds_while_redis_is_away_and_nothing_is_made_up(
    machines: Machines, redis: RedisServer
) -> None:
    old = machines.start("old")
    old.verifies(old.kid)
    await machines.round()
    newcomer = machines.start("newcomer")
    await newcomer.keys.look({})
    redis.stop()
    await machines.round(after_seconds=2 * GRACE_SECONDS)
    later = machines.start("later")
    await later.keys.look({})

    assert (old.lacks(), newcomer.lacks(), later.lacks()) == ([], [old.kid], [])


async def test_an_hmac_secret_is_told_by_nothing_that_follows_from_it(
    machines: Machines, redis: RedisServer, tmp_path: Path
) -> None:
    keys_dir = tmp_path / "secret"
    key = Key.generate("HS256")
    add(keys_dir, key)
    machine = machines.start("secret")
    machine.verifies(key.kid)
    await machines.round()
    said = redis.command("HGETALL", "gateway:{credentials}:keys") + redis.command(
        "ZRANGE", "gateway:{credentials}:keys:used", 0, -1
    )

    assert key.kid in said
    assert str(key.jwk()["k"]) not in said
    twin = Key.from_jwk(key.jwk() | {"k": Key.generate("HS256").jwk()["k"]})
    other_dir = tmp_path / "twin"
    add(other_dir, twin)
    other = machines.start("twin")
    await machines.round()
    assert other.lacks() == [], "of secrets only the name and the age are told"


async def test_processes_of_one_folder_speak_with_one_voice(machines: Machines, redis: RedisServer) -> None:
    """So that a machine with many workers does not outvote others."""
    machine = machines.start("machine")
    for _ in range(3):
        machines.start("machine")
    await machines.round()

    assert redis.command("HLEN", "gateway:{credentials}:keys") == ":1\r\n"
    assert machine.lacks() == []


async def test_what_others_wrote_there_is_survived(machines: Machines, redis: RedisServer) -> None:
    held, used = "gateway:{credentials}:keys", "gateway:{credentials}:keys:used"
    redis.command("HSET", held, "odd", "not a word of ours")
    redis.command("HSET", held, "empty", "9999999999 ")
    redis.command("EVAL", r"redis.call('HSET', KEYS[1], '\255', '9999999999 \255\254')", 1, held)
    redis.command("EVAL", r"redis.call('ZADD', KEYS[1], 9999999999, '\255')", 1, used)
    redis.command("HSET", held, "huge", f"9999999999 {'x,' * 1000}")
    machine = machines.start("machine")
    machine.verifies(machine.kid)
    await machines.round()

    assert machine.lacks() == []
