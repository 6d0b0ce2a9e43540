"""Reading JSON that policy has to see: bytes and a question in, small facts out. Pure.

Reading is apart from judging. It knows no caller, only what is asked; it may take long, so it may happen in
another process: what goes in and comes out are small values. `requests` and `events` say what to ask, and judge.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from gateway.policy import named_models, stored_objects, unnamed_models
from gateway.policy.references import Told, references_in
from gateway.usage import realtime
from gateway.usage.image_tool import offers_images
from gateway.usage.included import asking_for_usage
from gateway.usage.prompt import NO_PROMPT, prompt_count, prompt_estimate
from gateway.wire import request_fields
from gateway.wire.body_facts import NOTHING_NAMED, NOTHING_SAID, BodyFacts, EventFacts, Named
from gateway.wire.half_characters import Readings, readings
from gateway.wire.json_members import place_of
from gateway.wire.request_fields import BodyRefused, Fault, RequestFields
from gateway.wire.strict_json import all_distinct

_SEARCHED_BYTES = 64 * 1024
_MOST_MODELS = 1000
_MOST_MODEL_CHARACTERS = 1024
_MOST_TARGET_CHARACTERS = 2048
_MOST_ID_CHARACTERS = 512
_SHOWN_CHARACTERS = 64
"""Of a member's name, in a refusal."""

_NOTHING_TOLD = Told()
_BOM = b"\xef\xbb\xbf"
_HALF = Fault(
    "invalid_json",
    "Half of a character (an escape from \\ud800 to \\udfff alone) stands in a name or a value that decides something. "
    "Write whole characters there.",
)
_NOT_STRICT = Fault(
    "invalid_json", "The body must be a JSON object in UTF-8 in which no member is named twice."
)


class Question(NamedTuple):
    """What somebody wants to know of a body. Nothing else is looked for."""

    model_path: tuple[str, ...] | None = None
    """Where the operation has its model; None: no fields are read."""

    tolerant: bool = False
    """What is no JSON object is nobody's business."""

    models: bool = False
    """Which models are named anywhere else, or run without being named."""

    stored: bool = False
    """Whether a stored object is named."""

    owned: bool = False
    """Which: those that the registry could know are told apart from what else is named."""

    below: tuple[str, ...] = ()
    """What names parts of the object with which the path begins, which decides about them."""

    inside: tuple[str, ...] = ()
    """The ways to members by which the operation has more made than it is for."""

    batch: bool = False
    """Which operation is run, over which file."""

    prompt: bool = False
    """How long the prompt is."""

    default_model: bool = False
    """Where a model goes, if none is named."""

    usage: bool = False
    """How a stream is made to report its usage."""

    responses: bool = False
    """Of an event: what a session's client asks for, and what it adds for that to read."""

    answers: str = "prompt"
    """The member that has as many answers as it has texts, or lists of messages."""

    @property
    def asks(self) -> bool:
        """Whether anything is asked at all."""
        return self.model_path is not None or any(self[2:-1])


def read_body(body: bytes, question: Question) -> BodyFacts:
    """Answer a question about a request body. Linear in its size. Raises BodyRefused.

    What is wrong with other names than those that policy reads first is a fault among the facts, so that these are
    known all the same.
    """
    path, tolerant, models, stored, _, _, inside, batch, prompt, default_model, usage, _, answers = question
    document, fields = None, None
    try:
        document = request_fields.parse(body)
        if path is not None:
            fields = request_fields.read(body, document, model_path=path)
    except BodyRefused:
        if body.startswith(_BOM):  # a reader may pass over it (RFC 8259, section 8.1), and many do
            return read_body(body.replace(_BOM, b"   ", 1), question)
        if (halves := readings(body)) is not None:
            return _read_halves(halves, question)
        if path is not None and not tolerant:
            raise
        document = None
    named, endpoint, input_file, asking = NOTHING_NAMED, None, None, None
    if body and (models or stored):
        named = _named(body, document, question, known=_known(fields))
    if body and batch and named.fault is None:
        endpoint, input_file, fault = _batch(body, document)
        named = named._replace(fault=fault)
    if usage and fields is not None and fields.stream:
        try:
            asking = asking_for_usage(body)
        except BodyRefused as refused:
            named = named._replace(fault=named.fault or refused.fault)
    if document is None:
        return BodyFacts(fields, named)
    spoken = document.get("input")
    characters = len(spoken) if type(spoken) is str else 0
    prompts = prompt_count(document[answers]) if answers in document else 1
    background = document.get("background") is True
    nameless = default_model and fields is not None and fields.model is None
    place = place_of(body, "model") if nameless else None
    length = prompt_estimate(document) if prompt else NO_PROMPT
    images = "tools" in document and offers_images(document["tools"])
    store = document.get("store")
    return tuple.__new__(  # as BodyFacts(…), without its frame
        BodyFacts,
        (
            fields,
            named,
            *length,
            prompts,
            characters,
            background,
            endpoint,
            input_file,
            place,
            asking,
            images,
            store if type(store) is bool else None,
            tuple(way for way in inside if _is_there(document, way)) if inside else (),
        ),
    )


def _is_there(document: object, way: str) -> bool:
    """Whether something stands at the end of a way through objects."""
    for name in way.split("."):
        document = document.get(name) if type(document) is dict else None
    return document is not None


def _read_halves(halves: Readings, question: Question) -> BodyFacts:
    """What a body says that has halves of characters, wherever it says the same to all readers of these."""
    facts, dropped = (read_body(body, question) for body in halves)
    if (facts.fields, facts.named, facts.endpoint, facts.input_file) != (
        *(dropped.fields, dropped.named, dropped.endpoint, dropped.input_file),
    ):
        raise BodyRefused(_HALF.code, _HALF.message)
    return facts


