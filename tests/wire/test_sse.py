"""How a stream of server-sent events is split, whatever ends its lines and wherever it is cut."""

import itertools
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.sse import SseEvent, SseRun, SseSplitter


def split(stream: bytes, cuts: Sequence[int] = (), **how) -> list[SseEvent]:
    splitter = SseSplitter(**how)
    edges = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    events = [event for a, b in itertools.pairwise(edges) for event in splitter.feed(stream[a:b])]
    last = splitter.finish()
    return [*events, last] if last else events


def read(stream: bytes, cuts: Sequence[int] = ()) -> list[tuple[str, bytes]]:
    return [(event.name, event.data) for event in split(stream, cuts) if event.whole and event.data]


def by_the_book(stream: bytes) -> list[tuple[str, bytes]]:
    """The HTML standard's algorithm on the whole stream, line by line, but for its end."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    events: list[tuple[str, bytes]] = []
    name, data = "", list[bytes]()
    for line in lines[:-1]:
        if not line:
            if b"\n".join(data):
                events.append((name, b"\n".join(data)))
            name, data = "", []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value.startswith(b" ") else value
        if field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
    if not lines[-1] and b"\n".join(data):
        events.append((name, b"\n".join(data)))  # ours: whole behind its last line, blank or not
    return events


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_whatever_ends_their_lines(line_end):
    stream = b"\xef\xbb\xbf" + line_end.join(
        [
            b"data: one", b"", b": a comment", b"", b"event: thread.run.created", b"id: 7", b"data:{", b"data:  1}",
            b"retry: 5", b"", b"data", b"", b"", b"", b"event: without data", b"", b"data: [DONE]", b"", b"",
        ]
    )  # fmt: skip
    expected = [("", b"one"), ("thread.run.created", b"{\n 1}"), ("", b"[DONE]")]
    assert read(stream) == by_the_book(stream) == expected
    assert read(stream, list(range(len(stream)))) == expected


def test_an_event_comes_with_its_own_bytes_as_soon_as_its_blank_line_is_there():
    splitter = SseSplitter()
    assert splitter.feed(b"data: one\n") == []
    assert splitter.feed(b"\ndata: two\n\n: ") == [SseEvent(b"data: one\n\n"), SseEvent(b"data: two\n\n")]
    assert splitter.feed(b"keep-alive\n\n") == [SseEvent(b": keep-alive\n\n")]
    assert splitter.feed(b"\n") == [SseEvent(b"\n")]
    assert splitter.finish() is None


def test_a_crlf_stream_is_never_cut_between_cr_and_lf():
    splitter = SseSplitter()
    assert splitter.feed(b"data: x\r\n\r") == []
    assert splitter.feed(b"\n") == [SseEvent(b"data: x\r\n\r\n")]


def test_a_cr_stream_does_not_wait_for_what_may_never_come():
    splitter = SseSplitter()
    assert splitter.feed(b"data: x\r\r") == [SseEvent(b"data: x\r\r")]
    assert splitter.feed(b"\ndata: y\r\r") == [SseEvent(b"\n"), SseEvent(b"data: y\r\r")]


def test_what_follows_the_last_blank_line_is_given_at_the_end():
    assert split(b"data: x\n\ndata: y") == [SseEvent(b"data: x\n\n"), SseEvent(b"data: y", whole=False)]
    assert split(b"data: x\n\ndata: y\n") == [SseEvent(b"data: x\n\n"), SseEvent(b"data: y\n")]
    assert split(b"data: x\r\n\r") == [SseEvent(b"data: x\r\n\r")]


def test_a_byte_order_mark_counts_at_the_start_only():
    assert read(b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n") == [("", b"x")]


def test_an_event_too_large_to_hold_goes_on_in_fragments_and_the_next_is_whole():
    large = b"data: " + b"x" * 5000 + b"\r\n\r\n"
    stream = b"data: a\r\n\r\n" + large + b"data: b\r\n\r\n"
    events = split(stream, list(range(0, len(stream), 50)), max_event_bytes=1000)
    assert [event.data for event in events if event.whole] == [b"a", b"b"]
    assert b"".join(event.raw for event in events) == stream
    assert b"".join(event.raw for event in events if not event.whole) == large
    assert max(len(event.raw) for event in events) <= 1050


def test_the_largest_event_that_is_held_is_whole_however_it_comes():
    for size, whole in ((1000, True), (1001, False)):
        stream = b"data: " + b"x" * (size - 8) + b"\n\n"
        assert [e.whole for e in split(stream, max_event_bytes=1000)] == [whole]
        assert all(e.whole is whole for e in split(stream, list(range(size)), max_event_bytes=1000))


def test_memory_stays_bounded_by_one_event():
    splitter, held = SseSplitter(max_event_bytes=1000), 0
    for _ in range(1000):
        piece = b"data: never ends "
        held += len(piece) - sum(len(event.raw) for event in splitter.feed(piece))
        assert held <= 1000


STREAMS = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\n", b"\r", b"\r\n", b"\r\n\r\n", b"\n\n", b"\r\r", b":", b" ", b"data: x", b"data:"]
        ),
        st.sampled_from(
            [b"event: e", b"data", b"\xef\xbb\xbf", b"id: 1", b"\x00", b"\xff", b"event:\xff", b"\n\r"]
        ),
    ),
    max_size=20,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 2**20), max_size=12))
def test_any_split_gives_the_same_result_as_one_piece(stream, cuts):
    assert read(stream) == by_the_book(stream)
    assert read(stream, cuts) == read(stream, list(range(len(stream)))) == read(stream)
    assert b"".join(event.raw for event in split(stream, cuts)) == stream


@settings(max_examples=400, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 2**20), max_size=12), st.sampled_from([1, 9, 30, 2**20]))
def test_events_taken_in_runs_are_the_same_and_come_as_soon(stream, cuts, most):
    taking, feeding = SseSplitter(max_event_bytes=most), SseSplitter(max_event_bytes=most)
    edges = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    taken, fed = list[SseEvent](), list[SseEvent]()
    for a, b in itertools.pairwise(edges):
        run, events = taking.take(stream[a:b])
        assert b"".join(event.raw for event in run.events()) == run.raw
        taken += [*run.events(), *events]
        fed += feeding.feed(stream[a:b])
        assert sum(len(event.raw) for event in taken) == sum(len(event.raw) for event in fed)
    for events, last in ((taken, taking.finish()), (fed, feeding.finish())):
        events += [last] if last else []
    assert b"".join(event.raw for event in taken) == stream
    for what in ("whole", "data", "name"):
        assert [getattr(e, what) for e in taken if e.data] == [getattr(e, what) for e in fed if e.data]


def test_what_ends_amid_an_event_is_not_split_up_to_there():
    splitter = SseSplitter()
    assert splitter.take(b"data: 1\n\ndata: 2\n\nda") == (SseRun(b"data: 1\n\ndata: 2\n\n", first=True), [])
    assert splitter.take(b"ta: 3\n") == (SseRun(b"", first=False), [])
    assert splitter.take(b"\n") == (SseRun(b"data: 3\n\n", first=False), [])
    assert splitter.take(b"data: 4\r\n\r\ndata: 5\n\r\nd") == (
        SseRun(b"data: 4\r\n\r\n", first=False),
        [SseEvent(b"data: 5\n\r"), SseEvent(b"\n")],
    )


@settings(max_examples=200, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 2**20), max_size=12), st.integers(1, 30))
def test_nothing_is_lost_or_reordered_when_events_are_too_large(stream, cuts, most):
    events = split(stream, cuts, max_event_bytes=most)
    assert b"".join(event.raw for event in events) == stream
    whole = [(event.name, event.data) for event in events if event.whole and event.data]
    remaining = iter(by_the_book(stream))
    assert all(event in remaining for event in whole)


@pytest.mark.parametrize("filling", [b"x", b"\n", b"\r", b"\r\n", b"data: x\n\n"])
def test_time_is_linear_in_the_number_of_pieces(filling):
    def seconds(size: int) -> float:
        stream = b"data: " + filling * (size // len(filling))
        splitter = SseSplitter()
        started = time.process_time()
        for at in range(len(stream)):
            splitter.take(stream[at : at + 1])
        return time.process_time() - started

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(2)) < 12 * small
