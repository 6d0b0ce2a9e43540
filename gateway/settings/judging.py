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
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.seen import SECRETS
from gateway.settings.settings import Settings, contradictions


def judged(values: Mapping[str, Any]) -> Settings:
    """The settings that were gathered. Reads no file and no environment.

    Raises SettingsInvalid with every problem of what they say.
    """
    unknown_scopes = list(_unknown_scopes(values))
    try:
        settings = Settings.model_validate(values)
    except ValidationError as invalid:
        raise SettingsInvalid([*_problems(invalid), *unknown_scopes]) from None
    problems = [*unknown_scopes, *contradictions(settings)]
    if problems:
        raise SettingsInvalid(problems)
    return settings


def _problems(invalid: ValidationError) -> list[Problem]:
    problems = []
    for error in invalid.errors(include_url=False):
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            known = _keys_beside(error["loc"])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
            problems.append(Problem(key, f"is not a setting; {hint}"))
        else:
            shown = isinstance(error["input"], int | float) or _is_harmless(error["loc"])
            got = f" (got {error['input']!r})" if shown and error["type"] != "missing" else ""
            problems.append(Problem(key, error["msg"].removeprefix("Value error, ") + got))
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
