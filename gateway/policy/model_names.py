"""The names that models may have as a label of metrics: few, whatever clients ask for and servers echo. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import orjson

from gateway.settings.settings import Settings

OTHER_MODEL = "other"
"""What stands for every model that is not named."""

MOST_MODELS = 200
"""Names that are ever given out by one process: what has been shown once has its series for good."""

MOST_OF_ONE = MOST_MODELS // 2
"""Names that are given of one upstream's list, where there are several: whoever has one may list what they like."""

_MOST_LISTED = 5_000

MOST_CHARACTERS = 128
"""Of a model's name that is shown."""


class ModelNames:
    """Says by which name a model is counted: its own, where the operator or an upstream's list of models has it.

    That an answer or a request has a name is not enough, for some servers echo any. A name is given out when it is
    asked for first, to `MOST_MODELS` models; among them is room for all that the configuration names. It is kept then,
    whatever the configuration and the lists say later.
    """

    def __init__(self, configured: Iterable[str] = (), *, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is told when models may have a name that had none."""
        self._changed = changed
        self._given: dict[str, str] = {}
        self._reserved: set[str] = set()
        """Names of the configuration that have not been asked for."""

        self._listed: dict[str, tuple[str, ...]] = {}
        """Names of lists of models, in the order in which they were seen last, and the upstreams that have them."""

        self._listing: set[str] = set()
        """Upstreams that have a list."""

        self._given_of: Counter[str] = Counter()
        """How many names that were given are of each upstream's list alone."""

        self.configure(configured)

    def configure(self, names: Iterable[str]) -> None:
        """The configuration names these from now on, and no others."""
        self._reserved = {name for name in names if _may_be_shown(name)} - self._given.keys()
        self._changed()

    def learn(self, names: Iterable[str], upstream: str = "") -> None:
        """The list of models of an upstream has these. Of very many the last ones count, of whoever has most."""
        listed = self._listed
        self._listing.add(upstream)
        for name in names:
            if _may_be_shown(name):
                known = listed.pop(name, ())
                listed[name] = known if upstream in known else (*known, upstream)
        while (excess := len(listed) - _MOST_LISTED) > 0:
            ((longest, count),) = Counter(known[0] for known in listed.values()).most_common(1)
            oldest = (name for name, known in listed.items() if known[0] == longest)
            for name in list(islice(oldest, min(excess, max(1, count // 2)))):
                del listed[name]
        self._changed()

    def of(self, model: str | None) -> str:
        """By which name a model is counted; whoever asks counts something of it."""
        if model is None:
            return OTHER_MODEL
        return self._given.get(model) or self._give(model)

    def _give(self, model: str) -> str:
        room = MOST_MODELS - len(self._given)
        if model in self._reserved:
            self._reserved.discard(model)
        elif model in self._listed:
            room -= len(self._reserved)
            share = MOST_MODELS if len(self._listing) == 1 else MOST_OF_ONE
            of = next((one for one in self._listed[model] if self._given_of[one] < share), None)
            if room <= 0 or of is None:
                return OTHER_MODEL
            self._given_of[of] += 1
        else:
            return OTHER_MODEL
        if room <= 0:
            return OTHER_MODEL
        self._given[model] = model
        return model


def configured_models(settings: Settings) -> Iterator[str]:
    """Every name of a model in a configuration; patterns are none."""
    yield from _exact(settings.expected_output)
    yield from _exact(settings.limits.models)
    for tenant in settings.tenants.values():
        yield from _exact(tenant.models or ())
        yield from _exact(tenant.limits.models)
        if tenant.default_model is not None:
            yield tenant.default_model


def listed_models(body: bytes) -> list[str]:
    """The names in an answer to `GET /v1/models`; none where it is something else."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return []
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return []
    ids = (entry.get("id") for entry in entries if isinstance(entry, dict))
    return [name for name in ids if isinstance(name, str)][-_MOST_LISTED:]


def _exact(patterns: Iterable[str]) -> Iterator[str]:
    return (pattern for pattern in patterns if "*" not in pattern)


def _may_be_shown(name: str) -> bool:
    return 0 < len(name) <= MOST_CHARACTERS and name.isprintable()
