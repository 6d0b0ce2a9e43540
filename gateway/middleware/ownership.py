"""Whose the stored objects are that a request names: asked of the registry before the upstream is.

What is another's and what nobody has get one and the same answer, which the upstream is not asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.limits.store import StoreUnavailable
from gateway.objects.registry import Registry
from gateway.objects.store import Intent, Named
from gateway.policy.caller import Caller
from gateway.policy.unknown_objects import unavailable, unknown
from gateway.wire.body_facts import Reference


async def check_owned(
    registry: Registry | None,
    caller: Caller,
    references: Sequence[Reference],
    *,
    intent: Intent | None = None,
) -> None:
    """Raise ObjectUnknown unless the caller's tenant has all of these; notes the intent if it has.

    Raises ObjectsUnavailable where nobody can say. A reference whose member is empty is what the path begins with.
    """
    if not references and intent is None:
        return
    scope = caller.tenant.scope
    if registry is None or scope is None:
        raise unavailable()
    named = [Named(reference.kind, reference.id) for reference in references]
    try:
        owned = await registry.look(scope, named, intent)
    except StoreUnavailable as outage:
        raise unavailable(outage) from outage
    for reference, may in zip(references, owned, strict=True):
        if not may:
            raise unknown(reference)
