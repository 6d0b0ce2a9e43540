"""What a form says, read as it streams by; where it matters, the form's end waits until it has been judged."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway.errors import BadRequest
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import FormGate, StreamObserver
from gateway.policy import requests as policy
from gateway.policy import unnamed_models
from gateway.policy.caller import Caller
from gateway.policy.form_counts import COUNT_FIELD, check_count_field, count_in
from gateway.policy.named_models import models_in
from gateway.policy.references import may_name
from gateway.proxy.body import is_form, refuse_encoding
from gateway.wire.body_facts import Reference
from gateway.wire.headers import media_type
from gateway.wire.multipart import MultipartScanner
from gateway.wire.part_heads import MultipartRefused, boundary_of
from gateway.wire.request_fields import BodyRefused
from gateway.wire.search import Piece
from gateway.wire.strict_json import strict_object

AdmitForm = Callable[[str | None, int], Awaitable[None]]
"""Takes the permits that a form needs for the model and the number of answers which it has named; raises to refuse."""


CheckOwned = Callable[[Sequence[Reference]], Awaitable[None]]
"""Asks whose the stored objects are that a form names; raises to refuse."""


def watch_form(
    exchange: Exchange, *, admit: AdmitForm | None, counted: bool, owned: CheckOwned | None
) -> FormGate | None:
    """Read the model of a form as it goes by; return what holds the form's end back, where what it says matters.

    It matters where some models are closed, where some have limits of their own or the answers asked for are limited
    (`admit` is given; the latter if they are `counted`), and where the form could name what other tenants have stored,
    which nobody may, or who may `owned` tells.
    Raises BadRequest, MediaTypeRefused or ModelNotAllowed for a body in which nobody can find that.
    """
    head, operation, caller = exchange.head, exchange.operation, exchange.caller
    if not head.has_body:
        return None
    if caller.restricted and operation.is_unlisted:
        raise policy.models_unseen("of a form stand where only its own operation knows", "Send JSON")
    where = operation.model.form
    shares = owned is not None or caller.shares(operation)
    if where is None and not shares and not counted:
        return None
    judged = caller.restricted or admit is not None or shares
    if judged:
        refuse_encoding(head)
        if not is_form(head) and media_type(head.content_type).decode("latin-1") in operation.request_types:
            if caller.restricted and exchange.model is None:
                raise policy.model_unnamed("the query")
            return None
    try:
        boundary = boundary_of(head.content_type.decode("latin-1"))
    except MultipartRefused as refused:
        if judged:
            raise BadRequest(
                f"It matters what the form says, and it cannot be read: {refused.reason}.", code="bad_form"
            ) from None
        return None  # the upstream will say so
    name, _, member = (where or "").partition(".")
    read = {name} if name else set()
    if caller.restricted:
        read |= unnamed_models.fields()
    if counted:
        read.add(COUNT_FIELD)
    scanner = MultipartScanner(boundary, fields=read, every=None if owned is None else may_name)
    if judged:
        return _Gate(exchange, scanner, _ModelField(name, member), admit, counted=counted, owned=owned)
    if name:
        exchange.observers.append(_Watcher(exchange, scanner, _ModelField(name, member)))
    return None


@dataclass(frozen=True, slots=True)
class _ModelField:
    """The field of a form that names the model: its text, or one member of the JSON object that it holds."""

    name: str
    member: str

    def models(self, text: str, caller: Caller) -> tuple[str, ...]:
        """The models that the field names, the one that counts first. Raises BadRequest or ModelNotAllowed."""
        if not self.member:
            return (text,)
        try:
            document = strict_object(text.encode())
        except ValueError:
            raise BadRequest(
                f"The field {self.name!r} must be a JSON object in which no member is named twice.",
                code="bad_form",
                param=self.name,
            ) from None
        policy.check_form_object(caller, self.name, document)
        first = document.get(self.member)
        try:
            return (*((first,) if isinstance(first, str) else ()), *models_in(document))
        except BodyRefused as refused:
            raise policy.bad_request(refused.fault) from None


class _Gate:
    """Lets a form pass that names nothing but what the caller may use, and asks for no more than there is.

    Its last boundary waits until then.
    """

    def __init__(
        self,
        exchange: Exchange,
        scanner: MultipartScanner,
        field: _ModelField,
        admit: AdmitForm | None,
        *,
        counted: bool,
        owned: CheckOwned | None,
    ) -> None:
        self._exchange = exchange
        self._scanner = scanner
        self._field = field
        self._admit = admit
        self._counted = counted
        self._count = 1
        self._owned = owned
        self._references: dict[Reference, None] = {}
        self._seen = 0
        """How many parts and fields the scanner had when policy was asked last."""

        self._asked = 0
        """Of how many parts policy has been asked."""

        self._looked = 0
        """How many of the fields that may name something stored have been looked into."""

        self._judged = False

    def feed(self, piece: Piece) -> tuple[Piece, ...]:
        """Return what may go up. Raises BadRequest, ModelNotAllowed or SharedUpstream."""
        scanner = self._scanner
        try:
            going = scanner.feed(piece)
        except MultipartRefused as refused:
            raise _bad_form(refused) from None
        seen = len(scanner.parts) + len(scanner.fields) + len(scanner.every)
        if seen != self._seen:  # else it was more of a file
            self._seen = seen
            self._judge()
        return going

    def _judge(self) -> None:
        """Ask policy about what has become known of the form."""
        exchange, fields = self._exchange, self._scanner.fields
        for part in self._scanner.parts[self._asked :]:
            policy.check_field(exchange.caller, exchange.operation, part.name, self._field.name)
            if self._counted:
                check_count_field(part.name)
        self._asked = len(self._scanner.parts)
        for name in fields.keys() - {self._field.name}:
            policy.check_form_text(exchange.caller, name, fields[name])
        if self._counted and COUNT_FIELD in fields:
            self._count = count_in(fields[COUNT_FIELD])
        for name, told in self._scanner.every[self._looked :]:
            self._references |= dict.fromkeys(
                policy.references_in_field(exchange.caller, exchange.operation, name, told)
            )
        self._looked = len(self._scanner.every)
        text = fields.get(self._field.name)
        if text is not None and not self._judged:
            self._judged = True
            for model in self._field.models(text, exchange.caller):
                exchange.caller.check_model(model)
                exchange.model = exchange.model or model

    async def finish(self) -> bytes:
        """Return the form's end. Raises BadRequest, ModelNotAllowed, or what admitting says."""
        exchange = self._exchange
        if self._owned is not None and self._references:
            await self._owned(tuple(self._references))
        if self._admit is not None:
            await self._admit(exchange.model, self._count)
        if exchange.caller.restricted and self._field.name and exchange.model is None:
            raise policy.model_unnamed("the form")
        try:
            return self._scanner.finish()
        except MultipartRefused as refused:
            raise _bad_form(refused) from None


class _Watcher(StreamObserver):
    """Notes the model which a form names."""

    def __init__(self, exchange: Exchange, scanner: MultipartScanner, field: _ModelField) -> None:
        self._exchange = exchange
        self._scanner: MultipartScanner | None = scanner
        self._field = field

    def request_piece(self, piece: Piece) -> None:
        """Feed the scanner until it has found the field, or cannot read on."""
        if self._scanner is None:
            return
        try:
            self._scanner.feed(piece)
            text = self._scanner.fields.get(self._field.name)
            models = None if text is None else self._field.models(text, self._exchange.caller)
        except (MultipartRefused, BadRequest):
            self._scanner = None
            return
        if models is not None:
            self._exchange.model = next(iter(models), self._exchange.model)
            self._scanner = None


def _bad_form(refused: MultipartRefused) -> BadRequest:
    return BadRequest(f"The form cannot be read: {refused.reason}.", code="bad_form", param=refused.param)
