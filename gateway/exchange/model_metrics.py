"""What the answers of models are like: when they begin, how fast they come, what they use.

`model` is a name of the configuration or of the upstream's list of models, at most 200, or `other`; it never stands
together with `tenant`.
"""

from __future__ import annotations

from gateway.exchange.instruments import Registry, Spreads, Sums
from gateway.usage.reported import KINDS, Usage

# From a small model that is near to one that thinks for minutes.
_FIRST_BYTE_SECONDS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 90, 300)
# LLM tokens a second: from an overloaded server to the fastest there are.
_SPEEDS = (2.5, 5, 10, 20, 30, 45, 60, 80, 100, 150, 250, 500, 1000, 2500)
# From tokens that come in crowds to a silence in which proxies cut.
_GAP_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ModelMetrics:
    """Instruments of what is generated."""

    def __init__(self, registry: Registry) -> None:
        self.first_byte = Spreads(
            "gateway_generation_first_byte_seconds",
            "From a request's first byte to the first byte of what a model streams.",
            ["model"],
            bounds=_FIRST_BYTE_SECONDS,
            registry=registry,
        )
        self.speed = Spreads(
            "gateway_output_llm_tokens_per_second",
            "LLM tokens of output by the time in which they were streamed, where the upstream reports them.",
            ["model"],
            bounds=_SPEEDS,
            registry=registry,
        )
        self.usage = Sums(
            "gateway_model_usage",
            "Usage by model, reported or estimated, in the kinds of gateway_usage_total.",
            ["model", "kind"],
            of=[kind if kind in KINDS else None for kind in Usage._fields],
            registry=registry,
        )
        self.piece_gap = Spreads(
            "gateway_piece_gap_seconds",
            "Between two pieces of what a model streams.",
            bounds=_GAP_SECONDS,
            registry=registry,
        ).labels()
