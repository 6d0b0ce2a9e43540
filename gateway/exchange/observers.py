"""Who may watch a stream go by, and what may stand in its way. Nothing here may wait for anybody but a form's end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.endings import Ending, GatewayError
from gateway.operations.stored_kinds import Making
from gateway.policy.reading import Question
from gateway.usage.likeness import Takes
from gateway.wire.answer_head import Head
from gateway.wire.body_facts import AskedResponse, Reference, SocketRequest
from gateway.wire.search import Piece

Watch = Callable[[bytes], object]
"""Is shown every piece of an answer's body as the upstream sent it, once it has been forwarded."""


class StreamObserver:
    """Watches a stream without touching it: told after the bytes were forwarded, returns nothing.

    It sees what the client and the upstream sent, whether or not the answer is changed on its way. One that
    raises is dropped for the rest of its exchange and counted; the stream never notices.
    """

    __slots__ = ()

    def opened(self, head: Head) -> Watch | None:  # noqa: ARG002
        """The answer's head has been received; returns what is to be shown the pieces of its body, if anything is."""
        return None

    def usual(self) -> Takes | None:
        """What takes the usual piece from now on in place of the watch; asked behind a piece. None: nothing does."""
        return None

    @property
    def awaits_report(self) -> bool:
        """Whether the answer is read on for a moment although its client has left: it is about to say what it used."""
        return False

    def request_piece(self, piece: Piece) -> None:
        """Bytes of the request body went up."""

    def answer_message(self, text: bytes) -> None:
        """A whole text message of the upstream's came over a WebSocket."""


class ObjectRecorder(ABC):
    """Records what events say was made, while they are held: a client never knows of an object before the registry
    does. Does not raise for a registry that is away: what could not be recorded waits elsewhere."""

    created: tuple[tuple[str, str], ...] = ()
    """Kind and id of what has been made, for the log; not of all where it is much."""

    @abstractmethod
    async def event(self, document: object) -> None:
        """An event of a stream, or of a session, or a part of it that says all that was made; returns when it is
        recorded."""


class AnswerRecorder(ObjectRecorder):
    """Records what one answer over HTTP says."""

    def __init__(self, makes: Sequence[Making], *, holds: bool) -> None:
        self.makes = makes
        """Where the answer may say what was made."""

        self.holds = holds
        """Whether the answer is held meanwhile."""

        self.is_found = False
        """Whether the answer has said what the exchange is there to make."""

        self.heard = False
        """Whether the answer has been read to its end; written by whoever reads it."""

        self.refused = False
        """Whether it says, as a success, that there was an error; written by whoever reads it."""

    @abstractmethod
    async def answered(self, document: object) -> None:
        """As `event`, of a JSON answer."""

    @abstractmethod
    def passed(self, document: object, *, in_event: bool = False) -> None:
        """As `answered` and `event`, of what nobody holds; it is recorded soon."""

    @abstractmethod
    def says_more(self, document: object) -> bool:
        """Whether an event says something that has not been recorded."""

    @abstractmethod
    def unknown(self) -> None:
        """The upstream does not have what the request's path names."""


class FormGate(Protocol):
    """Stands between a streaming form and the upstream. Both methods raise a GatewayError to refuse."""

    def feed(self, piece: Piece) -> tuple[Piece, ...]:
        """Take a piece; return what may go up now."""

    async def finish(self) -> bytes:
        """The form has ended: return what was held back, once everything that it names has been admitted."""


class SessionVoice(Protocol):
    """What may be said in an open session beside what its two sides say."""

    def tell_client(self, event: bytes) -> None:
        """Send the client an event of the gateway's own, between those of the upstream."""

    def tell_upstream(self, event: bytes) -> None:
        """Send the upstream one, between those of the client."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for as long as the session is open."""

    def end_politely(self, code: int, reason: str, ending: Ending) -> None:
        """Close both sides with this WebSocket close code and reason, and end the exchange so."""


