"""What operators are told of all that a tenant may use and no limit of it counts. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from gateway.limits.terms import Dimension
from gateway.operations.table import UNLISTED_READ, UNLISTED_WRITE, OperationTable
from gateway.policy.coverage import IMAGES, covering
from gateway.policy.tenants import TenantPolicy
from gateway.usage.image_tool import IMAGE_TOOL


class Gaps(NamedTuple):
    """What the limits of a tenant leave open, in words: groups of operations, and single ones where not all are."""

    uncovered: tuple[str, ...]
    """What no limit counts."""

    partly: tuple[str, ...]
    """What the limits of some models or subjects count, and of others none."""

    counts_nothing: bool
    """Whether there is no limit at all on what anything uses."""

    requests: tuple[str, ...]
    """The limits on requests, which bound how often all of it is asked for."""


def gaps(tenant: TenantPolicy, table: OperationTable, *, uncontained: bool) -> Gaps:
    """What a tenant may ask for though its limits do not count it; `uncontained`: those operations are open."""
    limits = tenant.limits
    everywhere = {quota.dimension for quota in limits.tenant} | limits.of_every_subject
    covers = [
        (operation.group, operation.id, covering(operation))
        for operation in table
        if not operation.is_free
        and operation.scope in tenant.scopes
        and (operation.is_contained or uncontained)
    ]
    if any("tokens" in table.by_id(id_).uses for _, id_, _ in covers):
        covers.append((f"the tool {IMAGE_TOOL}", IMAGE_TOOL, IMAGES))
    if not tenant.scopes.isdisjoint((UNLISTED_READ.scope, UNLISTED_WRITE.scope)):
        covers.append(("paths that are not listed", "*", covering(UNLISTED_READ)))
    uncovered = {what for _, what, by in covers if by.isdisjoint(limits.dimensions)}
    partly = {what for _, what, by in covers if by.isdisjoint(everywhere)} - uncovered
    groups: dict[str, list[str]] = {}
    for group, what, _ in covers:
        groups.setdefault(group, []).append(what)
    return Gaps(
        tuple(_grouped(groups, uncovered)),
        tuple(_grouped(groups, partly)),
        all(dimension.by_request for dimension in limits.dimensions),
        tuple(dimension for dimension in Dimension if dimension.by_request and dimension in everywhere),
    )


def _grouped(groups: dict[str, list[str]], which: Collection[str]) -> Iterator[str]:
    for group, all_of_it in groups.items():
        some = [what for what in all_of_it if what in which]
        if len(some) == len(all_of_it):
            yield group
        elif some:
            yield f"{group} ({', '.join(some)})"


def gaps_in_words(
    policies: Iterable[TenantPolicy], table: OperationTable, *, uncontained: bool
) -> Iterator[str]:
    """The same of all tenants that are enabled, in sentences; of those together for which the same is true."""
    alike: dict[tuple[bool, Gaps], list[str]] = {}
    for policy in policies:
        found = gaps(policy, table, uncontained=uncontained)
        if policy.settings.enabled and (found.uncovered or found.partly):
            alike.setdefault((policy.refuses_unmetered, found), []).append(policy.id)
    for (refused, found), tenants in alike.items():
        yield from _told(", ".join(sorted(tenants)), found, refused=refused)


def _told(tenants: str, found: Gaps, *, refused: bool) -> Iterator[str]:
    if refused:
        then = 'it is refused (unmetered = "refuse")'
    elif found.requests:
        then = f"only how often it is asked for is limited ({', '.join(found.requests)})"
    else:
        then = "nothing bounds it"
    if found.counts_nothing:
        yield f"No limit counts what {tenants} may use: {then}."
        return
    if found.uncovered:
        yield f"No limit counts what {tenants} may use of these, and {then}: {', '.join(found.uncovered)}."
    if found.partly:
        yield (
            f"Limits count what {tenants} may use of these for some models or subjects alone, and for others {then}: "
            f"{', '.join(found.partly)}."
        )
