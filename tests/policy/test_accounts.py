"""Who may have one upstream account: by what is configured, by what was, and by the operator's word."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest

from gateway.policy.accounts import Account, Closed, History, Reason, account_of, judge
from gateway.policy.tenants import account_uses, closed_to, tenant_policies
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.kit.asking import TABLE

OFFICIAL = "https://api.openai.com/v1"
OWN = {"stored_objects": "own"}


def settings_with(tenants: dict[str, Any], **settings: Any) -> Any:
    """Settings whose common way upstream is a compatible server."""
    settings.setdefault("upstream", {"base_url": "http://api.test/v1", "api_key": "sk-common"})
    return load(flags={"tenants": tenants, **settings}, environ={"A": "sk-one", "ALIAS_OF_A": "sk-one"})


def reasons(tenants: dict[str, Any], history: History = History(), **settings: Any) -> dict[str, Any]:  # noqa: B008
    """Why what is stored is closed to each tenant; None: it is open."""
    policies = tenant_policies(settings_with(tenants, **settings), TABLE, history)
    return {name: policy.closed and policy.closed.reason for name, policy in policies.items()}


def remembered(*configurations: dict[str, Any], **settings: Any) -> History:
    """The history of gateways that ran with these tenants, one after another."""
    uses: dict[tuple[str, Account], bool] = {}
    for tenants in configurations:
        uses |= account_uses(tenant_policies(settings_with(tenants, **settings), TABLE))
    return History(uses)


@pytest.mark.parametrize(
    ("a", "b", "one"),
    [
        ({}, {}, True),
        ({"api_key": "sk-a"}, {}, True),
        ({"api_key": "sk-a"}, {"api_key": "sk-b"}, True),
        ({"api_key": "sk-a"}, {"api_key": "sk-a"}, True),
        ({"api_key": "env:A"}, {"api_key": "env:ALIAS_OF_A"}, True),
        ({"project": "proj_a"}, {"project": "proj_b"}, True),
        ({"organization": "org-a"}, {"organization": "org-b"}, True),
        ({"base_url": "http://api.test/other/v1", "api_key": "sk-a"}, {}, True),
        ({"base_url": "http://API.test/v1/", "api_key": "sk-a"}, {}, True),
        ({"base_url": "HTTP://api.test:80/v1", "api_key": "sk-a"}, {}, True),
        ({"base_url": "https://api.test/v1", "api_key": "sk-a"}, {}, True),
        ({"base_url": "https://api.test.:443/v1", "api_key": "sk-a"}, {}, True),
        ({"base_url": "http://api.test:8080/v1", "api_key": "sk-a"}, {}, False),
        ({"base_url": "http://other.test/v1", "api_key": "sk-a"}, {}, False),
        ({"base_url": "http://alias-of-the-same-api.test/v1"}, {}, True),
        ({"base_url": "http://münchen.test/v1", "api_key": "sk-a"},
         {"base_url": "http://xn--mnchen-3ya.test/v1", "api_key": "sk-b"}, True),
        ({"base_url": "https://res.openai.azure.com/openai/deployments/a", "api_key": "sk-a"},
         {"base_url": "https://res.openai.azure.com/openai/deployments/b", "api_key": "sk-b"}, True),
        ({"base_url": OFFICIAL, "api_key": "sk-a"}, {"base_url": OFFICIAL, "api_key": "sk-b"}, True),
        ({"base_url": OFFICIAL, "project": "proj_a"}, {"base_url": OFFICIAL, "project": "proj_b"}, False),
        ({"base_url": OFFICIAL, "project": "proj_a"}, {"base_url": OFFICIAL, "project": "proj_a"}, True),
        ({"base_url": OFFICIAL, "project": "proj_a"}, {"base_url": OFFICIAL, "api_key": "sk-b"}, True),
        ({"base_url": OFFICIAL, "organization": "org-a"}, {"base_url": OFFICIAL, "organization": "org-b"}, True),
        ({"base_url": OFFICIAL, "project": "proj_a", "api_key": "sk-a"},
         {"base_url": "https://eu.api.openai.com/v1", "project": "proj_b", "api_key": "sk-b"}, False),
        ({"base_url": OFFICIAL, "api_key": "sk-a"},
         {"base_url": "https://eu.api.openai.com/v1", "api_key": "sk-b"}, True),
        ({"base_url": "https://api.openai.com.:443/v1", "project": "proj_a"},
         {"base_url": "https://API.openai.com/v1", "project": "proj_b"}, False),
        ({"base_url": "https://api.openai.com.evil.test/v1", "project": "proj_a", "api_key": "sk-a"},
         {"base_url": "https://api.openai.com.evil.test/v1", "project": "proj_b", "api_key": "sk-b"}, True),
    ],
)  # fmt: skip
def test_only_another_host_or_another_project_at_the_public_api_tells_accounts_apart(
    a: dict[str, str], b: dict[str, str], one: bool
) -> None:
    expected = Reason.SHARED if one else None
    assert reasons({"a": {"upstream": a}, "b": {"upstream": b}}) == {"a": expected, "b": expected}


@pytest.mark.parametrize(("hosts", "one"), [(("one", "one"), True), (("one", "two"), False)])
def test_without_any_key_the_host_is_the_account(hosts: tuple[str, str], one: bool) -> None:
    tenants = {
        name: {"upstream": {"base_url": f"http://{host}.test/v1"}}
        for name, host in zip("ab", hosts, strict=True)
    }
    found = reasons(tenants, upstream={"base_url": "http://api.test/v1"})
    assert set(found.values()) == {Reason.SHARED if one else None}


def test_disabled_tenants_count() -> None:
    assert reasons({"a": {}, "b": {"enabled": False}})["a"] is Reason.SHARED


def test_three_tenants_of_which_one_is_elsewhere() -> None:
    elsewhere = {"upstream": {"base_url": "http://other.test/v1", "api_key": "sk-o"}}
    found = reasons({"a": {}, "b": {}, "c": elsewhere})
    assert found == {"a": Reason.SHARED, "b": Reason.SHARED, "c": None}


class TestTheOperatorsWord:
    A = {"upstream": {"api_key": "sk-a"}}  # noqa: RUF012
    B = {"upstream": {"api_key": "sk-b"}}  # noqa: RUF012

    def test_opens_to_those_of_whom_it_is_said(self) -> None:
        assert reasons({"a": self.A | OWN, "b": self.B | OWN}) == {"a": None, "b": None}

    def test_takes_a_tenant_out_of_the_account_of_the_others(self) -> None:
        found = reasons({"a": self.A | OWN, "b": self.B, "c": {}})
        assert found == {"a": None, "b": Reason.SHARED, "c": Reason.SHARED}
        assert reasons({"a": self.A | OWN, "b": self.B}) == {"a": None, "b": None}

    @pytest.mark.parametrize(
        ("a", "b"),
        [(OWN, OWN), (OWN, {}), ({}, OWN), (OWN, OWN | {"enabled": False}), (OWN | {"enabled": False}, OWN)],
    )
    def test_is_refused_with_both_names_where_one_key_serves_two(
        self, a: dict[str, Any], b: dict[str, Any]
    ) -> None:
        with pytest.raises(SettingsInvalid) as caught:
            reasons({"a": a, "b": b})

        text = str(caught.value)
        assert ".stored_objects" in text
        assert "a" in text.split() or "tenants.a." in text
        assert "b" in text.split() or "tenants.b." in text
        assert "sk-common" not in text

    @pytest.mark.parametrize("place", [OFFICIAL, "http://api.test/v1"])
    def test_one_key_by_another_spelling_is_one_key(self, place: str) -> None:
        spelled = (
            place.replace("://", "://")
            .replace("api.", "API.")
            .replace("/v1", ".:{}/v1")
            .format(443 if place.startswith("https") else 80)
        )
        with pytest.raises(SettingsInvalid):
            reasons(
                {
                    "a": OWN | {"upstream": {"base_url": place}},
                    "b": OWN | {"upstream": {"base_url": spelled}},
                }
            )

    def test_holds_for_one_key_with_two_projects_and_for_two_paths_of_a_proxy(self) -> None:
        project = {
            name: OWN | {"upstream": {"base_url": OFFICIAL, "project": f"proj_{name}"}} for name in "ab"
        }
        path = {name: OWN | {"upstream": {"base_url": f"http://proxy.test/{name}/v1"}} for name in "ab"}
        assert set(reasons(project).values()) == set(reasons(path).values()) == {None}

    def test_is_refused_where_two_name_one_project(self) -> None:
        def at(key: str) -> dict[str, Any]:
            return {"upstream": {"base_url": OFFICIAL, "api_key": key, "project": "proj_1"}}

        with pytest.raises(SettingsInvalid):
            reasons({"a": at("sk-a") | OWN, "b": at("sk-b") | OWN})
        with pytest.raises(SettingsInvalid):
            reasons({"a": at("sk-a") | OWN, "b": at("sk-b")})
        assert reasons({"a": at("sk-a") | OWN, "b": at("sk-b") | {"enabled": False}})["a"] is None
        swapped = {"a": at("sk-a") | {"enabled": False}, "b": at("sk-b")}
        assert reasons(swapped, remembered({"a": at("sk-a") | OWN}))["b"] is Reason.SHARED
        assert reasons({"b": at("sk-b")}, remembered({"a": at("sk-a") | OWN})) == {"b": Reason.ONCE_SHARED}

    def test_of_the_one_that_is_left_needs_no_removal_of_the_disabled_one(self) -> None:
        found = reasons({"a": OWN, "b": {"enabled": False}})
        assert found == {"a": None, "b": Reason.SHARED}

    def test_ends_with_the_tenant(self) -> None:
        """Who takes its place may have a key of the same account, and of that nobody has said anything."""
        for key in ("sk-a", "sk-b"):
            after = {"b": {"upstream": {"api_key": key}}}
            assert reasons(after, remembered({"a": self.A | OWN})) == {"b": Reason.ONCE_SHARED}
        assert reasons({"b": self.B | OWN}, remembered({"a": self.A | OWN})) == {"b": None}

    def test_outlasts_a_change_of_the_tenants_key(self) -> None:
        rotated = {"upstream": {"api_key": "sk-a2"}}
        history = remembered({"a": self.A | OWN, "b": self.B})
        assert reasons({"a": rotated | OWN, "b": self.B}, history) == {"a": None, "b": None}
        assert reasons({"a": rotated | OWN, "b": self.A}, history)["b"] is Reason.ONCE_SHARED


class TestWhatWas:
    BOTH: dict[str, Any] = {"a": {}, "b": {}}  # noqa: RUF012
    KEYED = {"a": {"upstream": {"api_key": "sk-a"}}, "b": {"upstream": {"api_key": "sk-b"}}}  # noqa: RUF012

    @pytest.mark.parametrize("before", [BOTH, KEYED])
    @pytest.mark.parametrize(
        "after",
        [
            {"b": {}},
            {"b": {"upstream": {"api_key": "sk-b"}}},
            {"b": {"upstream": {"api_key": "sk-new"}}},
            {"b": {"upstream": {"api_key": "sk-a"}}},
            {
                "b": {"upstream": {"base_url": "http://alias.test/v1"}},
                "c": OWN | {"upstream": {"api_key": "sk-c"}},
            },
        ],
    )
    def test_counts_whatever_is_removed_disabled_or_given_another_key(
        self, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        history = remembered(before)
        if "alias" in str(after) and before is self.KEYED:
            after = {"b": {"upstream": {"base_url": "http://alias.test/v1", "api_key": "sk-a"}}}
        assert reasons(after, history)["b"] is Reason.ONCE_SHARED
        with_a = after | {"a": {"enabled": False}}
        assert reasons(with_a, history)["b"] is not None

    def test_of_a_tenant_itself_does_not_close_it(self) -> None:
        history = remembered({"a": {}}, {"a": {"upstream": {"api_key": "sk-a"}}})
        assert reasons({"a": {"upstream": {"api_key": "sk-new"}}}, history) == {"a": None}

    def test_ends_with_the_operators_word_for_the_one_that_is_left(self) -> None:
        assert reasons({"b": OWN}, remembered(self.BOTH)) == {"b": None}

    def test_elsewhere_is_of_no_account(self) -> None:
        elsewhere = {"b": {"upstream": {"base_url": "http://other.test/v1", "api_key": "sk-o"}}}
        assert reasons(elsewhere, remembered(self.BOTH)) == {"b": None}

    def test_opens_nothing_in_any_order_of_removing_disabling_rekeying_and_adding(self) -> None:
        """Two tenants that once had one account: whatever configurations follow, b opens by the word alone."""
        steps: list[dict[str, Any]] = [
            {"b": {}},
            {"a": {"enabled": False}, "b": {}},
            {"a": {"upstream": {"api_key": "sk-new"}}, "b": {}},
            {"a": {"upstream": {"base_url": "http://other.test/v1", "api_key": "sk-o"}}, "b": {}},
            {"a": OWN | {"upstream": {"api_key": "sk-own"}}, "b": {}},
            {"b": {"upstream": {"api_key": "sk-b2"}}},
        ]
        for order in itertools.permutations(steps, 3):
            ran: list[dict[str, Any]] = [self.BOTH]
            for step in order:
                assert reasons(step, remembered(*ran))["b"] is not None, order
                ran.append(step)

    def test_that_cannot_be_read_closes_what_only_it_could_open(self) -> None:
        elsewhere = {"upstream": {"base_url": "http://other.test/v1", "api_key": "sk-o"}}
        unknown = History(known=False)
        assert reasons({"a": {}}, unknown) == {"a": Reason.UNKNOWN}
        assert reasons({"a": OWN, "b": elsewhere}, unknown) == {"a": None, "b": Reason.UNKNOWN}

    def test_that_could_not_be_kept_closes_to_those_of_whom_it_is(self) -> None:
        elsewhere = {"upstream": {"base_url": "http://other.test/v1", "api_key": "sk-o"}}
        uses = account_uses(tenant_policies(settings_with({"a": {}, "b": elsewhere}), TABLE))
        (_, of_b) = uses
        found = reasons({"a": {}, "b": elsewhere}, History(uses, unwritten=frozenset({of_b})))
        assert found == {"a": None, "b": Reason.UNKNOWN}


def test_no_key_shows_in_an_account() -> None:
    account = account_of("http://api.test/v1", "sk-never-shown", None)
    assert "never-shown" not in repr(account)
    assert account.key != account_of("http://api.test/v1", "sk-another", None).key


def test_operator_is_told_who_is_closed_and_what_opens_them() -> None:
    tenants: dict[str, Any] = {name: {} for name in ("a", "b", "c1", "c2", "c3", "c4", "c5")}
    policies = tenant_policies(settings_with(tenants), TABLE)
    (sentence,) = closed_to(policies.values())
    assert "a, b, c1, c2, c3 and 2 more" in sentence
    assert 'stored_objects = "own"' in sentence
    assert "upstream.project" not in sentence

    left = tenant_policies(settings_with({"b": {}}), TABLE, remembered({"a": {}}))["b"]
    assert left.closed is not None
    assert left.closed.others == ("a",)
    (sentence,) = closed_to([left])
    assert "closed to b:" in sentence
    assert "that of a as well" in sentence
    assert "a" not in left.closed.words.split(), "tenants are not told of each other"


def test_ten_thousand_tenants_are_judged_in_a_moment() -> None:
    uses = {(f"t{n}", account_of("http://api.test/v1", "sk-common", None)): False for n in range(10_000)}
    began = time.process_time()
    found = judge(uses, History({(f"old{n}", account): False for n, (_, account) in enumerate(uses)}))
    assert all(closed is not None for closed in found.values())
    assert time.process_time() - began < 2


def may_be_one(one: Account, other: Account, *, vouched: bool) -> bool:
    """The rule itself, for two accounts; `vouched`: the operator has said of the other that it is a tenant's own."""
    if one.project is not None and other.project is not None:
        return one.project == other.project
    return one.key == other.key or (one.place == other.place and not vouched)


