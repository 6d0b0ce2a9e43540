"""The official SDK, unmodified: through the gateway it sees what it sees when it calls the upstream itself.

Each scenario runs twice, against two fresh simulators: once directly and once through the gateway.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
import websockets
from aiohttp import web
from openai import AsyncOpenAI, Omit, OpenAI
from pydantic import BaseModel

from gateway.simulator import build_simulator
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.waiting import comes_to

UPSTREAM_KEY = "sk-simulator"
QUESTION: list[Any] = [{"role": "user", "content": "Who is there?"}]

# What differs between two equal calls: ids end in 32 hexadecimal digits, wherever they stand, and these
# members hold seconds of the clock. Nothing else is left out of the comparison.
RANDOM_ID = re.compile(r"[0-9a-f]{32}")
CLOCK_MEMBERS = frozenset(
    {"created", "created_at", "started_at", "completed_at", "expires_at", "in_progress_at", "finalizing_at"}
)

Seen = AsyncIterator[object]


async def chat(sdk: AsyncOpenAI) -> Seen:
    raw = await sdk.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=QUESTION)
    yield raw.status_code
    yield raw.headers["content-type"]
    yield raw.parse()


async def streamed_chat(sdk: AsyncOpenAI) -> Seen:
    async for chunk in await sdk.chat.completions.create(
        model="gpt-4o-mini", messages=QUESTION, stream=True, n=2, stream_options={"include_usage": True}
    ):
        yield chunk


async def followed_chat(sdk: AsyncOpenAI) -> Seen:
    async with sdk.chat.completions.stream(model="gpt-4o-mini", messages=QUESTION) as stream:
        async for event in stream:
            yield event
        yield await stream.get_final_completion()


async def text_completion(sdk: AsyncOpenAI) -> Seen:
    async for chunk in await sdk.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="Once", stream=True
    ):
        yield chunk


async def response(sdk: AsyncOpenAI) -> Seen:
    made = await sdk.responses.create(model="gpt-4o", input="Who is there?")
    yield made
    yield await sdk.responses.retrieve(made.id)
    yield await sdk.responses.input_items.list(made.id)
    await sdk.responses.delete(made.id)


async def streamed_response(sdk: AsyncOpenAI) -> Seen:
    async for event in await sdk.responses.create(model="gpt-4o", input="Who is there?", stream=True):
        yield event


async def embeddings(sdk: AsyncOpenAI) -> Seen:
    yield await sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two"])


async def images(sdk: AsyncOpenAI) -> Seen:
    yield await sdk.images.generate(model="gpt-image-1", prompt="a cat", n=2)
    yield await sdk.images.edit(model="gpt-image-1", prompt="a dog", image=("a.png", b"\x89PNG", "image/png"))


async def speech_to_a_file(sdk: AsyncOpenAI) -> Seen:
    async with sdk.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input="Hello there.", response_format="wav"
    ) as answer:
        yield answer.headers["content-type"]
        yield b"".join([piece async for piece in answer.iter_bytes()])


async def transcription_of_a_file(sdk: AsyncOpenAI) -> Seen:
    spoken = await sdk.audio.speech.create(
        model="tts-1", voice="alloy", input="Hello.", response_format="wav"
    )
    recording = ("hello.wav", spoken.content, "audio/wav")
    yield await sdk.audio.transcriptions.create(model="whisper-1", file=recording)
    yield await sdk.audio.transcriptions.create(model="whisper-1", file=recording, response_format="srt")
    async for event in await sdk.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=recording, stream=True
    ):
        yield event


async def files(sdk: AsyncOpenAI) -> Seen:
    data = bytes(range(256)) * 4096
    made = await sdk.files.create(file=("data.bin", data), purpose="user_data")
    yield made
    yield await sdk.files.list(purpose="user_data")
    content = (await sdk.files.content(made.id)).content
    assert content == data
    yield content
    part = await sdk.files.with_raw_response.content(made.id, extra_headers={"Range": "bytes=256-511"})
    yield part.status_code, part.headers["content-range"], part.content
    yield await sdk.files.delete(made.id)
    yield await sdk.files.list()


async def upload_in_parts(sdk: AsyncOpenAI) -> Seen:
    upload = await sdk.uploads.create(
        filename="ten.txt", bytes=10, mime_type="text/plain", purpose="assistants"
    )
    yield upload
    parts = [await sdk.uploads.parts.create(upload.id, data=data) for data in (b"01234", b"56789")]
    for part in parts:
        yield part
    done = await sdk.uploads.complete(upload.id, part_ids=[part.id for part in parts])
    yield done
    assert done.file is not None
    yield (await sdk.files.content(done.file.id)).content
    yield await sdk.uploads.upload_file_chunked(
        file=b"in four parts",
        filename="four.txt",
        bytes=13,
        mime_type="text/plain",
        purpose="assistants",
        part_size=4,
    )


async def assistants_run(sdk: AsyncOpenAI) -> Seen:
    assistant = await sdk.beta.assistants.create(model="gpt-4o", instructions="Help.")
    yield assistant
    thread = await sdk.beta.threads.create(messages=QUESTION)
    async with sdk.beta.threads.runs.stream(thread_id=thread.id, assistant_id=assistant.id) as stream:
        async for event in stream:
            yield event
    async for message in sdk.beta.threads.messages.list(thread.id, order="asc"):
        yield message
    async for run in sdk.beta.threads.runs.list(thread.id):
        yield run
    yield await sdk.beta.assistants.delete(assistant.id)


async def batch(sdk: AsyncOpenAI) -> Seen:
    line = orjson.dumps(
        {
            "custom_id": "one",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o-mini", "messages": QUESTION},
        }
    )
    file = await sdk.files.create(file=("in.jsonl", line), purpose="batch")
    made = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    async with asyncio.timeout(5):
        while (done := await sdk.batches.retrieve(made.id)).status != "completed":
            await asyncio.sleep(0.01)
    yield done
    assert done.output_file_id is not None
    yield orjson.loads((await sdk.files.content(done.output_file_id)).content)


async def moderation(sdk: AsyncOpenAI) -> Seen:
    yield await sdk.moderations.create(input=["nice", "nicer"])


async def models(sdk: AsyncOpenAI) -> Seen:
    async for model in sdk.models.list():
        yield model
    yield await sdk.models.retrieve("gpt-4o-mini")
    yield await sdk.models.retrieve("ft:gpt-4o-mini:acme::abc")


async def realtime(sdk: AsyncOpenAI) -> Seen:
    async with sdk.realtime.connect(model="gpt-realtime") as connection:
        yield await connection.recv()
        await connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        yield await connection.recv()
        item: Any = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Who is there?"}],
        }
        await connection.conversation.item.create(item=item)
        await connection.response.create()
        async for event in connection:
            yield event
            if event.type == "response.done":
                break
        await connection.send({"type": "no.such.event"})  # type: ignore[arg-type]
        yield await connection.recv()


async def responses_over_a_socket(sdk: AsyncOpenAI) -> Seen:
    async with sdk.responses.connect() as connection:
        previous: str | None = None
        for asked in ("Who is there?", "And who else?"):
            await connection.response.create(
                model="gpt-4o", input=asked, store=False, previous_response_id=previous, stream_id="main"
            )
            async for event in connection:
                yield event
                if event.type == "response.completed":
                    previous = event.response.id
                    break
        await connection.response.create(model="gpt-4o", input="x", previous_response_id="resp_of_nobody")
        yield await connection.recv()
        await connection.response.steer(previous_response_id=previous or "", input="Be brief.")
        yield await connection.recv()


# With the operations that the gateway must have logged, in this order; runs of the same one count once.
SCENARIOS: dict[Callable[[AsyncOpenAI], Seen], list[str]] = {
    chat: ["createChatCompletion"],
    streamed_chat: ["createChatCompletion"],
    followed_chat: ["createChatCompletion"],
    text_completion: ["createCompletion"],
    response: ["createResponse", "getResponse", "listInputItems", "deleteResponse"],
    streamed_response: ["createResponse"],
    embeddings: ["createEmbedding"],
    images: ["createImage", "createImageEdit"],
    speech_to_a_file: ["createSpeech"],
    transcription_of_a_file: ["createSpeech", "createTranscription"],
    files: ["createFile", "listFiles", "downloadFile", "deleteFile", "listFiles"],
    upload_in_parts: [
        *("createUpload", "addUploadPart", "completeUpload", "downloadFile"),
        *("createUpload", "addUploadPart", "completeUpload"),
    ],
    assistants_run: [
        "createAssistant",
        "createThread",
        "createRun",
        "listMessages",
        "listRuns",
        "deleteAssistant",
    ],
    batch: ["createFile", "createBatch", "retrieveBatch", "downloadFile"],
    moderation: ["createModeration"],
    models: ["listModels", "retrieveModel"],
    realtime: ["connectRealtime"],
    responses_over_a_socket: ["connectResponses"],
}


class TestScenario:
    # The Assistants API is, and is served.
    @pytest.mark.filterwarnings("ignore:(deprecated|The Assistants API is deprecated):DeprecationWarning")
    @pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
    async def test_shows_the_sdk_the_same_objects_and_events_in_the_same_order(
        self, scenario: Callable[[AsyncOpenAI], Seen]
    ) -> None:
        async with both_ways() as ways:
            async with ways.direct() as sdk:
                expected = [plain(seen) async for seen in scenario(sdk)]
            async with ways.behind() as sdk:
                seen = [plain(seen) async for seen in scenario(sdk)]
            lines = ways.gateway.lines

            async def logged() -> list[str]:
                return [
                    name for name, _ in itertools.groupby(line["operation"] for line in await lines.wait())
                ]

            await comes_to(SCENARIOS[scenario], logged)

        assert alike(seen) == alike(expected)
        assert expected, "the scenario has something to show"
        assert {line["ending"] for line in await lines.wait()} == {"complete"}

    # The SDK opens its synchronous socket in a way that websockets no longer likes.
    @pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
    async def test_with_the_synchronous_client_is_the_same_too(self) -> None:
        def scenario(sdk: OpenAI) -> Iterator[object]:
            yield sdk.chat.completions.create(model="gpt-4o-mini", messages=QUESTION)
            yield from sdk.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, stream=True)
            with sdk.audio.speech.with_streaming_response.create(
                model="tts-1", voice="alloy", input="Hello."
            ) as answer:
                yield b"".join(answer.iter_bytes())
            made = sdk.files.create(file=("a.txt", b"text"), purpose="user_data")
            yield made
            yield sdk.files.content(made.id).content
            with sdk.realtime.connect(model="gpt-realtime") as connection:
                yield connection.recv()
            with sdk.responses.connect() as socket:
                socket.response.create(model="gpt-4o", input="Who is there?", max_output_tokens=3)
                for event in socket:
                    yield event
                    if event.type == "response.incomplete":
                        break

        def run(base_url: str, api_key: str) -> list[object]:
            with OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=10) as sdk:
                return [plain(seen) for seen in scenario(sdk)]

        async with both_ways() as ways:
            expected = await asyncio.to_thread(run, ways.simulator_url, UPSTREAM_KEY)
            seen = await asyncio.to_thread(run, ways.gateway.base_url, ways.gateway.credential())

        assert len(expected) > 6
        assert alike(seen) == alike(expected)

    async def test_of_speech_writes_the_same_file(self, tmp_path: Path) -> None:
        async with both_ways() as ways, ways.direct() as direct, ways.behind() as behind:
            for name, sdk in (("direct", direct), ("behind", behind)):
                spoken = await sdk.audio.speech.create(
                    model="tts-1", voice="alloy", input="Hello.", response_format="wav"
                )
                spoken.write_to_file(tmp_path / name)

        written = (tmp_path / "behind").read_bytes()
        assert written == (tmp_path / "direct").read_bytes()
        assert written[:4] == b"RIFF"


class TestErrorOfTheUpstream:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (400, openai.BadRequestError),
            (403, openai.PermissionDeniedError),
            (404, openai.NotFoundError),
            (409, openai.ConflictError),
            (422, openai.UnprocessableEntityError),
            (429, openai.RateLimitError),
            (500, openai.InternalServerError),
            (503, openai.InternalServerError),
        ],
    )
    async def test_passes_unchanged(self, status: int, kind: type[openai.APIStatusError]) -> None:
        faults = {"x-simulate": f"status={status}; retry-after=7; headers=x-should-retry:false,x-thing:a%2Cb"}

        async def raised(sdk: AsyncOpenAI) -> openai.APIStatusError:
            with pytest.raises(kind) as caught:
                await sdk.chat.completions.create(
                    model="gpt-4o-mini", messages=QUESTION, stream=True, extra_headers=faults
                )
            return caught.value

        async with both_ways() as ways, ways.direct() as direct, ways.behind() as behind:
            expected, seen = await raised(direct), await raised(behind)

        assert type(seen) is type(expected)
        assert (seen.status_code, seen.response.content) == (status, expected.response.content)
        assert (seen.code, seen.type, seen.param) == (expected.code, expected.type, expected.param)
        for name in ("retry-after", "x-should-retry", "x-thing", "content-type"):
            assert seen.response.headers[name] == expected.response.headers[name]
        assert seen.request_id, "the upstream's x-request-id, by which its support finds the call"

    async def test_amid_a_stream_breaks_it_as_it_does_directly(self) -> None:
        async def raised(sdk: AsyncOpenAI) -> tuple[list[Any], type[BaseException]]:
            stream = await sdk.chat.completions.create(
                model="gpt-4o-mini", messages=QUESTION, stream=True, extra_headers={"x-simulate": "cut=1000"}
            )
            chunks = []
            with pytest.raises((openai.APIError, httpx2.HTTPError)) as caught:
                async for chunk in stream:
                    chunks.append(plain(chunk))
            return chunks, caught.type

        async with both_ways() as ways, ways.direct() as direct, ways.behind() as behind:
            expected, seen = await raised(direct), await raised(behind)

        assert len(expected[0]) > 1
        assert alike(seen) == alike(expected)


class TestErrorOfTheGateway:
    async def test_without_a_credential_says_where_it_belongs(self) -> None:
        async with both_ways() as ways, ways.behind() as sdk:
            with pytest.raises(openai.AuthenticationError) as caught:
                await sdk.models.list(extra_headers={"Authorization": Omit()})

        error = caught.value
        assert (error.status_code, error.type) == (401, "invalid_request_error")
        assert error.code == "missing_api_key"
        assert "Authorization" in error.message

    @pytest.mark.parametrize("api_key", ["sk-proj-of-the-upstream", "a.b.c", "x" * 9000])
    async def test_for_a_malformed_credential_is_an_authentication_error(self, api_key: str) -> None:
        async with both_ways() as ways, ways.behind(api_key=api_key) as sdk:
            error = await self.raised(openai.AuthenticationError, sdk)

        assert (error.status_code, error.code) == (401, "invalid_api_key")

    async def test_for_a_credential_of_another_key_ring_quotes_the_request_id(self) -> None:
        async with (
            both_ways() as other,
            both_ways() as ways,
            ways.behind(api_key=other.gateway.credential()) as sdk,
        ):
            error = await self.raised(openai.AuthenticationError, sdk)

        assert (error.status_code, error.code) == (401, "invalid_api_key")
        assert error.response.headers["x-gateway-request-id"] in error.message

    async def test_for_an_expired_credential_says_so(self) -> None:
        async with both_ways() as ways:
            expired = ways.gateway.credential(ttl_seconds=60, clock=lambda: time.time() - 3600)
            async with ways.behind(api_key=expired) as sdk:
                error = await self.raised(openai.AuthenticationError, sdk)

        assert (error.status_code, error.code) == (401, "expired_api_key")

    async def test_for_a_missing_scope_names_it(self) -> None:
        async with both_ways() as ways:
            narrow = ways.gateway.credential(["models:read", "chat.completions:read"])
            async with ways.behind(api_key=narrow) as sdk:
                error = await self.raised(openai.PermissionDeniedError, sdk)

        assert (error.status_code, error.type, error.code) == (403, "permission_error", "missing_scope")
        assert "chat.completions:write" in error.message

    async def test_for_an_unknown_or_disabled_tenant_is_a_permission_error(self) -> None:
        tenants = {"acme": {}, "asleep": {"enabled": False}}
        async with both_ways(tenants=tenants) as ways:
            for tenant, code in (("nobody", "unknown_tenant"), ("asleep", "tenant_disabled")):
                async with ways.behind(api_key=ways.gateway.credential(tenant=tenant)) as sdk:
                    error = await self.raised(openai.PermissionDeniedError, sdk)
                assert (error.status_code, error.type, error.code) == (403, "permission_error", code)

    async def test_for_organization_administration_is_a_permission_error(self) -> None:
        async with both_ways() as ways, ways.behind() as sdk:
            with pytest.raises(openai.PermissionDeniedError) as caught:
                await sdk.get("/organization/users", cast_to=object)

        assert caught.value.code == "operation_closed"

    async def test_for_a_base_url_without_v1_is_not_found_and_hints_at_it(self) -> None:
        async with both_ways() as ways:
            base_url = ways.gateway.base_url.removesuffix("/v1")
            async with ways.behind(base_url=base_url) as sdk:
                error = await self.raised(openai.NotFoundError, sdk)

        assert (error.status_code, error.code) == (404, "not_found")
        assert "/v1" in error.message

    async def test_for_an_ambiguous_target_is_a_bad_request(self) -> None:
        async with both_ways() as ways, ways.behind() as sdk:
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.models.retrieve("../files")

        assert (caught.value.status_code, caught.value.code) == (400, "ambiguous_target")

    async def test_for_a_limit_names_it_and_says_when_to_come_back(self) -> None:
        tenants = {"acme": {"limits": {"max_requests_per_1_minute": 2}}}
        async with both_ways(tenants=tenants) as ways, ways.behind() as sdk:
            for _ in range(2):
                answer = await sdk.models.with_raw_response.list()
            error = await self.raised(openai.RateLimitError, sdk)

        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == "0"
        assert (error.status_code, error.type, error.code) == (429, "requests", "rate_limit_exceeded")
        assert "max_requests_per_1_minute" in error.message
        headers = error.response.headers
        assert 29 <= int(headers["retry-after"]) <= 30
        assert 29_000 < int(headers["retry-after-ms"]) <= 30_000
        assert headers["x-ratelimit-remaining-requests"] == "0"

    async def test_for_a_limit_is_outlived_by_the_sdks_own_retry(self) -> None:
        tenants = {"acme": {"limits": {"max_requests_per_1_minute": 60}}}
        async with both_ways(tenants=tenants) as ways, ways.behind(max_retries=1) as sdk:
            async with await ways.gateway.connect() as client:
                answer = await client.request("GET", "/v1/models")
                while int(answer.get("retry-after-ms") or 0) < 500:
                    answer = await client.request("GET", "/v1/models")

            models = await sdk.models.list()
        lines = [orjson.loads(line) for line in ways.gateway.lines.raw]

        assert models.data
        assert [line["status"] for line in lines[-2:]] == [429, 200]

    async def test_for_a_body_that_is_too_large_is_413(self) -> None:
        async with both_ways(edge={"max_json_body_bytes": 1000}) as ways, ways.behind() as sdk:
            with pytest.raises(openai.APIStatusError) as caught:
                await sdk.embeddings.create(model="text-embedding-3-small", input="x" * 2000)

        assert caught.value.status_code == 413
        assert orjson.loads(caught.value.response.content)["error"]["code"] == "request_too_large"

    async def test_for_an_upstream_that_is_not_there_is_502(self, unused_tcp_port: int) -> None:
        upstream = {"base_url": f"http://127.0.0.1:{unused_tcp_port}/v1", "api_key": UPSTREAM_KEY}
        async with both_ways(upstream=upstream) as ways, ways.behind() as sdk:
            error = await self.raised(openai.InternalServerError, sdk)

        assert (error.status_code, error.type, error.code) == (502, "upstream_error", "upstream_unreachable")

    async def test_for_an_upstream_that_hangs_up_is_502(self) -> None:
        async with both_ways() as ways, ways.behind(default_headers={"x-simulate": "drop"}) as sdk:
            error = await self.raised(openai.InternalServerError, sdk)

        assert (error.status_code, error.type, error.code) == (502, "upstream_error", "upstream_broken")

    async def test_for_an_upstream_that_refuses_the_gateways_key_is_502_and_shows_no_key(self) -> None:
        async with both_ways(upstream_key="sk-revoked-upstream") as ways, ways.behind() as sdk:
            error = await self.raised(openai.InternalServerError, sdk)

        assert (error.status_code, error.type, error.code) == (502, "upstream_error", "upstream_refused_key")
        assert "sk-" not in error.response.text

    async def test_for_an_upstream_that_takes_too_long_is_504(self) -> None:
        async with (
            both_ways(upstream_settings={"first_byte_timeout_seconds": 0.2}) as ways,
            ways.behind(default_headers={"x-simulate": "delay=5"}) as sdk,
        ):
            error = await self.raised(openai.InternalServerError, sdk)

        assert (error.status_code, error.type, error.code) == (504, "upstream_error", "upstream_timeout")

    async def test_for_limits_that_cannot_be_checked_is_503(self, unused_tcp_port: int) -> None:
        async with (
            both_ways(
                redis_url=f"redis://127.0.0.1:{unused_tcp_port}/0",
                on_store_failure="closed",
                tenants={"acme": {"limits": {"max_requests_per_1_minute": 2}}},
            ) as ways,
            ways.behind() as sdk,
        ):
            error = await self.raised(openai.InternalServerError, sdk)

        assert (error.status_code, error.type, error.code) == (503, "server_error", "limits_unavailable")

    async def test_on_a_websocket_is_an_http_refusal_in_the_same_shape(self) -> None:
        async with both_ways() as ways:
            narrow = ways.gateway.credential(["models:read"])
            async with ways.behind(api_key=narrow) as sdk:
                with pytest.raises(websockets.InvalidStatus) as caught:
                    async with sdk.realtime.connect(model="gpt-realtime", max_retries=0):
                        pass

        assert caught.value.response.status_code == 403
        assert orjson.loads(caught.value.response.body or b"")["error"]["code"] == "missing_scope"

    async def test_of_a_request_over_a_socket_is_an_error_event_and_the_socket_goes_on(self) -> None:
        table = {"limits": {"max_tokens_per_1_day": 5000}, "models": ["gpt-4o"]}
        async with (
            both_ways(tenants={"acme": table}) as ways,
            ways.behind() as sdk,
            sdk.responses.connect() as connection,
        ):
            await connection.response.create(model="gpt-4o", input="x", max_output_tokens=6000)
            never = await connection.recv()
            await connection.response.create(model="gpt-4.1", input="x", stream_id="b")
            forbidden = await connection.recv()
            await connection.response.create(model="gpt-4o", input="x", max_output_tokens=1000)
            assert (await connection.recv()).type == "response.created"

        assert never.type == "error"
        assert (never.status, never.error.code) == (400, "request_too_large_for_limit")
        assert forbidden.type == "error"
        assert (forbidden.status, forbidden.error.type, forbidden.stream_id) == (403, "permission_error", "b")

    async def test_in_a_session_is_an_error_event_and_the_session_goes_on(self) -> None:
        limits = {"max_tokens_per_1_day": 5000}
        async with (
            both_ways(tenants={"acme": {"limits": limits}}) as ways,
            ways.behind() as sdk,
            sdk.realtime.connect(model="gpt-realtime") as connection,
        ):
            assert (await connection.recv()).type == "session.created"
            await connection.response.create(
                event_id="mine", response={"max_output_tokens": 4999, "instructions": "Be brief. " * 9}
            )
            never = await connection.recv()
            await connection.response.create(response={"max_output_tokens": 4000})
            assert (await connection.recv()).type == "response.created"
            await connection.response.create(response={"conversation": "none"})
            refused = await connection.recv()
            while refused.type != "error":
                refused = await connection.recv()
            while (event := await connection.recv()).type != "response.done":
                pass
            await connection.response.create(response={"max_output_tokens": 2000})
            assert (await connection.recv()).type == "response.created"

        assert never.type == "error"
        assert (never.error.code, never.error.event_id) == ("request_too_large_for_limit", "mine")
        assert (refused.error.type, refused.error.code) == ("tokens", "rate_limit_exceeded")
        assert "max_tokens_per_1_day = 5000" in refused.error.message
        assert event.response.status == "completed"

    async def raised(self, kind: type[openai.APIStatusError], sdk: AsyncOpenAI) -> openai.APIStatusError:
        """The error, of exactly this class, that a chat completion meets."""
        with pytest.raises(kind) as caught:
            await sdk.chat.completions.create(model="gpt-4o-mini", messages=QUESTION)
        assert type(caught.value) is kind
        assert caught.value.response.headers["x-gateway-request-id"]
        return caught.value


@dataclass(frozen=True)
class BothWays:
    """A simulator to call directly, and another one behind a gateway."""

    simulator_url: str
    gateway: Gateway

    def direct(self) -> AsyncOpenAI:
        """The SDK as it is used without a gateway."""
        return AsyncOpenAI(base_url=self.simulator_url, api_key=UPSTREAM_KEY, max_retries=0, timeout=10)

    def behind(self, **options: Any) -> AsyncOpenAI:
        """The SDK pointed at the gateway: another base URL and another key, nothing else."""
        options.setdefault("base_url", self.gateway.base_url)
        options.setdefault("api_key", self.gateway.credential())
        options.setdefault("max_retries", 0)
        return AsyncOpenAI(timeout=10, **options)


@asynccontextmanager
async def both_ways(
    *, upstream_key: str = UPSTREAM_KEY, upstream_settings: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[BothWays]:
    """Start both; keyword arguments are settings of the gateway."""
    async with AsyncExitStack() as stack:

        async def simulator() -> str:
            app = build_simulator(api_key=UPSTREAM_KEY, pace_seconds=0.001)
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}/v1"

        upstream = {"base_url": await simulator(), "api_key": upstream_key} | (upstream_settings or {})
        settings.setdefault("upstream", upstream)
        gateway = await stack.enter_async_context(running_gateway(**settings))
        yield BothWays(await simulator(), gateway)


def plain(seen: object) -> object:
    """What the SDK handed out, with its class, as plain data."""
    if isinstance(seen, BaseModel):
        return type(seen).__name__, seen.model_dump()
    return seen


def alike(seen: object) -> object:
    """Plain data with ids replaced by the order in which they first appear, and clocks stopped."""
    numbers: dict[str, str] = {}

    def walk(value: object) -> object:
        match value:
            case dict():
                return {
                    walk(name): "a time" if name in CLOCK_MEMBERS and inner is not None else walk(inner)
                    for name, inner in value.items()
                }
            case list() | tuple():
                return [walk(inner) for inner in value]
            case str():
                return RANDOM_ID.sub(
                    lambda found: numbers.setdefault(found[0], f"id {len(numbers) + 1}"), value
                )
            case _:
                return value

    return walk(seen)
