"""Control frames and the handshake's key, as other implementations read them."""

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from gateway.wire.frame_format import accept_key, build_close, build_ping, build_text


def test_control_frames_are_built_as_another_implementation_reads_them():
    server = ServerProtocol(state=OPEN)
    server.receive_data(build_ping(b"payload", masked=True) + build_close(4000, "reason", masked=True))
    ping, close = server.events_received()
    assert isinstance(ping, Frame)
    assert isinstance(close, Frame)
    assert (ping.opcode, bytes(ping.data)) == (Opcode.PING, b"payload")
    assert (close.opcode, bytes(close.data)) == (Opcode.CLOSE, (4000).to_bytes(2, "big") + b"reason")
    with pytest.raises(ValueError, match="1005"):
        build_close(1005, masked=False)
    with pytest.raises(ValueError, match="125"):
        build_ping(b"x" * 126, masked=False)
    long = build_close(1000, "ä" * 100, masked=False)
    assert long[1] == 2 + 122
    assert long[4:].decode() == "ä" * 61


def test_the_accept_key_is_the_one_of_the_rfc():
    assert accept_key("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_texts_are_built_as_another_implementation_reads_them(size):
    server = ServerProtocol(state=OPEN)
    server.receive_data(build_text(b"x" * size, masked=True))
    [text] = server.events_received()
    assert isinstance(text, Frame)
    assert (text.opcode, bytes(text.data), text.fin) == (Opcode.TEXT, b"x" * size, True)
