"""The tenant that a command is about: what the configuration says of it, and what it ought to say."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson
from pydantic import SecretStr

from gateway.cli.options import examined
from gateway.cli.upstream.found import project_name
from gateway.cli.upstream.key_file import KeyFile
from gateway.operations.table import OperationTable
from gateway.policy.accounts import storage_of
from gateway.policy.tenants import tenant_policies
from gateway.settings.limits import Limits
from gateway.settings.section import SettingsInvalid, revealed
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.settings.sources import at_home

_SDK_VARIABLE = "OPENAI_ADMIN_KEY"
_FILE = "file:"


@dataclass(frozen=True, slots=True)
class Target:
    """One tenant of the configuration."""

    tenant: str
    project_name: str
    base_url: str
    file: KeyFile
    """Where its key belongs: what the configuration names, else where these commands put it."""

    reference: str | None
    """Where the configuration has its key from, if it is a reference."""

    project_id: str | None
    """The project that the configuration names."""

    needs_word: bool
    """Whether nothing but the operator's word, which is not given yet, tells a project of its own from others'
    accounts: at servers that do not heed projects, and beside tenants that name none."""

    limits: Limits
    spend_limit_cents: int | None
    lifetime_seconds: int

    def missing_lines(self, project_id: str) -> list[str]:
        """The lines of TOML that the configuration lacks; none where it has them all."""
        upstream = []
        if self.project_id != project_id:
            upstream.append(f'project = "{project_id}"')
        if self.reference is None or _path(self.reference) != self.file.path:
            upstream.append(f"api_key = {orjson.dumps(f'{_FILE}{self.file.path}').decode()}")
        lines = [f"[tenants.{_key(self.tenant)}.upstream]", *upstream] if upstream else []
        if self.needs_word:
            lines = [
                f"[tenants.{_key(self.tenant)}]",
                'stored_objects = "own"',
                *([""] if lines else []),
                *lines,
            ]
        return lines


def settings_of(options: argparse.Namespace) -> tuple[Settings, Mapping[str, str]]:
    """The settings, and where secrets are that are given by reference. Raises SettingsInvalid.

    Keys of tenants may be missing: that is what these commands are for.
    """
    seen = Seen()
    settings, problems = examined(options, seen)
    others = [problem for problem in problems if not _is_key_of_tenant(problem.key)]
    if settings is None or others:
        raise SettingsInvalid(others or problems)
    return settings, seen.references


def admin_key_of(settings: Settings, environ: Mapping[str, str]) -> str:
    """The operator's key. ValueError says where it is looked for."""
    key = revealed(settings.upstream.admin_api_key) or environ.get(_SDK_VARIABLE, "").strip()
    if not key:
        raise ValueError(
            f"no admin key: set {_SDK_VARIABLE}, or upstream.admin_api_key, for this command alone by "
            "--set upstream.admin_api_key=file:/path; it is made under the organization's settings, and in the "
            "configuration of a gateway it opens administration to tenants with org.* scopes, too"
        )
    return key


def target_of(settings: Settings, references: Mapping[str, str], tenant_id: str) -> Target:
    """What is known of a tenant that is configured. ValueError where it cannot have a project of its own there."""
    tenant = settings.tenants[tenant_id]
    own = tenant.upstream.base_url
    if own is not None and storage_of(own) != storage_of(settings.upstream.base_url):
        raise ValueError(
            f"{tenant_id} goes to {own}, and the admin key is asked at {settings.upstream.base_url}: its projects are "
            "others' business"
        )
    if tenant.upstream.workload_identity is not None:
        raise ValueError(
            f"{tenant_id} has a workload_identity in the place of a key: its project is the one of that service account"
        )
    reference = references.get(f"tenants.{tenant_id}.upstream.api_key")
    path = _path(reference) or _default_path(settings, tenant_id)
    for key, other in references.items():
        if key != f"tenants.{tenant_id}.upstream.api_key" and _path(other) == path:
            raise ValueError(
                f"{path} is also what {key} names: a tenant with a project of its own needs a file of its own; take "
                f"api_key out of [tenants.{tenant_id}.upstream], or name another"
            )
    dollars = tenant.upstream.monthly_spend_limit_usd
    return Target(
        tenant=tenant_id,
        project_name=project_name(settings.provisioning.deployment, tenant_id),
        base_url=own or settings.upstream.base_url,
        file=KeyFile(path),
        reference=reference,
        project_id=tenant.upstream.project,
        needs_word=not _is_apart(settings, tenant_id),
        limits=settings.limits_of(tenant),
        spend_limit_cents=None if dollars is None else 100 * dollars,
        lifetime_seconds=settings.provisioning.key_lifetime_seconds,
    )


def _is_apart(settings: Settings, tenant_id: str) -> bool:
    """Whether a tenant counts as apart once it has a key and a project of its own."""
    tenant = settings.tenants[tenant_id]
    upstream = {"project": "proj_of_its_own", "api_key": SecretStr("key of its own")}
    given = tenant.model_copy(update={"upstream": tenant.upstream.model_copy(update=upstream)})
    tenants = {**settings.tenants, tenant_id: given}
    policies = tenant_policies(settings.model_copy(update={"tenants": tenants}), OperationTable.load())
    return policies[tenant_id].apart


def _default_path(settings: Settings, tenant_id: str) -> Path:
    folder = settings.provisioning.key_files_dir or settings.keys_dir.parent / "upstream-keys"
    return (folder / f"{tenant_id}.key").absolute()


def _path(reference: str | None) -> Path | None:
    """The file that a reference names."""
    if reference is None or not reference.startswith(_FILE):
        return None
    return at_home(reference.removeprefix(_FILE)).absolute()


def _key(tenant_id: str) -> str:
    """A tenant's id as TOML has it in the name of a table."""
    return f'"{tenant_id}"' if "." in tenant_id else tenant_id


def _is_key_of_tenant(key: str) -> bool:
    return key.startswith("tenants.") and key.endswith(".upstream.api_key")
