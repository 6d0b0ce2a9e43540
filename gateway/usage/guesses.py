"""How long an answer is going to be where its request does not say. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from gateway.operations.model_patterns import closest
from gateway.operations.table import Operation

EXPECTED_OUTPUT = 1000
"""LLM tokens of an answer where neither request nor operator says anything."""


class Guesses:
    """How long answers are expected to be where requests do not say, by model."""

    def __init__(self, expected: Mapping[str, int]) -> None:
        self._expected = expected
        self._of_model = lru_cache(maxsize=1024)(self._find)

    def output(self, operation: Operation, model: str | None) -> int:
        """LLM tokens of one answer."""
        if operation.default_output is not None:
            return operation.default_output
        return self._of_model(model or "") if self._expected else EXPECTED_OUTPUT

    def _find(self, model: str) -> int:
        pattern = closest(self._expected, model)
        return EXPECTED_OUTPUT if pattern is None else self._expected[pattern]
