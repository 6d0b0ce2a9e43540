"""Models and streams: how soon they begin, how fast they speak, what they use, and how they end."""

from __future__ import annotations

from grafana_foundation_sdk.models import units

from docs.dashboards.faults import EXCHANGES, share
from docs.dashboards.page import Page, Row
from docs.dashboards.panels import LLM_TOKENS_PER_SECOND, PER_MINUTE, bars, lines, number, spread
from docs.dashboards.queries import WHOLE, Ask, but

ask = Ask("model", "operation")
_FIRST, _SPEED, _USED = (
    "gateway_generation_first_byte_seconds",
    "gateway_output_llm_tokens_per_second",
    "gateway_model_usage_total",
)
_GAP = "gateway_piece_gap_seconds"
_none = "No generation was streamed in this time."

BEGIN = Row(
    "First byte of generations",
    [
        lines(
            "First byte",
            "From the moment a request was readable to the first byte of its streamed answer.",
            "Click on an exemplar for its request. Not ours unless Overhead on Overview has grown with it.",
            *(ask.quantile(q, _FIRST).named(n) for q, n in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))),
            unit=units.Seconds,
            empty=_none,
        ),
        lines(
            "First byte by model",
            "p95 by model: the ten slowest; other: names that neither the configuration nor the upstream's list "
            "has.",
            "One model alone: its provider is short of it. All of one upstream: see Upstreams.",
            ask.quantile(0.95, _FIRST, "model").top(),
            unit=units.Seconds,
            empty=_none,
        ),
        spread(
            "Where first bytes lie",
            "How many generations began after how long.",
            "Two bands are two kinds of requests (cached prompts, reasoning); a band that moves up is a model that "
            "slows.",
            ask.buckets(_FIRST),
            unit=units.Seconds,
            empty=_none,
            size=(8, 8),
        ),
    ],
)

SPEED = Row(
    "How they speak",
    [
        lines(
            "LLM tokens per second of output, by model",
            "The median speed of streamed answers, from their first byte to their last: the ten fastest.",
            "A fall of one model is its provider's; of all, the gateway or what reads from it: see lag on "
            "Internals.",
            ask.quantile(0.5, _SPEED, "model").top(),
            unit=LLM_TOKENS_PER_SECOND,
            empty=_none,
        ),
        lines(
            "Slowest tenth, by model",
            "The speed that nine of ten streamed answers exceeded: the ten slowest models.",
            "Below ten LLM tokens per second people read faster than it speaks.",
            ask.quantile(0.1, _SPEED, "model").lowest(),
            unit=LLM_TOKENS_PER_SECOND,
            empty=_none,
        ),
        spread(
            "Where speeds lie",
            "How many streamed answers came how fast.",
            "A second, slower band that was not there before: one provider, region or tier has become slow.",
            ask.buckets(_SPEED),
            unit=LLM_TOKENS_PER_SECOND,
            empty=_none,
            size=(8, 8),
        ),
        lines(
            "Between pieces",
            "How long streams were silent between one piece and the next.",
            "p99 of seconds is a stall that people see. Compare event loop lag on Internals: where that is small, "
            "the upstream paused.",
            *(ask.quantile(q, _GAP).named(n) for q, n in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))),
            unit=units.Seconds,
            empty=_none,
            logarithmic=True,
        ),
        lines(
            "Pieces",
            "Pieces of streamed generations that went by, per second.",
            "What the loop has to do besides requests: CPU grows with it.",
            ask.count(_GAP).named("pieces"),
            unit=units.EventsPerSecond,
            empty=_none,
        ),
        lines(
            "Oldest exchange",
            "For how long the oldest exchange has been open, of HTTP and of WebSockets.",
            "Hours over HTTP: a stream that nobody ends; `gateway top` and log.start lines name it.",
            ask.max("gateway_oldest_exchange_seconds", "transport"),
            unit=units.DurationSeconds,
            empty="Nothing is being served.",
        ),
    ],
)

