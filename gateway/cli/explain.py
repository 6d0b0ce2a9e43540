"""`gateway explain`: follow one request through every decision, and mark the one that decides."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from gateway.app.prepared import administration
from gateway.app.workers import how_many_workers
from gateway.cli import drawing
from gateway.cli.options import add_credential, add_settings, add_workers, credential_from, settings_from
from gateway.cli.stores import account_history
from gateway.cli.subjects import entry_in_words
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import CredentialError, CredentialNotAccepted, Principal
from gateway.credentials.trust import Trust
from gateway.credentials.verifier import inspect
from gateway.errors import GatewayError
from gateway.limits.no_buckets import no_store
from gateway.limits.terms import Dimension
from gateway.middleware.caller import check_tenant, credential_refusal
from gateway.middleware.record import matched
from gateway.middleware.refusals import limits_unavailable
from gateway.operations.own import LIVEZ, READYZ
from gateway.operations.table import UNLISTED_READ, OperationTable, UsageReport
from gateway.policy import requests as policy
from gateway.policy.caller import NOBODY, Caller
from gateway.policy.coverage import check_covered, check_model_covered, covering
from gateway.policy.tenants import UNKNOWN_TENANT, TenantBook, account_uses, tenant_policies
from gateway.settings.section import revealed
from gateway.settings.settings import Settings

_NAME_CHARACTERS = 13
_METHOD = re.compile(r"[A-Za-z][A-Za-z-]*")


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("explain", help="say whether a request would be let through, and what decides")
    command.add_argument("method", metavar="METHOD", help="such as POST")
    command.add_argument("target", metavar="PATH", help="such as /v1/chat/completions")
    command.add_argument("--model", help="the model that the request names")
    add_credential(command)
    add_settings(command)
    add_workers(command)
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Step:
    """One link of the chain: what was looked at, what was found, and the error when that decides."""

    name: str
    finding: str
    refusal: GatewayError | None = None


def run(options: argparse.Namespace) -> int:
    """Print the chain; exit code 0 when the request would be let through, 1 when it would be refused."""
    if not _METHOD.fullmatch(options.method):
        options.command_line.error(
            f"METHOD {drawing.shown(options.method)!r} is none; expected one such as POST"
        )
    if not options.target.startswith("/"):
        options.command_line.error(
            f"PATH {drawing.shown(options.target)!r} begins with no /; expected one such as /v1/models"
        )
    settings = settings_from(options)
    credential = credential_from(options, os.environ)
    steps = list(explain(settings, options.method.upper(), options.target, options.model, credential))
    if options.json:
        drawing.document(_document(steps))
        return 0 if steps[-1].refusal is None else 1
    drawing.facts(
        [
            (
                f"{'✗' if step.refusal else '✓'} {step.name}",
                f"{drawing.shown(step.finding)}{'   ← this decides' if step.refusal else ''}",
            )
            for step in steps
        ],
        within=_NAME_CHARACTERS,
    )
    refused = steps[-1].refusal
    if refused is None:
        forwarded = steps[-1].name == "upstream"
        drawing.say(
            f"  the request would be {'forwarded' if forwarded else 'answered by the gateway itself'}"
        )
        return 0
    drawing.say(f"  answered {refused.status} {refused.code}: {drawing.shown(refused.message)}")
    return 1


def _document(steps: Sequence[Step]) -> dict[str, object]:
    refused = steps[-1].refusal
    return {
        "passes": refused is None,
        "steps": [
            {"step": step.name, "finding": drawing.shown(step.finding), "refuses": step.refusal is not None}
            for step in steps
        ],
        "answer": None
        if refused is None
        else {"status": refused.status, "code": refused.code, "message": drawing.shown(refused.message)},
    }


def explain(
    settings: Settings, method: str, target: str, model: str | None, credential: str
) -> Iterator[Step]:
    """The chain of decisions, ending with the one that refuses, if any does."""
    if method in ("GET", "HEAD") and target.partition("?")[0] in (LIVEZ, READYZ):
        yield Step("operation", "a health check: anybody may ask, whatever they send")
        return
    asking = _Asking(settings, method, target, model, credential)
    for name, look in (
        ("credential", asking.credential_verifies),
        ("tenant", asking.tenant_is_known),
        ("operation", asking.operation_is_matched),
        ("scope", asking.scope_is_held),
        ("unmetered", asking.use_is_open),
        ("model", asking.model_is_allowed),
        ("limits", asking.limits_that_apply),
        ("usage", asking.usage_that_is_known),
        ("objects", asking.objects_are_open),
        ("upstream", asking.upstream_is_open),
    ):
        try:
            yield Step(name, look())
        except GatewayError as refusal:
            yield Step(name, refusal.detail or "refused", refusal)
            return
        if name == "operation" and asking.operation.is_own:
            yield Step("scope", "none is needed: every tenant may ask")
            return


class _Asking:
    """One request that is never sent, and what has been found of it so far: each step says it, or refuses."""

    def __init__(
        self, settings: Settings, method: str, target: str, model: str | None, credential: str
    ) -> None:
        self._settings = settings
        self._method = method
        self._target = target
        self._model = model
        self._credential = credential
        self._params: Mapping[str, str] = {}
        self._caller = NOBODY
        self.operation = UNLISTED_READ

    def credential_verifies(self) -> str:
        """Whose it is."""
        try:
            principal, entry = asyncio.run(_verified(self._settings, self._credential))
        except CredentialError as error:
            raise credential_refusal(error, "that comes with it") from None
        self._caller = Caller(principal, UNKNOWN_TENANT)
        until = datetime.fromtimestamp(principal.expires_at, UTC).isoformat()
        decided = "" if entry is None else f"; {entry}"
        return f"{principal.credential_id} of {principal.subject}, valid until {until}{decided}"

    def tenant_is_known(self) -> str:
        """Who pays."""
        principal = self._caller.principal
        table = OperationTable.load()
        history, _ = account_history(self._settings, account_uses(tenant_policies(self._settings, table)))
        book = TenantBook(tenant_policies(self._settings, table, history))
        tenant = book.get(principal.tenant)
        check_tenant(tenant)
        self._caller = Caller(principal, tenant)
        name = tenant.settings.name
        return tenant.id if name is None else f"{tenant.id} ({name})"

    def operation_is_matched(self) -> str:
        """What is asked for."""
        match = matched(OperationTable.load(), self._method, self._target, socket=True)  # where there is one
        self.operation, self._params = match.operation, match.params
        return f"{self.operation.id}: {self.operation.method} {self.operation.path}"

    def scope_is_held(self) -> str:
        """Whether the caller may ask for it."""
        policy.check_operation(
            self._caller,
            self.operation,
            self._method,
            self._target,
            socket=self.operation.is_session,
            administration=self._settings.upstream.admin_api_key is not None,
            uncontained=self._settings.allow_uncontained,
        )
        return f"{self.operation.scope}, which the credential and the tenant have"

    def use_is_open(self) -> str:
        """Whether it may use what it uses where no limit counts that."""
        check_covered(self._caller, self.operation, socket=self.operation.is_session)
        if not self._caller.tenant.refuses_unmetered:
            return "allowed: what it uses needs no limit that counts it"
        return "refused; this costs nothing" if self.operation.is_free else "refused; a limit may count this"

    def model_is_allowed(self) -> str:
        """Which model would answer."""
        caller, operation = self._caller, self.operation
        named = policy.model_in_head(caller, operation, self._params, self._target)
        self._model = named if self._model is None else self._model
        policy.check_named_model(caller, operation, self._model, socket=operation.is_session, bodiless=False)
        where = operation.model
        if self._model is not None:
            return f"{self._model}, which is allowed"
        if where.body is None and where.form is None:
            return "the operation names none"
        default = policy.default_model(caller, operation)
        if default is not None:
            return f"none given: the tenant's default {default} would be set"
        if policy.must_name_model(caller, operation):
            raise policy.model_unnamed("the request", where.member)
        return "none given, and " + ("none is needed" if where.may_lack else "every model is allowed")

    def limits_that_apply(self) -> str:
        """What it would be charged to."""
        quotas = (*self._caller.quotas, *self._caller.tenant.limits.of_model(self._model))
        if quotas and self._settings.is_apart:  # they are the credential's own: a tenant has none then
            raise limits_unavailable(no_store("limits"))
        limited = {quota.dimension for quota in quotas}
        if self._model is not None or not self._caller.tenant.limits.models:  # else it depends on the model
            check_model_covered(
                self._caller, self.operation, self._model, limited, socket=self.operation.is_session
            )
        if not quotas:
            return f"none{self._uncovered(limited)}"
        workers = how_many_workers(self._settings)
        together = f", of {workers} workers together" if workers > 1 else ""
        named = ", ".join(f"{quota.dimension.value} = {quota.capacity}" for quota in quotas)
        return f"{named}{together}{self._uncovered(limited)}"

    def _uncovered(self, limited: Collection[Dimension]) -> str:
        """What no limit counts of it, where it uses anything that costs."""
        operation = self.operation
        if operation.is_free or not covering(operation).isdisjoint(limited):
            return ""
        bounded = "only how often is limited" if limited else "nothing bounds it"
        uses = f" ({', '.join(operation.uses)})" if operation.uses else ""
        return f"; none counts what {operation.id} uses{uses}: {bounded}"

    def usage_that_is_known(self) -> str:
        """What would be known of what the answer used."""
        if self.operation.reports is UsageReport.LATER and not self.operation.is_free:
            return "unreported, until what it makes is asked for and says it"
        if self.operation.reports is UsageReport.REPEATED:
            return "what it shows of work that reports later is counted once, for who began that"
        if not self.operation.counts_usage:
            return "none is counted"
        if not self._caller.metered:
            return "as the answer reports it; else unreported, for metering is off"
        if self.operation.reports is UsageReport.ON_REQUEST:
            return "a stream is asked for it; estimated where nobody reports it"
        return "as the answer reports it, else estimated"

    def objects_are_open(self) -> str:
        """What of all that the upstream stores it may work on."""
        policy.check_sharing(self._caller, self.operation, self._target, socket=self.operation.is_session)
        if self.operation.is_administration:
            return "everything: the administrator's key opens it"
        return self._caller.tenant.objects_in_words

    def upstream_is_open(self) -> str:
        """Where it would go, by the name that metrics have for it, and as whom."""
        access = self._caller.tenant.access
        if self.operation.is_administration:
            access = administration(self._settings)
        key = "with a key" if access.api_key is not None else "without a key"
        if access.identity is not None:
            key = f"as {access.identity.service_account_id} by its workload identity"
        project = "" if access.project is None else f", project {access.project}"
        return f"{access.name}: {access.base_url}, {key}{project}"


async def _verified(settings: Settings, credential: str) -> tuple[Principal, str | None]:
    """Whose it is, and which entry of subjects says so. Raises a credential error, which tells of a near entry."""
    trust = Trust(
        settings.credentials,
        settings.issuers,
        ring=KeyRing.load(settings.keys_dir),
        vocabulary=OperationTable.load().vocabulary,
        keys_dir=settings.keys_dir,
        redis_url=revealed(settings.redis_url),
        redis_prefix=settings.redis_prefix,
    )
    await trust.start()
    try:
        found = inspect(credential, trust.verifier)
        entry = entry_in_words(found, settings)
        if entry is not None and found.refusal is not None:
            raise CredentialNotAccepted(entry, found.refusal.check)
        return trust.verifier.verify(credential), entry
    finally:
        await trust.close()
