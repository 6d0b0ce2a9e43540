"""Usage read from answers as they go by, whatever their encoding and however they are cut."""

import gzip
import itertools
import time
import tracemalloc
import zlib
from collections.abc import Sequence

import brotli
import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.inflating import Inflater, Unreadable
from gateway.usage.json_reader import MAX_WHOLE_BYTES
from gateway.usage.reader import UsageReader, realtime_usage
from gateway.usage.reported import Usage

CHAT = b'{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}'
CHAT_USAGE = Usage(input=19, output=10, total=29)
EVENTS = b"text/event-stream; charset=utf-8"
JSON = b"application/json"


def event(data: bytes, name: bytes = b"") -> bytes:
    return (b"event: " + name + b"\n" if name else b"") + b"data: " + data + b"\n\n"


def chunk(text: str, usage: bytes = b"null") -> bytes:
    delta = orjson.dumps({"content": text})
    return event(b'{"id":"c","choices":[{"index":0,"delta":' + delta + b'}],"usage":' + usage + b"}")


STREAM = (
    chunk("Hello") + chunk(", ") + b": keep-alive\n\n" + chunk('wor"ld') + chunk("!\n")
    + event(b'{"id":"c","choices":[],"usage":' + CHAT + b"}") + event(b"[DONE]")
)  # fmt: skip


def read(
    answer: bytes, cuts: Sequence[int] = (), kind: bytes | None = EVENTS, encoding: bytes | None = None
) -> UsageReader:
    reader = UsageReader(kind, encoding)
    edges = sorted({0, len(answer), *(c % (len(answer) + 1) for c in cuts)})
    for a, b in itertools.pairwise(edges):
        feed(reader, answer[a:b])
    return reader


def feed(reader: UsageReader, piece: bytes) -> None:
    if reader.watcher is not None:
        reader.watcher(piece)


def encodings() -> dict[bytes | None, list]:
    raw = zlib.compressobj(wbits=-15)
    return {
        None: [lambda b: b],
        b"identity": [lambda b: b],
        b"gzip": [gzip.compress, lambda b: gzip.compress(b[:50]) + gzip.compress(b[50:])],
        b"deflate": [zlib.compress, lambda b: raw.compress(b) + raw.flush()],
        b"br": [lambda b: brotli.compress(b, quality=4)],
        b"zstd": [zstandard.compress, lambda b: zstandard.compress(b[:50]) + zstandard.compress(b[50:])],
        b"zstd, br": [lambda b: brotli.compress(zstandard.compress(b), quality=4)],
        b"gzip, br": [lambda b: brotli.compress(gzip.compress(b))],
        b"zstd, deflate, X-GZIP": [lambda b: gzip.compress(zlib.compress(zstandard.compress(b)))],
    }


@pytest.mark.parametrize("encoding", encodings())
@pytest.mark.parametrize("step", [1, 3, 64, 100_000])
def test_encoded_answers_are_read_in_any_pieces(encoding, step):
    for encode in encodings()[encoding]:
        answer = encode(STREAM)
        assert read(answer, list(range(0, len(answer), step)), encoding=encoding).finish() == CHAT_USAGE
    answer = encodings()[encoding][0](b'{"object":"chat.completion","usage":' + CHAT + b"}")
    reader = read(answer, list(range(0, len(answer), step)), JSON, encoding)
    assert reader.readable
    assert reader.finish() == CHAT_USAGE


def test_what_cannot_be_read_is_unknown_and_harms_nobody():
    for kind, encoding in (
        (EVENTS, b"compress"),
        (JSON, b"gzip, sdch"),
        (JSON, b"gzip, gzip, gzip, gzip"),
        (b"audio/mpeg", None),
        (None, None),
    ):
        reader = read(STREAM, [5], kind, encoding)
        assert not reader.readable
        assert reader.finish() is None
    broken = read(gzip.compress(STREAM)[:40] + b"garbage" * 20, [], EVENTS, b"gzip")
    assert not broken.readable
    assert broken.finish() is None


