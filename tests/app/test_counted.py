"""One page for all workers: sums of the living and the dead, on which nothing that counts goes back."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.app.counted import Counted
from gateway.app.exposition import texts
from gateway.app.snapshots import Snapshots
from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads, Sums, Tallies
from tests.kit.exposition import at_once

Sample = tuple[str, tuple[tuple[str, str], ...]]
BOUNDS = (1.0, 5.0)


def samples(counted: Counted, *, openmetrics: bool = False) -> dict[Sample, float]:
    """What the page says, by name and labels; each is there once."""
    text = "".join(texts(counted, openmetrics=openmetrics))
    found: dict[Sample, float] = {}
    for family in (read_openmetrics if openmetrics else read_text)(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, key
            found[key] = sample.value
    return found


def counting(found: dict[Sample, float]) -> dict[Sample, float]:
    """Those that never go back."""
    return {
        key: value for key, value in found.items() if key[0].endswith(("_total", "_bucket", "_sum", "_count"))
    }


@dataclass
class Worker:
    """One process: its instruments, and what it has said so far."""

    name: str
    index: int
    registry: Registry = field(default_factory=Registry)
    said: list[tuple[bytes, dict[Sample, float]]] = field(default_factory=list)
    heard: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        registry = self.registry
        self.things = Tallies("things", "Things.", ["of"], registry=registry)
        self.seldom = Counts("seldom", "What happens seldom.", registry=registry).labels()
        self.sums = Sums("used", "Used.", ["of", "kind"], of=("a", None, "b"), registry=registry)
        self.spreads = Spreads("seconds", "Seconds.", ["of"], bounds=BOUNDS, registry=registry)
        self.lag = Spreads("lag", "Lag.", bounds=BOUNDS, rule=Rule.EACH, registry=registry).labels()
        self.now = 0.0
        for rule in Rule:
            Gauges(f"{rule}_now", "Now.", rule=rule, registry=registry).watch(lambda: self.now)
        self.snapshots = Snapshots(registry)

    def add(self, of: str, amount: int) -> None:
        """Count something of each kind."""
        self.things.labels(of).value += amount
        self.seldom.inc()
        sums = self.sums.labels(of)
        sums[amount % 3] += amount
        self.spreads.labels(of).observe(amount)
        self.lag.observe(amount)
        self.now = amount

    def say(self) -> None:
        """Take a snapshot, and note what it says."""
        snapshot = at_once(self.snapshots.take())
        alone = Counted()
        whole = Snapshots(self.registry)
        alone.hear(self.name, self.index, at_once(whole.take()))
        self.said.append((snapshot, samples(alone)))

    def is_known_whole(self) -> bool:
        """Whether all names that its latest snapshot needs have been heard."""
        return bool(self.heard) and self.heard >= set(range(max(self.heard) + 1))


PLACES = st.integers(0, 2)
OPERATIONS = st.one_of(
    st.tuples(st.just("count"), PLACES, st.sampled_from("xyz"), st.integers(1, 9)),
    st.tuples(st.just("hear"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("hear"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("die"), PLACES),
    st.tuples(st.just("look")),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(OPERATIONS, min_size=20, max_size=80), st.booleans())
def test_the_page_is_the_sum_of_what_all_said_last_and_never_goes_back(
    operations: list[tuple[object, ...]], openmetrics: bool
) -> None:
    """Whoever dies, whatever comes late, twice or in another order, and whatever comes after a death."""
    counted = Counted()
    places = [Worker(f"{index}.0", index) for index in range(3)]
    dead: list[Worker] = []
    before: dict[Sample, float] = {}

    def look() -> None:
        nonlocal before
        found = samples(counted, openmetrics=openmetrics)
        for key, value in counting(before).items():
            assert found[key] >= value, key
        before = found
        spoke = [worker for worker in (*places, *dead) if worker.heard]
        if all(worker.is_known_whole() for worker in spoke):
            assert counting(found) == together(
                counting(worker.said[max(worker.heard)][1]) for worker in spoke
            )
            living = [worker for worker in places if worker.heard]
            last = [worker.said[max(worker.heard)][1]["sum_now", ()] for worker in living]
            shown = {key: value for key, value in found.items() if key[0].endswith("_now")}
            assert shown == gauges(living, last)

    for operation in operations:
        match operation:
            case "count", int(place), str(of), int(amount):
                places[place].add(of, amount)
                places[place].say()
            case "hear", int(place), int(which) if places[place].said:
                worker = places[place]
                which %= len(worker.said)
                counted.hear(worker.name, worker.index, worker.said[which][0])
                worker.heard.add(which)
            case "die", int(place):
                worker = places[place]
                counted.gone(worker.name)
                for snapshot, _ in worker.said:
                    counted.hear(worker.name, worker.index, snapshot)
                dead.append(worker)
                places[place] = Worker(f"{place}.{len(dead)}", place)
            case _:
                look()
    look()


def together(said: Iterable[dict[Sample, float]]) -> dict[Sample, float]:
    """The sum of all."""
    sums: dict[Sample, float] = {}
    for one in said:
        for key, value in one.items():
            sums[key] = sums.get(key, 0.0) + value
    return sums


def gauges(living: list[Worker], last: list[float]) -> dict[Sample, float]:
    """What gauges show of these workers."""
    if not living:
        return {}
    return {
        ("sum_now", ()): sum(last),
        ("max_now", ()): max(last),
        ("min_now", ()): min(last),
        **{
            ("each_now", (("worker", str(worker.index)),)): value
            for worker, value in zip(living, last, strict=True)
        },
    }


def test_names_are_told_once_and_numbers_always() -> None:
    worker = Worker("a", 0)
    worker.add("a tenant", 1)
    worker.say()
    worker.add("a tenant", 2)
    worker.say()
    worker.add("another", 3)
    worker.say()

    first, second, third = (snapshot for snapshot, _ in worker.said)

    assert b"a tenant" in first
    assert b"a tenant" not in second
    assert b"another" in third
    assert len(second) < len(third)


def test_whoever_gives_up_waiting_for_a_snapshot_has_lost_no_names() -> None:
    worker, counted = Worker("a", 0), Counted()
    worker.add("x", 1)
    taking = worker.snapshots.take()
    for _ in range(3):
        taking.send(None)
    taking.close()

    counted.hear("a", 0, at_once(worker.snapshots.take()))

    assert samples(counted)["things_total", (("of", "x"),)] == 1


def test_a_counter_that_a_worker_sets_back_stays() -> None:
    worker, counted = Worker("a", 0), Counted()
    tally = worker.things.labels("x")
    for value in (5.0, 3.0, float("nan"), -1.0, 4.0):
        tally.value = value
        counted.hear("a", 0, at_once(worker.snapshots.take()))

        assert samples(counted)["things_total", (("of", "x"),)] == 5

    tally.value = 6
    counted.hear("a", 0, at_once(worker.snapshots.take()))
    assert samples(counted)["things_total", (("of", "x"),)] == 6


def test_gauges_of_the_dead_disappear_and_so_does_one_that_says_nothing() -> None:
    worker, counted = Worker("a", 0), Counted()
    worker.say()
    counted.hear("a", 0, worker.said[0][0])
    assert samples(counted)["sum_now", ()] == 0
    worker.now = float("nan")
    worker.say()
    counted.hear("a", 0, worker.said[1][0])
    assert ("sum_now", ()) not in samples(counted)
    worker.now = float("inf")
    worker.say()
    counted.hear("a", 0, worker.said[2][0])
    assert samples(counted, openmetrics=True)["max_now", ()] == float("inf")
    counted.gone("a")

    assert not any(name.endswith("_now") for name, _ in samples(counted))


def test_a_gauge_that_cannot_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    registry, counted = Registry(), Counted()

    def broken() -> float:
        raise RuntimeError("closed already")

    Gauges("broken", "Broken.", rule=Rule.SUM, registry=registry).watch(broken)
    Gauges("whole", "Whole.", rule=Rule.SUM, registry=registry).set(1)
    snapshots = Snapshots(registry)
    for _ in range(3):
        counted.hear("a", 0, at_once(snapshots.take()))

    assert samples(counted) == {("whole", ()): 1}
    assert caplog.text.count("broken cannot be read") == 1


# Workers of another release.


def old_and_new(old: Registry, new: Registry) -> tuple[Counted, list[str]]:
    """What is counted of one worker of each, and what was said not to count."""
    refused: list[str] = []
    counted = Counted(refused=refused.append)
    counted.hear("old", 0, at_once(Snapshots(old).take()))
    counted.hear("new", 0, at_once(Snapshots(new).take()))
    return counted, refused


def test_labels_that_only_one_release_has_stand_beside_the_others() -> None:
    old, new = Registry(), Registry()
    Tallies("things", "Things.", ["tenant", "operation"], registry=old).labels("t", "o").value += 1
    Tallies("things", "Things!", ["operation", "model", "tenant"], registry=new).labels(
        "o", "m", "t"
    ).value += 2
    counted, refused = old_and_new(old, new)

    assert not refused
    assert samples(counted) == {
        ("things_total", (("operation", "o"), ("tenant", "t"))): 1,
        ("things_total", (("model", "m"), ("operation", "o"), ("tenant", "t"))): 2,
    }


def test_labels_in_another_order_and_counters_of_another_make_are_the_same_series() -> None:
    old, new = Registry(), Registry()
    Tallies("things", "Things.", ["tenant", "kind"], registry=old).labels("t", "k").value += 1
    Sums("things", "Things.", ["tenant", "kind"], of=("j", "k"), registry=new).labels("t")[1] += 2
    counted, refused = old_and_new(old, new)

    assert not refused
    assert samples(counted)["things_total", (("kind", "k"), ("tenant", "t"))] == 3


def test_buckets_of_another_release_stand_beside_the_others_and_nothing_goes_back() -> None:
    old, new = Registry(), Registry()
    for registry, bounds in ((old, (1, 5)), (new, (1, 2, 10))):
        spread = Spreads("seconds", "Seconds.", bounds=bounds, registry=registry).labels()
        for value in (0.5, 1.5, 4, 7, 20):
            spread.observe(value)
    counted = Counted()
    counted.hear("old", 0, at_once(Snapshots(old).take()))
    before = samples(counted)
    counted.hear("new", 0, at_once(Snapshots(new).take()))
    both = samples(counted)
    counted.gone("old")
    after = samples(counted, openmetrics=True)

    assert all(both[key] >= value for key, value in before.items())
    assert both == after
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in both.items() if name == "seconds_bucket"
    }
    assert buckets == {"1.0": 2, "2.0": 3, "5.0": 5, "10.0": 7, "+Inf": 10}
    assert both["seconds_count", ()] == 10
    assert both["seconds_sum", ()] == 66


def test_what_has_become_another_kind_of_instrument_is_left_out_and_said_so() -> None:
    old, new = Registry(), Registry()
    Counts("things", "Things.", registry=old).labels().inc()
    Gauges("things", "Things.", rule=Rule.SUM, registry=new).set(5)
    Counts("others", "Others.", registry=new).labels().inc()
    counted, refused = old_and_new(old, new)

    assert refused == ["unknown"]
    assert samples(counted) == {("things_total", ()): 1, ("others_total", ()): 1}


@pytest.mark.parametrize(
    "strange",
    [
        {"kind": "summary"},
        {"rule": "median"},
        {"labels": ("of", "of")},
        {"labels": ("le",), "kind": "histogram", "bounds": (1.0,)},
        {"labels": ("worker",), "rule": "each"},
        {"labels": ("a b",)},
        {"name": "things\n"},
        {"name": "things and"},
        {"bounds": (2.0, 1.0), "kind": "histogram"},
        {"last": ("a",), "labels": ()},
    ],
)
def test_an_instrument_that_nobody_here_understands_is_left_out_and_said_so(
    strange: dict[str, object],
) -> None:
    registry, refused = Registry(), list[str]()
    other = Tallies("things", "Things.", ["of"], registry=registry)
    other.labels("x").value += 1
    other.description = replace(other.description, **strange)  # type: ignore[arg-type]
    Counts("others", "Others.", registry=registry).labels().inc()
    counted = Counted(refused=refused.append)

    snapshots = Snapshots(registry)
    for _ in range(3):
        counted.hear("new", 0, at_once(snapshots.take()))

    assert refused == ["unknown"], "said once"
    assert samples(counted) == {("others_total", ()): 1}


@pytest.mark.parametrize(
    "told", [b'"none"', b"[1]", b'[[0,9,["a",1,2]],[7,0,["a",1,2]],[0,0,["a",1]],[0,0,[1,1,2]]]']
)
def test_what_a_later_release_tells_beside_the_numbers_is_passed_over(told: bytes) -> None:
    registry, refused = Registry(), list[str]()
    Spreads("seconds", "Seconds.", bounds=BOUNDS, registry=registry).labels().observe(2)
    snapshots, counted = Snapshots(registry), Counted(refused=refused.append)
    described = snapshots._described(registry.instruments[0].description, [])
    snapshots._descriptions["seconds"] = b'%b,"later":{},"exemplars":%b}' % (described[:-1], told)

    counted.hear("new", 0, at_once(snapshots.take()))

    assert not refused
    assert samples(counted, openmetrics=True)["seconds_count", ()] == 1


# Room.


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 40), st.integers(0, 40), st.sampled_from(["add", "say", "die"])
        ),
        min_size=50,
        max_size=300,
    )
)
def test_all_workers_together_make_no_more_series_than_there_is_room_for_and_nothing_goes_back(
    operations: list[tuple[int, int, int, str]],
) -> None:
    folded = list[int]()
    counted = Counted(most_series=150, folded=lambda: folded.append(1))
    added, deaths = 0, 0
    places = [ManySeries(index) for index in range(3)]
    before: dict[Sample, float] = {}
    for index, tenant, operation, what in operations:
        place = places[index]
        if what != "die":
            place.add(f"t{tenant}", f"o{operation}")
            added += 1
        if what != "add":
            counted.hear(f"{index}.{deaths}", index, at_once(place.snapshots.take()))
            counted.gone(f"{index}.{deaths}")
            places[index] = ManySeries(index)
            deaths += 1
        found = samples(counted)
        assert len(found) <= 150
        assert counted.room.taken == len(found)
        for key, value in before.items():
            assert found[key] >= value
        before = found
    for index, place in enumerate(places):
        counted.hear(f"last {index}", index, at_once(place.snapshots.take()))
    found = samples(counted)

    assert len(found) <= 150
    for name, each in (("things_total", 1), ("used_total", 3), ("seconds_count", 1)):
        assert sum(value for (known, _), value in found.items() if known == name) == added * each


class ManySeries:
    """A process that makes a series with whatever it counts."""

    def __init__(self, index: int) -> None:
        self.index = index
        registry = Registry()
        self.things = Tallies("things", "Things.", ["tenant", "operation"], registry=registry)
        self.used = Sums("used", "Used.", ["tenant", "kind"], of=("a", None, "b"), registry=registry)
        self.seconds = Spreads("seconds", "Seconds.", ["operation"], bounds=BOUNDS, registry=registry)
        self.lag = Spreads("lag", "Lag.", bounds=BOUNDS, rule=Rule.EACH, registry=registry).labels()
        self.snapshots = Snapshots(registry)

    def add(self, tenant: str, operation: str) -> None:
        self.things.labels(tenant, operation).value += 1
        self.used.labels(tenant)[len(operation) % 2 * 2] += 3
        self.seconds.labels(operation).observe(2)


# What is no snapshot.


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["cut", "flip", "insert", "random", "repeat"]))
def test_garbage_is_refused_and_the_page_is_served(seed: int, how: str) -> None:
    chance = random.Random(seed)
    worker, refused = Worker("a", 0), list[str]()
    for of in "xyz":
        worker.add(of, 3)
    whole = at_once(worker.snapshots.take())
    worker.add("v", 2)
    counted = Counted(refused=refused.append)
    counted.hear("a", 0, whole)
    before = samples(counted)
    garbage = bytearray(at_once(worker.snapshots.take()))
    at = chance.randrange(len(garbage))
    match how:
        case "cut":
            del garbage[at:]
        case "flip":
            for _ in range(chance.randint(1, 4)):
                garbage[chance.randrange(len(garbage))] = chance.randrange(256)
        case "insert":
            garbage[at:at] = chance.randbytes(chance.randint(1, 40))
        case "random":
            garbage[:] = chance.randbytes(chance.randint(0, 200))
        case _:
            garbage.extend(bytes(garbage))

    counted.hear("a", 0, bytes(garbage))
    counted.hear("b", 1, bytes(garbage))

    if how != "flip":
        assert refused == ["unreadable"] * 2
    after = samples(counted)
    for key, value in counting(before).items():
        assert after[key] >= value, key
