from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.search import occurs

FEW = st.lists(st.sampled_from([b"-", b"a", b"ab", b"\r\n--", b"\x00"])).map(b"".join)


@given(FEW, st.lists(st.sampled_from([b"-", b"a", b"b"]), min_size=1).map(b"".join), st.data())
def test_what_stands_in_a_piece_is_found_and_nothing_beside_it(piece, wanted, data):
    begin = data.draw(st.integers(0, len(piece)))
    end = data.draw(st.integers(begin, len(piece)))
    part = piece[begin:end]
    assert occurs(wanted, part) is (wanted in part)
    assert occurs(wanted, memoryview(bytearray(piece))[begin:end]) is (wanted in part)
    assert occurs(wanted, memoryview(piece)[begin:end]) is (wanted in part)


def test_it_is_found_at_both_ends_of_a_large_piece():
    wanted = b"--bench-0123456789abcdef"
    for piece in (wanted + bytes(2**18), bytes(2**18) + wanted):
        assert occurs(wanted, piece)
        assert occurs(wanted, memoryview(bytearray(piece)))
        assert not occurs(wanted, memoryview(bytearray(piece))[1:-1])


def test_a_buffer_can_be_changed_once_it_has_been_searched():
    buffer = bytearray(100)
    occurs(b"x", memoryview(buffer)[10:20])
    buffer.append(0)
