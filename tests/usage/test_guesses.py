"""How long an answer is expected to be whose request does not say."""

from __future__ import annotations

from gateway.operations.model_patterns import closest
from gateway.usage.guesses import EXPECTED_OUTPUT, Guesses
from tests.kit.asking import TABLE


def test_guess_follows_the_closest_pattern() -> None:
    guesses = Guesses({"gpt-*": 1, "gpt-4o*": 2, "gpt-4o": 3, "*": 4})
    chat = TABLE.by_id("createChatCompletion")
    models = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "o3", None)
    assert [guesses.output(chat, model) for model in models] == [3, 2, 1, 4, 4]
    assert Guesses({"x": 1}).output(chat, "y") == EXPECTED_OUTPUT
    assert closest(["a*", "ab"], "b") is None