def read_event(event: bytes, question: Question) -> EventFacts:
    """What a client's event in a realtime session says, by `models`, `stored` and `responses`. Linear in its size."""
    models = question.models and _may_run_models(event, known=0)
    stored = question.stored and stored_objects.may_be_named_in(event, in_session=True)
    asks = question.responses and realtime.may_ask(event)
    if not models and not stored and not asks:
        return NOTHING_SAID
    named = NOTHING_NAMED
    if models or stored:
        named = _names_in(event, None, question._replace(models=models, stored=stored), in_session=True)
    response, prompt = realtime.asked_in(event) if asks and named.fault is None else (None, 0)
    return EventFacts(named, response, prompt, _event_id(event) if named.references else None)


def _event_id(event: bytes) -> str | None:
    """What the client calls an event that names what the registry knows."""
    halves = readings(event)
    event_id = request_fields.parse(event if halves is None else halves.replaced).get("event_id")
    return event_id if isinstance(event_id, str) else None


def says_nothing(event: bytes, question: Question) -> bool:
    """Whether `read_event` finds nothing, whatever the event's size: seen by a few bytes that it does not have."""
    return not (question.models or question.stored or realtime.may_ask(event))


def may_name_in_event(part: bytes, question: Question) -> bool:
    """Whether some part of an event could be the name of what `read_event` would find: 64 bytes at most."""
    if question.models and (
        named_models.may_name_models(part, known=0) or unnamed_models.may_be_named_in(part)
    ):
        return True
    return question.stored and stored_objects.may_be_named_in(part, in_session=True)


def _known(fields: RequestFields | None) -> int | None:
    """How many models have been read where they belong; None: nobody has looked."""
    if fields is None:
        return None
    return 0 if fields.model is None else 1


def _named(body: bytes, document: dict[str, Any] | None, question: Question, *, known: int | None) -> Named:
    """What is named beside the fields.

    Most small bodies that were read are searched by bytes alone. A large one has been parsed anyway, and may have less
    structure than bytes.
    """
    models, stored = question.models, question.stored
    if document is not None and len(body) > _SEARCHED_BYTES and all_distinct(body, document):
        return _names_of(document, question)
    if (
        known is not None
        and not (models and _may_run_models(body, known=known))
        and not (stored and stored_objects.may_be_named_in(body))
    ):
        return NOTHING_NAMED
    return _names_in(body, document, question)


def _may_run_models(text: bytes, *, known: int) -> bool:
    """Whether others than the known ones may be named, or run without being named."""
    return named_models.may_name_models(text, known=known) or unnamed_models.may_run_unnamed(text)


def _names_in(
    raw: bytes, document: dict[str, Any] | None, question: Question, *, in_session: bool = False
) -> Named:
    """All names; `document` is what `raw` means where it has been parsed."""
    try:
        document = request_fields.parse(raw) if document is None else document
    except BodyRefused:
        if (halves := readings(raw)) is None:
            return Named(fault=_NOT_STRICT)
        named, dropped = (_names_in(text, None, question, in_session=in_session) for text in halves)
        return named if named == dropped else Named(fault=_HALF)
    if not all_distinct(raw, document):
        return Named(fault=_NOT_STRICT)
    return _names_of(document, question, in_session=in_session)


def _names_of(document: dict[str, Any], question: Question, *, in_session: bool = False) -> Named:
    """What a document names whose members are all distinct.

    What else of a document decides who may do something is found here, by a function of the document.
    """
    found: dict[str, None] = {}
    models = question.models
    if models:
        try:
            for model in named_models.models_in(document):
                if len(found) >= _MOST_MODELS or len(model) > _MOST_MODEL_CHARACTERS:
                    raise BodyRefused("invalid_value", "The body names too many models, or too long ones.")
                found[model] = None
        except BodyRefused as refused:
            return Named(tuple(found), fault=refused.fault)
    told = _NOTHING_TOLD
    if question.owned:
        told = references_in(document, below=question.below, in_session=in_session)
    elif question.stored:
        told = Told(stored=stored_objects.named_in(document, in_session=in_session))
    return Named(
        tuple(found),
        None if told.stored is None else told.stored[:_SHOWN_CHARACTERS],
        told.fault,
        unnamed_models.unnamed_in(document) if models else (),
        told.references,
        told.given,
    )


def _batch(body: bytes, document: dict[str, Any] | None) -> tuple[str | None, str | None, Fault | None]:
    """The operation that a batch runs, the file that it runs over, and what is wrong with them."""
    if document is None or not all_distinct(body, document):
        return None, None, _NOT_STRICT
    if any(name != "endpoint" and name.casefold() == "endpoint" for name in document):
        return None, None, Fault("bad_request", "Write 'endpoint' in lower case, once.", "endpoint")
    endpoint, input_file = document.get("endpoint"), document.get("input_file_id")
    if endpoint is not None and not isinstance(endpoint, str):
        return None, None, Fault("invalid_type", "A batch's endpoint must be a string.", "endpoint")
    if endpoint is not None and len(endpoint) > _MOST_TARGET_CHARACTERS:
        return None, None, Fault("invalid_value", "A batch's endpoint is a path of the API.", "endpoint")
    known = isinstance(input_file, str) and len(input_file) <= _MOST_ID_CHARACTERS
    return endpoint, input_file if known else None, None