def test_the_latest_report_of_a_stream_counts():
    running = chunk("a", b'{"completion_tokens":1}') + chunk("b", b'{"completion_tokens":2}')
    assert read(running).finish() == Usage(output=2, total=2)
    steps = (
        event(b'{"object":"thread.run.step","usage":' + CHAT + b"}", b"thread.run.step.completed")
        + event(b'{"object":"thread.run","usage":{"total_tokens":7}}', b"thread.run.completed")
    )  # fmt: skip
    assert read(steps).finish() == Usage(total=7)


def test_images_of_a_stream_add_up():
    image = event(b'{"type":"image_generation.completed","b64_json":"QUJD","usage":' + CHAT + b"}")
    partial = event(b'{"type":"image_generation.partial_image","b64_json":"QUJD"}')
    assert read(partial + image + partial + image).finish() == Usage(input=38, output=20, total=58, images=2)


@pytest.mark.parametrize("step", [1000, 65_536, 10_000_000])
def test_usage_is_found_in_an_event_too_large_to_hold(step):
    large = (
        b'{"type":"image_generation.completed","b64_json":"' + b"A" * 3_000_000 + b'","usage":' + CHAT + b"}"
    )
    stream = event(large, b"image_generation.completed")
    cuts = list(range(0, len(stream), step))
    assert read(stream, cuts).finish() == Usage(input=19, output=10, total=29, images=1)
    assert read(stream + event(b"[DONE]"), cuts).finish() == Usage(input=19, output=10, total=29, images=1)


@pytest.mark.parametrize("step", [1000, 65_536, 10_000_000])
def test_usage_and_images_are_found_in_a_json_answer_too_large_to_keep(step):
    picture = b'{"b64_json":"' + b"A" * 300_000 + b'"}'
    answer = b'{"created":1,"data":[' + b",".join([picture] * 3) + b'],"usage" : ' + CHAT + b',"size":"x"}'
    cuts = list(range(0, len(answer), step))
    assert read(answer, cuts, JSON).finish() == Usage(input=19, output=10, total=29, images=3)
    first = b'{"usage":' + CHAT + b',"data":[' + b"0.125," * 100_000 + b"0]}"
    assert read(first, list(range(0, len(first), step)), JSON).finish() == CHAT_USAGE


LARGE = b'"' + b"x" * MAX_WHOLE_BYTES + b'"'


@pytest.mark.parametrize("step", [1000, 65_536, 10_000_000])
def test_no_document_larger_than_that_is_parsed_and_its_usage_is_found_all_the_same(step):
    not_json = b'{"type":"response.completed",,,"output":' + LARGE + b',"usage":' + CHAT + b"}"
    stream = event(not_json) + event(b"[DONE]")
    assert read(stream, list(range(0, len(stream), step))).finish() == CHAT_USAGE
    answer = not_json.replace(b"response.completed", b"x")
    assert read(answer, list(range(0, len(answer), step)), JSON).finish() == CHAT_USAGE
    small = event(not_json.replace(LARGE, b'""'))
    assert read(small).finish() is None


def test_a_large_event_about_a_part_of_a_run_reports_nothing_of_its_own():
    step = b'{"id":"s","object": "thread.run.step","logs":' + LARGE + b',"usage":' + CHAT + b"}"
    assert read(event(step, b"thread.run.step.completed")).finish() is None


@pytest.mark.parametrize("step", [1000, 10_000_000])
def test_a_long_transcription_says_its_duration_in_front_of_its_text(step):
    answer = b'{"task":"transcribe","duration":"5400.5","text":' + LARGE + b',"words":[{"duration":1}]}'
    assert read(answer, list(range(0, len(answer), step)), JSON).finish() == Usage(audio_seconds=5400.5)
    other = answer.replace(b'"text"', b'"body"')
    assert read(other, list(range(0, len(other), step)), JSON).finish() is None


