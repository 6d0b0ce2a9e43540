"""What can be done to a connection, and seen of it, beside what aiohttp's protocols do."""

from __future__ import annotations

import select
import socket
import struct

from aiohttp.base_protocol import BaseProtocol
from aiohttp.web_protocol import RequestHandler

from gateway.exchange.kept_errors import forget_origin
from gateway.proxy.request import Request

NO_LINGER = struct.pack("ii", 1, 0)
_TCP_CLOSE = 7


def abort(protocol: BaseProtocol) -> None:
    """Reset the connection: the one sign of a broken answer, or form, that nobody can take for its end."""
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


def hung_up(protocol: BaseProtocol) -> bool:
    """Whether the peer has ended its side or reset the connection, as the kernel sees it: before the loop does."""
    transport = protocol.transport
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None:
        return True
    look = select.poll()
    look.register(sock.fileno(), select.POLLRDHUP)
    return bool(look.poll(0))


async def drained(protocol: BaseProtocol) -> None:
    """Wait until the peer has taken what was written, but for a bounded rest. Raises ConnectionError."""
    try:
        await protocol._drain_helper()
    except ConnectionError as lost:
        forget_origin(lost)  # aiohttp's frame knows the future that keeps it
        raise


def send_continue(request: Request) -> None:
    """Invite the body: everything that the head can decide has been decided."""
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
