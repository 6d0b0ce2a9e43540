"""Who calls, as the rules see it: a principal of a tenant, and what both together may do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.credentials.principal import Principal
from gateway.errors import ModelNotAllowed, ScopeMissing, SharedUpstream
from gateway.limits.terms import Dimension, Quota
from gateway.objects.store import Scope
from gateway.operations.model_patterns import allows
from gateway.operations.scopes import OTHERS_USAGE
from gateway.operations.table import Operation
from gateway.policy.tenants import UNKNOWN_TENANT, TenantPolicy


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal of a tenant. It may do what both its credential and its tenant allow."""

    principal: Principal
    tenant: TenantPolicy
    upstream_secret: str | None = field(default=None, repr=False)
    """What opens the upstream for this caller instead of the tenant's key: a realtime secret was shown."""

    notice: str = ""
    """A line of all answers to this caller: its credential expires soon."""

    @property
    def restricted(self) -> bool:
        """Whether the tenant or the credential may use some models only."""
        return self.tenant.models is not None or self.principal.models is not None

    @property
    def metered(self) -> bool:
        """Whether usage has to be known of every answer to this caller."""
        return self.tenant.meters(self.principal)

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """What every request of this caller is charged to, whatever model it names."""
        return self.tenant.limits.of_caller(self.principal)

    def may_be_limited_by(self, dimensions: frozenset[Dimension]) -> bool:
        """Whether a limit of one of these applies, if only to some models."""
        limits = self.tenant.limits
        return any(
            quota.dimension in dimensions
            for quotas in (self.quotas, *limits.models.values())
            for quota in quotas
        )

    def shares(self, operation: Operation) -> bool:
        """Whether what the upstream stores is open to other tenants as well, so that nothing stored may be named.

        Administration is apart: it has a key of its own, and who holds that sees everything.
        """
        return self.tenant.shared and not operation.is_administration

    def asks_registry(self, operation: Operation) -> bool:
        """Whether it may use of what the upstream stores what the registry says is its own."""
        return self.tenant.registered and not operation.is_administration

    def is_alone_on_account(self, operation: Operation) -> bool:
        """Whether nobody else uses the upstream account that it asks with, so that it may see what is left of it."""
        return self.tenant.apart and not operation.is_administration

    def may_do(self, operation: Operation) -> bool:
        """Whether both the credential and the tenant have the operation's scope."""
        return operation.scope in self.principal.scopes and operation.scope in self.tenant.scopes

    @property
    def sees_usage_of_others(self) -> bool:
        """Whether it may be told what the tenant's other subjects use."""
        return OTHERS_USAGE in self.principal.scopes and OTHERS_USAGE in self.tenant.scopes

    def check_scopes(self, operation: Operation, scopes: Iterable[str]) -> None:
        """Raise ScopeMissing unless both the credential and the tenant have all scopes that are needed."""
        for scope in scopes:
            if scope not in self.principal.scopes:
                raise ScopeMissing(
                    f"This credential lacks the scope {scope}, which {operation.id} needs. "
                    "Ask the gateway's operator for a credential that has it."
                )
            if scope not in self.tenant.scopes:
                raise ScopeMissing(
                    f"The tenant {self.tenant.id} may not use the scope {scope}, which {operation.id} needs. "
                    "Ask the gateway's operator."
                )

    @property
    def model_rules(self) -> tuple[tuple[str, ...], ...]:
        """The patterns of which a model must match one each."""
        return tuple(
            tuple(patterns)
            for patterns in (self.tenant.models, self.principal.models)
            if patterns is not None
        )

    def check_model(self, model: str) -> None:
        """Raise ModelNotAllowed unless both the tenant and the credential may use this model."""
        refusal = self.refusal_of(model)
        if refusal is not None:
            raise ModelNotAllowed(refusal, param="model")

    def refusal_of(self, model: str) -> str | None:
        """Why this model is refused, in words for the caller; None when it is allowed."""
        for patterns in (self.tenant.models, self.principal.models):
            if patterns is not None and not allows(patterns, model):
                who = f"The tenant {self.tenant.id}" if patterns is self.tenant.models else "This credential"
                return (
                    f"{who} may not use the model {model[:128]!r}. Allowed: {', '.join(patterns) or 'none'}. "
                    "Ask the gateway's operator."
                )
        return None

    def closed_to(self, what: str, param: str | None = None) -> SharedUpstream:
        """The error for something that works on stored objects which other tenants can reach."""
        closed = self.tenant.closed
        assert closed is not None, "nobody is kept from what is open"
        return SharedUpstream(
            f"{what[0].upper()}{what[1:]}, and stored objects are closed to the tenant {self.tenant.id}: "
            f"{closed.words}. Ask the gateway's operator for an upstream account or project of your own; who has one "
            'needs stored_objects = "own" in the tenant\'s table.',
            param=param,
        )

    def not_told_apart(self, what: str, reason: str, param: str | None = None) -> SharedUpstream:
        """The error for something of which no registry could say whose it is."""
        return SharedUpstream(
            f"{what[0].upper()}{what[1:]}, which is closed to the tenant {self.tenant.id}: {reason}. Other tenants may "
            "have, or may have had, the same upstream account, and what the upstream stores there is open to who has "
            "made it. Ask the gateway's operator for an upstream account or project of your own; who has one needs "
            'stored_objects = "own" in the tenant\'s table.',
            param=param,
        )


NOBODY = Caller(Principal("", "", frozenset(), "", 0.0, 0.0, models=()), UNKNOWN_TENANT)
"""Who calls until a credential has verified: nobody, who may do nothing."""


def lost(before: Caller, now: Caller, operation: Operation) -> ModelNotAllowed | SharedUpstream | None:
    """The refusal for what was judged by wider rules than hold `now` for the same caller; None: they are no narrower.

    Whatever has been let through before may have named what may not be named any more.
    """
    if not operation.is_administration and _reaches_less(before.tenant, now.tenant):
        what = "what this exchange names may be a stored object"
        if now.tenant.registered:
            return now.not_told_apart(
                what, "it was judged while all that is stored was open, or by another registry"
            )
        return now.closed_to(what)
    for was, patterns in (
        (before.tenant.models, now.tenant.models),
        (before.principal.models, now.principal.models),
    ):
        if patterns is not None and (was is None or not all(allows(patterns, pattern) for pattern in was)):
            return ModelNotAllowed(
                "Fewer models may be used than when this exchange began. Begin a new one.", param="model"
            )
    return None


def _reaches_less(before: TenantPolicy, now: TenantPolicy) -> bool:
    """Whether what the upstream stores was open to the tenant, and the same need not be now."""
    if now.shared or not now.registered:
        return now.shared and not before.shared
    return not before.shared and _narrower(before.scope, now.scope)


def _narrower(was: Scope | None, scope: Scope | None) -> bool:
    """Whether less is a tenant's own by this scope than by what it was before; None: everything was."""
    if was is None or scope is None or (was.storage, was.tenant) != (scope.storage, scope.tenant):
        return True
    if was.others is None:
        return False  # only what the registry knows
    return scope.others is None or not set(scope.others) <= set(was.others)
