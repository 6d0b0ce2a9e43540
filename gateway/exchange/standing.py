"""What does not change from one exchange to the next of the same caller and operation, found once."""

from __future__ import annotations

from typing import Any

from gateway.endings import Ending
from gateway.exchange.tallies import ExchangeTallies
from gateway.limits.charges import QuotaSet
from gateway.limits.terms import Dimension
from gateway.operations.stored_kinds import StoredKinds, StoredPlace
from gateway.operations.table import Operation
from gateway.policy import requests as policy
from gateway.policy.caller import Caller
from gateway.policy.owned_pages import filtered_kind
from gateway.policy.reading import Question
from gateway.usage.counters import Counted, Entry, named, tier_of
from gateway.usage.reported import Known

_MOST_MODELS = 64
"""Models of one standing of which is kept what they are charged to and counted in: their names are the client's."""

_MOST_WAYS = 32
"""Ways that exchanges go for which a line is kept: what models are called is the client's choice."""

_IMAGES = frozenset({Dimension.IMAGES_PER_MINUTE})

_Way = tuple[
    str, str | None, int | None, Ending | None, Known | None, str | None, int | None, int, str | None
]
"""Method, model, status, ending and what is known of its usage; the upstream, its status, how often it was asked, and
the tier that served."""


class Standing:
    """What a caller may do with one operation, what that is charged to, and where it is counted.

    It is true as long as nothing changes on which it rests: who keeps one has to see to that.
    """

    __slots__ = (
        *("allowed", "asks_body", "asks_head", "caller", "counts_images", "destination", "lines", "listed"),
        *(
            "metered",
            "operation",
            "question",
            "quotas",
            "stored",
            "stored_if_said",
            "tallies",
            "until",
            "_counted",
            "_of_model",
        ),
        "_sets",
    )

    def __init__(
        self, caller: Caller, operation: Operation, *, until: float, tallies: ExchangeTallies
    ) -> None:
        self.caller = caller
        self.operation = operation
        self.until = until
        """Until when it is true, in unix seconds: no longer than the credential counts."""

        self.tallies = tallies
        """What these exchanges are counted in."""

        self.allowed = False
        """Whether the caller has been found to be allowed the operation; authorize writes it."""

        self.asks_head = policy.head_matters(caller, operation)
        """Whether each request's head has to be judged for itself."""

        self.asks_body = policy.body_matters(caller, operation)
        """Whether each request's body has to be judged whatever is found in it."""

        self.quotas = QuotaSet.of(caller.quotas)
        """What every request is charged to, whatever model it names."""

        self.counts_images = "images" in operation.uses and caller.may_be_limited_by(_IMAGES)
        """Whether it matters how many images are asked for."""

        self._of_model = caller.tenant.limits.of_model if caller.tenant.limits.models else None
        self._sets: dict[str | None, QuotaSet] = {}

        self.question = policy.question_of(caller, operation)
        """What has to be known of a body; None where nobody has to look into it."""

        self.stored = _stored(caller, operation, self.question)
        """What it has to do with what the upstream stores; None where that is nothing, or nobody keeps a record."""

        self.stored_if_said = self.stored is not None and _is_optional(self.stored)
        """Whether it has to do with that only where a request says so."""

        self.listed = filtered_kind(caller, operation)
        """What the operation lists, of which the caller may see its tenant's own alone; None: all that the upstream
        answers."""

        self.metered = caller.metered
        """Whether usage has to be known of every answer."""

        self.lines: dict[_Way, dict[str, Any]] = {}
        """What their lines of the log have alike, by what else may differ; the log asks to keep it."""

        self.destination: object = None
        """Where these exchanges went last, and as whom; written by who sends them."""

        self._counted: dict[tuple[str | None, str], Counted] = {}

    def quotas_of(self, model: str | None) -> QuotaSet:
        """What a request is charged to that names this model."""
        if self._of_model is None:
            return self.quotas
        quotas = self._sets.get(model)
        if quotas is None:
            if len(self._sets) >= _MOST_MODELS:
                self._sets.clear()
            quotas = self._sets[model] = QuotaSet.of((*self.quotas, *self._of_model(model)))
        return quotas

    def keep_line(self, way: _Way, alike: dict[str, Any]) -> None:
        """Keep what the lines of exchanges have alike that went this way."""
        if len(self.lines) >= _MOST_WAYS:
            self.lines.clear()
        self.lines[way] = alike

    def counted(self, model: str | None, tier: str = "") -> Counted:
        """Where the usage of a request is counted that names this model, and that this tier served."""
        counted = self._counted.get((model, tier))
        if counted is None:
            if len(self._counted) >= _MOST_MODELS:
                self._counted.clear()
            principal = self.caller.principal
            entry = Entry(named(principal.subject), named(model), self.operation.id, tier_of(tier))
            counted = self._counted[model, tier] = Counted(principal.tenant, entry)
        return counted


def _is_optional(place: StoredPlace) -> bool:
    return place.parent is place.lists is None and all(making.condition == "store" for making in place.makes)


def _stored(caller: Caller, operation: Operation, question: Question | None) -> StoredPlace | None:
    if caller.tenant.scope is None or operation.is_administration or operation.is_session:
        return None
    place = StoredKinds.load().place_of(operation)
    names = question is not None and question.stored and caller.asks_registry(operation)
    return None if place.is_nothing and not names else place
