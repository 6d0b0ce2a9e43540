"""Whatever an upstream answers, a list passes with the tenant's own alone, or not at all."""

from __future__ import annotations

import gzip
import json  # noqa: TID251 - another implementation to write as others do

import orjson
import pytest
from aiohttp import web

from tests.kit.gateway import EVERY_SCOPE, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.stored import FIRST_SECOND, files, own, registry_of, running_account, scope_of, sharing
from tests.kit.waiting import comes_to, until
from tests.promises.owned_lists.conftest import Shared

EVERYTHING = list(files(40))
MINE = EVERYTHING[3::10]
IDS = [one["id"] for one in MINE[::-1]]


async def filled(shared: Shared) -> None:
    shared.account.put("/v1/files", EVERYTHING)
    await own(shared.gateway, "ours", "file", MINE)


def answering(shared: Shared, body: bytes, **more: str) -> None:
    """Have the upstream answer this to whoever asks for the list."""

    async def instead(request: web.Request, _answer: web.Response) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": "application/json"} | more)

    shared.account.after = instead


def written(*, pages: bool = True, **more: object) -> dict[str, object]:
    document: dict[str, object] = {"object": "list", "data": EVERYTHING[::-1]} | more
    return document | {"has_more": False, "first_id": "x", "last_id": "y"} if pages else document


async def test_an_answer_is_written_as_the_upstream_writes(shared: Shared) -> None:
    await filled(shared)
    answering(shared, json.dumps(written(), indent=2).encode())
    answer = await shared.ask("/v1/files")
    expected = {
        "object": "list",
        "data": MINE[::-1],
        "has_more": False,
        "first_id": IDS[0],
        "last_id": IDS[-1],
    }
    assert answer.body == json.dumps(expected, indent=2).encode()


async def test_an_answer_that_comes_encoded_goes_down_plainly(shared: Shared) -> None:
    await filled(shared)
    answering(shared, gzip.compress(orjson.dumps(written())), **{"Content-Encoding": "gzip"})
    answer = await shared.ask("/v1/files", headers="Accept-Encoding: gzip\r\n")
    assert answer.get("content-encoding") is None
    assert [one["id"] for one in orjson.loads(answer.body)["data"]] == IDS


async def test_a_list_that_does_not_page_is_filtered_whole(shared: Shared) -> None:
    await filled(shared)
    answering(shared, orjson.dumps(written(pages=False)))
    answer = await shared.ask("/v1/files?limit=1")
    assert orjson.loads(answer.body) == {"object": "list", "data": MINE[::-1]}


async def test_nothing_passes_that_counts_or_names_what_is_others(shared: Shared) -> None:
    await filled(shared)
    told = {"Link": '</v1/files?after=theirs>; rel="next"', "ETag": '"all"', "Last-Modified": "today"}
    answering(shared, orjson.dumps(written(total=40, next_page=EVERYTHING[0]["id"])), **told)
    answer = await shared.ask("/v1/files")
    assert not {"link", "etag", "last-modified"} & {name.lower() for name, _ in answer.fields}
    assert set(orjson.loads(answer.body)) == {"object", "data", "has_more", "first_id", "last_id"}


async def test_no_condition_and_no_range_goes_up(shared: Shared) -> None:
    await filled(shared)
    seen: list[str] = []

    async def note(request: web.Request) -> None:
        seen.extend(name.lower() for name in request.headers)

    shared.account.before = note
    conditions = 'If-None-Match: "a"\r\nIf-Modified-Since: today\r\nRange: bytes=0-9\r\nX-Mine: 1\r\n'
    assert (await shared.ask("/v1/files", headers=conditions)).status == 200
    assert "x-mine" in seen
    assert not {"if-none-match", "if-modified-since", "range"} & set(seen)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>all of it</html>",
        orjson.dumps(EVERYTHING),
        orjson.dumps(written()) + b"x",
        b'{"data": [], "data": %b, "has_more": false}' % orjson.dumps(EVERYTHING),
        orjson.dumps(written(data=[{"name": "nobody's"}])),
        orjson.dumps(written(data=None)),
    ],
)
async def test_what_cannot_be_read_does_not_pass(shared: Shared, body: bytes) -> None:
    await filled(shared)
    answering(shared, body)
    answer = await shared.ask("/v1/files")
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (502, "upstream_broken")
    assert EVERYTHING[0]["id"].encode() not in answer.body


@pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
async def test_an_error_of_the_upstreams_passes_as_it_came(shared: Shared, status: int) -> None:
    await filled(shared)

    async def fail(request: web.Request, _answer: web.Response) -> web.StreamResponse:
        return web.Response(
            body=b'{"error": {"message": "No."}}', status=status, headers={"Retry-After": "7"}
        )

    shared.account.after = fail
    answer = await shared.ask("/v1/files")
    assert (answer.status, answer.body, answer.get("retry-after")) == (
        *(status, b'{"error": {"message": "No."}}'),
        "7",
    )


