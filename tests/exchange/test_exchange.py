"""The record of one exchange, and the observers that may watch it but never touch it."""

from __future__ import annotations

import ast
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import gateway as gateway_package
from gateway.errors import Ending
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import READABLE, StreamObserver, Watch
from gateway.usage.reader import UsageReader
from gateway.wire.answer_head import Head
from gateway.wire.search import Piece
from tests.kit.asking import ask
from tests.kit.client import JSON
from tests.kit.gateway import Gateway
from tests.kit.records import exchange
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn


class Watcher(StreamObserver):
    """Notes what it is shown; raises at one of the moments."""

    def __init__(self, *, fails_at: str = "", error: BaseException | None = None) -> None:
        self.seen: list[tuple[str, object]] = []
        self._fails_at = fails_at
        self._error = error or RuntimeError("an observer's own defect")

    def opened(self, head: Head) -> Watch:
        self._see("opened", head.status)
        return partial(self._see, "answer_piece")

    def request_piece(self, piece: Piece) -> None:
        self._see("request_piece", piece)

    def answer_message(self, text: bytes) -> None:
        self._see("answer_message", text)

    def _see(self, moment: str, what: object) -> None:
        self.seen.append((moment, what))
        if moment == self._fails_at:
            raise self._error


def shown(record: Exchange) -> None:
    """One of everything."""
    record.opened(Head(200, "OK", []))
    record.request_piece(b"up")
    record.answer_piece(b"down", 4)
    record.answer_piece(b"down again", 10)
    record.answer_message(b"a message")


@pytest.mark.parametrize("moment", ["opened", "request_piece", "answer_piece", "answer_message"])
@pytest.mark.parametrize(
    "error", [RuntimeError("x"), KeyError(1), AssertionError(), RecursionError(), StopIteration()]
)
def test_observer_that_raises_is_dropped_and_counted_once_and_the_others_see_everything(
    moment: str, error: Exception
) -> None:
    failures: list[int] = []
    before, broken, after = Watcher(), Watcher(fails_at=moment, error=error), Watcher()
    record = exchange(observers=[before, broken, after], observer_failed=lambda: failures.append(1))

    shown(record)

    whole = [
        ("opened", 200),
        ("request_piece", b"up"),
        ("answer_piece", b"down"),
        ("answer_piece", b"down again"),
        ("answer_message", b"a message"),
    ]
    assert before.seen == after.seen == whole
    assert broken.seen == whole[: [seen[0] for seen in whole].index(moment) + 1]
    assert record.observers == [before, after]
    assert failures == [1]


def test_every_observer_may_fail() -> None:
    failures: list[int] = []
    record = exchange(
        observers=[Watcher(fails_at="answer_piece") for _ in range(3)],
        observer_failed=lambda: failures.append(1),
    )

    shown(record)

    assert record.observers == []
    assert len(failures) == 3
    assert (record.bytes_in, record.bytes_out) == (2, 14), "whoever fails, all is counted"


def test_observer_without_a_counter_is_dropped_all_the_same() -> None:
    record = exchange(observers=[Watcher(fails_at="opened")])

    shown(record)

    assert record.observers == []


def test_what_is_no_error_of_an_observer_is_not_swallowed() -> None:
    record = exchange(observers=[Watcher(fails_at="opened", error=KeyboardInterrupt())])

    with pytest.raises(KeyboardInterrupt):
        shown(record)


def test_observer_may_leave_while_it_watches() -> None:
    record = exchange()

    class Leaver(Watcher):
        def opened(self, head: Head) -> Watch:
            super().opened(head)
            return lambda _: record.observers.remove(self) if self in record.observers else None

    stays = Watcher()
    record.observers += [Leaver(), stays]
    shown(record)

    assert record.observers == [stays]
    assert len(stays.seen) == 5