def test_a_long_answer_without_a_report_is_estimated_from_all_that_it_says():
    answer = b'{"choices":[{"message":{"content":' + LARGE + b'}},{"message":{"content":' + LARGE + b"}}]}"
    reader = read(answer, list(range(0, len(answer), 999)), JSON)
    assert reader.finish() is None
    assert reader.went_by() == 2 * MAX_WHOLE_BYTES // 4


@pytest.mark.parametrize("kind", [EVENTS, JSON])
@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd", b"zstd, br", b"gzip, gzip"])
def test_what_unpacks_to_more_than_an_answer_would_is_not_read_on(kind, encoding):
    bomb = encodings()[encoding][0] if encoding in encodings() else lambda b: gzip.compress(gzip.compress(b))
    answer = bomb(b'{"a":"' + b"x" * 100_000_000 + b'","usage":' + CHAT + b"}")
    tracemalloc.start()
    try:
        reader = read(answer, list(range(0, len(answer), 32_768)), kind, encoding)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not reader.readable
    assert reader.finish() is None
    assert peak_bytes < 6_000_000
    words = b" ".join(b"word %d," % (n * n) for n in range(100_000))
    honest = b'{"a":"' + words + b'","usage":' + CHAT + b"}"
    assert read(gzip.compress(honest), [32_768], JSON, b"gzip").finish() == CHAT_USAGE


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"zstd"])
def test_who_has_behaved_for_long_may_not_unpack_to_all_that_was_saved_up(encoding):
    pack = encodings()[encoding][0]
    honest = b" ".join(b"%d" % (n * 1_000_003 % 999_983) for n in range(400_000))
    seen: list[int] = []
    inflater = Inflater((encoding,), lambda inflated: seen.append(len(inflated)))
    packed = pack(honest + bytes(50_000_000))
    with pytest.raises(Unreadable):
        for at in range(0, len(packed), 4096):
            seen.clear()
            inflater.feed(packed[at : at + 4096])
    assert sum(seen) < 4_500_000


def test_a_large_event_of_a_session_is_not_parsed_either():
    done = (
        b'{"type":"response.done","event_id":1,"response":{,,"output":' + LARGE + b',"usage":' + CHAT + b"}}"
    )
    assert realtime_usage(done) == CHAT_USAGE
    assert realtime_usage(done.replace(b"response.done", b"response.created")) is None
    assert realtime_usage(done.replace(LARGE, b'""')) is None


def test_only_a_member_of_that_name_is_taken_for_usage():
    text = orjson.dumps('he wrote "usage":{"total_tokens":9} and {"usage":{"total_tokens":9}}')
    filling = b'"' + b"x" * MAX_WHOLE_BYTES + b'"'
    answer = b'{"a":' + text + b',"usage_bytes":7,"b":' + filling + b',"usage":null,"c":["usage"]}'
    assert read(answer, list(range(0, len(answer), 999)), JSON).finish() is None


def test_a_stream_without_a_report_is_estimated_from_its_deltas():
    deltas = b"".join(chunk("word ") for _ in range(40))
    reader = read(deltas, list(range(0, len(deltas), 70)))
    assert reader.finish() is None
    assert reader.went_by() == 50
    typed = event(b'{"type":"response.output_text.delta","delta":"x"}') * 9
    summary = event(b'{"type":"response.output_text.done","text":"' + b"x" * 400 + b'"}')
    assert read(typed + summary).went_by() == 9
    cut = read(b'{"choices":[{"message":{"content":"' + b"x" * 400, [], JSON)
    assert cut.finish() is None
    assert cut.went_by() == 100
    assert UsageReader(b"audio/mpeg", None).went_by() == 0


def outcome(reader: UsageReader) -> tuple[object, ...]:
    return reader.finish(), reader.went_by(), reader.finish()


