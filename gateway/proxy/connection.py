"""What can be done to a client's connection, and seen of it, beside reading and answering requests."""

from __future__ import annotations

import socket
import struct

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

NO_LINGER = struct.pack("ii", 1, 0)
_TCP_CLOSE = 7


def abort(protocol: RequestHandler) -> None:
    """Reset the connection: the one sign of a broken answer that no client can take for its end."""
    transport = protocol.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        except OSError:
            pass  # already closed by the peer
    transport.abort()


def connection_reset(protocol: RequestHandler) -> bool:
    """Whether the client has reset its connection, as the kernel sees it; for when we do not read from it."""
    transport = protocol.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return True
    try:
        return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE)
    except OSError:
        return True


def send_continue(request: web.BaseRequest) -> None:
    """Invite the body: everything that the head can decide has been decided."""
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
