"""By which names models are counted: few, and none that only a client or an answer has."""

from __future__ import annotations

import orjson
import pytest

from gateway.policy.model_names import MOST_MODELS, MOST_OF_ONE, ModelNames, configured_models, listed_models
from gateway.settings.sources import load


def test_a_model_of_the_configuration_or_of_a_list_has_its_name_and_any_other_is_other() -> None:
    names = ModelNames(["gpt-4o"])
    names.learn(["llama-3"])

    assert [names.of(model) for model in ("gpt-4o", "llama-3", "made-up", None)] == [
        *("gpt-4o", "llama-3", "other", "other")
    ]


def test_a_hundred_thousand_made_up_names_are_one() -> None:
    names = ModelNames(["gpt-4o"])

    assert {names.of(f"made-up-{n}") for n in range(100_000)} == {"other"}
    assert names.of("gpt-4o") == "gpt-4o"


def test_names_are_given_to_those_that_are_asked_for_and_to_no_more_than_two_hundred() -> None:
    names = ModelNames()
    names.learn(f"listed-{n}" for n in range(1000))

    given = {names.of(f"listed-{n}") for n in range(999, -1, -1)}

    assert given == {f"listed-{n}" for n in range(999, 999 - MOST_MODELS, -1)} | {"other"}


def test_names_of_lists_leave_room_for_those_of_the_configuration() -> None:
    names = ModelNames(f"configured-{n}" for n in range(150))
    names.learn(f"listed-{n}" for n in range(1000))

    listed = {names.of(f"listed-{n}") for n in range(1000)}
    configured = {names.of(f"configured-{n}") for n in range(150)}

    assert len(listed - {"other"}) == 50
    assert configured == {f"configured-{n}" for n in range(150)}


def test_an_upstream_that_lists_very_many_leaves_room_for_the_models_of_others() -> None:
    names = ModelNames()
    names.learn(["gpt-4o", "gpt-5"], "default")
    names.learn([*(f"made-up-{n}" for n in range(9_000)), "gpt-4o"], "own")

    made_up = {names.of(f"made-up-{n}") for n in range(9_000)}
    assert len(made_up - {"other"}) == MOST_OF_ONE
    assert [names.of("gpt-4o"), names.of("gpt-5")] == ["gpt-4o", "gpt-5"]


def test_a_reload_names_others_and_leaves_those_their_name_that_had_one() -> None:
    names = ModelNames(["old", "never-asked-for"])
    assert names.of("old") == "old"

    names.configure(["new"])

    assert [names.of(model) for model in ("old", "new", "never-asked-for")] == ["old", "new", "other"]


@pytest.mark.parametrize("name", ["", "x" * 129, "with\nline", "\x1b[31m"])
def test_what_nobody_can_read_is_no_name(name: str) -> None:
    names = ModelNames([name])
    names.learn([name])

    assert names.of(name) == "other"


def test_the_configuration_names_models_in_every_place_where_it_may() -> None:
    limits = {"models": {"by-limit": {"max_requests_per_1_minute": 5}, "pattern-*": {}}}
    settings = load(
        None,
        flags={
            "expected_output": {"expected": 100, "any-*": 5},
            "limits": {"models": {"common": {}}},
            "tenants": {"acme": {"models": ["allowed", "d*"], "default_model": "default", "limits": limits}},
        },
        environ={},
    )

    assert set(configured_models(settings)) == {"expected", "common", "allowed", "default", "by-limit"}


@pytest.mark.parametrize(
    ("body", "models"),
    [
        ({"object": "list", "data": [{"id": "a"}, {"id": 5}, "b", {"name": "c"}, {"id": "d"}]}, ["a", "d"]),
        ({"data": {"id": "a"}}, []),
        (["a"], []),
        (None, []),
    ],
)
def test_a_list_of_models_has_the_ids_of_its_entries(body: object, models: list[str]) -> None:
    assert listed_models(orjson.dumps(body)) == models


def test_what_is_no_json_lists_no_models() -> None:
    assert listed_models(b"<html>") == []
