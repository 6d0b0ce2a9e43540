"""How long an answer is expected to be whose request does not say: by what others of its tenant and model have had.

A guess that is short becomes debt, one that is long keeps others waiting while the answer runs. What is stated here of
both is what the constants in `answer_lengths` were chosen by: without half a deviation above the mean one wave in a
hundred takes 1.4 to 1.8 limits; with a whole one twice is reserved what is used.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.store import StoreUnavailable
from gateway.operations.model_patterns import closest
from gateway.usage.answer_lengths import EXPECTED_OUTPUT, LEAST_GUESS, MOST_LEARNED, WINDOW, Lengths
from gateway.usage.guesses import MOST_MODELS, Guesses
from gateway.usage.redis_lengths import RedisLengths
from gateway.usage.redis_wire import UsageWire
from tests.kit.asking import TABLE
from tests.kit.clock import Clock
from tests.kit.redis import RedisServer

CHAT = TABLE.by_id("createChatCompletion")
COMPLETION = TABLE.by_id("createCompletion")
NOON = 1_700_000_000.0


def test_guess_follows_the_closest_pattern() -> None:
    guesses = Guesses({"gpt-*": 1, "gpt-4o*": 2, "gpt-4o": 3, "*": 4})
    models = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3", None)
    assert [guesses.output(CHAT, "acme", model) for model in models] == [3, 2, 1, 4, 4]
    assert Guesses({"x": 1}).output(CHAT, "acme", "y") == EXPECTED_OUTPUT
    assert closest(["a*", "ab"], "b") is None


def test_what_the_operator_or_the_api_says_is_not_learned_away() -> None:
    guesses = Guesses({"gpt-4o*": 300})
    for _ in range(100):
        guesses.had(CHAT, "acme", "gpt-4o", 9000)
        guesses.had(COMPLETION, "acme", "davinci", 9000)
    assert guesses.output(CHAT, "acme", "gpt-4o") == 300
    assert guesses.output(COMPLETION, "acme", "davinci") == 16
    assert guesses.output(CHAT, "acme", "davinci") == EXPECTED_OUTPUT, "those were cut at 16"


def known(lengths: Mapping[int, int] | list[int], *, every_seconds: float = 1.0) -> Lengths:
    found, now = Lengths(), NOON
    for length in lengths:
        found.add(length, now)
        now += every_seconds
    return found


def test_first_answers_are_guessed_as_ever_and_long_ones_at_once_as_they_were() -> None:
    assert Lengths().guess == EXPECTED_OUTPUT
    assert known([20]).guess < EXPECTED_OUTPUT
    assert known([8000]).guess > 5000
    assert known([8000] * 5).guess > 7500
    assert known([8000] * 100).guess in range(7900, 8001)


def _uniform(random: Random) -> int:
    return random.randint(1, 2000)


def _exponential(random: Random) -> int:
    return int(random.expovariate(1 / 500)) + 1


def _lognormal(random: Random) -> int:
    return int(random.lognormvariate(6, 1)) + 1


def _two_kinds(random: Random) -> int:
    return 8000 if random.random() < 0.5 else 100


def _alike(_: Random) -> int:
    return 8000


@pytest.mark.parametrize(
    ("draw", "most_reserved"),
    [(_alike, 1.01), (_uniform, 1.35), (_exponential, 1.6), (_lognormal, 1.8), (_two_kinds, 1.55)],
)
def test_what_is_reserved_is_near_what_is_used_and_waves_stay_near_the_limit(
    draw: Callable[[Random], int], most_reserved: float
) -> None:
    """A limit of a hundred answers, which as many as it admits at once fill wave after wave."""
    random = Random(12)
    mean = sum(draw(random) for _ in range(4000)) / 4000
    limit = 100 * mean
    lengths = known([draw(random) for _ in range(200)])
    now, reserved, used, waves = NOON, 0, 0, []
    for _ in range(300):
        at_once = int(limit // lengths.guess)
        had = [draw(random) for _ in range(at_once)]
        reserved += at_once * lengths.guess
        used += sum(had)
        waves.append(sum(had) / limit)
        now += 10
        for length in had:
            lengths.add(length, now)
    assert 0.95 < reserved / used < most_reserved
    assert sorted(waves)[-3] < 1.15, "one in a hundred waves"
    assert max(waves) < 1.35


def test_days_limit_is_used_about_once_where_constant_guesses_used_it_eight_times() -> None:
    """49 answers of 8,000 LLM tokens, all at once, fitted into a limit of 50,000 by guesses of 1,000."""
    limit = 50_000
    assert 49 * 8000 / limit > 7.8
    guess = known([8000] * 3).guess
    assert limit // guess * 8000 <= 1.2 * limit


def test_tiny_answers_cannot_bring_down_a_guess_further_than_is_documented() -> None:
    assert known([1] * 5000).guess == LEAST_GUESS
    lengths = known([8000, *[1] * 1000], every_seconds=0.1)
    assert lengths.guess >= 8000 // 16 * 0.9, "the longest of late weighs in, however many came since"
    lengths.look(NOON + 86_400)
    assert lengths.guess == LEAST_GUESS, "but not for ever"


def test_absurd_report_teaches_nothing() -> None:
    guesses = Guesses({})
    for length in (MOST_LEARNED + 1, 2**53, 0, -5):
        guesses.had(CHAT, "acme", "m", length)
    assert guesses.output(CHAT, "acme", "m") == EXPECTED_OUTPUT


def test_tenants_do_not_influence_each_other() -> None:
    guesses = Guesses({})
    for _ in range(50):
        guesses.had(CHAT, "acme", "m", 9000)
    assert guesses.output(CHAT, "acme", "m") > 8000
    assert guesses.output(CHAT, "beta", "m") == EXPECTED_OUTPUT
    assert guesses.output(CHAT, "acme", "other") == EXPECTED_OUTPUT


def test_models_that_are_remembered_are_so_many_and_those_used_last() -> None:
    guesses = Guesses({})
    for n in range(MOST_MODELS):
        guesses.had(CHAT, "acme", f"m{n}", 9000)
    guesses.had(CHAT, "acme", "m0", 9000)
    guesses.had(CHAT, "acme", "new", 9000)
    assert guesses.output(CHAT, "acme", "m0") > EXPECTED_OUTPUT
    assert guesses.output(CHAT, "acme", "new") > EXPECTED_OUTPUT
    assert guesses.output(CHAT, "acme", "m1") == EXPECTED_OUTPUT
    guesses.had(CHAT, "acme", "x" * 300, 9000)
    assert guesses.output(CHAT, "acme", "x" * 300) == EXPECTED_OUTPUT


# Shared through a store

answers = st.lists(st.tuples(st.integers(1, MOST_LEARNED), st.floats(0, 7200)), max_size=2 * WINDOW)


@given(answers, answers)
def test_joined_is_as_seen_one_after_the_other(
    before: list[tuple[int, float]], after: list[tuple[int, float]]
) -> None:
    whole, first, second, now = Lengths(), Lengths(), Lengths(), NOON
    for part, several in ((first, before), (second, after)):
        for length, pause in several:
            now += pause
            whole.add(length, now)
            part.add(length, now)
    first.join(second, now)
    assert first.numbers()[:4] == pytest.approx(whole.numbers()[:4])
    assert first.guess == pytest.approx(whole.guess, abs=MOST_LEARNED / 15)


async def test_redis_joins_by_the_same_rule(redis: RedisServer) -> None:
    random, store, here, now = Random(3), RedisLengths(UsageWire(redis.url)), Lengths(), NOON
    try:
        for _ in range(40):
            later = Lengths()
            for _ in range(random.randint(1, 40)):
                now += random.expovariate(1 / 60)
                later.add(int(random.lognormvariate(6, 1.5)) + 1, now)
            here.join(later, now)
            told = await store.learn("acme", {"m": later})
            assert told["m"].numbers() == pytest.approx(here.numbers())
        assert set(await store.learn("acme", {})) == {"m"}
        assert not await store.learn("beta", {})
    finally:
        await store.close()


async def test_redis_remembers_so_many_models_and_those_used_last(redis: RedisServer) -> None:
    store = RedisLengths(UsageWire(redis.url))
    try:
        for n in range(MOST_MODELS + 5):
            told = await store.learn("acme", {f"m{n}": known([5], every_seconds=0), "kept": _at(NOON + n)})
        assert len(told) == MOST_MODELS
        assert "kept" in told
    finally:
        await store.close()


def _at(now: float) -> Lengths:
    lengths = Lengths()
    lengths.add(5, now)
    return lengths


@pytest.mark.parametrize(
    "broken",
    ["who knows", "nan nan nan nan nan nan nan", "1 -1 0 0 0 0 0", "1 1 1 inf 1 1 1", "1e300 1 1 1 1 1 1"],
)
async def test_what_somebody_broke_in_redis_is_passed_over_and_written_anew(
    redis: RedisServer, broken: str
) -> None:
    store = RedisLengths(UsageWire(redis.url))
    try:
        await store.learn("acme", {"m": _at(NOON), "n": _at(NOON)})
        key = redis.command("KEYS", "*:answers").split()[-1]
        redis.command("HSET", key, "m", broken)
        assert set(await store.learn("acme", {})) == {"n"}
        learned = await store.learn("acme", {"m": _at(NOON)})
        assert set(learned) == {"m", "n"}
        learned["m"].look(NOON)
    finally:
        await store.close()


class Silent:
    """A store that does not answer until it is told to."""

    def __init__(self) -> None:
        self.kept: dict[str, Lengths] = {}
        self.answers = False

    async def learn(self, tenant: str, later: Mapping[str, Lengths]) -> dict[str, Lengths]:
        if not self.answers:
            raise StoreUnavailable("not now", sent=False)
        for model, lengths in later.items():
            self.kept.setdefault(f"{tenant} {model}", Lengths()).join(lengths, NOON)
        return {"m": self.kept["acme m"]}

    async def close(self) -> None:
        pass


async def test_what_a_store_could_not_hear_it_is_told_later() -> None:
    store = Silent()
    guesses = Guesses({}, store, clock=Clock(NOON))
    await guesses.start()
    guesses.had(CHAT, "acme", "m", 5000)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert guesses.output(CHAT, "acme", "m") > EXPECTED_OUTPUT, "this process knows at once"
    guesses.had(CHAT, "acme", "m", 7000)
    store.answers = True
    await guesses.close()
    assert store.kept["acme m"].seen == 2
    assert store.kept["acme m"].longest == 7000
