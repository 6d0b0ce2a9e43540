"""Alert rules, their records and the queries in their words ask only for what there is, of whichever job."""

from __future__ import annotations

import re

import pytest

from tests.kit.queries import check_query, exposed, recorded, rules

RULES = rules()
ALERTS = [rule for rule in RULES if "alert" in rule]
NAMES = [rule.get("record") or rule["alert"] for rule in RULES]
IN_WORDS = re.compile(r"printf \"((?:[^\"\\]|\\.)*)\"|printf '([^']*)'")


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_a_rule_asks_only_for_series_and_labels_that_exist(rule: dict[str, str]) -> None:
    check_query(rule["expr"])


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_the_words_of_an_alert_ask_only_for_series_and_labels_that_exist(
    rule: dict[str, dict[str, str]],
) -> None:
    labels = set().union(*exposed().values(), *recorded().values())
    for words in rule["annotations"].values():
        queries = ["".join(found) for found in IN_WORDS.findall(words)]
        assert len(queries) == words.count("printf")
        for query in queries:
            check_query(query)
        assert set(re.findall(r"\$labels\.(\w+)", words)) <= labels


def test_names_are_given_once() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_no_rule_names_a_job_or_an_instance(rule: dict[str, str]) -> None:
    assert not re.search(r"\b(job|instance)\s*=~?\s*\"", rule["expr"])


@pytest.mark.parametrize(
    "query",
    [
        "rate(gateway_never_total[5m])",
        'gateway_exchanges_total{never="1"}',
        "sum by (never) (gateway_exchanges_total)",
        "gateway:never:rate5m",
        'gateway:errors:rate5m{operation="x"}',
    ],
)
def test_what_does_not_exist_is_noticed(query: str) -> None:
    with pytest.raises(AssertionError):
        check_query(query)
