"""A pattern allows what it says and no more, and two lists together allow no more than each."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.operations.model_patterns import allows, narrowed


@pytest.mark.parametrize(
    ("pattern", "model", "matches"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o", "GPT-4o", False),
        ("gpt-4o*", "gpt-4o", True),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("gpt-4o*", "xgpt-4o", False),
        ("*", "", True),
        ("*", "anything\nat all", True),
        ("*-mini", "gpt-4o-mini", True),
        ("ft:*:acme:*", "ft:gpt-4o:acme:x", True),
        ("ft:*:acme:*", "ft:gpt-4o:acme", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("a*b*b", "ab", False),
        ("a*bc*c", "abc", False),
        ("gpt-?", "gpt-4", False),
        ("gpt-[45]", "gpt-4", False),
        ("gpt-?", "gpt-?", True),
        ("", "", True),
        ("", "gpt-4o", False),
    ],
)
def test_star_stands_for_any_text_and_nothing_else_is_special(
    pattern: str, model: str, matches: bool
) -> None:
    assert allows([pattern], model) is matches
    assert allows(["other", pattern], model) is matches


def test_empty_list_allows_nothing() -> None:
    assert not allows([], "gpt-4o")


PATTERNS = st.text("ab*", max_size=6)
MODELS = st.text("ab", max_size=8)


@settings(max_examples=500, deadline=None)
@given(PATTERNS, MODELS)
def test_match_is_that_of_the_regular_expression(pattern: str, model: str) -> None:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    assert allows([pattern], model) is (re.fullmatch(expression, model) is not None)


@settings(max_examples=500, deadline=None)
@given(st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=3), MODELS)
def test_narrowed_list_allows_no_more_than_each(first: list[str], second: list[str], model: str) -> None:
    if allows(narrowed(first, second), model):
        assert allows(first, model) and allows(second, model)


@settings(max_examples=300, deadline=None)
@given(st.lists(MODELS, max_size=3), st.lists(PATTERNS, max_size=3), MODELS)
def test_narrowed_names_lose_none_that_both_allow(names: list[str], most: list[str], model: str) -> None:
    assert allows(narrowed(names, most), model) is (allows(names, model) and allows(most, model))


def test_hostile_pattern_costs_no_time() -> None:
    started = time.perf_counter()
    assert not allows(["a*" * 2000 + "b"], "a" * 8000)
    assert time.perf_counter() - started < 1.0
