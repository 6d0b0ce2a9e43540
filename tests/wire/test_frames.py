"""What passes a frame relay, byte for byte, and what is refused before it passes."""

import itertools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from gateway.usage.realtime import is_sound
from gateway.wire.frame_format import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_CODE,
    PING,
    PONG,
    TEXT,
    FrameRefused,
    Later,
    build_close,
    build_ping,
)
from gateway.wire.frames import FrameRelay

MASK = b"\x11\x22\x33\x44"
PREFIX = b"8 random"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    mask: bytes = b"",
    reserved: int = 0,
    length_bytes: int | None = None,
) -> bytes:
    """Build any frame, also a wrong one: the plainest possible reading of RFC 6455 §5.2."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 2**16 else 8
    short = size if length_bytes == 0 else 126 if length_bytes == 2 else 127
    head = bytes([(0x80 if final else 0) | reserved | opcode, (0x80 if mask else 0) | short])
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload)) if mask else payload
    return head + mask + body


def from_client(opcode: int, payload: bytes = b"", **how) -> bytes:
    return frame(opcode, payload, mask=MASK, **how)


def close(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def refusal(relay: FrameRelay, data: bytes) -> FrameRefused:
    with pytest.raises(FrameRefused) as caught:
        relay.feed(data)
    return caught.value


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def test_valid_frames_pass_unchanged_and_uncopied():
    stream = (
        frame(TEXT, b"hello")
        + frame(BINARY, b"\x00" * 200)
        + frame(PING, b"are you there")
        + frame(PONG)
        + frame(TEXT, b"x" * 70_000)
        + frame(TEXT, b"one ", final=False)
        + frame(PING, b"between fragments")
        + frame(CONTINUATION, b"two ", final=False)
        + frame(CONTINUATION, b"three")
        + frame(CLOSE, close(4001, "bye"))
    )
    relay = FrameRelay(from_client=False)
    assert relay.feed(stream) == stream
    assert (relay.messages, relay.passed_bytes) == (4, len(stream))
    assert (relay.close_code, relay.close_reason) == (4001, "bye")

    piece = frame(TEXT, b"whole")
    assert FrameRelay(from_client=False).feed(piece) is piece


def test_payload_passes_as_it_comes_without_waiting_for_the_rest_of_its_frame():
    whole = from_client(BINARY, b"a" * 10_000)
    relay = FrameRelay(from_client=True)
    assert relay.feed(whole[:3]) == b""
    assert relay.feed(whole[3:9]) == whole[:9]
    assert not relay.at_boundary
    assert relay.feed(whole[9:5000]) == whole[9:5000]
    assert not relay.at_boundary
    assert relay.feed(whole[5000:]) == whole[5000:]
    assert relay.at_boundary


def test_a_frame_head_that_has_not_passed_leaves_a_boundary():
    relay = FrameRelay(from_client=False)
    assert relay.feed(frame(TEXT, b"hello")[:1]) == b""
    assert relay.at_boundary


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"unmasked"), 1002),
        (from_client(TEXT, b"x", reserved=0x40), 1002),
        (from_client(TEXT, b"x", reserved=0x20), 1002),
        (from_client(TEXT, b"x", reserved=0x10), 1002),
        *[(from_client(opcode), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)],
        (from_client(PING, b"x", final=False), 1002),
        (from_client(PING, b"x" * 126), 1002),
        (from_client(CLOSE, b"\x03"), 1002),
        (from_client(CONTINUATION, b"of what?"), 1002),
        (from_client(TEXT, b"x" * 125, length_bytes=2), 1002),
        (from_client(TEXT, b"x" * 65_535, length_bytes=8), 1002),
        (bytes([0x82, 0xFF]) + (1 << 63).to_bytes(8, "big") + MASK, 1002),
        (bytes([0x82, 0xFF]) + (2**24 + 1).to_bytes(8, "big") + MASK, 1009),
        *[
            (from_client(CLOSE, close(code)), 1002)
            for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000)
        ],
        (from_client(CLOSE, close(1000) + b"\xff\xfe"), 1007),
    ],
)
def test_what_the_rfc_forbids_is_refused_and_nothing_of_it_passes(data, code):
    before = from_client(TEXT, b"before")
    relay = FrameRelay(from_client=True)
    refused = refusal(relay, before + data)
    assert (refused.close_code, refused.passed) == (code, before)
    assert len(refused.reason.encode()) <= 123
    assert relay.at_boundary
    assert relay.feed(before) == b""
    assert relay.insert(build_close(1002, masked=True)) != b""


def test_masked_server_frames_are_refused():
    assert refusal(FrameRelay(from_client=False), from_client(TEXT, b"x")).close_code == 1002


def test_a_new_message_inside_another_is_refused():
    first = frame(TEXT, b"one", final=False)
    refused = refusal(FrameRelay(from_client=False), first + frame(BINARY, b"two"))
    assert (refused.close_code, refused.passed) == (1002, first)


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4001, 4999])
def test_close_codes_that_may_be_sent_pass(code):
    data = frame(CLOSE, close(code, "done"))
    relay = FrameRelay(from_client=False)
    assert relay.feed(data) == data
    assert (relay.close_code, relay.close_reason) == (code, "done")


def test_nothing_passes_after_a_close_frame():
    relay = FrameRelay(from_client=False)
    assert relay.feed(frame(CLOSE) + frame(TEXT, b"late")) == frame(CLOSE)
    assert relay.close_code == NO_CODE
    assert relay.feed(b"\xff garbage") == b""
    assert relay.insert(build_ping(masked=False)) == b""


def test_the_message_cap_counts_all_fragments():
    relay = FrameRelay(from_client=False, max_message_bytes=10)
    fragments = frame(TEXT, b"12345", final=False) + frame(CONTINUATION, b"67890", final=False)
    assert relay.feed(fragments) == fragments
    assert refusal(relay, frame(CONTINUATION, b"1")).close_code == 1009
    fresh = FrameRelay(from_client=False, max_message_bytes=10)
    assert fresh.feed(frame(TEXT, b"1234567890") * 2) == frame(TEXT, b"1234567890") * 2


def test_an_own_frame_waits_for_the_boundary_and_goes_out_with_the_bytes_that_reach_it():
    whole, after = frame(BINARY, b"a" * 1000), frame(TEXT, b"after")
    own = build_ping(b"own", masked=False)
    relay = FrameRelay(from_client=False)
    assert relay.insert(own) == own
    relay.feed(whole[:500])
    assert relay.insert(own) == b""
    assert relay.feed(whole[500:] + after) == whole[500:] + own + after


def test_nothing_follows_our_own_close_but_the_peers_close_is_still_seen():
    relay = FrameRelay(from_client=False)
    relay.feed(frame(TEXT, b"hello")[:4])
    assert relay.insert(build_close(1001, "going", masked=False)) == b""
    rest = frame(TEXT, b"hello")[4:]
    assert relay.feed(rest + frame(TEXT, b"more")) == rest + build_close(1001, "going", masked=False)
    assert relay.ping() == b""
    assert relay.feed(frame(TEXT, b"more") + frame(CLOSE, close(1001))) == b""
    assert relay.close_code == 1001


def test_pongs_to_our_pings_are_swallowed_and_all_others_pass():
    to_upstream = FrameRelay(from_client=True, own_prefix=PREFIX)
    to_client = FrameRelay(from_client=False, own_prefix=PREFIX)
    ping = to_upstream.ping()
    payload = bytes(byte ^ ping[2 + i % 4] for i, byte in enumerate(ping[6:]))
    assert payload.startswith(PREFIX)
    assert to_upstream.ping() != ping

    foreign = frame(PONG, PREFIX) + frame(PONG, b"") + frame(PING, payload) + frame(PONG, payload + b"!")
    assert to_client.feed(foreign + frame(PONG, payload) + frame(TEXT, b"x")) == foreign + frame(TEXT, b"x")
    assert (to_client.own_pongs, to_client.messages) == (1, 1)
    assert to_client.passed_bytes == len(foreign + frame(TEXT, b"x"))

    without_prefix = FrameRelay(from_client=False)
    assert without_prefix.feed(frame(PONG, b"\x00\x00\x00\x01")) == frame(PONG, b"\x00\x00\x00\x01")


def test_one_ping_at_most_waits_for_a_boundary():
    relay = FrameRelay(from_client=False, own_prefix=PREFIX)
    whole = frame(BINARY, b"a" * 100)
    relay.feed(whole[:50])
    assert relay.ping() == relay.ping() == b""
    assert relay.feed(whole[50:]) == whole[50:] + build_ping(PREFIX + b"\x00\x00\x00\x01", masked=False)


def test_texts_are_kept_for_the_watcher_unmasked_and_whole():
    relay = FrameRelay(from_client=True, watch_bytes=100)
    stream = (
        from_client(TEXT, b'{"type":')
        + from_client(BINARY, b"an event?")
        + from_client(TEXT, b"frag", final=False)
        + from_client(PING, b"!")
        + from_client(CONTINUATION, b"ments", final=False)
        + from_client(CONTINUATION)
        + from_client(TEXT, b"too large" * 12)
        + from_client(TEXT, b"x" * 100)
    )
    assert b"".join(relay.feed(piece) for piece in cut(stream, list(range(0, 900, 3)))) == stream
    assert relay.take_texts() == [b'{"type":', b"an event?", b"fragments", b"x" * 100]
    assert relay.take_texts() == []
    assert relay.messages == 5


def test_an_examined_message_passes_only_after_its_verdict():
    seen: list[bytes] = []

    def examine(message: bytes) -> str | None:
        seen.append(message)
        return "not this one" if b"forbidden" in message else None

    relay = FrameRelay(from_client=True, examine=examine)
    first = from_client(TEXT, b"all ", final=False)
    last = from_client(CONTINUATION, b"right")
    assert relay.feed(first) == b""
    assert relay.at_boundary
    assert relay.feed(from_client(PING, b"p")) == from_client(PING, b"p"), (
        "a ping does not wait for a verdict"
    )
    assert relay.feed(last[:-1]) == b""
    assert relay.feed(last[-1:] + from_client(BINARY, b"x")) == first + last + from_client(BINARY, b"x")
    refused = refusal(relay, from_client(TEXT, b"ok") + from_client(TEXT, b"forbidden"))
    assert (refused.close_code, refused.reason) == (1008, "not this one")
    assert refused.passed == from_client(TEXT, b"ok")
    assert relay.at_boundary, "a close frame of our own can still go up"
    assert seen == [b"all right", b"x", b"ok", b"forbidden"]


def test_a_message_too_large_to_examine_is_refused_or_searched_as_it_passes():
    def examine(message: bytes) -> str | None:
        raise AssertionError(f"{len(message)} bytes are too many")

    plain = FrameRelay(from_client=True, examine=examine, examine_bytes=100)
    assert refusal(plain, from_client(TEXT, b"x" * 200)).close_code == 1009

    searching = FrameRelay(
        from_client=True,
        examine=examine,
        examine_bytes=100,
        suspicious=lambda part: b"session.update" in part,
    )
    harmless = from_client(TEXT, b"x" * 1000)
    assert b"".join(map(searching.feed, cut(harmless, list(range(0, 1000, 7))))) == harmless

    guilty = from_client(TEXT, b"x" * 500 + b"session.update" + b"x" * 500)
    passed = b""
    with pytest.raises(FrameRefused) as caught:
        for piece in cut(guilty, list(range(0, 2000, 9))):
            passed += searching.feed(piece)
    passed += caught.value.passed
    assert caught.value.close_code == 1008
    assert guilty.startswith(passed)
    assert 400 < len(passed) < len(guilty) - 400, "the message streams, and never arrives whole"
    assert not searching.at_boundary
    assert searching.insert(build_close(1008, masked=True)) == b""


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_a_message_whose_verdict_takes_a_while_keeps_everything_behind_it_waiting(size):
    def examine(message: bytes) -> str | Later | None:
        return Later.LATER if b"later" in message else None

    relay = FrameRelay(from_client=True, examine=examine)
    before, held = from_client(TEXT, b"before"), from_client(TEXT, b"look later")
    behind = from_client(TEXT, b"behind") + from_client(TEXT, b"and later") + from_client(TEXT, b"end")
    stream = before + held + behind
    passed = b"".join(relay.feed(stream[at : at + size]) for at in range(0, len(stream), size))

    assert (passed, relay.examined, relay.examined_whole) == (before, b"look later", True)
    ping = relay.ping()
    assert ping, "our own frames do not wait"
    assert relay.decide(None) == held + from_client(TEXT, b"behind")
    assert relay.examined == b"and later"
    assert relay.decide(None) == from_client(TEXT, b"and later") + from_client(TEXT, b"end")
    assert relay.examined is None
    assert relay.messages == 5


def test_a_message_that_is_refused_later_never_passes_nor_what_is_behind_it():
    relay = FrameRelay(from_client=True, examine=lambda message: Later.LATER)
    assert relay.feed(from_client(TEXT, b"x") + from_client(TEXT, b"y")) == b""
    with pytest.raises(FrameRefused) as caught:
        relay.decide(FrameRefused(1008, "no"))
    assert caught.value.passed == b""
    assert relay.feed(from_client(TEXT, b"z")) == b""


@pytest.mark.parametrize("piece_bytes", [1, 7, 5000])
def test_a_message_that_is_dropped_goes_no_further_and_what_stands_behind_it_does(piece_bytes):
    relay = FrameRelay(from_client=True, examine=lambda text: Later.LATER if b"wait" in text else None)
    before, dropped = from_client(TEXT, b"before"), from_client(TEXT, b"wait")
    behind = from_client(PING, b"behind") + from_client(TEXT, b"later")
    stream, passed = before + dropped + behind, b""
    for at in range(0, len(stream), piece_bytes):
        passed += relay.feed(stream[at : at + piece_bytes])
        if relay.examined is not None:
            assert relay.examined == b"wait"
            passed += relay.decide(None, instead=b"")
    assert passed == before + behind


def test_messages_of_our_own_stand_between_messages_and_frames_between_frames():
    relay, ours, ping = FrameRelay(from_client=False), frame(TEXT, b"ours"), frame(PING, b"ours")
    assert relay.insert_message(ours) == ours, "nothing is under way"
    first, amid, last = (
        frame(TEXT, b"one ", final=False),
        frame(PONG, b"amid"),
        frame(CONTINUATION, b"message"),
    )
    assert relay.feed(first) == first
    assert relay.insert_message(ours) == b""
    assert relay.insert(ping) == ping
    assert relay.feed(amid + last[:3]) == amid + last[:3]
    assert not relay.calm
    assert relay.feed(last[3:]) == last[3:] + ours
    assert relay.calm
    closing = frame(CLOSE, close(1000))
    assert relay.feed(closing) == closing
    assert relay.insert_message(ours) == b"", "nothing follows a close frame"


def test_few_messages_of_our_own_wait_for_one_that_does_not_end():
    relay, ours = FrameRelay(from_client=False), frame(TEXT, b"ours")
    first, last = frame(TEXT, b"one ", final=False), frame(CONTINUATION, b"message")
    assert relay.feed(first) == first
    for _ in range(1000):
        assert relay.insert_message(ours) == b""
    assert relay.feed(last) == last + ours * 64


def test_messages_of_our_own_do_not_wait_for_one_that_is_kept_until_it_is_whole():
    relay, ours = FrameRelay(from_client=True, examine=lambda _: None), frame(TEXT, b"ours", mask=MASK)
    whole = from_client(TEXT, b"a whole message")
    assert relay.feed(whole[:9]) == b""
    assert relay.insert_message(ours) == ours
    assert relay.feed(whole[9:]) == whole


@pytest.mark.parametrize("verdict", [None, "no", Later.LATER])
def test_usual_piece_is_examined_like_any_other(verdict):
    whole, seen = from_client(TEXT, b"a whole message"), []

    def examine(text):
        seen.append(text)
        return verdict

    relay = FrameRelay(from_client=True, examine=examine)
    if verdict == "no":
        assert refusal(relay, whole).reason == "no"
    else:
        assert relay.feed(whole) == (whole if verdict is None else b"")
        assert relay.examined == (None if verdict is None else b"a whole message")
    assert set(seen) == {b"a whole message"}


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_the_part_of_a_large_message_that_was_kept_may_be_searched_later(size):
    def suspicious(part: bytes) -> bool | Later:
        return Later.LATER if len(part) > 180 else b"bad" in part

    for text, guilty in ((b"x" * 1000, False), (b"x" * 800 + b"bad" + b"x" * 300, True)):
        relay = FrameRelay(
            from_client=True, examine=lambda message: None, examine_bytes=200, suspicious=suspicious
        )
        stream, passed, refused = from_client(TEXT, text), b"", False
        for at in range(0, len(stream), size):
            try:
                passed += relay.feed(stream[at : at + size])
                if relay.examined is not None:
                    assert not passed
                    assert not relay.examined_whole
                    if b"bad" in relay.examined:
                        relay.decide(FrameRefused(1008, "no"))
                    passed += relay.decide(None)
            except FrameRefused as caught:
                passed += caught.passed
                refused = True
                break
        assert refused is guilty
        assert stream.startswith(passed)
        assert guilty or passed == stream


def test_endless_empty_fragments_do_not_fill_memory():
    relay = FrameRelay(from_client=True, examine=lambda message: None, examine_bytes=1000)
    relay.feed(from_client(TEXT, final=False))
    with pytest.raises(FrameRefused):
        for _ in range(1000):
            relay.feed(from_client(CONTINUATION, final=False))


def events_of(server: ServerProtocol) -> list[tuple[Opcode, bytes]]:
    """What another implementation read."""
    events = []
    for event in server.events_received():
        assert isinstance(event, Frame)
        events.append((event.opcode, bytes(event.data)))
    return events


def test_what_another_implementation_sends_passes_and_arrives_the_same():
    client, server = ClientProtocol(parse_uri("ws://x/"), state=OPEN), ServerProtocol(state=OPEN)
    relay = FrameRelay(from_client=True)
    client.send_text(b"hello")
    client.send_binary(b"\x00" * 70_000)
    client.send_text(b"in ", fin=False)
    client.send_ping(b"p")
    client.send_continuation(b"parts", fin=True)
    client.send_close(1000, "done")
    for data in client.data_to_send():
        server.receive_data(relay.feed(data))
    assert events_of(server) == [
        (Opcode.TEXT, b"hello"),
        (Opcode.BINARY, b"\x00" * 70_000),
        (Opcode.TEXT, b"in "),
        (Opcode.PING, b"p"),
        (Opcode.CONT, b"parts"),
        (Opcode.CLOSE, close(1000, "done")),
    ]


FRAMES = st.builds(
    frame,
    st.sampled_from([TEXT, TEXT, BINARY, CONTINUATION, PING, PONG, CLOSE, 3, 11]),
    st.one_of(st.binary(max_size=6), st.sampled_from([0, 130, 300]).map(bytes), st.just(close(1000))),
    final=st.booleans(),
    mask=st.sampled_from([MASK, MASK, MASK, b""]),
    reserved=st.sampled_from([0, 0, 0, 0, 0x40]),
    length_bytes=st.sampled_from([None, None, None, 2, 8]),
)
GOOD_FRAMES = st.one_of(
    st.builds(from_client, st.sampled_from([BINARY, PING, PONG]), st.binary(max_size=125)),
    st.builds(from_client, st.just(TEXT), st.text(max_size=30).map(str.encode)),
)
STREAMS = st.one_of(
    st.lists(FRAMES, max_size=8).map(b"".join),
    st.lists(GOOD_FRAMES, max_size=8).map(b"".join),
    st.binary(max_size=60),
)


def outcome(relay: FrameRelay, pieces: list[bytes]) -> tuple[Any, ...]:
    passed, refused = b"", None
    for piece in pieces:
        try:
            passed += relay.feed(piece)
        except FrameRefused as caught:
            passed += caught.passed
            refused = (caught.close_code, caught.reason)
    return (
        passed, refused, relay.take_texts(), relay.messages, relay.passed_bytes, relay.close_code,
        relay.own_pongs, relay.at_boundary,
    )  # fmt: skip


NOT_UTF8 = (1007, "a text message is not UTF-8")


def assert_same(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    """The same passed; but of a text that is none as much more as there were pieces in which that did not show."""
    if one[1] != NOT_UTF8 or other[1] != NOT_UTF8:
        assert one == other
        return
    shorter, longer = sorted((one[0], other[0]), key=len)
    assert longer.startswith(shorter)
    assert (one[2:4], one[5:7]) == (other[2:4], other[5:7])


@settings(max_examples=200, deadline=None)
@given(STREAMS, st.lists(st.integers(0, 2**20), max_size=12), st.booleans())
def test_any_split_gives_the_same_result_as_one_piece(stream, cuts, examined):
    def relay() -> FrameRelay:
        how = {"examine": lambda m: "no" if b"\x00\x00" in m else None} if examined else {"watch_bytes": 4}
        return FrameRelay(from_client=True, max_message_bytes=400, own_prefix=b"", **how)

    assert_same(outcome(relay(), cut(stream, cuts)), outcome(relay(), [stream]))
    assert_same(outcome(relay(), [stream[i : i + 1] for i in range(len(stream))]), outcome(relay(), [stream]))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(FRAMES, GOOD_FRAMES), max_size=6), st.sampled_from([0, 4, 500]), st.booleans())
def test_frames_that_come_one_by_one_give_the_same_result(frames, watch_bytes, from_client):
    """A whole message in one piece is judged at a glance."""

    def relay() -> FrameRelay:
        return FrameRelay(from_client=from_client, max_message_bytes=200, watch_bytes=watch_bytes)

    stream = b"".join(frames)
    assert_same(outcome(relay(), frames), outcome(relay(), [stream[i : i + 1] for i in range(len(stream))]))


@settings(max_examples=200, deadline=None)
@given(STREAMS)
def test_whatever_passes_is_accepted_by_another_implementation(stream):
    passed = outcome(FrameRelay(from_client=True), [stream])[0]
    peer = Protocol(Side.SERVER, state=OPEN, max_size=None)
    peer.receive_data(passed)
    peer.events_received()
    # It wants no close frame amid a message, which the RFC allows; every other complaint would be a frame let through.
    assert (
        peer.parser_exc is None
        or isinstance(peer.parser_exc, EOFError)
        or str(peer.parser_exc) == "incomplete fragmented message"
    )


def test_time_is_linear_in_the_number_of_pieces():
    def seconds(size: int) -> float:
        stream = from_client(TEXT, b"x" * size)
        relay = FrameRelay(from_client=True, examine=lambda message: None, examine_bytes=2**30)
        started = time.process_time()
        for at in range(len(stream)):
            relay.feed(stream[at : at + 1])
        return time.process_time() - started

    small = min(seconds(20_000) for _ in range(3))
    assert min(seconds(80_000) for _ in range(2)) < 12 * small


WRITTEN = "naïve – 😀 \ud7ff\U0010ffff".encode()
NO_TEXT = (
    *(b"\x80", b"\xff", b"\xc0\xaf", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"),
    *(b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3"),
)
"""No beginnings, overlong forms, surrogates, what is above the last character, and characters that end too early."""

SIDES = pytest.mark.parametrize(
    "how",
    [
        {"from_client": True},
        {"from_client": True, "examine": lambda _: None},
        {"from_client": False, "watch_bytes": 2**20},
        {"from_client": False, "watch_bytes": 4},
    ],
    ids=["client", "client examined", "upstream watched", "upstream too long to watch"],
)


def pieces_of(payload: bytes, at: int, *, masked: bool) -> bytes:
    """A text message in two fragments, a ping between them."""
    mask = MASK if masked else b""
    return (
        frame(TEXT, payload[:at], final=False, mask=mask)
        + frame(PING, mask=mask)
        + frame(CONTINUATION, payload[at:], mask=mask)
    )


@SIDES
@pytest.mark.parametrize("padding", [0, 200, 70_000])
def test_text_passes_in_utf8_however_it_is_cut(how, padding):
    text = b"x" * padding + WRITTEN
    masked = how["from_client"]
    whole = frame(TEXT, text, mask=MASK if masked else b"")
    assert FrameRelay(**how).feed(whole) == whole
    for at in range(padding, len(text)):
        split = pieces_of(text, at, masked=masked)
        assert len(FrameRelay(**how).feed(split)) == len(split), "a ping does not wait for what is examined"
        relay = FrameRelay(**how)
        cut_at = len(whole) - len(text) + at
        assert relay.feed(whole[:cut_at]) + relay.feed(whole[cut_at:]) == whole
    assert FrameRelay(**how).feed(frame(BINARY, NO_TEXT[0] * 9, mask=MASK if masked else b""))


@SIDES
@pytest.mark.parametrize("padding", [0, 9, 200, 70_000])
@pytest.mark.parametrize("wrong", NO_TEXT)
def test_text_that_is_no_utf8_is_refused_however_it_is_cut(how, padding, wrong):
    for text in (
        b"x" * padding + wrong,
        b"x" * padding + wrong + b"y" * padding if padding else wrong + b"y",
    ):
        mask = MASK if how["from_client"] else b""
        refused = refusal(FrameRelay(**how), frame(TEXT, text, mask=mask))
        assert (refused.close_code, refused.reason, refused.passed) == (*NOT_UTF8, b"")
        for at in range(padding, padding + len(wrong)):
            assert outcome(FrameRelay(**how), [pieces_of(text, at, masked=bool(mask))])[1] == NOT_UTF8
            whole = frame(TEXT, text, mask=mask)
            cut_at = len(whole) - len(text) + at
            assert outcome(FrameRelay(**how), [whole[:cut_at], whole[cut_at:]])[1] == NOT_UTF8


def test_sound_that_is_no_utf8_is_refused_whatever_its_mask():
    sound = b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 500
    for mask in (b"\x01\x02\x03\x04", b"\x81\x82\x83\x84", b"\x80\x00\xff\x7f"):
        for at in range(4):
            relay = FrameRelay(from_client=True, examine=lambda _: None, plain=is_sound)
            good = frame(TEXT, sound + b"A" * at + b'AAAA"}', mask=mask)
            assert relay.feed(good) == good
            assert refusal(relay, frame(TEXT, sound + b"A" * at + b'\xffAAA"}', mask=mask)).close_code == 1007
