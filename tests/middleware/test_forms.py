"""What a form asks for is taken before its end goes up, wherever it says so."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.limits.terms import Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of, form
from tests.kit.client import FORM
from tests.kit.gateway import Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, cut_off
from tests.middleware.limited import answers, left, post, remaining, reporting, tenant

EDITS = "/v1/images/edits"
PNG = bytes(200_000)


def edit(*counts: tuple[str, bytes], first: bool = False, model: bytes = b"gpt-image-1") -> bytes:
    image = [("image", PNG)]
    parts = [("model", model), *counts, *image] if first else [("model", model), *image, *counts]
    return form(*parts, file_at=[name for name, _ in parts].index("image"))


async def images_left(gateway: Gateway, **of: Any) -> int:
    return await remaining(gateway, Dimension.IMAGES_PER_MINUTE, **of)


@pytest.mark.parametrize("target", [EDITS, "/v1/images/variations"])
@pytest.mark.parametrize("first", [True, False], ids=["before the image", "behind the image"])
async def test_form_takes_the_images_that_it_asks_for(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, first: bool
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=10, max_requests_per_1_day=10))
    answers(upstream, reporting(0))  # nobody says how many there were
    body = edit(("n", b"7"), first=first)
    answer = await post(gateway, target, body, FORM)
    assert (answer.status, left(answer, "images")) == (200, 3)
    assert upstream.requests[-1].body == body
    assert await images_left(gateway) == 3
    upstream.plays(cut_off)
    refused = await post(gateway, target, body, FORM)
    assert (refused.status, error_of(refused)["type"]) == (429, "images")
    await upstream.passed("cut")
    assert not upstream.requests[-1].complete
    assert await images_left(gateway) == 3
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 9


async def test_form_that_does_not_say_takes_one_image(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=10))
    answers(upstream, reporting(0))
    for counts in ([], [("n", b"1")], [("n", b"0")]):
        before = await images_left(gateway)
        answer = await post(gateway, EDITS, edit(*counts), FORM)
        assert (answer.status, left(answer, "images")) == (200, before - 1)


async def test_form_that_asks_for_more_than_the_whole_limit_is_told_so(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=4))
    upstream.plays(cut_off)
    for count in (b"5", b"100", b"999999999999999"):
        refused = await post(gateway, EDITS, edit(("n", count)), FORM)
        assert (refused.status, error_of(refused)["code"]) == (400, "request_too_large_for_limit")
    assert await images_left(gateway) == 4
    assert not any(request.complete for request in upstream.requests)


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ([("n", b"two")], "invalid_type"),
        ([("n", b"")], "invalid_type"),
        ([("n", b"7.0")], "invalid_type"),
        ([("n", b"7.5")], "invalid_type"),
        ([("n", b"+7")], "invalid_type"),
        ([("n", b" 7")], "invalid_type"),
        ([("n", b"7\n")], "invalid_type"),
        ([("n", b"-7")], "invalid_type"),
        ([("n", b"1_0")], "invalid_type"),
        ([("n", b"1e1")], "invalid_type"),
        ([("n", "７".encode())], "invalid_type"),
        ([("n", b"true")], "invalid_type"),
        ([("n", b"1" * 400)], "invalid_value"),
        ([("n", b"1"), ("n", b"7")], "bad_form"),
        ([("N", b"7")], "bad_form"),
        ([("n[]", b"7")], "bad_form"),
        ([("n[0]", b"7")], "bad_form"),
        ([("n.0", b"7")], "bad_form"),
    ],
    ids=str,
)
async def test_count_that_could_be_read_in_two_ways_is_refused(
    start_gateway: StartGateway, upstream: ScriptedUpstream, counts: list[tuple[str, bytes]], code: str
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=10))
    upstream.plays(cut_off)
    refused = await post(gateway, EDITS, edit(*counts), FORM)
    assert (refused.status, error_of(refused)["code"]) == (400, code), refused.body
    assert error_of(refused)["param"] == counts[-1][0]
    assert await images_left(gateway) == 10
    assert not any(request.complete for request in upstream.requests)


async def test_count_is_nobodys_business_where_no_limit_counts_images(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=10))
    answers(upstream, reporting(0))
    body = edit(("n", b"many"), ("n", b"7"))
    assert (await post(gateway, EDITS, body, FORM)).status == 200
    assert upstream.requests[-1].body == body


async def test_form_is_settled_by_the_images_that_came(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        **tenant(max_images_per_1_minute=60, models={"gpt-image*": {"max_images_per_1_minute": 50}})
    )
    answers(upstream, reporting(0, data=[{"b64_json": "iVBO"}] * 3))
    answer = await post(gateway, EDITS, edit(("n", b"40")), FORM)
    assert left(answer, "images") == 10, "the model's level is the tightest"
    assert await images_left(gateway) == 57
    assert await images_left(gateway, model="gpt-image-1") == 47
    head = b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    answers(upstream, head)
    assert (await post(gateway, EDITS, edit(("n", b"40")), FORM)).status == 400
    assert await images_left(gateway) >= 57
    assert await images_left(gateway, model="gpt-image-1") >= 47


async def test_limit_of_a_model_counts_what_its_forms_ask_for(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(models={"gpt-image*": {"max_images_per_1_minute": 10}}))
    answers(upstream, reporting(0))
    assert (await post(gateway, EDITS, edit(("n", b"7")), FORM)).status == 200
    assert await images_left(gateway, model="gpt-image-1") == 3
    assert (await post(gateway, EDITS, edit(("n", b"7"), model=b"dall-e-2"), FORM)).status == 200
    refused = await post(gateway, EDITS, edit(("n", b"7")), FORM)
    assert "for model 'gpt-image*'" in error_of(refused)["message"]


async def test_images_of_forms_are_shared_through_redis(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    limits = tenant(max_images_per_1_minute=10)
    one, other = [await start_gateway(redis_url=redis.url, **limits) for _ in range(2)]
    answers(upstream, reporting(0))
    assert (await post(one, EDITS, edit(("n", b"7")), FORM)).status == 200
    assert await images_left(other) == 3
    assert (await post(other, EDITS, edit(("n", b"7")), FORM)).status == 429
    assert await images_left(one) == 3
