"""What a client can be asked to do, as data, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from gateway.bench import canned
from gateway.bench.spread import Spread


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, on loopback or elsewhere."""

    port: int
    host: str = "127.0.0.1"
    credentials: tuple[str, ...] = ()
    """Taken in turn; without any, no Authorization is sent."""

    headers: dict[str, str] = field(default_factory=dict)
    """Further fields of every request."""

    ca_file: str = ""
    """Speak TLS, and trust this."""


@dataclass(frozen=True, slots=True)
class Work:
    """What all works have."""

    kind: ClassVar[str]

    path: str = canned.CHAT
    after_seconds: float = 0.0
    """Begin so long after the others: what is to meet what already runs."""

    most_seconds: float = 60.0
    """What is not finished by then counts as unfinished."""


@dataclass(frozen=True, slots=True)
class Requests(Work):
    """Plain requests over connections that stay: each connection asks again once it is answered, or at a fixed rate."""

    kind = "requests"

    body: str = field(default_factory=canned.chat)
    connections: int = 32
    seconds: float = 0.0
    """Ask for so long; 0: until `count` are answered."""

    count: int = 0
    per_second: float = 0.0
    """Send at this rate whatever happens, and measure from when each was to be sent; 0: as fast as answers come."""

    answer_bytes: int = 0
    """What each body must have; another is an error. 0: whatever it has."""


@dataclass(frozen=True, slots=True)
class Streams(Work):
    """Event streams, each on a connection of its own, opened evenly over `ramp_seconds`."""

    kind = "streams"

    streams: int = 200
    events: int = 80
    every_seconds: float = 0.05
    ramp_seconds: float = 1.0
    model: str = "gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class Silent(Work):
    """Streams that have had one event and say nothing more, held until the client is told to stop (SIGTERM)."""

    kind = "silent"

    streams: int = 1000
    ramp_seconds: float = 2.0
    model: str = "gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class Idle(Work):
    """Connections that were answered once and stay, held until the client is told to stop (SIGTERM)."""

    kind = "idle"

    body: str = field(default_factory=canned.chat)
    connections: int = 1000
    ramp_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class Uploads(Work):
    """Files of so many bytes in a form, made while they are sent; each connection sends one after the other."""

    kind = "uploads"

    path: str = canned.TRANSCRIPTIONS
    file_bytes: int = 200_000_000
    connections: int = 1
    count: int = 1
    model: str = "whisper-1"


@dataclass(frozen=True, slots=True)
class Sockets(Work):
    """WebSockets that send messages at a fixed rate and get every one back."""

    kind = "sockets"

    path: str = canned.REALTIME
    sockets: int = 100
    per_second: float = 50.0
    """Messages of each socket."""

    seconds: float = 3.0
    ramp_seconds: float = 1.0
    message_bytes: int = 200


WORKS: dict[str, type[Work]] = {
    work.kind: work for work in (Requests, Streams, Silent, Idle, Uploads, Sockets)
}


def work_from(data: dict[str, Any]) -> Work:
    """A work from plain data, by its `kind`; TypeError or KeyError for what it cannot have."""
    fields = dict(data)
    return WORKS[fields.pop("kind")](**fields)


@dataclass(slots=True)
class Outcome:
    """What came of one work; every request that was sent is finished, an error or unfinished."""

    kind: str
    elapsed_seconds: float = 0.0
    sent: int = 0
    finished: int = 0
    """Answered to the end, whatever the status."""

    ok: int = 0
    """Of these: with 2xx (or 101), and all that was to come."""

    statuses: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    """By kind: `status 429`, `cut`, `not connected: …`, `unfinished`, `events missing` (counted event by event), …"""

    first_error: str = ""
    """The beginning of the first answer that was one."""

    answer_bytes: int = 0
    sent_bytes: int = 0
    """Of bodies that were uploaded."""

    events: int = 0
    """Events of streams, messages that came back over sockets."""

    latency_us: Spread = field(default_factory=Spread)
    """Of requests: from when they were sent, or were to be sent, to the end of the answer. Of uploads and streams the
    whole time."""

    first_us: Spread = field(default_factory=Spread)
    """To the first event of a stream, connecting included; to the handshake of a socket."""

    delay_us: Spread = field(default_factory=Spread)
    """Of an event: from when the upstream sent it. Of a socket's message: there and back."""

    slip_us: Spread = field(default_factory=Spread)
    """How late the upstream itself was with the last event of a stream: a disturbed or overloaded machine."""

    late_us: Spread = field(default_factory=Spread)
    """How late the client itself was in sending."""
