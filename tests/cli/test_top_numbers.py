"""What `gateway top` makes of what gateways say: rates, sums, what is wrong, and how room is shared."""

from __future__ import annotations

from typing import Any, cast

import pytest

from gateway.app.state import State
from gateway.cli.top import wording
from gateway.cli.top.asking import Answer, url_of
from gateway.cli.top.concerns import concerns
from gateway.cli.top.readings import Reading, Readings
from gateway.cli.top.screen import fitted, shares
from gateway.cli.top.tables import Tables, tables_of
from tests.cli.test_top import a_state, a_tenant


def said(url: str = "http://one:9090", *, at: float = 0.0, **members: Any) -> Answer:
    """What a gateway says `at` seconds after its first reading."""
    state = a_state() | {"tenants": [a_tenant("acme", 1, 0.5)], "time": 1_800_000_100.0 + at} | members
    return Answer(url, at, cast(State, state))


def counting(exchanges: int, failed: int = 0, **more: Any) -> dict[str, Any]:
    return {"tenants": [a_tenant("acme", 1, 0.5) | {"exchanges": exchanges, "failed": failed} | more]}


def tables(*answers: Answer) -> Tables:
    """What is shown after these readings of one gateway."""
    readings = Readings()
    read: list[Reading] = []
    for answer in answers:
        read = readings.add([answer])
    return tables_of(read)


def test_there_are_rates_from_the_second_reading_on() -> None:
    assert tables(said(**counting(10))).tenants[0].exchanges.per_second is None
    twice = tables(said(**counting(10)), said(at=2.0, **counting(30)))
    assert twice.tenants[0].exchanges.per_second == 10.0
    assert twice.tenants[0].exchanges.total == 30


def test_rates_are_those_of_the_last_ten_seconds() -> None:
    steady = [said(at=2.0 * number, **counting(10 * number)) for number in range(20)]
    burst = said(at=40.0, **counting(190 + 500))
    assert tables(*steady, burst).tenants[0].exchanges.per_second == pytest.approx((690 - 150) / 10)


def test_restart_is_no_rate_and_no_negative_one() -> None:
    before = said(**counting(1000))
    after = said(at=2.0, started=1_800_000_101.0, **counting(3))
    assert tables(before, after).tenants[0].exchanges.per_second is None
    later = said(at=4.0, started=1_800_000_101.0, **counting(7))
    assert tables(before, after, later).tenants[0].exchanges.per_second == 2.0


def test_tenant_that_was_not_there_had_nothing_unless_there_was_no_room() -> None:
    full: dict[str, Any] = {"left_out": {"tenants": 3, "credentials": False}}
    assert tables(said(tenants=[]), said(at=2.0)).tenants[0].exchanges.per_second == 5.0
    assert tables(said(tenants=[], **full), said(at=2.0)).tenants[0].exchanges.per_second is None


def test_gateways_are_added_up_but_of_limits_the_fullest_counts() -> None:
    readings = Readings()
    for at in (0.0, 2.0):
        read = readings.add(
            said(url, at=at, instance=url, tenants=[a_tenant("acme", 2, used) | {"exchanges": 10 + at}])
            for url, used in (("http://one:9090", 0.4), ("http://two:9090", 0.7))
        )
    together = tables_of([*read, Reading(Answer("http://three:9090", 0.0, None, "is away"))])
    (acme,) = together.tenants
    assert (acme.in_flight, acme.exchanges.per_second) == (4, 2.0)
    assert acme.limits == {"max_requests_per_1_minute": 0.7}


def an_upstream(**answers: int) -> dict[str, Any]:
    return {
        "upstream": "eu",
        "answers": {status.removeprefix("of_"): count for status, count in answers.items()},
        "answer_seconds": 1.0,
        "connects": {"connected": 5},
        "connections": {"busy": 1, "idle": 0, "waiting": 0},
        "connections_most": 10,
        "waits": 0,
        "asked_again": 0,
        "limits_left": [],
    }


