"""What a request costs before anybody knows: read from what it says, guessed where it says nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.credentials.principal import Principal
from gateway.limits.charges import QuotaSet
from gateway.limits.terms import Charge, Dimension, OnStoreFailure, Quota, account_key, binds
from gateway.policy.reading import Question, read_body
from gateway.policy.tenant_limits import TenantLimits
from gateway.settings.limits import Capacities, Limits
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from gateway.usage.answer_lengths import EXPECTED_OUTPUT
from gateway.usage.cost import Cost, charges_for, cost_of, settlement
from gateway.usage.guesses import Guesses
from gateway.usage.reported import Usage
from gateway.wire.body_facts import NOTHING_READ
from tests.kit.asking import TABLE

KEY = account_key("acme")
GUESS = 77


def cost(operation_id: str, document: Any = None, *, length: int | None = None, read: bool = True) -> Cost:
    operation = TABLE.by_id(operation_id)
    question = Question(model_path=("model",) if read else None, prompt=True, answers=operation.answers)
    return cost_of(
        operation,
        tenant="acme",
        model="m",
        facts=NOTHING_READ if document is None else read_body(orjson.dumps(document), question),
        length_bytes=length,
        most_bytes=10_000,
        guesses=Guesses({"m": GUESS}),
    )


@pytest.mark.parametrize(
    ("operation", "document", "expected"),
    [
        ("createChatCompletion", {"messages": [{"content": "x" * 40}]}, Cost(input=10, output=GUESS)),
        ("createChatCompletion", {"max_tokens": 5}, Cost(input=0, output=5, maximum="max_tokens")),
        (
            "createChatCompletion",
            {"max_completion_tokens": 9, "max_tokens": 5},
            Cost(input=0, output=9, maximum="max_completion_tokens"),
        ),
        (
            "createChatCompletion",
            {"max_tokens": 5, "n": 3},
            Cost(input=0, output=15, answers=3, maximum="max_tokens"),
        ),
        ("createChatCompletion", {"n": 3}, Cost(input=0, output=3 * GUESS, answers=3)),
        (
            "createChatCompletionBatch",
            {"messages": [[{"content": "x" * 40}]] * 3, "max_tokens": 5},
            Cost(input=30, output=15, answers=3, maximum="max_tokens"),
        ),
        ("createCompletion", {"prompt": "x" * 8}, Cost(input=2, output=16)),
        (
            "createCompletion",
            {"prompt": ["x" * 8] * 4, "max_tokens": 5},
            Cost(input=8, output=20, answers=4, maximum="max_tokens"),
        ),
        (
            "createCompletion",
            {"prompt": [1, 2, 3], "best_of": 4, "n": 2},
            Cost(input=3, output=64, answers=4),
        ),
        ("createCompletion", {"prompt": [[1, 2], [3]]}, Cost(input=3, output=32, answers=2)),
        (
            "createResponse",
            {"input": "x" * 8, "max_output_tokens": 50},
            Cost(input=2, output=50, maximum="max_output_tokens"),
        ),
        ("createEmbedding", {"input": "x" * 9}, Cost(input=3)),
        ("createEmbedding", {"input": [[5] * 700, [6] * 300]}, Cost(input=1000)),
        ("createModeration", {"input": ["x" * 8, "y" * 8]}, Cost(input=4)),
        (
            "createRun",
            {"assistant_id": "a" * 8, "max_completion_tokens": 30},
            Cost(input=2, output=30, maximum="max_completion_tokens"),
        ),
        ("createImage", {"prompt": "cat", "n": 4}, Cost(images=4)),
        ("createImage", {"prompt": "cat"}, Cost(images=1)),
        ("createImageEdit", {"prompt": "cat", "n": 2}, Cost(images=2)),
        (
            "createResponse",
            {"input": "x" * 8, "max_output_tokens": 5, "tools": [{"type": "image_generation"}]},
            Cost(input=6, output=5, maximum="max_output_tokens", images=1),
        ),
        (
            "createEmbedding",
            {"input": [{"content": [{"type": "input_image", "image_url": "x", "detail": "low"}]}]},
            Cost(input=89, attached=85),
        ),
        ("createSpeech", {"input": "x" * 4000}, Cost()),
        ("getInputTokenCounts", {"input": "x" * 4000}, Cost()),
        ("createAssistant", {"instructions": "x" * 4000}, Cost()),
        ("createRealtimeSession", {"instructions": "x" * 4000}, Cost()),
    ],
)
def test_cost_is_what_the_body_says_and_what_is_guessed_beside_it(
    operation: str, document: dict[str, Any], expected: Cost
) -> None:
    assert cost(operation, document) == expected


def test_body_that_policy_did_not_read_is_estimated_all_the_same() -> None:
    outputs = {"tool_outputs": [{"output": "x" * 80}]}
    assert cost("submitToolOuputsToRun", outputs, read=False) == Cost(input=20, output=GUESS)
    operation = TABLE.by_id("submitToolOuputsToRun")
    unreadable = cost_of(
        operation,
        tenant="acme",
        model=None,
        facts=read_body(b"{", Question(prompt=True)),
        length_bytes=1,
        most_bytes=9,
        guesses=Guesses({}),
    )
    assert unreadable == Cost(input=0, output=EXPECTED_OUTPUT)


def test_audio_is_its_stated_size_or_else_a_guess_as_large_as_the_cap() -> None:
    assert cost("createTranscription", length=4000) == Cost(audio_bytes=4000)
    assert cost("createTranslation") == Cost(audio_bytes=0, audio_guess_bytes=10_000)
    assert cost("createImageVariation", length=4000) == Cost(images=1)


def test_session_needs_something_to_be_left() -> None:
    assert cost("connectRealtime") == Cost(input=1)


def quota(dimension: Dimension, capacity: int = 1000) -> Quota:
    return Quota(dimension, capacity, KEY)


def test_charges_take_from_every_quota_what_it_counts() -> None:
    quotas = QuotaSet.of(quota(dimension) for dimension in Dimension)

    def taken(cost: Cost) -> dict[str, int]:
        return {charge.quota.dimension.value: charge.permits for charge in charges_for(quotas, cost)}

    always = {
        "max_requests_per_1_minute": 1,
        "max_requests_per_1_day": 1,
        "max_concurrent_requests": 1,
        "max_tokens_per_1_minute": 0,
        "max_tokens_per_1_day": 0,
    }
    assert taken(Cost()) == always
    tokens = {"max_tokens_per_1_minute": 70, "max_tokens_per_1_day": 70}
    assert taken(Cost(input=20, output=50)) == always | tokens
    assert taken(Cost(images=3)) == always | {"max_images_per_1_minute": 3}
    assert taken(Cost(audio_bytes=5)) == always | {"max_audio_megabytes_per_1_minute": 5}
    assert taken(Cost(batch_input=9)) == always | {"batch_1_day_max_input_tokens": 9}
    cut = {"max_tokens_per_1_minute": 1000, "max_tokens_per_1_day": 1000}
    assert taken(Cost(input=400, output=10**9)) == always | cut
    whole = quota(Dimension.AUDIO_MEGABYTES_PER_MINUTE).permits
    guessed = Cost(audio_bytes=0, audio_guess_bytes=2 * whole)
    assert taken(guessed) == always | {"max_audio_megabytes_per_1_minute": whole}
    tokens_per_day = quota(Dimension.TOKENS_PER_DAY)
    above = charges_for(QuotaSet.of([tokens_per_day]), Cost(input=1200, output=5))
    assert list(above) == [Charge(tokens_per_day, 1200, 1200)]


@pytest.mark.parametrize(
    ("known", "guessed", "permits"),
    [(10, 20, 30), (10, 90, 100), (10, 5_000, 100), (100, 1, 100), (101, 1, 101)],
)
def test_guess_is_cut_to_fit_and_what_is_known_is_not(known: int, guessed: int, permits: int) -> None:
    tokens = quota(Dimension.TOKENS_PER_MINUTE, 100)
    charges = charges_for(QuotaSet.of([tokens]), Cost(input=known, output=guessed))
    assert list(charges) == [Charge(tokens, permits, known)]


def test_settlement_names_what_was_used_and_leaves_what_nobody_counted() -> None:
    usage = Usage(input=5, output=6, total=11, images=2)
    chat = Cost(input=5, output=50)
    tokens = {Dimension.TOKENS_PER_MINUTE: 11, Dimension.TOKENS_PER_DAY: 11}
    assert settlement(chat, usage=usage, spent=True, sent_bytes=9) == tokens | {
        Dimension.IMAGES_PER_MINUTE: 2
    }
    audio = settlement(Cost(audio_bytes=5), usage=None, spent=True, sent_bytes=9)
    assert audio[Dimension.AUDIO_MEGABYTES_PER_MINUTE] == 9
    images = settlement(Cost(images=3), usage=None, spent=True, sent_bytes=9)
    assert Dimension.IMAGES_PER_MINUTE not in images
    assert Dimension.BATCH_INPUT_TOKENS_PER_DAY not in images
    unspent = settlement(chat, usage=None, spent=False, sent_bytes=9)
    assert unspent == {dimension: 0 for dimension in Dimension if dimension.settles}


# The limits of a tenant


def principal(subject: str = "alice", **limits: int) -> Principal:
    return Principal("acme", subject, frozenset(), f"jti-{subject}", 0.0, 1.0, limits=limits or None)


def described(quotas: tuple[Quota, ...]) -> list[tuple[str, int, dict[str, str]]]:
    return [(quota.dimension.value, quota.capacity, binds(quota)) for quota in quotas]


def test_caller_is_charged_for_tenant_subject_and_credential() -> None:
    limits = TenantLimits(
        "acme",
        Limits(
            max_requests_per_1_day=9,
            subjects={"*": Capacities(max_requests_per_1_day=5), "a*": Capacities(max_images_per_1_minute=4)},
        ),
        OnStoreFailure.LOCAL,
    )
    assert described(limits.of_caller(principal(max_requests_per_1_minute=1))) == [
        ("max_requests_per_1_day", 9, {}),
        ("max_images_per_1_minute", 4, {"subject": "alice"}),
        ("max_requests_per_1_minute", 1, {"credential": "jti-alice"}),
    ]
    assert described(limits.of_caller(principal("bob"))) == [
        ("max_requests_per_1_day", 9, {}),
        ("max_requests_per_1_day", 5, {"subject": "bob"}),
    ]
    assert limits.of_model("gpt-4o") == ()
    keys = {quota.key for quota in limits.of_caller(principal("bob", max_requests_per_1_day=1))}
    assert len(keys) == 3, "each has a bucket of its own"


@pytest.mark.parametrize("name", ["a:b", "a=b", "{a}", "ä", "a%3Ab", "x:model=y"])
def test_names_of_any_kind_stay_what_they_are(name: str) -> None:
    limits = TenantLimits(
        "acme",
        Limits(
            models={name: Capacities(max_requests_per_1_day=1)},
            subjects={name: Capacities(max_requests_per_1_day=1)},
        ),
        OnStoreFailure.LOCAL,
    )
    assert described(limits.of_model(name)) == [("max_requests_per_1_day", 1, {"model": name})]
    assert described(limits.of_caller(principal(name))) == [("max_requests_per_1_day", 1, {"subject": name})]


@pytest.mark.parametrize(
    ("limits", "counts"),
    [
        (Limits(), False),
        (Limits(max_requests_per_1_day=1, max_images_per_1_minute=1, max_concurrent_requests=1), False),
        (Limits(batch_1_day_max_input_tokens=1), False),
        (Limits(max_tokens_per_1_day=1), True),
        (Limits(models={"x": Capacities(max_tokens_per_1_minute=1)}), True),
        (Limits(subjects={"x": Capacities(max_tokens_per_1_minute=1)}), True),
    ],
)
def test_usage_counts_where_some_limit_is_on_it(limits: Limits, counts: bool) -> None:
    assert TenantLimits("acme", limits, OnStoreFailure.LOCAL).counts_usage is counts


# Settings


def test_limits_are_read_from_tables_and_fall_back_one_by_one() -> None:
    settings = load(
        flags={
            "limits": {
                "max_requests_per_1_minute": 100,
                "max_tokens_per_1_day": 1000,
                "on_store_failure": {"max_tokens_per_1_day": "closed"},
                "models": {"gpt-*": {"max_requests_per_1_day": 7, "max_images_per_1_minute": 3}},
            },
            "tenants": {
                "acme": {
                    "limits": {
                        "max_requests_per_1_minute": 5,
                        "on_store_failure": {"max_requests_per_1_minute": "open"},
                        "models": {
                            "gpt-*": {"max_requests_per_1_day": 2},
                            "o3": {"max_concurrent_requests": 1},
                        },
                    }
                }
            },
        },
        environ={},
    )
    limits = TenantLimits("acme", settings.limits_of(settings.tenants["acme"]), OnStoreFailure.LOCAL)
    found = [(quota.dimension.value, quota.capacity, quota.on_store_failure.value) for quota in limits.tenant]
    assert found == [("max_requests_per_1_minute", 5, "open"), ("max_tokens_per_1_day", 1000, "closed")]
    assert {pattern: described(quotas) for pattern, quotas in limits.models.items()} == {
        "gpt-*": [
            ("max_requests_per_1_day", 2, {"model": "gpt-*"}),
            ("max_images_per_1_minute", 3, {"model": "gpt-*"}),
        ],
        "o3": [("max_concurrent_requests", 1, {"model": "o3"})],
    }


@pytest.mark.parametrize(
    ("limits", "key"),
    [
        ({"max_requests_per_1_minute": 0}, "max_requests_per_1_minute"),
        ({"max_tokens_per_1_day": -5}, "max_tokens_per_1_day"),
        ({"max_audio_megabytes_per_1_minute": 40_000}, "max_audio_megabytes_per_1_minute"),
        ({"max_tokens_per_1_day": 10**12}, "max_tokens_per_1_day"),
        ({"max_token_per_1_day": 5}, "did you mean 'max_tokens_per_1_day'"),
        ({"models": {"gpt-4o": {"max_token_per_1_day": 5}}}, "did you mean 'max_tokens_per_1_day'"),
        ({"on_store_failure": {"max_tokens_per_1_day": "ignore"}}, "on_store_failure"),
        ({"on_store_failure": {"tokens": "open"}}, "on_store_failure"),
        ({"subjects": {"": {}}}, "subjects"),
    ],
)
def test_limit_that_makes_no_sense_is_a_problem_with_a_name(limits: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsInvalid) as invalid:
        load(flags={"limits": limits}, environ={})
    assert len(invalid.value.problems) == 1
    assert key in str(invalid.value)


def test_largest_limits_are_limits() -> None:
    for dimension in Dimension:
        most = {"max_audio_megabytes_per_1_minute": 37_000}.get(dimension.value, 37_000_000_000)
        settings = load(flags={"limits": {dimension.value: most}}, environ={})
        limits = TenantLimits("acme", settings.limits, OnStoreFailure.LOCAL)
        assert [quota.capacity for quota in limits.tenant] == [most]


def test_every_operation_has_a_cost_whatever_its_body() -> None:
    quotas = QuotaSet.of(quota(dimension) for dimension in Dimension)
    for operation in TABLE:
        for body in (None, b"", b"{}", b"[]", b'{"prompt":{}}'):
            found = cost_of(
                operation,
                tenant="acme",
                model=None,
                facts=NOTHING_READ if body is None else read_body(body, Question(prompt=True)),
                length_bytes=None,
                most_bytes=1,
                guesses=Guesses({}),
            )
            assert all(charge.permits >= 0 for charge in charges_for(quotas, found))