USE = Row(
    "What they use",
    [
        lines(
            "LLM tokens out, by model",
            "LLM tokens generated per minute: the ten models with most.",
            "A model that nobody should use any more still here: tenants.ID.models closes it.",
            (ask.rate(_USED, "model", kind="output") * 60).top(),
            unit=PER_MINUTE,
            empty="Nothing was generated.",
            stacked=True,
        ),
        lines(
            "LLM tokens in, by model",
            "LLM tokens of prompts per minute: the ten models with most.",
            "Growing faster than exchanges: conversations or contexts grow longer.",
            (ask.rate(_USED, "model", kind="input") * 60).top(),
            unit=PER_MINUTE,
            empty="Nothing was sent.",
            stacked=True,
        ),
        lines(
            "From the upstream's cache, by model",
            "The share of prompts' LLM tokens that the upstream had in a cache, which costs less and begins sooner.",
            "A fall: prompts have begun to differ at their start, or requests are spread over more accounts.",
            share(
                ask.rate(_USED, "model", kind="cached_input"), ask.rate(_USED, "model", kind="input")
            ).top(),
            unit=units.PercentUnit,
            empty="No upstream reported a cache.",
            most=1,
        ),
        bars(
            "Most generated",
            "LLM tokens generated in the time shown: the ten models with most.",
            "For accounts by day and month ask `gateway usage`.",
            ask.grown(_USED, "model", over=WHOLE, kind="output").top(),
            unit=units.Short,
            empty="Nothing was generated.",
            steps=(),
        ),
        lines(
            "Usage by kind",
            "Everything that was used, per minute; cached_input is part of input, reasoning of output.",
            "reasoning that grows alone: a model, or an effort, has been changed.",
            ask.rate(_USED, "kind") * 60,
            unit=PER_MINUTE,
            empty="Nothing was used.",
        ),
        number(
            "Names that count as other",
            "The share of generated LLM tokens of models that neither the configuration nor the upstream's list "
            "names.",
            "Above nothing: the upstream echoes names that it does not list, or lists more than 200.",
            share(ask.rate(_USED, kind="output", model="other"), ask.rate(_USED, kind="output")).or_zero(),
            unit=units.PercentUnit,
            empty="0",
            steps=((0.05, "yellow"),),
            size=(8, 8),
        ),
        lines(
            "Questions for models",
            "How often upstreams were asked which models they have, in the time shown, by result.",
            "failed: standard error says why; until it answers, models that no configuration names count as other.",
            ask.grown("gateway_model_lists_total", "upstream", "result", over=WHOLE),
            unit=units.Short,
            empty="Nobody was asked in this time: once an hour.",
            size=(16, 8),
        ),
    ],
)

END = Row(
    "How exchanges go, by operation",
    [
        lines(
            "Endings",
            "Exchanges that ended, per second, by how.",
            "upstream_lost and timed_out cut streams: the client sees a broken end, the log line has why in "
            "`detail`.",
            ask.rate(EXCHANGES, "ending"),
            unit=units.RequestsPerSecond,
            empty="Nobody has asked anything in this time.",
            stacked=True,
        ),
        lines(
            "Cut short, by operation",
            "The share of exchanges that did not complete though they were not refused: the ten worst operations.",
            "client_left is among them: people who give up. Narrow it by the log's `ending`.",
            share(
                ask.rate(EXCHANGES, "operation", ending=but("complete", "refused")),
                ask.rate(EXCHANGES, "operation"),
            ).top(),
            unit=units.PercentUnit,
            empty="Nothing was cut short.",
        ),
        lines(
            "First byte by operation",
            "p95 from the moment a request was readable to the first byte of its answer's body, of all answers.",
            "What is not streamed answers once it is done: compare it with Duration.",
            ask.quantile(0.95, "gateway_first_byte_seconds", "operation").top(),
            unit=units.Seconds,
            empty="Nobody has asked anything in this time.",
        ),
        lines(
            "Duration by operation",
            "p95 from the moment a request was readable to the last byte of its answer: the ten longest.",
            "Long is well for streams and sessions. What should be short and is not: see Upstreams.",
            ask.quantile(0.95, "gateway_exchange_duration_seconds", "operation").top(),
            unit=units.Seconds,
            empty="Nobody has asked anything in this time.",
        ),
        spread(
            "Where durations lie",
            "How many exchanges took how long.",
            "A band at a round number of seconds is a deadline of somebody's: a client's, the upstream's, or ours.",
            ask.buckets("gateway_exchange_duration_seconds"),
            unit=units.Seconds,
            empty="Nobody has asked anything in this time.",
            size=(16, 8),
        ),
    ],
)

PAGE = Page(
    "models",
    "Models and streams",
    "How soon models begin, how fast they speak, what they use, and how exchanges end.",
    ask,
    [BEGIN, SPEED, USE, END],
)
