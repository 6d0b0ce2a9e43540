"""What the rewrites change, and that they change nothing else."""

import itertools

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.usage.included import asking_for_usage, is_added_usage
from gateway.usage.reader import UsageReader
from gateway.usage.reported import Usage
from gateway.wire.request_fields import BodyRefused
from gateway.wire.sse import SseEvent, SseSplitter


def asked(body: bytes) -> bytes:
    """The body with the options that make its answer report usage."""
    change = asking_for_usage(body)
    assert change is not None
    return body[: change.begin] + change.raw + body[change.end :]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"stream":true}', b'{"stream_options":{"include_usage":true},"stream":true}'),
        (b'{"stream_options":null}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (
            b'{"stream_options": {"x": 1.0} , "n":1}',
            b'{"stream_options": {"include_usage":true,"x": 1.0} , "n":1}',
        ),
        (
            b'{"stream_options":{"include_usage" : false}}',
            b'{"stream_options":{"include_usage" : true}}',
        ),
        (
            b'{"messages":[{"content":"\\"stream_options\\" \\u006d"}]}',
            b'{"stream_options":{"include_usage":true},"messages":[{"content":"\\"stream_options\\" \\u006d"}]}',
        ),
    ],
)
def test_usage_is_asked_for(before, after):
    assert asked(before) == after


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream_options":{"include_usage":true}}',
        b'{"stream_options":{"include_usage":"yes"}}',
        b'{"stream_options":"include_usage"}',
        b'{"stream_options":[]}',
    ],
)
def test_a_body_that_asks_already_or_will_be_refused_is_left_alone(body):
    assert asking_for_usage(body) is None


def test_options_that_say_it_twice_are_refused():
    for second in ("include_usage", "includ\\u0065_usage"):
        with pytest.raises(BodyRefused) as refused:
            asking_for_usage(f'{{"stream_options":{{"include_usage":false,"{second}":false}}}}'.encode())
        assert refused.value.fault.param == "stream_options.include_usage"


def test_large_options_are_not_copied():
    body = b'{"stream_options":{"x":"' + b"a" * 100_000 + b'"},"stream":true}'
    change = asking_for_usage(body)
    assert change is not None
    assert len(change.raw) < 100


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 99), st.text(max_size=5)),
    lambda v: st.one_of(st.lists(v, max_size=3), st.dictionaries(st.text(max_size=3), v, max_size=3)),
    max_leaves=8,
)
NAMES = st.one_of(st.sampled_from(["model", "stream_options", "include_usage"]), st.text(max_size=4))
OPTIONS = st.one_of(st.none(), st.dictionaries(NAMES, st.sampled_from([True, False, None, 1]), max_size=3))
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4).flatmap(
    lambda o: st.one_of(st.just(o), OPTIONS.map(lambda options: {**o, "stream_options": options}))
)


@settings(max_examples=300, deadline=None)
@given(OBJECTS, NAMES, VALUES, st.booleans())
def test_a_rewritten_body_reads_the_same_but_for_the_member_that_was_set(body, name, value, indented):
    raw = orjson.dumps(body, option=orjson.OPT_INDENT_2 if indented else 0)
    if asking_for_usage(raw) is None:
        return
    options = body.get("stream_options") or {}
    assert orjson.loads(asked(raw)) == {**body, "stream_options": {**options, "include_usage": True}}


def event(data: bytes) -> SseEvent:
    return SseEvent(b"data: " + data + b"\n\n")


USAGE = b'{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'
ADDED = event(b'{"id":"c","object":"chat.completion.chunk","choices":[],"usage":' + USAGE + b"}")


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices":[{"delta":{"content":"\\"choices\\":[]"}}],"usage":null}',
        b'{"choices":[{"delta":{}}],"usage":' + USAGE + b"}",
        b'{"choices":[],"usage":null}',
        b'{"choices":[],"prompt_filter_results":[]}',
        b'{"usage":' + USAGE + b"}",
        b'[{"choices":[],"usage":{}}]',
        b'{"choices":[],"usage":{}',
        b"[DONE]",
    ],
)
def test_events_that_were_not_added_are_told_from_the_one_that_was(data):
    assert not is_added_usage(event(data))
    assert is_added_usage(ADDED)
    assert not is_added_usage(SseEvent(ADDED.raw, whole=False))
    assert is_added_usage(SseEvent(b'data: {"usage": {},\r\ndata: "choices" : [ ]}\r\n\r\n'))


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_the_added_event_is_taken_out_and_all_others_keep_their_bytes(size):
    first = event(b'{"choices":[],"prompt_filter_results":[]}').raw
    text = event(b'{"choices":[{"delta":{"content":"hi"}}],"usage":null}').raw
    rest = b": ping\n\n\n" + event(b"[DONE]").raw + b"data: unfinished"
    stream = first + text + ADDED.raw + rest
    reader, leaving_out = UsageReader.without_added()
    passed = [leaving_out.feed(stream[at : at + size]) for at in range(0, len(stream), size)]
    assert b"".join(passed) + leaving_out.end() == first + text + rest
    assert reader.finish() == Usage(input=1, output=2, total=3)


def test_an_event_is_relayed_as_soon_as_it_is_complete():
    _, leaving_out = UsageReader.without_added()
    assert leaving_out.feed(b"data: one\n\ndata: tw") == b"data: one\n\n"
    assert leaving_out.feed(b"o\n\n") == b"data: two\n\n"
    assert leaving_out.end() == b""


@pytest.mark.parametrize(
    "piece", [b"data: one\n\n", b"data: one\n\ndata: two\n\n", b"data: one\r\n\r\n", b": ping\n\n"]
)
def test_whole_events_that_report_nothing_pass_as_the_piece_they_came_in(piece):
    _, leaving_out = UsageReader.without_added()
    assert leaving_out.feed(piece) is piece
    assert leaving_out.feed(piece) is piece


SCRAPS = st.lists(
    st.one_of(
        st.sampled_from(
            [
                ADDED.raw,
                ADDED.raw.replace(b"\n", b"\r\n"),
                b"\xef\xbb\xbf",
                b"\n",
                b"\r",
                b": ping\n\n",
                b"data: x",
            ]
        ),
        st.sampled_from(
            [event(b'{"choices":[{"delta":{"content":"a"}}],"usage":null}').raw, event(b"[DONE]").raw]
        ),
        st.sampled_from(
            [event(b'{"usage":' + USAGE + b"}").raw, event(b'{"type":"x.done"}').raw, b'"usage":null']
        ),
        st.sampled_from(
            [b'data: {"usage":\ndata: {},"choices":[]}\n\n', b'data: {"usage":{}, "choices" : [ ] }\r\r']
        ),
    ),
    max_size=12,
).map(b"".join)


@settings(max_examples=500, deadline=None)
@given(SCRAPS, st.lists(st.integers(0, 2**20), max_size=10))
def test_what_is_left_out_and_what_is_read_is_the_same_however_the_stream_is_cut(stream, cuts):
    splitter = SseSplitter()
    events = [*splitter.feed(stream), *filter(None, [splitter.finish()])]
    reader, leaving_out = UsageReader.without_added()
    edges = sorted({0, len(stream), *(c % (len(stream) + 1) for c in cuts)})
    passed = (
        b"".join([leaving_out.feed(stream[a:b]) for a, b in itertools.pairwise(edges)]) + leaving_out.end()
    )
    assert passed == b"".join(event.raw for event in events if not is_added_usage(event))
    plain = UsageReader(b"text/event-stream", None)
    assert plain.watcher is not None
    plain.watcher(stream)
    assert (reader.finish(), reader.went_by()) == (plain.finish(), plain.went_by())
