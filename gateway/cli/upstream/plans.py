"""What has to be done for a tenant, decided from what is there: the whole of what these commands know.

A key whose telling was lost, or which was made and not kept, has never been used, is in no file of ours, and was made
when one was about to be made here: nobody has it, and it goes. One that was used, or that appeared by itself, is
somebody's, for an upstream may say late that a key is used: it goes only when it has been replaced.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from gateway.cli.drawing import shown
from gateway.cli.options import date
from gateway.cli.upstream import rate_limits
from gateway.cli.upstream.admin_api import AdminApi, Unavailable
from gateway.cli.upstream.found import Access, Key, access, projects, terms
from gateway.cli.upstream.key_file import KeyFile, is_of
from gateway.cli.upstream.steps import Hands, Plan, Step, kept_accounts
from gateway.cli.upstream.target import Target

EXPIRES_SOON_SECONDS = 14 * 86400
_UNDER_WAY_SECONDS = 86400
"""A rotation that was interrupted longer ago is no longer under way."""

_UNUSED_SECONDS = 7 * 86400
"""After which a key that was never used is not about to be."""

_CLOCKS_SECONDS = 300
"""By which the upstream's clock may differ from ours."""

_MAKING_SECONDS = 600
"""That it may take to have a key made, at most: an upstream that is busy is asked again."""

_NOBODY = "nobody has it"


@dataclass(frozen=True, slots=True)
class Held:
    """The keys of a project by who has them."""

    in_force: Key | None
    """What is in the file."""

    pending: Key | None
    """What waits beside the file."""

    nobodys: tuple[Key, ...]
    """Never used, and not in our files, although made here; or expired."""

    others: tuple[Key, ...]
    """Others that are not in our files: what was in force before, or what somebody else has."""

    @classmethod
    def of(cls, keys: Sequence[Key], file: KeyFile, now: float) -> Held:
        """Sort them. Raises ValueError where it cannot be told which one is in a file."""
        key, pending = file.key(), file.pending()
        in_force = next((one for one in keys if is_of(key, one.redacted)), None)
        waiting = next((one for one in keys if one != in_force and is_of(pending, one.redacted)), None)
        rest = [one for one in keys if one not in (in_force, waiting)]
        nobodys = [one for one in rest if _is_nobodys(one, file.about_to_be_made_at(), now)]
        return cls(in_force, waiting, tuple(nobodys), tuple(one for one in rest if one not in nobodys))