class SessionGate(Protocol):
    """Stands between what a client asks for in a session and the upstream."""

    admits: bool
    """Whether responses have to be admitted; if not, what the client says matters to nobody here."""

    def begin(self, voice: SessionVoice) -> None:
        """The session is open."""

    def added(self, prompt: int) -> None:
        """An event passes that adds so many LLM tokens to what the session's responses read."""

    async def admit(self, asked: AskedResponse) -> bytes | None:
        """Wait until a response may be asked for; or what the client is told in place of it. Raises nothing."""

    async def look_up(self, references: Sequence[Reference], event_id: str | None) -> bytes | None:
        """Wait until it is known that the client may name these in an event that it calls so; or what it is told in
        place of that. Raises nothing."""

    def end(self) -> None:
        """The session is no longer open: nothing more can be said in it."""


class RequestGate(ABC):
    """Stands between the requests that a client sends over a WebSocket, each a body as over HTTP, and the upstream."""

    question: Question
    """What has to be known of each."""

    @abstractmethod
    def begin(self, voice: SessionVoice) -> None:
        """The session is open."""

    @abstractmethod
    async def admit(self, event: bytes, request: SocketRequest) -> bytes:
        """Wait until a request may go up; returns it as it does. Raises a GatewayError for one that may not."""

    @abstractmethod
    def refusal(self, error: GatewayError, request: SocketRequest | None) -> bytes:
        """What the client is told in place of an answer; None: the request could not be read."""

    @abstractmethod
    def end(self) -> None:
        """The session is no longer open: nothing more can be said in it."""


class EventFilter(Protocol):
    """Stands between an upstream's stream of events and the client."""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what goes to the client now: the very piece where all of it does."""

    def usual(self) -> Takes | None:
        """What takes pieces from now on that pass whole; asked behind a piece. None: each has to be fed."""

    def end(self) -> bytes:
        """The stream has ended: return what was held back. Raises a GatewayError where it has not ended well."""


@dataclass(frozen=True, slots=True)
class BodyChange:
    """How a body that is taken whole is changed: what is read in it may be read in another process."""

    read: Callable[..., Any]
    """A function of a module, called with the body and `arguments`, which are plain values, as what it returns is."""

    write: Callable[[bytes, Any], bytes]
    """Called with the body and what was read in it; raises a GatewayError for one that may not pass."""

    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerChange:
    """How a successful answer is changed on its way; chosen before the upstream is asked.

    What is changed, or only read, has to be readable: such an answer is asked for without content encoding. The
    rewrites are a closed list (docs/fidelity.md), and nothing else changes a byte of a body. Of these (b) changes a
    request, (e) replaces an answer by an error, (f) changes its head, (g) answers a list out of several,
    (h) and (i) add to a stream and to a session; the others are changes of this kind:

        (a) usage asked for in a stream that would not report it, and taken out again: usage/included.py
        (b) a tenant's default model, in a request body that names none: policy/requests.py
        (c) the list of models without what the caller may not use: policy/model_list.py
        (d) the upstream's realtime secrets, replaced by sealed ones: credentials/realtime_secrets.py
        (e) the upstream's refusal of our own key, turned into a 502: proxy/upstream_errors.py
        (f) references into the upstream, led back to the gateway: wire/leading.py
        (g) lists of stored objects without what is not the tenant's own: proxy/owned_lists.py
        (h) comments in a stream that is silent: proxy/silence.py
        (i) events of our own in a session whose limit is used up: middleware/session_permits.py
    """

    body: BodyChange | None = None
    """Changes a body that is taken whole."""

    events: Callable[[], EventFilter] | None = None
    """Makes what changes a stream of events; any other answer passes as it is."""


READABLE = AnswerChange()
"""Nothing is changed but the encoding: somebody has to read the answer."""

HELD = AnswerChange()
"""The same, and it is held until what it says was made has been recorded; a change may take its place."""
