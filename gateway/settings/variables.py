"""Settings by variables, `GATEWAY_LISTEN` or `GATEWAY_UPSTREAM__BASE_URL`, and variables that were meant to be some."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from gateway.settings.judging import GONE
from gateway.settings.section import Problem
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings

_PREFIX = "GATEWAY_"
_OTHERS = {"GATEWAY_CREDENTIAL", "GATEWAY_INHERITED"}
"""Which commands and workers read."""

# What Kubernetes tells every container of services called gateway and gateway-….
_OF_KUBERNETES = re.compile(
    r"GATEWAY(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_FIELD = re.compile(r'for field "(\w+)"')
_NEAR = 0.75


def from_variables(environ: Mapping[str, str], problems: list[Problem], seen: Seen) -> dict[str, Any]:
    """What the environment sets, nested like the file. What is almost a setting is a problem: whoever set it believes
    that it counts; what is nothing like one is another's, and `seen` is warned of it."""
    for name in environ:
        gone = (
            GONE.get(name.upper().removeprefix(_PREFIX).lower()) if name.upper().startswith(_PREFIX) else None
        )
        if gone is not None:
            problems.append(Problem(name, gone))
        elif not _is_ours(name):
            # Without what all have in common, which makes GATEWAY_INTERFACE, that web servers set, like GATEWAY_TRACES.
            near = get_close_matches(
                name.upper().removeprefix(_PREFIX), _names(Settings, ""), n=1, cutoff=_NEAR
            )
            if near:
                problems.append(Problem(name, f"is not a setting; did you mean {_PREFIX}{near[0]}?"))
            else:
                seen.warnings.append(f"{name} is set, and is no setting: it changes nothing")
    try:
        return _Environ(Settings, environ)()
    except SettingsError as error:
        named = _FIELD.search(str(error))
        name = f"{_PREFIX}{named[1].upper()}" if named else "GATEWAY_…"
        problems.append(Problem(name, "expected JSON for a list or a table"))
        return {}


def _is_ours(name: str) -> bool:
    """Whether a variable is a setting or part of one, which is judged with the rest, or has nothing to do with any."""
    upper = name.upper()
    if not upper.startswith(_PREFIX) or upper in _OTHERS or _OF_KUBERNETES.fullmatch(upper):
        return True
    return upper.removeprefix(_PREFIX).partition("__")[0].lower() in Settings.model_fields


def _names(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name.upper()}__")


class _Environ(EnvSettingsSource):
    """The process environment, taken as an argument so that nothing else is read."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {key.lower(): value.strip() for key, value in self._environ.items()}