ITEM = event(
    b'{"type":"response.output_item.done","item":{"type":"web_search_call"}}', b"response.output_item.done"
)
IMAGE = event(b'{"type":"image_generation.completed","b64_json":"QUJD","usage":' + CHAT + b"}")
PART_OF_A_REPORT = chunk("", b'{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":2}}')
STREAM_END = event(b'{"type":"response.completed","response":{"usage":{"input_tokens":4,"output_tokens":2}}}')
SCRAPS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                chunk("hi"),
                chunk("é\n"),
                STREAM,
                ITEM,
                IMAGE,
                PART_OF_A_REPORT,
                STREAM_END,
                event(b"[DONE]"),
                b": ping\n\n",
                b"\n",
                b"\r\n\r\n",
            ]
        ),
        st.sampled_from(
            [
                b'"usage"',
                b":",
                b"{",
                b"}",
                b'"',
                b" ",
                b"\\",
                b'"text":"\\"',
                CHAT,
                b'"usage":' + CHAT,
                b"data: ",
                b"x",
            ]
        ),
        st.sampled_from([b'"delta":"', b'"content": "abc', b".done", b"\r", b'"usage":null', b'"b64_json"']),
    ),
    max_size=14,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(SCRAPS, st.lists(st.integers(0, 2**20), max_size=10), st.sampled_from([EVENTS, JSON]))
def test_any_split_gives_the_same_result_as_one_piece(answer, cuts, kind):
    assert outcome(read(answer, cuts, kind)) == outcome(read(answer, [], kind))
    every = list(range(len(answer)))
    assert outcome(read(answer, every, kind)) == outcome(read(answer, [], kind))
    packed = gzip.compress(answer, mtime=0)
    assert outcome(read(packed, cuts, kind, b"gzip")) == outcome(read(answer, [], kind))


@settings(max_examples=100, deadline=None)
@given(SCRAPS, st.lists(st.integers(0, 2**20), max_size=10), st.booleans())
def test_any_split_of_a_large_answer_gives_the_same_result(answer, cuts, in_front):
    filling = b'["' + b"x" * MAX_WHOLE_BYTES + b'"]'
    large = answer + filling if in_front else filling + answer
    spread = [cut if in_front else len(filling) - 8 + cut % (len(answer) + 9) for cut in cuts]
    assert outcome(read(large, spread, JSON)) == outcome(read(large, [], JSON))
    tail = list(range(len(filling) - 3, len(large))) if not in_front else list(range(len(answer) + 3))
    assert outcome(read(large, tail, JSON)) == outcome(read(large, [], JSON))


@settings(deadline=None)
@given(st.binary(max_size=200), st.sampled_from([EVENTS, JSON]), st.sampled_from([None, b"gzip", b"deflate"]))
def test_garbage_never_raises(answer, kind, encoding):
    reader = read(answer, [3, 50], kind, encoding)
    assert reader.finish() is None or reader.readable
    assert reader.went_by() >= 0


@pytest.mark.parametrize("kind", [EVENTS, JSON])
@pytest.mark.parametrize("encoding", [None, b"gzip"])
def test_memory_is_bounded_however_long_the_answer(kind, encoding):
    packer = zlib.compressobj(wbits=31)
    reader = UsageReader(kind, encoding)
    piece = b'{"usage":{ "' + b"x" * 60_000
    tracemalloc.start()
    try:
        for _ in range(12 * 16):
            feed(reader, packer.compress(piece) if encoding else piece)
        reader.finish()
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4_000_000


@pytest.mark.parametrize("kind", [EVENTS, JSON])
@pytest.mark.parametrize("filling", [b"x", b'"usage":{', b"\n\n", b'"content":"x', b'"\\'])
def test_time_is_linear_in_the_number_of_pieces(kind, filling):
    def seconds(size: int) -> float:
        reader = UsageReader(kind, None)
        feed(reader, b" " * (MAX_WHOLE_BYTES + 1 if kind == JSON else 1))
        started = time.process_time()
        for _ in range(size // len(filling)):
            feed(reader, filling)
        reader.finish()
        return time.process_time() - started

    small = min(seconds(8_000) for _ in range(3))
    assert min(seconds(32_000) for _ in range(2)) < 12 * small
