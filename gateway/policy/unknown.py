"""What is said of a path or a method that no row of the table has, to whoever may not ask for such. Pure.

Most have mistyped it, or have a base URL that does not fit: so this comes first, with what they could have meant. Only
those who could have the scope of unlisted paths hear of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import MethodRefused, OperationUnknown, ScopeMissing
from gateway.operations.table import OperationTable
from gateway.policy.caller import Caller

_MOST_CHARACTERS = 128


def check_known(caller: Caller, method: str, target: str, scopes: Sequence[str]) -> None:
    """Refuse what no row has, unless the caller has these scopes: those that it takes.

    Raises OperationUnknown or MethodRefused where the tenant can have no such credential, else ScopeMissing.
    """
    missing = [
        scope for scope in scopes if scope not in caller.principal.scopes.intersection(caller.tenant.scopes)
    ]
    if not missing:
        return
    said, methods = _what_is_unknown(method, target)
    if caller.tenant.scopes.issuperset(missing):
        raise ScopeMissing(
            f"{said} What it does not know it forwards under the scope {missing[0]}, which this credential lacks. "
            "Ask the gateway's operator for a credential that has it."
        )
    if methods:
        raise MethodRefused(said, allow=methods)
    raise OperationUnknown(said)


def unknown_batch(endpoint: str, scope: str) -> ScopeMissing:
    """The refusal of a batch that runs what no row has, for a caller who lacks the scope that this takes."""
    said, _ = _what_is_unknown("POST", endpoint)
    return ScopeMissing(
        f"The batch calls what is unknown: {said} What it does not know it forwards under the scope {scope}. "
        "Ask the gateway's operator for a credential that has it.",
        param="endpoint",
    )


def _what_is_unknown(method: str, target: str) -> tuple[str, Sequence[str]]:
    """In words, and the methods that the path has."""
    path = target.partition("?")[0]
    methods = OperationTable.load().methods(path)
    return (_of_method(method, path, methods) if methods else _of_path(method, path)), methods


def _of_method(method: str, path: str, methods: Sequence[str]) -> str:
    return (
        f"{method[:_MOST_CHARACTERS]} {path[:_MOST_CHARACTERS]} is no operation that this gateway knows: the path has "
        f"{', '.join(methods)}."
    )


def _of_path(method: str, path: str) -> str:
    meant = OperationTable.load().nearest(method, path)
    nearest = "" if meant is None else f" The closest that it knows is {meant.method} {meant.path}."
    if meant is not None and meant.path.endswith("}") and path.count("/") > meant.path.count("/"):
        nearest += f" In {meant.path.rpartition('/')[2]} a slash is written %2F."
    return (
        f"{method[:_MOST_CHARACTERS]} {path[:_MOST_CHARACTERS]} is no operation that this gateway knows. "
        f"Check the path, and the base URL, which ends in /v1, once.{nearest}"
    )
