"""What upstreams say of their own limits, as their answers' heads have it: `x-ratelimit-remaining-requests`, and so on.

Every answer may say it, so of each upstream and model one head a second is looked into. What has not been said for a
while is not shown: nobody knows any more.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from functools import partial
from math import nan
from time import monotonic

from gateway.exchange.instruments import Gauges, Registry, Rule
from gateway.policy.model_names import ModelNames
from gateway.wire.answer_head import Head

STALE_SECONDS = 60.0
"""How long what was said is shown: the windows of most limits are a minute, after which it is another number."""

_MOST_DIMENSIONS = 12
"""Words for what is limited that are ever shown of one upstream: they are its own."""

_MOST_SERIES = 2000
_MOST_OF_ONE = 500
"""Series of one upstream: one that makes up words, or has many models, leaves room for those of others."""

_FIELD = re.compile(rb"x-ratelimit-(limit|remaining)-([a-z][a-z-]{0,31})")
_NUMBER = re.compile(rb"[0-9]{1,15}")


class UpstreamLimits:
    """The gauges of all upstreams."""

    def __init__(self, registry: Registry, names: ModelNames) -> None:
        """`names`: by which each model is shown."""
        self._remaining = Gauges(
            "gateway_upstream_limit_remaining",
            "What an upstream says is left of a limit of its own; gone when it has not said so for a while.",
            ["upstream", "model", "dimension"],
            rule=Rule.MIN,
            registry=registry,
        )
        self._limit = Gauges(
            "gateway_upstream_limit",
            "That limit, as the upstream says it.",
            ["upstream", "model", "dimension"],
            rule=Rule.MIN,
            registry=registry,
        )
        self._names = names
        self._dimensions: defaultdict[str, set[str]] = defaultdict(set)
        """Words that are shown, by upstream."""

        self._shown_of: Counter[str] = Counter()
        """How many series, by upstream."""

        self._said: dict[tuple[str, ...], tuple[float, float]] = {}
        """What was said last, and when, by the labels and whether it is what is left."""

    def said(self, upstream: str, model: str | None, head: Head, now: float) -> None:
        """Show what the head of an answer says."""
        for at, name in enumerate(head.names.lower):
            if not name.startswith(b"x-ratelimit-"):
                continue
            field = _FIELD.fullmatch(name)
            value = head.fields[at][1]
            if field is not None and _NUMBER.fullmatch(value):
                self._say((upstream, self._names.of(model)), field, float(value), now)

    def _say(self, labels: tuple[str, str], field: re.Match[bytes], value: float, now: float) -> None:
        upstream, dimension = labels[0], field[2].decode("ascii")
        words = self._dimensions[upstream]
        if dimension not in words:
            if len(words) >= _MOST_DIMENSIONS:
                return
            words.add(dimension)
        is_left = field[1] == b"remaining"
        key = (*labels, dimension, "left" if is_left else "")
        if key not in self._said:
            if len(self._said) >= _MOST_SERIES or self._shown_of[upstream] >= _MOST_OF_ONE:
                return
            self._shown_of[upstream] += 1
            gauges = self._remaining if is_left else self._limit
            gauges.watch(partial(self._shown, key), *labels, dimension)
        self._said[key] = value, now

    def _shown(self, key: tuple[str, ...]) -> float:
        value, said_at = self._said[key]
        return value if monotonic() - said_at < STALE_SECONDS else nan
