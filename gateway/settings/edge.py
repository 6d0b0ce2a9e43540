"""What an operator can set about the side of the clients: `[edge]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, IPvAnyNetwork

from gateway.settings.section import ByteCount, Seconds, Section


class Edge(Section):
    """Caps and deadlines towards clients."""

    max_header_bytes: ByteCount = 64 * 1024
    """All header fields of a request together."""

    header_timeout_seconds: Seconds = 10.0
    """For a request's head to be complete."""

    body_idle_timeout_seconds: Seconds = 30.0
    """Between two pieces of a request's body."""

    body_timeout_seconds: float = Field(default=0.0, ge=0, le=7 * 86400)
    """For a request's whole body, as far as it is the client that is waited for; 0: a minute, and a second more for
    every 64 KiB that have come."""

    write_idle_timeout_seconds: Seconds = 60.0
    """How long a client may leave its answer unread."""

    sse_comment_seconds: float = Field(default=0.0, ge=0, le=3600)
    """After so much silence a stream of events gets a comment line, between two events: no load balancer cuts it then;
    0: never."""

    keepalive_seconds: Seconds = 75.0
    """How long an idle connection is kept; must stay above the idle time of a load balancer in front."""

    max_json_body_bytes: ByteCount = 64 * 2**20
    """A JSON body, which is read whole before it is forwarded."""

    max_json_structures: int = Field(default=200_000, ge=2**16)
    """Of `{`, `[` and `:` in a JSON document, outside of strings; what exceeds it is not parsed."""

    max_json_commas: int = Field(default=2_000_000, ge=2**16)
    """Of commas in a JSON document, outside of strings."""

    json_reading_timeout_seconds: Seconds = 30.0
    """For a JSON document of more than 64 KiB to be read, waiting for its turn included."""

    max_body_bytes: ByteCount = 8 * 2**30
    """Any other body, which streams."""

    body_memory_bytes: int = Field(default=0, ge=0)
    """All bodies that all workers together hold in memory at once; what finds no room waits a second, then is told to
    come back; 0: a quarter of the memory that the gateway may use."""

    body_memory_share: float = Field(default=0.5, gt=0, le=1)
    """The part of it, in each worker, that the bodies of one tenant may occupy; what is larger by itself is refused."""

    max_connections: int = Field(default=0, ge=0)
    """From clients, to all workers together; 0: in each, what its file limit has room for, at most 10,000."""

    peer_share: float = Field(default=0.5, gt=0, le=1)
    """The part of them, in each worker, that one address (of IPv6: one network of 64 bits) may have once four fifths
    are in use."""

    trusted_proxies: tuple[IPvAnyNetwork, ...] = ()
    """Networks of proxies and load balancers. They have no such share, for many clients come by one of their addresses;
    and what they say in X-Forwarded-For or Forwarded of whom they ask for is believed, and named in the log."""

    forwarded_header: Literal["", "x-forwarded-for", "forwarded"] = ""
    """The only header in which they say so; empty: X-Forwarded-For, or Forwarded where that is not there. Must be set
    where they write Forwarded and pass on a client's X-Forwarded-For."""

    websocket_heartbeat_seconds: Seconds = 20.0
    """A silent side is pinged after one of these, given up after two."""

    max_websocket_message_bytes: ByteCount = 16 * 2**20
    """One message of a WebSocket."""
