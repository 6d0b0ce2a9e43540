"""There is room for so many series and no more: what finds none is counted all the same."""

from __future__ import annotations

from math import nan

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads, Sums, Tallies
from tests.kit.exposition import page_of

MOST = 300


def samples(registry: Registry) -> dict[str, list[Sample]]:
    """All series of a process, by the names of their families."""
    return {family.name: family.samples for family in read_text(page_of(registry))}


def test_nobody_makes_more_series_than_there_is_room_for_and_all_is_counted() -> None:
    registry, folded = Registry(MOST), list[int]()
    registry.room.folded = lambda: folded.append(1)
    things = Tallies("things", "Things.", ["tenant", "operation"], registry=registry)
    seldom = Counts("seldom", "What happens seldom.", ["tenant", "code"], registry=registry)
    used = Sums("used", "Used.", ["tenant", "kind"], of=("a", None, "b"), registry=registry)
    seconds = Spreads("seconds", "Seconds.", ["operation"], bounds=(1, 5), registry=registry)
    for tenant in range(40):
        for operation in range(40):
            things.labels(f"t{tenant}", f"o{operation}").value += 1
            seconds.labels(f"o{operation}").observe(3)
            seldom.labels(f"t{tenant}", f"c{operation}").inc()
            used.labels(f"t{tenant}")[2] += 2

    found = samples(registry)

    assert sum(map(len, found.values())) <= MOST
    assert len(folded) > 100
    assert sum(sample.value for sample in found["things"]) == 1600
    assert sum(sample.value for sample in found["seldom"]) == 1600
    assert sum(sample.value for sample in found["used"]) == 3200
    assert sum(sample.value for sample in found["seconds"] if sample.name.endswith("_count")) == 1600
    assert {"tenant": "other", "code": "other"} in [sample.labels for sample in found["seldom"]]


def test_the_operation_goes_first_so_that_each_tenant_keeps_its_own() -> None:
    registry = Registry(MOST)
    things = Tallies("things", "Things.", ["tenant", "operation", "status"], registry=registry)
    for operation in range(40):
        for tenant in range(9):
            things.labels(f"t{tenant}", f"o{operation}", "2xx").value += 1

    found = samples(registry)["things"]

    by_tenant = {f"t{tenant}": 0.0 for tenant in range(9)}
    for sample in found:
        by_tenant[sample.labels["tenant"]] += sample.value
    assert set(by_tenant.values()) == {40}
    assert {sample.labels["status"] for sample in found} == {"2xx"}
    assert 250 < len(found) <= MOST


def test_what_was_foreseen_and_never_came_takes_no_room() -> None:
    registry = Registry(3000)
    used = Sums("used", "Used.", ["tenant", "kind"], of=tuple("abcdefghij"), registry=registry)
    for tenant in range(900):
        used.labels(f"t{tenant}")[3] += 1

    assert len(samples(registry)["used"]) == 900


@pytest.mark.parametrize(("rule", "value"), [(Rule.SUM, 9), (Rule.MAX, 5), (Rule.MIN, 4)])
def test_gauges_without_room_are_together_what_those_of_several_workers_would_be(
    rule: Rule, value: float
) -> None:
    registry = Registry(3)
    now = Gauges("now", "Now.", ["tenant"], rule=rule, registry=registry)
    for number in range(2):
        now.set(number, f"t{number}")
    for number in (4, 5):
        now.watch(lambda: 1, f"t{number}")
        now.set(number, f"t{number}")
    now.set(nan, "gone")

    found = {sample.labels["tenant"]: sample.value for sample in samples(registry)["now"]}

    assert found == {"t0": 0, "t1": 1, "other": value}


def test_what_has_no_labels_always_has_room() -> None:
    registry = Registry(0)
    Counts("seldom", "What happens seldom.", registry=registry).labels().inc()

    assert [sample.value for sample in samples(registry)["seldom"]] == [1]
