"""What is there at the upstream of a deployment's tenants. Looked up each time; nothing is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.cli.drawing import shown
from gateway.cli.upstream.admin_api import AdminApi, JsonObject, Refused, below
from gateway.settings.section import TENANT_ID

_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class Key:
    """A key that these commands made: of a service account of its own, so that it can be deleted anywhere."""

    id: str
    account_id: str
    created_at: int
    expires_at: int | None
    last_used_at: int | None
    redacted: str

    def has_expired(self, now: float) -> bool:
        """Whether it opens nothing any more."""
        return self.expires_at is not None and self.expires_at <= now


@dataclass(frozen=True, slots=True)
class Access:
    """Who can use a project."""

    keys: tuple[Key, ...]
    """Those that these commands made, the newest first."""

    keyless: tuple[str, ...]
    """Service accounts of theirs that have no key: what is left of something that was interrupted."""

    strangers: tuple[str, ...]
    """Keys of others, by name."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a project may use."""

    rate_limits: tuple[JsonObject, ...]
    """One for each model."""

    spend_limit_cents: int | None
    """In a month."""


@dataclass(frozen=True, slots=True)
class Projects:
    """The active projects of an organization."""

    by_tenant: Mapping[str, tuple[str, ...]]
    """Those of one deployment: their ids."""

    others: int
    """How many more there are."""

    def of(self, tenant: str, *, only: str | None = None) -> str | None:
        """The id of a tenant's project. Raises ValueError where it has several, unless one of them is named."""
        found = self.by_tenant.get(tenant, ())
        if only is not None:
            if only not in found:
                raise ValueError(f"{shown(only)} is no project of {tenant}; there are: {_ids(found)}")
            return only
        if len(found) > 1:
            raise ValueError(
                f"{tenant} has several projects: {_ids(found)}. Which one counts cannot be told: archive the other by "
                f"`gateway upstream retire {tenant} --project ID`"
            )
        return found[0] if found else None


def project_name(deployment: str, tenant: str) -> str:
    """What a tenant's project is called, and each service account in it."""
    return f"gateway:{deployment}:{tenant}"


async def projects(api: AdminApi, deployment: str) -> Projects:
    """Which project is whose. Raises Refused, Unavailable."""
    begin = project_name(deployment, "")
    mine: dict[str, tuple[str, ...]] = {}
    others = 0
    for project in await api.all("/projects"):
        if project.get("status") == "archived":
            continue
        name = str(project.get("name") or "")
        tenant = name.removeprefix(begin)
        if name.startswith(begin) and TENANT_ID.fullmatch(tenant):
            mine[tenant] = (*mine.get(tenant, ()), str(project["id"]))
        else:
            others += 1
    return Projects(mine, others)


async def access(api: AdminApi, project_id: str, name: str) -> Access:
    """Who can use a project, whose service accounts of ours have this name. Raises Refused, Unavailable."""
    path = below("projects", project_id)
    accounts = await api.all(f"{path}/service_accounts")
    keys = await api.all(f"{path}/api_keys", owner_project_access="any")
    ours = [str(account["id"]) for account in accounts if account.get("name") == name]
    found, strangers = [], []
    for key in keys:
        owner = _owner(key)
        if owner in ours:
            found.append(_key(key, owner))
        else:
            strangers.append(shown(str(key.get("name") or key["id"])))
    having = {key.account_id for key in found}
    return Access(
        tuple(sorted(found, key=lambda key: key.created_at, reverse=True)),
        tuple(account for account in ours if account not in having),
        tuple(strangers),
    )


async def terms(api: AdminApi, project_id: str) -> Terms:
    """What a project may use. Raises Refused, Unavailable."""
    path = below("projects", project_id)
    return Terms(tuple(await api.all(f"{path}/rate_limits")), await _spend_limit(api, path))


async def _spend_limit(api: AdminApi, path: str) -> int | None:
    try:
        amount = (await api.read(f"{path}/spend_limit")).get("threshold_amount")
    except Refused as refused:
        if refused.status == _NOT_FOUND:
            return None
        raise
    return amount if isinstance(amount, int) else None


def _owner(key: JsonObject) -> str:
    owner: Any = key.get("owner")
    account = owner.get("service_account") if isinstance(owner, dict) else None
    return str(account.get("id")) if isinstance(account, dict) else ""


def _key(entry: JsonObject, owner: str) -> Key:
    return Key(
        str(entry["id"]),
        owner,
        _moment(entry.get("created_at")) or 0,
        _moment(entry.get("expires_at")),
        _moment(entry.get("last_used_at")),
        str(entry.get("redacted_value") or ""),
    )


def _moment(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _ids(found: Sequence[str]) -> str:
    return ", ".join(map(shown, found)) or "none"