async def test_an_error_about_one_object_is_the_lists(shared: Shared) -> None:
    shared.account.put("/v1/files", files(3_000))
    await own(shared.gateway, "ours", "file", list(files(12)))

    async def fail(request: web.Request, answer: web.Response) -> web.StreamResponse:
        if "limit" in request.query:
            return answer
        return web.Response(body=b'{"error": {"message": "Slower."}}', status=429)

    shared.account.after = fail
    answer = await shared.ask("/v1/files?limit=20")
    assert (answer.status, answer.body) == (429, b'{"error": {"message": "Slower."}}')
    await until(lambda: shared.gateway.upstream_connections() == 0)


@pytest.mark.parametrize(
    ("body", "is_absent"),
    [
        (b'{"error": {"message": "Not here.", "code": "404"}}', True),
        (b'{"message": "no route matched"}', False),
        (b"<html>nothing here</html>", False),
    ],
)
async def test_an_object_is_left_out_where_the_api_says_that_it_is_gone(
    shared: Shared, body: bytes, is_absent: bool
) -> None:
    """What only stands in front of the API knows nothing of objects: then nobody can tell what the list has."""
    shared.account.put("/v1/files", files(3_000))
    await own(shared.gateway, "ours", "file", list(files(12)))

    async def say_gone(request: web.Request, answer: web.Response) -> web.StreamResponse:
        return answer if "limit" in request.query else web.Response(body=body, status=404)

    shared.account.after = say_gone
    if is_absent:
        assert await shared.listed("/v1/files?limit=20") == ([], False)
        return
    answer = await shared.ask("/v1/files?limit=20")
    assert (answer.status, answer.body) == (404, body)
    await until(lambda: shared.gateway.upstream_connections() == 0)


async def test_a_list_with_a_body_is_refused(shared: Shared) -> None:
    client = await shared.gateway.connect()
    client.credential = shared.gateway.credential(tenant="ours")
    assert (await client.request("GET", "/v1/files", b"{}")).status == 400
    assert not shared.account.asked


async def test_a_registry_that_is_away_is_a_503_and_nobody_is_asked(
    shared: Shared, redis: RedisServer
) -> None:
    await filled(shared)
    redis.stop()
    answer = await shared.ask("/v1/files")
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (503, "stored_objects_unavailable")
    assert not shared.account.asked


async def test_output_files_of_batches_that_are_listed_become_the_tenants(shared: Shared) -> None:
    def batch(at: int) -> dict[str, object]:
        output, ended = f"file-out-{at}", FIRST_SECOND + 90
        return {
            "id": f"batch_{at}",
            "created_at": FIRST_SECOND,
            "output_file_id": output,
            "completed_at": ended,
        }

    batches = [batch(at) for at in range(6)]
    shared.account.put("/v1/batches", batches)
    shared.account.put(
        "/v1/files", ({"id": f"file-out-{at}", "created_at": FIRST_SECOND + 90} for at in range(6))
    )
    await own(shared.gateway, "ours", "batch", batches[:2])
    assert await shared.listed("/v1/files") == ([], False)
    assert await shared.listed("/v1/batches") == (["batch_1", "batch_0"], False)
    ids, _ = await shared.listed("/v1/files")
    assert sorted(ids) == ["file-out-0", "file-out-1"]
    assert (await shared.ask("/v1/files/file-out-1")).status == 200
    assert (await shared.ask("/v1/files/file-out-2")).status == 404


async def test_usage_is_counted_of_what_is_shown_and_of_nothing_else(shared: Shared) -> None:
    def batch(at: int) -> dict[str, object]:
        usage = {"input_tokens": 10**at, "output_tokens": 0, "total_tokens": 10**at}
        return {
            "id": f"batch_{at}",
            "object": "batch",
            "created_at": FIRST_SECOND,
            "status": "completed",
            "completed_at": FIRST_SECOND + 9,
            "usage": usage,
        }

    batches = [batch(at) for at in range(6)]
    shared.account.put("/v1/batches", batches)
    await own(shared.gateway, "ours", "batch", batches[1:3])
    await shared.listed("/v1/batches")
    line = (await shared.gateway.lines.wait())[-1]
    shown = orjson.dumps(line).decode()
    assert "batch_1" in shown
    assert "batch_2" in shown
    assert not any(f"batch_{at}" in shown for at in (0, 3, 4, 5))


async def test_who_is_alone_has_output_files_of_listed_batches_recorded_too(redis: RedisServer) -> None:
    async with running_account() as account:
        settings = sharing(account, ["ours"], redis.url)
        settings["tenants"] = {"ours": EVERY_SCOPE}
        async with running_gateway(**settings) as gateway:
            alone = Shared(gateway, account)
            account.put("/v1/batches", [{"id": "batch_1", "object": "batch", "output_file_id": "file-out"}])
            assert await alone.listed("/v1/batches") == (["batch_1"], False)
            store, scope = registry_of(gateway).store, scope_of(gateway, "ours")
            await comes_to(1, lambda: store.count(scope, "file"))
