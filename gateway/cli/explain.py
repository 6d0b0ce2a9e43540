"""`gateway explain`: follow one request through every decision, and mark the one that decides."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from gateway.cli.options import add_credential, add_settings, credential_from, settings_from
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import CredentialError, Principal
from gateway.credentials.trust import Trust
from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.middleware.authenticate import credential_refusal, tenant_of
from gateway.middleware.record import matched
from gateway.operations.own import GROUP
from gateway.operations.table import UNLISTED_READ, OperationTable
from gateway.policy import requests as policy
from gateway.policy.tenants import tenant_policies
from gateway.settings.section import revealed
from gateway.settings.settings import Settings


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "explain", help="say whether a request would be let through, and what decides", allow_abbrev=False
    )
    command.add_argument("method", metavar="METHOD", help="such as POST")
    command.add_argument("target", metavar="PATH", help="such as /v1/chat/completions")
    command.add_argument("--model", help="the model that the request names")
    add_credential(command)
    add_settings(command)
    command.set_defaults(run=run)


@dataclass(frozen=True, slots=True)
class Step:
    """One link of the chain: what was looked at, what was found, and the error when that decides."""

    name: str
    finding: str
    refusal: GatewayError | None = None


def run(options: argparse.Namespace) -> int:
    """Print the chain; exit code 0 when the request would be let through, 1 when it would be refused."""
    settings = settings_from(options)
    credential = credential_from(options, os.environ)
    refused = None
    for step in explain(settings, options.method.upper(), options.target, options.model, credential):
        refused = step.refusal
        print(
            f"{'✗' if refused else '✓'} {step.name:<11}{step.finding}{'   ← this decides' if refused else ''}"
        )
    if refused is None:
        forwarded = step.name == "upstream"
        print(f"  the request would be {'forwarded' if forwarded else 'answered by the gateway itself'}")
        return 0
    print(f"  answered {refused.status} {refused.code}: {refused.message}")
    return 1


def explain(
    settings: Settings, method: str, target: str, model: str | None, credential: str
) -> Iterator[Step]:
    """The chain of decisions, ending with the one that refuses, if any does."""
    exchange = Exchange(id="explain", method=method, operation=UNLISTED_READ, started_at=0, started_time=0)
    for name, look in (
        ("credential", partial(_credential, settings, exchange, credential)),
        ("tenant", partial(_tenant, settings, exchange)),
        ("operation", partial(_operation, exchange, method, target)),
        ("scope", partial(_scope, settings, exchange)),
        ("model", partial(_model, exchange, target, model)),
        ("limits", partial(_limits, exchange)),
        ("upstream", partial(_upstream, exchange, target)),
    ):
        try:
            yield Step(name, look())
        except GatewayError as refusal:
            yield Step(name, refusal.detail or "refused", refusal)
            return
        if name == "operation" and exchange.operation.group == GROUP:
            yield Step("scope", "none is needed: every tenant may ask")
            return


def _credential(settings: Settings, exchange: Exchange, credential: str) -> str:
    try:
        principal = asyncio.run(_verified(settings, credential))
    except CredentialError as error:
        raise credential_refusal(error, exchange.id) from None
    exchange.principal = principal
    until = datetime.fromtimestamp(principal.expires_at, UTC).isoformat()
    return f"{principal.credential_id} of {principal.subject}, valid until {until}"


async def _verified(settings: Settings, credential: str) -> Principal:
    trust = Trust(
        settings.credentials,
        settings.issuers,
        ring=KeyRing.load(settings.keys_dir),
        known_scopes=OperationTable.load().scopes,
        keys_dir=settings.keys_dir,
        redis_url=revealed(settings.redis_url),
    )
    await trust.start()
    try:
        return trust.verifier.verify(credential)
    finally:
        await trust.close()


def _tenant(settings: Settings, exchange: Exchange) -> str:
    assert exchange.principal is not None
    tenant_id = exchange.principal.tenant
    tenants = tenant_policies(settings, OperationTable.load())
    exchange.tenant = tenant_of(tenants.get(tenant_id))
    name = exchange.tenant.tenant.name
    return tenant_id if name is None else f"{tenant_id} ({name})"


def _operation(exchange: Exchange, method: str, target: str) -> str:
    match = matched(OperationTable.load(), method, target)
    exchange.operation, exchange.params = match.operation, match.params
    return f"{match.operation.id}: {match.operation.method} {match.operation.path}"


def _scope(settings: Settings, exchange: Exchange) -> str:
    policy.check_operation(exchange, settings)
    return f"{exchange.operation.scope}, which the credential and the tenant have"


def _model(exchange: Exchange, target: str, model: str | None) -> str:
    assert exchange.tenant is not None
    policy.read_model(exchange, target)
    if model is not None:
        exchange.model = model
    policy.check_named_model(exchange)
    where = exchange.operation.model
    if exchange.model is not None:
        return f"{exchange.model}, which is allowed"
    if where.body is None and where.form is None:
        return "the operation names none"
    default = policy.default_model(exchange)
    if default is not None:
        return f"none given: the tenant's default {default} would be set"
    if where.may_lack or not policy.restricted(exchange):
        return (
            "none given, and none is needed" if where.may_lack else "none given, and every model is allowed"
        )
    raise policy.unnamed("the request")


def _limits(exchange: Exchange) -> str:
    assert exchange.tenant is not None
    assert exchange.principal is not None
    limits = exchange.tenant.limits
    quotas = (*limits.of_caller(exchange.principal), *limits.of_model(exchange.model))
    return ", ".join(f"{quota.dimension.value} = {quota.capacity}" for quota in quotas) or "none"


def _upstream(exchange: Exchange, target: str) -> str:
    assert exchange.tenant is not None
    policy.check_sharing(exchange, target)
    access = exchange.tenant.access
    key = "with a key" if access.api_key is not None else "without a key"
    project = "" if access.project is None else f", project {access.project}"
    return f"{access.base_url}, {key}{project}"