def test_finding_who_may_have_an_account_among_many_is_the_rule_for_every_two() -> None:
    chance = random.Random(9)
    tenants = [f"t{n}" for n in range(5)]
    ways = [
        account_of(base_url, key, project)
        for base_url in (OFFICIAL, "http://api.test/v1", "http://alias.test/v1")
        for key in ("sk-1", "sk-2", None)
        for project in (None, "proj_1", "proj_2")
    ]
    outcomes = set()
    for _ in range(3000):
        present = {
            (tenant, chance.choice(ways)): chance.random() < 0.3
            for tenant in chance.sample(tenants, chance.randint(1, 4))
        }
        past = {
            (chance.choice(tenants), chance.choice(ways)): chance.random() < 0.5
            for _ in range(chance.choice((0, 0, 1, 3)))
        }
        for (tenant, closed), ((_, account), own) in zip(
            judge(present, History(past)).items(), present.items(), strict=True
        ):
            now = {
                other
                for (other, theirs), vouched in present.items()
                if other != tenant and may_be_one(account, theirs, vouched=vouched)
            }
            before = {
                other
                for (other, theirs), said_own in past.items()
                if other != tenant
                and (other, theirs) not in present
                and may_be_one(
                    account,
                    theirs,
                    vouched=said_own
                    and any(o == other and t.place == theirs.place and w for (o, t), w in present.items()),
                )
            }
            if own or not (now or before):
                assert closed is None
            else:
                expected = Closed(Reason.SHARED if now else Reason.ONCE_SHARED, tuple(sorted(now or before)))
                assert closed == expected
            outcomes.add(closed and closed.reason)
    assert outcomes == {None, Reason.SHARED, Reason.ONCE_SHARED}