@pytest.mark.parametrize("moment", ["at the head", "in the middle"])
async def test_stream_is_unharmed_by_an_observer_that_raises(
    gateway: Gateway, upstream: ScriptedUpstream, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect is put into what reads usage in production; the stream arrives as without it."""
    events = [b'data: {"n":%d}\n\n' % number for number in range(5)]
    raised: list[str] = []

    class Defective(UsageReader):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            if moment == "at the head":
                raised.append(moment)
                raise RuntimeError("a defect")

        @property
        def watcher(self) -> Watch:
            return self._fail

        def _fail(self, piece: bytes) -> None:
            raised.append(moment)
            raise RuntimeError("a defect")

    async def stream(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for event in events:
            await turn.chunk(event)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(stream)
    sound = await ask(gateway, "POST", "/v1/chat/completions", b"{}", headers=JSON)
    assert gateway.metric("gateway_observer_failures_total") == 0
    monkeypatch.setattr(import_module("gateway.middleware.answer_meter"), "UsageReader", Defective)
    watched = await ask(gateway, "POST", "/v1/chat/completions", b"{}", headers=JSON)

    assert raised == [moment], "dropped after the first failure"
    assert watched.body == sound.body == b"".join(events)
    assert watched.clean_end
    assert gateway.metric("gateway_observer_failures_total") == 1
    assert [line["ending"] for line in await gateway.lines.wait(2)] == ["complete", "complete"]


def test_overhead_is_the_gateways_own_time() -> None:
    """Neither the client's slowness in sending nor the upstream's in answering is the gateway's."""
    record = exchange(started_at=100.0, held_seconds=2.0, forwarded_at=103.0, upstream_ended_at=110.0)

    assert record.times(111.0).overhead == pytest.approx(1.0)
    assert record.times(111.0).upstream == pytest.approx(7.0)


def test_refused_exchange_is_overhead_from_beginning_to_end() -> None:
    record = exchange(started_at=100.0)

    assert record.times(100.5).overhead == pytest.approx(0.5)
    assert record.times(100.5).upstream is None
    assert exchange(held_seconds=5.0).times(101.0).overhead == 0.0, "never negative"


def test_unfinished_upstream_counts_until_now() -> None:
    assert exchange(forwarded_at=101.0).times(104.0).upstream == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("said", "ending"),
    [
        ([Ending.COMPLETE], Ending.COMPLETE),
        ([Ending.REFUSED, Ending.COMPLETE], Ending.REFUSED),
        ([Ending.COMPLETE, Ending.FAILED], Ending.FAILED),
        ([Ending.DRAINED, Ending.CLIENT_LEFT], Ending.DRAINED),
        ([Ending.COMPLETE, Ending.CLIENT_LEFT, Ending.UPSTREAM_LOST], Ending.CLIENT_LEFT),
    ],
)
def test_first_word_on_how_it_ended_counts_unless_it_was_complete(said: list[Ending], ending: Ending) -> None:
    record = exchange()
    for word in said:
        record.end(word)

    assert record.ending is ending


def test_endings_are_a_closed_set() -> None:
    assert {ending.value for ending in Ending} == {
        *(
            "complete",
            "refused",
            "client_left",
            "upstream_lost",
            "timed_out",
            "withdrawn",
            "drained",
            "failed",
        )
    }


def test_an_answer_is_changed_in_one_way() -> None:
    record = exchange()
    record.choose(None)
    assert record.change is None

    record.choose(READABLE)

    assert record.change is READABLE
    with pytest.raises(RuntimeError):
        record.choose(READABLE)


def test_the_body_begins_once() -> None:
    record = exchange()
    record.body_begins(101.0)
    record.body_begins(102.0)

    assert record.first_byte_at == 101.0


WRITERS = {
    "record": {
        "operation",
        "params",
        "head",
        "is_socket",
        "unreadable",
        "client",
        "trace",
        "span",
    },
    "answer": {"error"},
    "authenticate": {"caller", "standing"},
    "standings": {"caller"},
    "authorize": {"model"},
    "limit": {"body", "body_gone", "facts", "model", "held_seconds", "form", "cost"},
    "admission": {"cost", "decision", "reserved"},
    "ownership": {"recorder"},
    "meter": {"usage", "known", "spent"},
    "answer_meter": {"body", "usage"},
    "session_meter": {"model", "recorder", "session_gate", "usage"},
    "late_watch": {"made", "shown"},
    "form_gate": {"model"},
    "call": {
        *("forwarded_at", "asked_at", "head_at", "upstream_request_id", "upstream_ended_at"),
        *("upstream", "upstream_status", "attempts"),
    },
    "proxy/answer": {"status"},
    "http": {"added", "asked_at"},
    "answer_sink": {"bytes_out"},
    "relay": {"last_piece_at"},
    "session": {"detail"},
    "pool": {"waited_seconds"},
}
"""Who writes which field while an exchange goes on; the rest is fixed at birth or counted by the exchange itself."""


def test_every_field_of_an_exchange_is_written_where_its_record_says() -> None:
    package = Path(gateway_package.__file__).parent
    names = set(Exchange.__slots__)
    found: dict[str, set[str]] = {}
    for source in package.rglob("*.py"):
        if source.name == "exchange.py" or "simulator" in source.parts:
            continue
        place = "proxy/answer" if source.match("proxy/answer.py") else source.stem
        for node in ast.walk(ast.parse(source.read_text("utf-8"))):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.ctx, ast.Store)
                and node.attr in names
                and ast.unparse(node.value).lstrip("_").endswith("exchange")
            ):
                found.setdefault(place, set()).add(node.attr)

    assert found == WRITERS
