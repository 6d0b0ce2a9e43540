"""What an operator can set about subjects of another issuer: a table `[issuers.NAME.subjects.PATTERN]` for each.

A subject is read in parts, which end with ':' or '/', and a pattern part by part against it. `*` stands for one or
more characters inside of a part, once in each, and `**` at the end for all parts that follow, at least one. Neither
stands for what could be read as something else: only for visible ASCII, without '%' and '\\'. Everything else is
itself, case and all: nothing is decoded, folded or made alike.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from gateway.settings.section import TENANT_ID, Section

MOST_SUBJECTS = 10_000
"""Entries of one issuer."""

REST = "**"
"""The last part of a pattern that stands for all that follow."""

_MOST_CHARACTERS = 512
_PART = re.compile(r"[^:/]*[:/]|[^:/]+")

Name = Annotated[str, Field(min_length=1, max_length=256)]


def parts_of(subject: str) -> list[str]:
    """The parts of a subject or a pattern, each with what ends it; together they are the whole text."""
    return _PART.findall(subject)


def _pattern(value: str) -> str:
    if not 0 < len(value) <= _MOST_CHARACTERS or not value.isprintable():
        raise ValueError(f"expected 1 to {_MOST_CHARACTERS} printable characters")
    *before, last = parts_of(value)
    for part in before if last == REST else (*before, last):
        if "**" in part:
            raise ValueError("`**` stands for all that follows: alone at the end, or there after ':' or '/'")
        if part.count("*") > 1:
            raise ValueError("`*` can stand once in each part; parts end with ':' or '/'")
    return value


SubjectPattern = Annotated[str, AfterValidator(_pattern)]


def _tenant_id(value: str) -> str:
    if not TENANT_ID.fullmatch(value):
        raise ValueError("expected a tenant id")
    return value


class SubjectGrant(Section):
    """What subjects get that the pattern matches; of several the pattern that is more exact in the first part in which
    they differ. `*` stands for one or more characters between ':' and '/', `**` at the end for all that follows."""

    tenant: Annotated[str, AfterValidator(_tenant_id)] | None = None
    """Whose they are, whatever their credentials say; unset: as the issuer's `tenant`, or `tenants` and `claims.tenant`
    say."""

    scopes: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The most that they get, within the issuer's `scopes`: a credential that names scopes gets those of them, one that
    names none gets all. Unset: all of the issuer's are open to them, and credentials have to name theirs, unless
    `claims.scopes = ""`."""

    models: tuple[Name, ...] | None = None
    """The most that they get, within the issuer's `models`; unset: all of those."""
