"""Errors that are kept, and what they say of memory."""

from __future__ import annotations

import threading

import pytest

from gateway.exchange.kept_errors import lacked_memory


def test_a_thread_that_has_no_room_for_its_stack_lacks_memory() -> None:
    """Python tells so in words alone; whoever asked is told to come back, not that the gateway is broken."""
    before = threading.stack_size(2**47)
    try:
        with pytest.raises(RuntimeError) as refused:
            threading.Thread(target=print).start()
    finally:
        threading.stack_size(before)
    assert lacked_memory(refused.value)
    assert not lacked_memory(RuntimeError("no reason to come back"))
