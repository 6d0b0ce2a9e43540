"""`gateway upstream`: give tenants projects of their own, renew their keys, end them, list them."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

from gateway.cli.drawing import document, listing, remark, say
from gateway.cli.options import add_settings, check_tenant, duration
from gateway.cli.upstream.admin_api import AdminApi, Refused, Unavailable, Unclear, timeout
from gateway.cli.upstream.found import project_name
from gateway.cli.upstream.key_file import KeyFile
from gateway.cli.upstream.listing import Row, rows
from gateway.cli.upstream.plans import Planner
from gateway.cli.upstream.steps import Hands, carry_out
from gateway.cli.upstream.target import Target, admin_key_of, settings_of, target_of
from gateway.credentials.private_files import locked
from gateway.policy.accounts import is_public
from gateway.settings.certificates import trusted_certificates
from gateway.settings.limits import Limits
from gateway.settings.section import TENANT_ID, revealed
from gateway.settings.settings import Settings

_KEEP_SECONDS = 300

Found = TypeVar("Found")


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser(
        "upstream", help="give tenants projects of their own at the upstream, with keys that are renewed"
    )
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    provision = actions.add_parser(
        "provision",
        help="make a tenant's project with limits and a key, or what of it is missing",
        description="Make a project for a tenant, its rate and spend limits, and a key in a file that the "
        "configuration names. Says what it would do, and does it with --apply. Running it again is always right.",
    )
    rotate = actions.add_parser(
        "rotate",
        help="put a new key in the place of a tenant's, and delete the old one after a while",
        description="Put a new key in the place of a tenant's once the upstream accepts it, and delete the one before "
        "when every gateway has taken it over. Says what it would do, and does it with --apply.",
    )
    rotate.add_argument(
        "--keep",
        type=_keep,
        default=_KEEP_SECONDS,
        metavar="5m",
        help="for how long the old key goes on; a gateway reads the file within two seconds, but the file may have to "
        "get to other machines (default: %(default)s seconds)",
    )
    retire = actions.add_parser(
        "retire",
        help="delete a tenant's keys and archive its project, for ever",
        description="Delete a tenant's keys and archive its project: what is stored there is lost. Says what it would "
        "do, and does it with --apply --confirm TENANT.",
    )
    retire.add_argument("--confirm", metavar="TENANT", help="the tenant's name once more")
    retire.add_argument("--project", metavar="ID", help="which, of several projects that have the name")
    for command, run in ((provision, _provision), (rotate, _rotate), (retire, _retire)):
        add_settings(command)
        command.add_argument("tenant", metavar="TENANT")
        command.add_argument("--apply", action="store_true", help="do it; without, it is only said")
        command.set_defaults(run=run)
    show = actions.add_parser(
        "list", help="print which tenant has which project, and what is strange about it"
    )
    add_settings(show)
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(run=_list)


def _keep(text: str) -> int:
    """A duration, which may be none."""
    return 0 if text in ("0", "0s") else duration(text)


def _provision(options: argparse.Namespace) -> int:
    settings, references = settings_of(options)
    check_tenant(settings, options.tenant)
    target = target_of(settings, references, options.tenant)

    async def act(planner: Planner) -> bool:
        return await carry_out(planner.provision, apply=options.apply)

    planner, had_steps = _with_planner(settings, target, act, locks=options.apply)
    if not had_steps:
        say(
            f"{target.tenant} has all of it: the project {planner.project_id}, and its key in {target.file.path}."
        )
    if had_steps and not options.apply:
        return _only_said(f"gateway upstream provision {target.tenant} --apply")
    assert planner.project_id is not None
    _say_what_the_configuration_needs(target, planner.project_id)
    return 0


def _rotate(options: argparse.Namespace) -> int:
    settings, references = settings_of(options)
    check_tenant(settings, options.tenant)
    target = target_of(settings, references, options.tenant)

    async def act(planner: Planner) -> bool:
        return await carry_out(lambda: planner.rotate(options.keep), apply=options.apply)

    _with_planner(settings, target, act, locks=options.apply)
    if not options.apply:
        return _only_said(f"gateway upstream rotate {target.tenant} --apply")
    say(f"The key in {target.file.path} is the only one of {target.tenant} now.")
    return 0


def _retire(options: argparse.Namespace) -> int:
    settings, references = settings_of(options)
    tenant = options.tenant
    if not TENANT_ID.fullmatch(tenant):
        raise ValueError(f"{tenant!r} cannot be a tenant's name")
    configured = tenant in settings.tenants
    target = _to_retire(settings, references, tenant)
    if options.apply and options.confirm != tenant:
        raise ValueError(f"what is stored in the project of {tenant} would be lost: add --confirm {tenant}")
    remark(
        "lost for ever: every file, batch, vector store, response, conversation and fine-tuned model of the project. "
        "What the gateway remembers of accounts and usage stays",
        *(
            [f"{tenant} is still in the configuration: what it asks of this project will fail"]
            if configured
            else []
        ),
    )

    async def act(planner: Planner) -> bool:
        return await carry_out(lambda: planner.retire(options.project), apply=options.apply)

    _, had_steps = _with_planner(settings, target, act, locks=False)
    if not had_steps:
        say(f"{tenant} has no project at {settings.upstream.base_url}.")
    elif not options.apply:
        return _only_said(f"gateway upstream retire {tenant} --apply --confirm {tenant}")
    elif configured:
        say(f"{target.file.path}, if it is there, opens nothing any more: take it out of the configuration.")
    return 0


def _list(options: argparse.Namespace) -> int:
    settings, references = settings_of(options)
    targets: dict[str, Target | str] = {}
    for tenant in settings.tenants:
        try:
            targets[tenant] = target_of(settings, references, tenant)
        except ValueError as error:
            targets[tenant] = str(error)

    async def act(api: AdminApi, _: aiohttp.ClientSession) -> tuple[list[Row], int]:
        return await rows(api, settings.provisioning.deployment, targets)

    found, others = _asked(settings, act)
    now = time.time()
    if options.json:
        document({"tenants": [row.document(now) for row in found], "other_projects": others})
    else:
        listing(("TENANT", "PROJECT", "KEY AGE", "EXPIRES", "REMARKS"), [row.cells(now) for row in found])
        if others:
            say(f"{others:,} more projects are none of this deployment ({settings.provisioning.deployment}).")
    return 1 if any(row.problems for row in found) else 0


def _with_planner(
    settings: Settings, target: Target, act: Callable[[Planner], Awaitable[bool]], *, locks: bool
) -> tuple[Planner, bool]:
    """Let a planner act: it, and whether there was anything to do. Raises ValueError."""

    async def ask(api: AdminApi, session: aiohttp.ClientSession) -> tuple[Planner, bool]:
        planner = Planner(api, Hands(api, session, target), target, settings.provisioning.deployment)
        return planner, await act(planner)

    # Of two at once on one machine both would make what neither has found.
    folder = target.file.path.parent
    with locked(folder, busy=lambda: remark(_busy(folder))) if locks else nullcontext():
        return _asked(settings, ask)


def _asked(settings: Settings, ask: Callable[[AdminApi, aiohttp.ClientSession], Awaitable[Found]]) -> Found:
    """What is found out with the admin key. ValueError says why it could not be."""
    admin_key = admin_key_of(settings, os.environ)
    trusted = trusted_certificates(settings.upstream.ca_file)

    async def with_session() -> Found:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted),
            timeout=timeout(settings.upstream.connect_timeout_seconds),
            proxy=revealed(settings.upstream.http_proxy),
        ) as session:
            return await ask(AdminApi(session, settings.upstream.base_url, admin_key, tell=remark), session)

    try:
        return asyncio.run(with_session())
    except (Refused, Unavailable, Unclear) as why:
        raise ValueError(str(why)) from None


def _say_what_the_configuration_needs(target: Target, project_id: str) -> None:
    lines = target.missing_lines(project_id)
    if not lines:
        say("The configuration leads there already.")
        return
    say("What the configuration needs for that, in the tables that it has or in new ones:\n")
    print("\n".join(lines))
    if target.needs_word:
        why = (
            "other tenants there name no project"
            if is_public(target.base_url)
            else f"{target.base_url} is not the public API, where projects are known to be apart"
        )
        say(f'\nstored_objects = "own" is your word that nobody else has this project: {why}.')
    if target.reference is not None and not target.reference.startswith("file:"):
        say(f"\nNow it has the key from {target.reference}, which no command can write.")


def _only_said(command: str) -> int:
    say(f"Nothing has been changed. To do it: {command}")
    return 0


def _busy(folder: Path) -> str:
    return f"another command is at work in {folder}, or keeps an old key for a while; waiting for its end"


def _to_retire(settings: Settings, references: Mapping[str, str], tenant: str) -> Target:
    """A tenant that once had a project there, whatever the configuration says of it by now."""
    if tenant in settings.tenants:
        try:
            return target_of(settings, references, tenant)
        except ValueError:
            pass  # it has another way by now
    folder = settings.provisioning.key_files_dir or settings.keys_dir.parent / "upstream-keys"
    return Target(
        tenant=tenant,
        project_name=project_name(settings.provisioning.deployment, tenant),
        base_url=settings.upstream.base_url,
        file=KeyFile(folder / f"{tenant}.key"),
        reference=None,
        project_id=None,
        needs_word=False,
        limits=Limits(),
        spend_limit_cents=None,
        lifetime_seconds=settings.provisioning.key_lifetime_seconds,
    )
