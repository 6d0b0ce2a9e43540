"""The exchanges that took longest of the last minutes are kept, whatever ended before them."""

from __future__ import annotations

from gateway.endings import Ending
from gateway.exchange.exchange import Exchange
from gateway.exchange.slowest import Slowest
from gateway.operations.own import ME

BEGAN = 1_795_735_500.0


def ended(slowest: Slowest, seconds: float, *, at: float = BEGAN, name: str = "one") -> None:
    """An exchange that took so long has ended, and is noted as whoever ends exchanges does."""
    exchange = Exchange(name, "GET", ME, 0.0, at - seconds)
    exchange.end(Ending.COMPLETE)
    if seconds > slowest.least_seconds:
        slowest.note(exchange, seconds)


def kept(slowest: Slowest, since: float = BEGAN - 300) -> list[float]:
    return [one.seconds for one in slowest.since(since)]


def test_the_slowest_are_kept_slowest_first() -> None:
    slowest = Slowest(3)
    for seconds in (0.5, 2.0, 0.1, 4.0, 3.0, 0.2):
        ended(slowest, seconds)

    assert kept(slowest) == [4.0, 3.0, 2.0]
    assert slowest.least_seconds == 2.0, "whoever ends a quicker one need not call"


def test_a_slow_minute_does_not_hide_the_next_ones() -> None:
    slowest = Slowest(2)
    for seconds in (90.0, 80.0):
        ended(slowest, seconds, at=BEGAN - 200)
    slowest.minute_over()
    ended(slowest, 1.0)

    assert kept(slowest) == [90.0, 80.0]
    assert kept(slowest, since=BEGAN - 60) == [1.0]


def test_what_ended_long_ago_is_forgotten() -> None:
    slowest = Slowest(2)
    ended(slowest, 90.0)
    for _ in range(6):
        slowest.minute_over()

    assert kept(slowest, since=0) == []


def test_sessions_and_long_names_are_not_kept() -> None:
    slowest = Slowest(2)
    session, named = Exchange("a", "GET", ME, 0.0, BEGAN), Exchange("b", "GET", ME, 0.0, BEGAN)
    session.is_socket, named.model = True, "m" * 100_000
    for exchange in (session, named):
        exchange.end(Ending.COMPLETE)
        slowest.note(exchange, 5.0)

    (one,) = slowest.since(0)
    assert (one.id, len(one.model or "")) == ("b", 200)
