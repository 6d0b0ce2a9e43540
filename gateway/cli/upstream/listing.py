"""`gateway upstream list`: which tenant has which project, how old its key is, and what is strange about any of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from gateway.cli.options import date, in_words
from gateway.cli.upstream import rate_limits
from gateway.cli.upstream.admin_api import AdminApi, Refused
from gateway.cli.upstream.found import Access, Key, Projects, Terms, access, project_name, projects, terms
from gateway.cli.upstream.plans import EXPIRES_SOON_SECONDS, Held
from gateway.cli.upstream.target import Target

_AT_ONCE = 8


@dataclass(slots=True)
class Row:
    """One tenant, or one project that has none."""

    tenant: str
    project_id: str | None
    key: Key | None = None
    """The newest."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def document(self, now: float) -> dict[str, object]:
        """For programs."""
        key = self.key
        return {
            "tenant": self.tenant,
            "project": self.project_id,
            "key": None if key is None else key.id,
            "key_age_seconds": None if key is None else max(0, round(now - key.created_at)),
            "key_expires_at": None if key is None else key.expires_at,
            "key_last_used_at": None if key is None else key.last_used_at,
            "problems": self.problems,
            "notes": self.notes,
        }

    def cells(self, now: float) -> list[str]:
        """For people."""
        key = self.key
        age = "" if key is None else in_words(_rounded(now - key.created_at))
        expires = "" if key is None else "never" if key.expires_at is None else date(key.expires_at)
        return [
            self.tenant,
            self.project_id or "none",
            age,
            expires,
            "; ".join([*self.problems, *self.notes]) or "well",
        ]


async def rows(api: AdminApi, deployment: str, targets: Mapping[str, Target | str]) -> tuple[list[Row], int]:
    """Every tenant and every project of a deployment, and how many projects are others'.

    `targets` says of a tenant that cannot have a project there, why. Raises Refused, Unavailable.
    """
    found = await projects(api, deployment)
    turn = asyncio.Semaphore(_AT_ONCE)

    async def look(tenant: str, project_id: str) -> Row:
        target = targets.get(tenant)
        async with turn:
            try:
                who = await access(api, project_id, project_name(deployment, tenant))
                what = await terms(api, project_id) if isinstance(target, Target) else None
            except Refused as refused:
                if refused.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                    raise
                return Row(tenant, project_id, problems=[str(refused)])
        return _judged(tenant, project_id, who, what, target)

    entries = [(tenant, project_id) for tenant, ids in found.by_tenant.items() for project_id in ids]
    looked = await asyncio.gather(*(look(*entry) for entry in entries))
    _several(found, looked)
    without = [
        _without(tenant, target) for tenant, target in targets.items() if tenant not in found.by_tenant
    ]
    return sorted([*looked, *without], key=lambda row: row.tenant), found.others


def _several(found: Projects, looked: list[Row]) -> None:
    for row in looked:
        if len(found.by_tenant[row.tenant]) > 1:
            row.problems.append(
                f"several projects have this name; archive all but one by "
                f"`gateway upstream retire {row.tenant} --project ID`"
            )


def _judged(
    tenant: str, project_id: str, who: Access, what: Terms | None, target: Target | str | None
) -> Row:
    row = Row(tenant, project_id, who.keys[0] if who.keys else None)
    if who.strangers:
        row.notes.append(f"keys of others: {', '.join(who.strangers)}")
    if target is None:
        row.problems.append("the configuration has no such tenant")
    if isinstance(target, str):
        row.problems.append(f"this project is not used: {target}")
    if not who.keys:
        row.problems.append("no key")
    if len(who.keys) > 1:
        row.problems.append(f"{len(who.keys)} keys")
    if who.keyless:
        row.notes.append(f"{len(who.keyless)} service accounts without a key")
    now = time.time()
    key = row.key
    if isinstance(target, Target) and what is not None:
        key = _of_files(row, who, target, now)
        if target.missing_lines(project_id):
            row.problems.append("the configuration does not lead there")
        if any(rate_limits.too_high(target.limits, one) for one in what.rate_limits):
            row.notes.append("rate limits are higher than those of the configuration")
        if target.spend_limit_cents is not None and target.spend_limit_cents != what.spend_limit_cents:
            row.notes.append("the spend limit is not that of the configuration")
    if key is not None and key.has_expired(now):
        row.problems.append("its key has expired")
    elif key is not None and key.expires_at is not None and key.expires_at < now + EXPIRES_SOON_SECONDS:
        row.problems.append(f"its key expires in {in_words(_rounded(key.expires_at - now))}")
    return row


def _of_files(row: Row, who: Access, target: Target, now: float) -> Key | None:
    """The key that the gateway goes with, as far as this machine can tell."""
    try:
        held = Held.of(who.keys, target.file, now)
    except (OSError, ValueError) as error:
        row.notes.append(f"{target.file.path}: {error}")
        return row.key
    if held.pending is not None:
        row.notes.append(f"a key waits in {target.file.pending_path}")
    if held.in_force is None and who.keys:
        row.notes.append(f"none of its keys is in {target.file.path}")
    row.key = held.in_force or row.key
    return row.key


def _without(tenant: str, target: Target | str) -> Row:
    return Row(tenant, None, notes=["no project" if isinstance(target, Target) else target])


def _rounded(seconds: float) -> int:
    """In the largest unit that makes sense of it."""
    for unit in (86400, 3600, 60):
        if seconds >= unit:
            return int(seconds // unit) * unit
    return max(0, int(seconds))
