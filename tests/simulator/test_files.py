"""Files, uploads in parts, batches and vector stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
import pytest
from openai import (
    AsyncOpenAI,
    BadRequestError,
    NotFoundError,
)

from gateway.simulator.forms import KEPT_BYTES
from tests.kit.waiting import found
from tests.simulator.conftest import QUESTION, Start


class TestFiles:
    async def test_a_file_is_uploaded_listed_read_and_deleted(self, sdk: AsyncOpenAI) -> None:
        data = bytes(range(256)) * 500
        made = await sdk.files.create(file=("data.bin", data), purpose="user_data")
        assert (made.bytes, made.filename, made.id[:5]) == (len(data), "data.bin", "file-")
        assert [file.id async for file in sdk.files.list(purpose="user_data")] == [made.id]
        assert [file.id async for file in sdk.files.list(purpose="batch")] == []
        assert (await sdk.files.content(made.id)).content == data
        deleted = await sdk.files.delete(made.id)
        assert (deleted.deleted, deleted.object) == (True, "file")
        with pytest.raises(NotFoundError):
            await sdk.files.content(made.id)

    @pytest.mark.parametrize(
        ("asked", "status", "got", "content_range"),
        [
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=-2", 206, b"89", "bytes 8-9/10"),
            ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
            ("bytes=10-", 416, b"", "bytes */10"),
            ("lines=1-2", 200, b"0123456789", None),
        ],
    )
    async def test_a_range_of_a_file_can_be_read(
        self,
        sdk: AsyncOpenAI,
        http: aiohttp.ClientSession,
        asked: str,
        status: int,
        got: bytes,
        content_range: str | None,
    ) -> None:
        made = await sdk.files.create(file=("ten.txt", b"0123456789", "text/plain"), purpose="user_data")
        async with http.get(f"/v1/files/{made.id}/content", headers={"Range": asked}) as answer:
            assert (answer.status, await answer.read()) == (status, got)
            assert answer.headers.get("Content-Range") == content_range
            assert answer.content_type == "text/plain"
            assert answer.content_length == len(got)

    async def test_head_has_the_length_and_no_body(
        self, sdk: AsyncOpenAI, http: aiohttp.ClientSession
    ) -> None:
        made = await sdk.files.create(file=("ten.txt", b"0123456789"), purpose="user_data")
        for path in (f"/v1/files/{made.id}/content", "/v1/models"):
            async with http.head(path) as head, http.get(path) as whole:
                assert head.status == 200
                assert head.headers["Content-Length"] == whole.headers["Content-Length"]
                assert await head.read() == b""

    async def test_a_large_file_is_counted_and_its_beginning_kept(self, http: aiohttp.ClientSession) -> None:
        piece = bytes(range(1, 251)) * 4000
        count = KEPT_BYTES // len(piece) + 3

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        form = aiohttp.FormData({"purpose": "user_data"})
        form.add_field("file", pieces(), filename="large.bin")
        async with http.post("/v1/files", data=form) as answer:
            made = await answer.json()
        assert made["bytes"] == count * len(piece)
        async with http.get(f"/v1/files/{made['id']}/content") as answer:
            got = await answer.read()
        assert len(got) == made["bytes"]
        assert got[:KEPT_BYTES] == (piece * count)[:KEPT_BYTES]
        assert not any(got[KEPT_BYTES:])

    async def test_an_upload_in_parts_becomes_a_file(self, sdk: AsyncOpenAI) -> None:
        upload = await sdk.uploads.create(
            filename="parts.txt", purpose="user_data", bytes=10, mime_type="text/plain"
        )
        assert (upload.status, upload.id[:7]) == ("pending", "upload_")
        parts = [(await sdk.uploads.parts.create(upload.id, data=data)).id for data in (b"56789", b"01234")]
        with pytest.raises(BadRequestError, match="Expected 10 bytes"):
            await sdk.uploads.complete(upload.id, part_ids=parts[:1])
        done = await sdk.uploads.complete(upload.id, part_ids=parts[::-1])
        assert done.status == "completed"
        assert done.file is not None
        assert (await sdk.files.content(done.file.id)).content == b"0123456789"
        with pytest.raises(BadRequestError):
            await sdk.uploads.complete(upload.id, part_ids=parts)

    async def test_a_batch_answers_every_line_of_its_file(self, sdk: AsyncOpenAI) -> None:
        lines = [
            orjson.dumps(
                {
                    "custom_id": name,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": {"model": "m", "messages": QUESTION},
                }
            )
            for name in ("a", "b")
        ]
        file = await sdk.files.create(file=("in.jsonl", b"\n".join([*lines, b"{}"])), purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert batch.status == "validating"

        async def completed() -> Any:
            found = await sdk.batches.retrieve(batch.id)
            return found if found.status == "completed" else None

        done = await found(completed)
        assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
        assert done.model == "m"
        output = (await sdk.files.content(done.output_file_id)).content.splitlines()
        answers = [orjson.loads(line) for line in output]
        assert [line["custom_id"] for line in answers] == ["a", "b", None]
        assert answers[0]["response"]["body"]["system_fingerprint"] == "simulator"
        assert answers[2]["error"]["code"] == "invalid_request"
        used = [line["response"]["body"]["usage"] for line in answers[:2]]
        assert done.usage.input_tokens == sum(usage["prompt_tokens"] for usage in used) > 0
        assert done.usage.output_tokens == sum(usage["completion_tokens"] for usage in used) > 0

    async def test_a_batch_that_is_cancelled_answers_nothing(self, start: Start) -> None:
        async with (await start(pace_seconds=0.02)).sdk() as sdk:
            file = await sdk.files.create(file=("in.jsonl", b"{}"), purpose="batch")
            batch = await sdk.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
            assert (await sdk.batches.cancel(batch.id)).status == "cancelling"

            async def cancelled() -> bool:
                return (await sdk.batches.retrieve(batch.id)).status == "cancelled"

            await found(cancelled)
            assert (await sdk.batches.retrieve(batch.id)).output_file_id is None

    async def test_a_batch_needs_a_batch_file(self, sdk: AsyncOpenAI) -> None:
        other = await sdk.files.create(file=("a.txt", b"x"), purpose="user_data")
        with pytest.raises(BadRequestError):
            await sdk.batches.create(
                input_file_id=other.id, endpoint="/v1/embeddings", completion_window="24h"
            )
        with pytest.raises(NotFoundError):
            await sdk.batches.create(
                input_file_id="file-none", endpoint="/v1/embeddings", completion_window="24h"
            )

    async def test_a_vector_store_counts_and_finds_its_files(self, sdk: AsyncOpenAI) -> None:
        files = [
            (await sdk.files.create(file=(f"{n}.txt", b"text"), purpose="assistants")).id for n in range(3)
        ]
        store = await sdk.vector_stores.create(name="mine", file_ids=files[:1])
        added = await sdk.vector_stores.files.create(store.id, file_id=files[1])
        assert (added.id, added.vector_store_id, added.usage_bytes) == (files[1], store.id, 4)
        batch = await sdk.vector_stores.file_batches.create(store.id, file_ids=files[2:])
        assert batch.file_counts.completed == 1
        store = await sdk.vector_stores.retrieve(store.id)
        assert (store.file_counts.total, store.usage_bytes) == (3, 12)
        hits = [hit async for hit in sdk.vector_stores.search(store.id, query="what?")]
        assert {hit.file_id for hit in hits} == set(files)
        assert hits[0].content[0].text.startswith("Simulated search result")
        listed = [
            f.id async for f in sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
        ]
        assert set(listed) == set(files)
        assert (await sdk.vector_stores.files.delete(files[0], vector_store_id=store.id)).deleted
        assert (await sdk.files.retrieve(files[0])).id == files[0]
        assert (await sdk.vector_stores.delete(store.id)).deleted
