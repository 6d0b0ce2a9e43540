"""Every model that a body, an event or a form's field names, wherever it stands. Pure.

The one place that the operation table knows is read elsewhere; here it is what else could choose a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gateway.wire.request_fields import BodyRefused
from gateway.wire.strict_json import USER_NAMED, hides_names, objects

_NAMES = frozenset({"model", "models"})
_WRITTEN = re.compile(rb'"(?i:models?)"')
# Rows of data, and items of a conversation: what they hold chooses no model.
_BESIDE = USER_NAMED | {"item", "sample"}


def may_name_models(body: bytes, *, known: int) -> bool:
    """Whether a body may name more models than the `known` ones; a search by bytes."""
    return len(_WRITTEN.findall(body)) > known or hides_names(body)


def models_in(document: object) -> Iterator[str]:
    """Every model that a parsed body names, at any depth: the text, or texts, of members named so.

    Raises BodyRefused for a name that differs from these in nothing but case.
    """
    for _, members in objects(document, beside=_BESIDE):
        for name, value in members.items():
            if name.casefold() not in _NAMES:
                continue
            if name not in _NAMES:
                raise BodyRefused(
                    "bad_request",
                    f"{name[:64]!r} could be read as {name.casefold()[:64]!r}. Write it in lower case, once.",
                    param=name[:64],
                )
            yield from (
                text for text in (value if isinstance(value, list) else (value,)) if isinstance(text, str)
            )


def field_may_name_model(name: str) -> bool:
    """Whether a form's field of this name, `session[model]` say, could be read as one that names a model."""
    return not _NAMES.isdisjoint(re.split(r"[\[\].]+", name.casefold()))
