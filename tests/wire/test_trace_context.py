"""Traces are continued that can be, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from gateway.wire.trace_context import TraceContext, trace_context, trace_state

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("written", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f" 00-{TRACE}-{SPAN}-03\t", 3),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
    ],
)
def test_trace_of_a_caller_is_known(written: str, flags: int) -> None:
    found = trace_context(written.encode())

    assert found == TraceContext(TRACE, SPAN, flags)
    assert found.is_sampled == bool(flags & 1)


@pytest.mark.parametrize(
    "written",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        "../../etc/passwd",
    ],
)
def test_what_is_no_trace_is_not_taken_for_one(written: str) -> None:
    assert trace_context(written.encode()) is None


@pytest.mark.parametrize(
    ("flags", "goes_on"), [("00", b"00"), ("01", b"01"), ("02", b"02"), ("03", b"03"), ("fd", b"01")]
)
def test_goes_on_as_it_came_but_for_flags_that_nobody_knows(flags: str, goes_on: bytes) -> None:
    found = trace_context(f"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}-more".encode())

    assert found is not None
    assert found.traceparent == b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-" + goes_on


@pytest.mark.parametrize(
    ("values", "goes_on"),
    [
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b" a=1 ,\tb=2,, "], b"a=1,b=2"),
        ([b""], b""),
        ([b"fw529a3039@dt=FfAAA"], b"fw529a3039@dt=FfAAA"),
        ([b"a=" + b"x" * 256], b"a=" + b"x" * 256),
        ([b",".join(b"k%d=1" % at for at in range(32))], b",".join(b"k%d=1" % at for at in range(32))),
    ],
)
def test_state_of_others_is_kept_in_its_order(values: list[bytes], goes_on: bytes) -> None:
    assert trace_state(values) == goes_on


@pytest.mark.parametrize(
    "value",
    [
        b"A=1",
        b"a",
        b"a=",
        b"a=1,a=2",
        b"a=b=c",
        b"a=" + b"x" * 257,
        b"k" * 257 + b"=1",
        b"a=\x7f",
        "a=é".encode(),
        b",".join(b"k%d=1" % at for at in range(33)),
    ],
)
def test_state_that_cannot_be_read_counts_for_nothing(value: bytes) -> None:
    assert trace_state([b"sound=1", value]) == b""
