"""What the answers of models are like: when they begin, how fast they come, what they use.

`model` is a name of the configuration or of the upstream's list of models, at most 200, or `other`; it never stands
together with `tenant`.
"""

from __future__ import annotations

from gateway.exchange.instruments import Counts, Registry, Spread, Spreads, Sums
from gateway.policy.model_names import MOST_CHARACTERS, OTHER_MODEL, ModelNames
from gateway.usage.reported import KINDS, NUMBERS, Usage

# From a small model that is near to one that thinks for minutes.
_FIRST_BYTE_SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 90, 300)
# LLM tokens a second: from an overloaded server to the fastest there are.
_SPEEDS = (2.5, 5, 10, 20, 30, 45, 60, 80, 100, 150, 250, 500, 1000, 2500)
# From tokens that come in crowds to a silence in which proxies cut.
_GAP_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


_MOST_KEPT = 1024
"""Models of which it is kept what they are counted in: most names are the client's choice."""

# What comes at once, in one piece or in a few, says nothing of how fast it was made.
_LEAST_SECONDS = 0.01


class ModelTallies:
    """What the exchanges with one model add to; a series of what has not happened yet is not there."""

    __slots__ = ("first_byte", "speed", "usage")

    def __init__(self, usage: list[float]) -> None:
        self.usage = usage
        """In the order of `Usage`."""

        self.first_byte: Spread | None = None
        self.speed: Spread | None = None


class ModelMetrics:
    """Instruments of what is generated."""

    def __init__(self, registry: Registry) -> None:
        self.named: dict[str | None, ModelTallies] = {}
        """By model, as far as `of` has been asked for them; those without a name of their own are all the same."""

        self.names = ModelNames(changed=self.named.clear)
        """By which names models are counted."""

        self._first_byte = Spreads(
            "gateway_generation_first_byte_seconds",
            "From a request's first byte to the first byte of what a model streams.",
            ["model"],
            bounds=_FIRST_BYTE_SECONDS,
            registry=registry,
        )
        self._speed = Spreads(
            "gateway_output_llm_tokens_per_second",
            "LLM tokens of output by the time from the first piece of their stream to the last: what the upstream "
            "reports of streams that went on for a hundredth of a second.",
            ["model"],
            bounds=_SPEEDS,
            registry=registry,
        )
        self._usage = Sums(
            "gateway_model_usage",
            "Usage by model, reported or estimated, in the kinds of gateway_usage_total.",
            ["model", "kind"],
            of=[kind if kind in KINDS else None for kind in Usage._fields[:NUMBERS]],
            registry=registry,
        )
        self.piece_gap = Spreads(
            "gateway_piece_gap_seconds",
            "Between two pieces of what a model streams; of many streams at once one in eight is watched, and counts "
            "for eight.",
            bounds=_GAP_SECONDS,
            registry=registry,
        ).labels()
        self._lists = Counts(
            "gateway_model_lists",
            "Questions to an upstream which models it has, whose names metrics may show, by result.",
            ["upstream", "result"],
            registry=registry,
        )
        self._others: ModelTallies | None = None

    def listed(self, upstream: str, result: str) -> None:
        """Count one question to an upstream which models it has."""
        self._lists.labels(upstream, result).inc()

    def of(self, model: str | None) -> ModelTallies:
        """What exchanges with this model add to, which the upstream took on."""
        label = self.names.of(model)
        if label == OTHER_MODEL:
            tallies = self._others = self._others or ModelTallies(self._usage.labels(label))
        else:
            tallies = ModelTallies(self._usage.labels(label))
        if model is None or len(model) <= MOST_CHARACTERS:
            if len(self.named) >= _MOST_KEPT:
                self.named.clear()
            self.named[model] = tallies
        return tallies

    def began(self, model: str | None, seconds: float, exchange: str | None, ended_time: float) -> None:
        """Record how long a stream took to begin; `exchange` is its id, where it has a line in the log."""
        tallies = self.named.get(model) or self.of(model)
        if tallies.first_byte is None:
            tallies.first_byte = self._first_byte.labels(self.names.of(model))
        tallies.first_byte.observe_exchange(seconds, exchange, ended_time)

    def wrote(self, model: str | None, output: int, seconds: float) -> None:
        """Record in what time so many LLM tokens were streamed; nothing of what came at once."""
        if seconds < _LEAST_SECONDS:
            return
        tallies = self.named.get(model) or self.of(model)
        if tallies.speed is None:
            tallies.speed = self._speed.labels(self.names.of(model))
        tallies.speed.observe(output / seconds)