class Planner:
    """Looks at the upstream, and says what is to be done there for one tenant."""

    def __init__(self, api: AdminApi, hands: Hands, target: Target, deployment: str) -> None:
        self._api = api
        self._hands = hands
        self._target = target
        self._deployment = deployment
        self.project_id: str | None = None
        """What the last look found."""

    async def provision(self) -> Plan:
        """A project with limits, and a key in the file."""
        project_id = await self._find()
        if project_id is None:
            return self._from_nothing()
        plan = Plan(remarks=self._of_another_project(project_id))
        await self._limit(project_id, plan)
        found = await access(self._api, project_id, self._target.project_name)
        now = time.time()
        held = Held.of(found.keys, self._target.file, now)
        self._tell_of(found, held, now, plan)
        if held.in_force is None and held.pending is None:
            await self._check_replaceable(held)
        plan.steps += self._leftovers(project_id, found, held, held.nobodys)
        if held.in_force is None:
            plan.steps += self._new_key(project_id, held)
            plan.remarks += self._narrower()
        return plan

    async def rotate(self, keep_seconds: float) -> Plan:
        """Another key in the file, and none but that, after a while."""
        project_id = await self._find()
        if project_id is None:
            raise ValueError(
                f"{self._target.tenant} has no project; run: gateway upstream provision {self._target.tenant}"
            )
        found = await access(self._api, project_id, self._target.project_name)
        now = time.time()
        held = Held.of(found.keys, self._target.file, now)
        in_force, since = held.in_force, None
        if in_force is None and held.pending is None:
            await self._check_foreign()
        # One that is older than what is in force was in force before: a gateway may be about to use it.
        before = [key for key in held.nobodys if in_force and key.created_at < in_force.created_at]
        before = [key for key in before if not key.has_expired(now)]
        plan = Plan(
            steps=self._leftovers(project_id, found, held, [k for k in held.nobodys if k not in before])
        )
        old = [*before, *held.others]
        is_under_way = (
            held.pending is None
            and in_force is not None
            and any(key.created_at <= in_force.created_at for key in old)
            and now - in_force.created_at < _UNDER_WAY_SECONDS
        )
        if is_under_way and in_force is not None:
            plan.remarks.append(
                "a rotation was interrupted, and is brought to its end; no further key is made"
            )
            since, kept = float(in_force.created_at), [in_force]
        else:
            plan.steps += self._new_key(project_id, held)
            plan.remarks += self._narrower()
            old = [*([in_force] if in_force else []), *old]
            kept = [held.pending] if held.pending else []
        if old:
            plan.steps.append(self._hands.wait(keep_seconds, since=since))
        for key in old:
            why = "it has been replaced" if key == in_force or key in before else _used(key)
            plan.steps.append(self._delete(project_id, key, why, kept))
        return plan

    async def retire(self, only: str | None) -> Plan:
        """No keys, and no project."""
        project_id = await self._find(only)
        if project_id is None:
            return Plan()
        found = await access(self._api, project_id, self._target.project_name)
        plan = Plan()
        if found.strangers:
            plan.remarks.append(f"keys of others that end with it: {', '.join(found.strangers)}")
        plan.steps += [self._delete(project_id, key, _used(key), []) for key in found.keys]
        plan.steps += [self._hands.delete_account(project_id, account) for account in found.keyless]
        plan.steps.append(self._hands.archive(project_id))
        return plan

    async def _find(self, only: str | None = None) -> str | None:
        found = await projects(self._api, self._deployment)
        if self.project_id == only is not None and only not in found.by_tenant.get(self._target.tenant, ()):
            return None  # it was there before
        self.project_id = found.of(self._target.tenant, only=only)
        return self.project_id

    def _of_another_project(self, project_id: str | None) -> list[str]:
        """What is good to know where the configuration leads elsewhere so far."""
        named = self._target.project_id
        if named in (None, project_id):
            return []
        return [
            f"the configuration names the project {named}, which is not the one called {self._target.project_name}: "
            f"that one stays as it is, and what {self._target.tenant} has stored there is not in this one"
        ]

    def _from_nothing(self) -> Plan:
        """What is known before there is a project."""
        target, hands = self._target, self._hands
        plan = Plan([hands.make_project()], remarks=self._of_another_project(None))
        if kept := rate_limits.in_words(target.limits):
            plan.then.append(
                f"Limit each of its models that the limits of {target.tenant} are about: {kept}."
            )
        plan.remarks += [
            f"not kept by the upstream: {text}" for text in rate_limits.not_kept(target.limits, ())
        ]
        if target.spend_limit_cents is not None:
            plan.then.append(hands.set_spend_limit("", target.spend_limit_cents).words)
        plan.then += [hands.make_key("").words, hands.put_in_force("").words]
        return plan

    async def _limit(self, project_id: str, plan: Plan) -> None:
        """Before there is a key, so that none is without them."""
        target = self._target
        found = await terms(self._api, project_id)
        for rows, less in rate_limits.alike(found.rate_limits, partial(rate_limits.too_high, target.limits)):
            plan.steps.append(self._hands.lower(project_id, rows, less))
        for rows, more in rate_limits.alike(found.rate_limits, partial(rate_limits.too_low, target.limits)):
            plan.steps.append(self._hands.raise_if_allowed(project_id, rows, more))
        plan.remarks += [
            f"not kept by the upstream: {text}"
            for text in rate_limits.not_kept(target.limits, found.rate_limits)
        ]
        cents = target.spend_limit_cents
        if cents is not None and cents != found.spend_limit_cents:
            plan.steps.append(self._hands.set_spend_limit(project_id, cents))
        if cents is None and found.spend_limit_cents is not None:
            plan.remarks.append(
                f"its project may spend {found.spend_limit_cents / 100:,.2f} USD a month, of which the configuration "
                "says nothing; that stays"
            )

    def _tell_of(self, found: Access, held: Held, now: float, plan: Plan) -> None:
        tenant, in_force = self._target.tenant, held.in_force
        expires_at = None if in_force is None else in_force.expires_at
        if expires_at is not None and expires_at < now + EXPIRES_SOON_SECONDS:
            expires = "has expired" if expires_at <= now else "expires"
            plan.remarks.append(
                f"its key {expires} {date(expires_at)}; run: gateway upstream rotate {tenant}"
            )
        if in_force is not None and (held.others or held.pending):
            plan.remarks.append(
                f"its project has more keys than one; `gateway upstream rotate {tenant}` brings that to an end"
            )
        if found.strangers:
            plan.remarks.append(f"others have keys of its project: {', '.join(found.strangers)}")

    async def _check_replaceable(self, held: Held) -> None:
        """Raise ValueError where a key would be made that somebody else has already."""
        await self._check_foreign()
        if held.others:
            key, tenant = held.others[0], self._target.tenant
            raise ValueError(
                f"{tenant} has the key {shown(key.id)}, made {date(key.created_at)}, {_used(key)}, which is not in "
                f"{self._target.file.path}: another machine may have it, or somebody there is about to. Copy it from "
                f"there, or make a new one here, which ends that: gateway upstream rotate {tenant}"
            )

    async def _check_foreign(self) -> None:
        """Raise ValueError where the file holds a key that opens something else."""
        file = self._target.file
        key = file.key()
        if key is None:
            return
        match await self._hands.accepts(key, None):
            case True:
                raise ValueError(
                    f"{file.path} holds a key that is accepted and is none of this project: it is not overwritten. "
                    f"Name another file in [tenants.{self._target.tenant}.upstream], or none"
                )
            case None:
                raise Unavailable(f"whether the key in {file.path} still opens something cannot be told now")
            case False:
                return

    def _leftovers(self, project_id: str, found: Access, held: Held, gone: Sequence[Key]) -> list[Step]:
        steps = []
        kept = [key for key in found.keys if key not in gone]
        for key in gone:
            why = "it has expired" if key.has_expired(time.time()) else _NOBODY
            steps.append(self._delete(project_id, key, why, kept))
        steps += [self._hands.delete_account(project_id, account) for account in found.keyless]
        if held.pending is None and self._target.file.pending_path.exists():
            steps.append(self._hands.drop_pending())
        return steps

    def _new_key(self, project_id: str, held: Held) -> list[Step]:
        making = [] if held.pending else [self._hands.make_key(project_id)]
        return [*making, self._hands.put_in_force(project_id)]

    def _narrower(self) -> list[str]:
        """Said before a key takes the file's place."""
        words = self._target.file.becomes_narrower()
        return [] if words is None else [words]

    def _delete(self, project_id: str, key: Key, why: str, kept: Sequence[Key]) -> Step:
        with_account = key.account_id not in kept_accounts(kept)
        return self._hands.delete_key(project_id, key, why, with_account=with_account)


def _is_nobodys(key: Key, about_to_be_made_at: float | None, now: float) -> bool:
    if key.has_expired(now):
        return True
    if key.last_used_at is not None:
        return False
    if now - key.created_at > _UNUSED_SECONDS:
        return True
    at = about_to_be_made_at
    return at is not None and -_CLOCKS_SECONDS <= key.created_at - at <= _MAKING_SECONDS + _CLOCKS_SECONDS


def _used(key: Key) -> str:
    if key.last_used_at is None:
        return "not used yet, as far as the upstream says"
    return f"last used {date(key.last_used_at)}"
