"""What models wrote is counted the same, whatever way it is counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.deltas import DELTA, Deltas
from gateway.usage.event_reader import EventReader, _may_report
from gateway.usage.likeness import Likeness
from gateway.usage.reported import BYTES_PER_LLM_TOKEN

TEXTS = st.sampled_from(
    [
        *(
            b"",
            b"a",
            b" word",
            b'\\"',
            b"\\n",
            b"\\",
            b"\n",
            b'","content":"b',
            b"{}",
            b"\xc3\xa9",
            b"x" * 9,
            b"\r",
        ),
        *(b'"', b"usage", b".done", b".", b"\n\n", b'","usage":{"total_tokens":3},"x":"'),
    ]
)
SHAPES = st.sampled_from(
    [
        (b'data: {"id":"c","choices":[{"delta":{"content":"', b'"}}],"usage":null}\n\n'),
        (b'data: {"type":"x.delta","delta": "', b'","text":"also"}\n\n'),
        (b'data: {"sequence_number":1,"delta":"', b'","obfuscation":"aB"}\n\n'),
        (b'data: {"sequence_number":29,"delta":"', b'","obfuscation":""}\n\n'),
        (b'data: {"sequence_number":', b',"delta":"word","obfuscation":"aB"}\n\n'),
        (b'data: {"sequence_number":1,"delta":"word","obfuscation":"', b'"}\n\n'),
        (b'data: {"role":"', b'"}\n\n'),
        (b'data: {"text":"', b"\n\n"),
        (b'data: {"text":"', b'":{"total_tokens":3}}\n\n'),
        (b": ", b"\n\n"),
    ]
)
EVENTS = st.tuples(SHAPES, TEXTS).map(lambda event: event[0][0] + event[1] + event[0][1])


@settings(max_examples=800, deadline=None)
@given(st.lists(st.lists(EVENTS, min_size=1, max_size=2).map(b"".join), max_size=40))
def test_a_stream_says_the_same_whether_or_not_its_pieces_are_like_one_another(pieces):
    glancing, looking = EventReader(Deltas), EventReader(Deltas)
    looking._likeness = _Unlike()
    for piece in pieces:
        assert glancing.feed(piece) == looking.feed(piece)
    assert (glancing.end(), glancing.finish()) == (looking.end(), looking.finish())
    assert glancing.deltas.estimate() == looking.deltas.estimate()


class _Unlike(Likeness):
    def took(self, piece: bytes, begin: bytes = b"") -> bool:
        return False


def test_pieces_that_are_alike_are_not_kept():
    reader = EventReader(Deltas)
    deltas = reader.deltas
    for number in range(10_000):
        reader.feed(b'data: {"delta":{"content":"word%d"}}\n\n' % number)

    assert len(deltas._kept) == 1
    reader.finish()
    assert deltas.estimate() == (10_000 * 4 + 10 + 90 * 2 + 900 * 3 + 9000 * 4) // BYTES_PER_LLM_TOKEN


def test_deltas_are_counted_as_if_each_event_were_searched():
    events = [b'data: {"text":"%b"}\n\n' % (b"x" * size) for size in range(3000)]
    deltas = Deltas()
    for event in events:
        deltas.add(event)

    found = [delta for event in events for delta in DELTA.findall(event) if not _may_report(event)]
    assert deltas.estimate() == max(len(found), sum(map(len, found)) // BYTES_PER_LLM_TOKEN)


def test_events_too_many_to_be_read_count_like_those_before_them():
    deltas = Deltas()
    deltas.add(b'data: {"delta":{"z":"a"}}\n\n' * 2400)
    assert deltas.estimate() == 2400


@pytest.mark.parametrize("said", ["event: a.done", "and event: it.completed", " event:x.done "])
def test_what_a_model_writes_of_events_is_written(said):
    reader = EventReader(Deltas)
    for _ in range(50):
        reader.feed(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (said.encode() * 8))
    reader.finish()
    assert reader.deltas.estimate() >= 50 * 8 * len(said) // BYTES_PER_LLM_TOKEN


LARGE = "x" * 200_000


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (f'{{"type":"response.created","response":{{"tools":[{{"content":"{LARGE}"}}]}}}}', 0),
        (f'{{"type":"response.output_text.done","text":"{LARGE}"}}', 0),
        (f'{{"type":"response.output_audio.delta","delta":"{LARGE}"}}', 62),
        (f'{{"type":"response.output_text.delta","delta":"{LARGE}"}}', 50_000),
        (f'{{"choices":[{{"delta":{{"content":"{LARGE}"}}}}]}}', 50_000),
    ],
    ids=["what was asked", "what was said", "sound", "a text", "a text of chat"],
)
@pytest.mark.parametrize("step", [9999, 300_000])
def test_of_an_event_too_large_to_hold_counts_what_a_model_wrote(event, written, step):
    reader, stream = EventReader(Deltas), f"data: {event}\n\n".encode()
    for at in range(0, len(stream), step):
        reader.feed(stream[at : at + step])
    reader.finish()
    assert abs(reader.deltas.estimate() - written) <= 5
