"""Every operation of the table has an answer, in the time that was asked for."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import orjson
import pytest
from openai import (
    AuthenticationError,
)

from gateway.operations.table import OperationTable
from tests.kit.client import RawClient
from tests.simulator.conftest import QUESTION, Running, Start


class TestEveryOperation:
    async def test_every_operation_answers_as_json_or_refuses_in_the_apis_shape(
        self, http: aiohttp.ClientSession
    ) -> None:
        statuses = set()
        for operation in OperationTable.load():
            path = operation.path.replace("{", "").replace("}", "-1")
            body: dict[str, Any] | None = {} if operation.method == "POST" else None
            async with http.request(operation.method, path, json=body) as answer:
                statuses.add(answer.status)
                assert answer.headers["x-simulator"] == "streaming-gateway", operation.id
                if answer.content_type == "application/json" and (text := await answer.read()):
                    shape = "object" if answer.status < 400 else "error"
                    assert shape in orjson.loads(text) or "value" in orjson.loads(text), operation.id
        assert statuses == {200, 400, 404}

    @pytest.mark.parametrize("path", ["/v1/nothing/here", "/", "/v1/models/../files", "/v1//models"])
    async def test_what_the_table_lacks_is_not_found(self, simulator: Running, path: str) -> None:
        client = await RawClient.connect("127.0.0.1", simulator.port, "sk")
        answer = await client.request("GET", path)
        await client.close()
        assert answer.status == 404
        assert orjson.loads(answer.body)["error"]["type"] == "invalid_request_error"

    async def test_it_runs_on_its_own(self, unused_tcp_port: int) -> None:
        """`python -m gateway.simulator` serves until it is told to stop."""
        arguments = ("-m", "gateway.simulator", "--port", str(unused_tcp_port), "--api-key", "sk-one")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            assert b"Running on" in await asyncio.wait_for(process.stdout.readline(), 10)
            async with Running(unused_tcp_port).sdk("sk-one") as sdk:
                assert await sdk.models.list()
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def test_exactly_one_key_is_accepted_if_one_is_given(self, start: Start) -> None:
        guarded = await start(api_key="sk-right")
        async with guarded.sdk("sk-right") as sdk:
            assert [model async for model in sdk.models.list()]
        async with guarded.sdk("sk-wrong") as sdk:
            with pytest.raises(AuthenticationError) as refused:
                await sdk.models.list()
            assert refused.value.code == "invalid_api_key"
            with pytest.raises(AuthenticationError):
                await sdk.chat.completions.create(model="m", messages=QUESTION)


class TestTiming:
    async def test_events_arrive_one_by_one_a_pace_apart(self, start: Start) -> None:
        paced = await start(pace_seconds=0.05)
        client = await RawClient.connect("127.0.0.1", paced.port, "sk")
        body = orjson.dumps({"model": "m", "messages": QUESTION, "stream": True, "max_tokens": 4})
        json = "Content-Type: application/json\r\n"
        await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=json))
        head = await client.read_head()
        assert head.get("transfer-encoding") == "chunked"
        clock = asyncio.get_running_loop().time
        arrivals = []
        while chunk := await client.read_chunk():
            assert chunk.startswith(b"data: ")
            assert chunk.count(b"\n\n") == 1
            arrivals.append(clock())
        await client.close()
        assert len(arrivals) == 1 + 4 + 1 + 1
        # Six waits of 50 ms; what delays the first event shortens none of them by as much as 100 ms.
        assert arrivals[-1] - arrivals[0] > 0.2

    async def test_speech_arrives_piece_by_piece(self, start: Start) -> None:
        paced = await start(pace_seconds=5)
        client = await RawClient.connect("127.0.0.1", paced.port, "sk")
        body = orjson.dumps({"model": "m", "voice": "alloy", "input": "x" * 100, "response_format": "pcm"})
        json = "Content-Type: application/json\r\n"
        await client.send(client.request_bytes("POST", "/v1/audio/speech", body, headers=json))
        await client.read_head()
        async with asyncio.timeout(2):
            assert len(await client.read_chunk()) == 4800
        await client.close()

    async def test_a_whole_answer_does_not_wait(self, start: Start) -> None:
        async with (await start(pace_seconds=5)).sdk() as sdk, asyncio.timeout(2):
            await sdk.chat.completions.create(model="m", messages=QUESTION)
            await sdk.responses.create(model="m", input="hello")