@pytest.mark.parametrize(
    ("before", "after", "who", "what"),
    [
        (
            {"upstreams": []},
            {"upstreams": [an_upstream(of_429=8, of_200=2)]},
            "upstream eu",
            "throttles us: 80%",
        ),
        ({"upstreams": []}, {"upstreams": [an_upstream(of_401=8)]}, "upstream eu", "is our key refused?"),
        ({"upstreams": []}, {"upstreams": [an_upstream(of_503=5, of_200=5)]}, "upstream eu", "fails: 50%"),
        (
            {"upstreams": []},
            {"upstreams": [an_upstream() | {"connects": {"failed": 9}}]},
            "upstream eu",
            "cannot be connected to",
        ),
        (
            {},
            {"upstreams": [an_upstream() | {"connections": {"waiting": 7}}]},
            "upstream eu",
            "no connection is free, 7 wait",
        ),
        (
            {"errors": []},
            {"errors": [{"code": "invalid_api_key", "count": 9}]},
            "clients",
            "send credentials that are not accepted, 4.5 a second",
        ),
        (counting(0), counting(10, failed=10), "tenant acme", "fails: 100% of its requests"),
        (counting(0), counting(10, throttled=4), "tenant acme", "throttled by its limits"),
        (
            {},
            {"redis": [{"server": "r:1", "up": False, "round_trips": 0, "seconds": 0.0}]},
            "Redis r:1",
            "does not",
        ),
        (
            {},
            {"ready": False, "reasons": [{"code": "x", "message": "Stopping."}]},
            "gateway gw:8080",
            "Stopping.",
        ),
        (
            {},
            {"configuration": {"valid": False, "loaded": None}},
            "gateway gw:8080",
            "configuration is invalid",
        ),
    ],
)
def test_what_is_wrong_is_said_with_whose_fault_it_is(
    before: dict[str, Any], after: dict[str, Any], who: str, what: str
) -> None:
    readings = Readings()
    readings.add([said(**before)])
    read = readings.add([said(at=2.0, **after)])
    (concern,) = concerns(read, tables_of(read))
    assert concern.who == who
    assert what in concern.what


def test_gateway_that_is_named_twice_is_counted_once() -> None:
    first, second = Readings().add([said("http://one:9090"), said("http://localhost:9090")])
    assert first.state is not None
    assert second.state is None
    assert second.now.problem == "is the same as http://one:9090"


def test_quiet_gateway_is_nothing_to_worry_about() -> None:
    readings = Readings()
    readings.add([said(upstreams=[an_upstream(of_200=5)])])
    read = readings.add([said(at=2.0, upstreams=[an_upstream(of_200=50, of_404=1)])])
    assert concerns(read, tables_of(read)) == []


@pytest.mark.parametrize(
    ("needs", "room", "given"),
    [
        ([4, 3], 20, [4, 3]),
        ([40, 3], 20, [17, 3]),
        ([40, 40], 20, [10, 10]),
        ([40, 40, 40], 12, [6, 6, 0]),
        ([40, 40, 2], 12, [5, 5, 2]),
        ([40], 2, [0]),
    ],
)
def test_room_is_shared_and_what_would_get_too_little_gets_none(
    needs: list[int], room: int, given: list[int]
) -> None:
    assert shares(needs, room) == given


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("localhost:9090", "http://localhost:9090"),
        ("https://ops.example.com/gw/", "https://ops.example.com/gw"),
        ("http://[::1]:9090/gateway/state", "http://[::1]:9090"),
    ],
)
def test_listeners_are_written_as_people_write_them(written: str, url: str) -> None:
    assert url_of(written) == url


def test_numbers_are_read_at_a_glance() -> None:
    assert [wording.rate(number) for number in (None, 0, 0.01, 0.25, 12.34, 12345)] == (
        ["-", "0", "<0.1", "0.2", "12.3", "12.3k"]
    )
    assert [wording.time(seconds) for seconds in (0.0123, 1.25, 75, 3700, 260000)] == (
        ["12 ms", "1.2 s", "1 m 15 s", "1 h 01 m", "3 d 00 h"]
    )
    assert [wording.amount(size) for size in (12, 2048, 3 * 2**20)] == ["12B", "2.0K", "3.0M"]
    assert wording.dimension("max_tokens_per_1_day") == "tokens/day"


@pytest.mark.parametrize(
    ("widths", "least", "room", "fits"),
    [
        ([5, 6], [2, 6], 20, [5, 6]),
        ([30, 20, 6], [8, 8, 6], 40, [17, 17, 6]),
        ([30, 9, 6], [8, 8, 6], 20, [8, 8, 6]),
    ],
)
def test_columns_that_are_widest_give_way(
    widths: list[int], least: list[int], room: int, fits: list[int]
) -> None:
    assert fitted(widths, least, room) == fits
