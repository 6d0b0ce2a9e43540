"""What is known of a JSON body once it has been read: small values, which outlive the document. Pure.

Whoever decides later, about the caller, the cost or the answer, decides by these; nobody parses a body again.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.wire.json_members import Change, Place
from gateway.wire.request_fields import Fault, RequestFields


class Reference(NamedTuple):
    """A member that names something which the upstream keeps."""

    kind: str
    id: str
    member: str


class Named(NamedTuple):
    """What a body or an event names beside the one model that the operation has a place for."""

    models: tuple[str, ...] = ()
    """Each once, in the order in which they were found; those found before the fault."""

    stored: str | None = None
    """The name of a member that asks for a stored object, or to store one."""

    fault: Fault | None = None

    unnamed: tuple[str, ...] = ()
    """The ways to members that have to name a model which is run, and do not."""

    references: tuple[Reference, ...] = ()
    """What it names of kinds that the registry knows, each once; `stored` is what else it names."""

    given: tuple[str, ...] = ()
    """The ids of items that come whole."""


NOTHING_NAMED = Named()


class BodyFacts(NamedTuple):
    """What was read in a request body. What nobody asked for is absent."""

    fields: RequestFields | None = None
    """None where nobody had to read it, or nobody can."""

    named: Named = NOTHING_NAMED

    prompt: int = 0
    """About how many LLM tokens it sends up."""

    attached: int = 0
    """The part of them that is a guess at what images, audio and files are worth."""

    prompts: int = 1
    """How many prompts it has completed."""

    characters: int = 0
    """Of its `input`, where that is a text."""

    background: bool = False
    """Whether it asks for an answer that is made later."""

    endpoint: str | None = None
    """The operation that a batch runs."""

    input_file: str | None = None
    """The id of the file that a batch runs over."""

    model_place: Place | None = None
    """Where a model goes in a body that names none."""

    asks_for_usage: Change | None = None
    """What has a stream report its usage that would not."""

    makes_images: bool = False
    """Whether it offers a tool that makes images."""

    store: bool | None = None
    """Whether it wants its answer kept, where it says so."""

    makes_inside: tuple[str, ...] = ()
    """The ways to members by which it has more made than the operation is for, as `operations/stored_objects.toml` has
    them."""


NOTHING_READ = BodyFacts()


class AskedResponse(NamedTuple):
    """A response that a client asks for in a realtime session."""

    event_id: str | None = None
    """What the client calls the event that asks for it."""

    most_output: int | None = None
    """LLM tokens that it may have at most; None: as the session says."""

    any_length: bool = False
    """Whether it may have any number of them, whatever the session says."""

    apart: bool = False
    """Whether it stays out of the session's conversation."""

    reads_own: bool = False
    """Whether it reads what it brings, in place of the conversation."""

    prompt: int = 0
    """About how many LLM tokens its own texts have."""


class EventFacts(NamedTuple):
    """What was read in a client's event in a realtime session. What nobody asked for is absent."""

    named: Named = NOTHING_NAMED

    response: AskedResponse | None = None

    prompt: int = 0
    """About how many LLM tokens it adds to what the session's responses read."""

    event_id: str | None = None
    """What the client calls it, where it names what the registry knows."""


NOTHING_SAID = EventFacts()


class SocketRequest(NamedTuple):
    """What was read in an event that is a request's body, over a WebSocket that stands beside an operation."""

    body: BodyFacts
    """What it names leaves out whom it continues."""

    kind: str
    lane: str | None
    """What is asked for in one lane is answered in its order, and in several side by side."""

    continues: tuple[tuple[str, str], ...]
    """Responses that it names as those of its own connection, each behind the name of the member."""

    generates: bool
    """Whether it wants an answer, and is not there to be continued alone."""

    @property
    def references(self) -> tuple[Reference, ...]:
        """What it names of kinds that the registry knows, the responses that it continues among them."""
        continued = (Reference("response", response_id, member) for member, response_id in self.continues)
        return tuple(dict.fromkeys((*continued, *self.body.named.references)))
