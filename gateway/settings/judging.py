"""Judging settings that were gathered: pure, and the same wherever it is done.

What an operator wrote is gathered in one place (`sources.py`); every process of the gateway judges that by itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gateway.operations.scopes import ScopeProblem, expand
from gateway.operations.table import OperationTable
from gateway.settings.issuer import incomplete
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.seen import SECRETS
from gateway.settings.settings import Settings, contradictions

_IN_WORDS = {
    "missing": "is missing",
    "tuple_type": 'expected a list, such as ["one", "two"]',
    "list_type": 'expected a list, such as ["one", "two"]',
    "dict_type": "expected a table",
    "model_type": "expected a table",
    "string_type": "expected a text",
}
"""What TOML has, where pydantic would name what Python has."""

GONE = {
    "shared_objects": "is no setting any more: it let tenants on one upstream account reach each other's stored "
    "objects, and nothing does. Take it away: with redis_url each tenant may use what it makes from now on, and "
    "what is there is nobody's until `gateway objects adopt` says whose it is; "
    'stored_objects = "registry", "own" or "refuse" under [tenants.ID] says so, or otherwise, of one'
}
"""Settings of earlier releases, and what is written in their place."""


def judged(values: Mapping[str, Any]) -> Settings:
    """The settings that were gathered. Reads no file and no environment.

    Raises SettingsInvalid with every problem of what they say.
    """
    settings, problems = judgement(values)
    if problems or settings is None:
        raise SettingsInvalid(problems)
    return settings


def judgement(values: Mapping[str, Any]) -> tuple[Settings | None, list[Problem]]:
    """Every problem of what was gathered, and the settings as far as they are sound, for others to look further.

    Of a tenant or an issuer that is not sound nothing is left. None where nothing can be told from what is left.
    """
    unknown_scopes = list(_unknown_scopes(values))
    try:
        settings = Settings.model_validate(values)
    except ValidationError as invalid:
        problems = [*_problems(invalid), *_incomplete_issuers(values, invalid), *unknown_scopes]
        rest = _sound(values, invalid)
        return rest, problems if rest is None else [*problems, *contradictions(rest)]
    return settings, [*unknown_scopes, *contradictions(settings)]


def _sound(values: Mapping[str, Any], invalid: ValidationError) -> Settings | None:
    """What is left without all that is wrong."""
    rest = dict(values)
    for error in invalid.errors(include_url=False):
        _take_out(rest, error["loc"])
    for key in ("tenants", "issuers"):
        if not rest.get(key):
            rest.pop(key, None)  # that there is none is no problem of its own then
    try:
        return Settings.model_validate(rest)
    except ValidationError:
        return None


def _take_out(rest: dict[str, Any], location: tuple[int | str, ...]) -> None:
    """Leave out what stands at a place, or the whole tenant or issuer that it belongs to."""
    if location[:1] in (("tenants",), ("issuers",)):
        location = location[:2]
    for depth, part in enumerate(location, 1):
        below = rest.get(str(part))
        if depth == len(location) or not isinstance(below, dict):
            rest.pop(str(part), None)
            return
        rest[str(part)] = rest = dict(below)


def _incomplete_issuers(values: Mapping[str, Any], invalid: ValidationError) -> Iterator[Problem]:
    """What is missing from issuers of which some field is wrong: it is not looked for where they are read."""
    issuers = values.get("issuers")
    wrong: dict[str, set[str]] = {}
    for error in invalid.errors(include_url=False):
        if error["loc"][:1] == ("issuers",) and len(error["loc"]) > 2:
            wrong.setdefault(str(error["loc"][1]), set()).add(str(error["loc"][2]))
    for name, fields in wrong.items():
        table = issuers.get(name) if isinstance(issuers, dict) else None
        if isinstance(table, dict):
            missing = incomplete(table)
            yield from (
                Problem(f"issuers.{name}", text)
                for field, text in missing
                if fields.isdisjoint(field.split())
            )


def _problems(invalid: ValidationError) -> list[Problem]:
    problems = []
    for error in invalid.errors(include_url=False):
        key = ".".join(str(part) for part in error["loc"])
        if key in GONE:
            problems.append(Problem(key, GONE[key]))
        elif error["type"] == "extra_forbidden":
            known = _keys_beside(error["loc"])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
            problems.append(Problem(key, f"is not a setting; {hint}"))
        else:
            shown = isinstance(error["input"], int | float) or _is_harmless(error["loc"])
            got = f" (got {error['input']!r})" if shown and error["type"] != "missing" else ""
            message = _IN_WORDS.get(error["type"], error["msg"])
            lines = message.removeprefix("Value error, ").splitlines()
            problems += [Problem(key, line + got) for line in lines]
    return problems


def _is_harmless(location: tuple[int | str, ...]) -> bool:
    """Whether what was written at a place can be shown: nothing near a key, a login or a secret can."""
    return not {"upstream", "tenants", "issuers", *SECRETS}.intersection(map(str, location))


def _unknown_scopes(values: Mapping[str, Any]) -> Iterator[Problem]:
    tenants = values.get("tenants")
    known = OperationTable.load().scopes
    for tenant_id, tenant in tenants.items() if isinstance(tenants, dict) else ():
        scopes = tenant.get("scopes") if isinstance(tenant, dict) else None
        if not isinstance(scopes, list | tuple) or not all(isinstance(scope, str) for scope in scopes):
            continue
        try:
            expand(scopes, known)
        except ScopeProblem as problem:
            yield from (Problem(f"tenants.{tenant_id}.scopes", text) for text in problem.problems)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # a tenant's id: its table is described by the field above it
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)
