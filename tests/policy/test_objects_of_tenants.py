"""What a tenant may do with what the upstream stores, by its word, by Redis, and by who has had its account."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.credentials.principal import Principal
from gateway.operations.table import OperationTable
from gateway.policy.accounts import MOST_OTHERS, History
from gateway.policy.caller import Caller, lost
from gateway.policy.tenants import StoredObjects, TenantPolicy, account_uses, registered, tenant_policies
from gateway.settings.sources import load

TABLE = OperationTable.load()
OPEN, RECORDED, REGISTRY, REFUSED = StoredObjects
NOTHING = History()


def policies(tenants: dict[str, Any], history: History = NOTHING, *, redis: bool) -> dict[str, TenantPolicy]:
    settings: dict[str, Any] = {
        "upstream": {"base_url": "http://api.test/v1", "api_key": "sk-common"},
        "tenants": tenants,
    }
    if redis:
        settings["redis_url"] = "redis://redis.test"
    return tenant_policies(load(flags=settings, environ={}), TABLE, history)


def had_by(*names: str) -> History:
    return History(account_uses(policies({name: {} for name in names}, redis=False)))


@pytest.mark.parametrize(
    ("word", "neighbours", "redis", "mode", "said"),
    [
        (None, 0, False, OPEN, "open"),
        (None, 0, True, RECORDED, "open"),
        (None, 1, False, REFUSED, "closed: other tenants may have the same upstream account"),
        (None, 1, True, REGISTRY, "own objects only (registry)"),
        ("registry", 0, True, REGISTRY, "own objects only (registry)"),
        ("registry", 1, True, REGISTRY, "own objects only (registry)"),
        ("refuse", 0, True, REFUSED, "closed: the gateway's operator has closed them"),
        ("refuse", 0, False, REFUSED, "closed: the gateway's operator has closed them"),
        ("own", 0, True, OPEN, "open"),
        ("own", 0, False, OPEN, "open"),
    ],
)
def test_a_tenant_works_as_its_word_its_account_and_redis_say(
    word: str | None, neighbours: int, redis: bool, mode: StoredObjects, said: str
) -> None:
    tenants = {"a": {} if word is None else {"stored_objects": word}} | {
        f"n{n}": {} for n in range(neighbours)
    }

    policy = policies(tenants, redis=redis)["a"]

    assert (policy.objects, policy.objects_in_words) == (mode, said)
    assert (policy.scope is not None) is (mode in (RECORDED, REGISTRY))


def test_who_is_left_of_an_account_has_what_nobody_else_is_known_to_have_made() -> None:
    both, left = (
        policies({name: {} for name in names}, had_by("a", "b"), redis=True) for names in ("ab", "b")
    )

    assert both["b"].scope is not None
    assert both["b"].scope.others is None
    assert left["b"].objects is REGISTRY
    assert left["b"].scope is not None
    assert left["b"].scope.others == ("a",)
    unknown = policies({"b": {}}, History(known=False), redis=True)["b"]
    assert (unknown.objects, unknown.scope and unknown.scope.others) == (REGISTRY, None)


def test_so_many_others_that_not_all_are_known_leave_nothing_that_is_unknown_open() -> None:
    some = [f"n{n}" for n in range(MOST_OTHERS - 1)]

    few, many = (
        policies({"b": {}}, had_by("b", *others), redis=True)["b"].scope for others in (some, [*some, "z"])
    )

    assert few is not None
    assert set(few.others or ()) == set(some)
    assert many is not None
    assert many.others is None


def test_operators_are_told_once_who_works_by_the_registry() -> None:
    (sentence,) = registered(policies({name: {} for name in "abc"}, redis=True).values())

    assert sentence.endswith("a, b, c.")
    assert registered(policies({"a": {}}, redis=True).values()) == []


MODES = {
    "open": policies({"a": {"stored_objects": "own"}}, redis=True)["a"],
    "recorded": policies({"a": {}}, redis=True)["a"],
    "left": policies({"a": {}}, had_by("a", "b"), redis=True)["a"],
    "strict": policies({"a": {}, "b": {}}, redis=True)["a"],
    "refused": policies({"a": {"stored_objects": "refuse"}}, redis=True)["a"],
}


@pytest.mark.parametrize("before", MODES)
@pytest.mark.parametrize("now", MODES)
def test_what_was_judged_by_wider_rules_is_lost_when_they_are_narrower(before: str, now: str) -> None:
    principal = Principal("a", "s", frozenset(), "c", 0.0, 0.0)
    narrower = {
        *((wide, strict) for wide in ("open", "recorded") for strict in ("left", "strict", "refused")),
        *(("left", "strict"), ("left", "refused"), ("strict", "refused")),
    }
    refusal = lost(
        Caller(principal, MODES[before]), Caller(principal, MODES[now]), TABLE.by_id("createResponse")
    )

    if (before, now) == ("strict", "left"):
        return  # another way of asking, and no narrower one: it may go on or not
    assert (refusal is not None) is ((before, now) in narrower)
    administration = next(operation for operation in TABLE if operation.is_administration)
    assert lost(Caller(principal, MODES[before]), Caller(principal, MODES[now]), administration) is None


def test_what_was_judged_by_another_registry_is_lost() -> None:
    principal = Principal("a", "s", frozenset(), "c", 0.0, 0.0)

    def by(policy: TenantPolicy, **more: Any) -> Caller:
        assert policy.scope is not None
        return Caller(principal, replace(policy, scope=policy.scope._replace(**more)))

    for mode in ("left", "strict"):
        here, elsewhere = by(MODES[mode]), by(MODES[mode], storage="https://other.test:443")
        assert lost(here, elsewhere, TABLE.by_id("createResponse")) is not None
        assert lost(here, by(MODES[mode]), TABLE.by_id("createResponse")) is None
    few, more = by(MODES["left"]), by(MODES["left"], others=("b", "c"))
    assert lost(few, more, TABLE.by_id("createResponse")) is not None
    assert lost(more, few, TABLE.by_id("createResponse")) is None
