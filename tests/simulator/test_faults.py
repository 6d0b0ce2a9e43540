"""Faults on demand, by header or in the model's name."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from openai import (
    APIConnectionError,
    AsyncOpenAI,
    InternalServerError,
    RateLimitError,
)

from gateway.simulator.faults import Faults
from tests.kit.client import RawClient
from tests.kit.waiting import found
from tests.simulator.conftest import QUESTION, Running, Start


class TestFaults:
    async def _ask(self, simulator: Running, simulate: str, stream: bool = False) -> Any:
        body = orjson.dumps({"model": "m", "messages": QUESTION, "stream": stream})
        headers = f"Content-Type: application/json\r\nx-simulate: {simulate}\r\n"
        client = await RawClient.connect("127.0.0.1", simulator.port, "sk")
        try:
            return await client.request("POST", "/v1/chat/completions", body, headers=headers)
        finally:
            await client.close()

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("cut_bytes", [0, 1, 120, 1000])
    async def test_a_cut_answer_ends_after_exactly_so_many_bytes_and_not_cleanly(
        self, simulator: Running, stream: bool, cut_bytes: int
    ) -> None:
        whole = await self._ask(simulator, "pace=0", stream)
        assert whole.clean_end
        assert len(whole.body) > 120
        answer = await self._ask(simulator, f"cut={cut_bytes}; pace=0", stream)
        assert answer.status == 200
        if cut_bytes < len(whole.body):
            assert not answer.clean_end
            assert len(answer.body) == cut_bytes
        else:
            assert answer.clean_end

    async def test_a_cut_download_delivers_what_it_says(self, simulator: Running, sdk: AsyncOpenAI) -> None:
        data = bytes(range(250)) * 20_000
        made = await sdk.files.create(file=("a.bin", data), purpose="user_data")
        client = await RawClient.connect("127.0.0.1", simulator.port, "sk")
        answer = await client.request(
            "GET", f"/v1/files/{made.id}/content", headers="x-simulate: cut=4000000\r\n"
        )
        await client.close()
        assert not answer.clean_end
        assert answer.body == data[:4_000_000]

    async def test_the_sdk_sees_a_cut_stream_as_broken(self, sdk: AsyncOpenAI) -> None:
        stream = await sdk.chat.completions.create(
            model="m", messages=QUESTION, stream=True, extra_headers={"x-simulate": "cut=700"}
        )
        with pytest.raises(APIConnectionError):
            async for _ in stream:
                pass

    async def test_a_socket_is_cut_after_so_many_bytes_of_messages(self, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect("/v1/realtime", headers={"x-simulate": "cut=2000"}) as socket:
            await socket.receive()
            await socket.send_bytes(bytes(1000))
            assert len(await socket.receive_bytes()) == 1000
            await socket.send_bytes(bytes(1000))
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert socket.close_code == 1006

    async def test_a_dropped_request_has_no_answer(self, simulator: Running) -> None:
        with pytest.raises(asyncio.IncompleteReadError) as ended:
            await self._ask(simulator, "drop")
        assert ended.value.partial == b""

    async def test_a_failure_has_the_status_and_headers_that_were_asked_for(self, sdk: AsyncOpenAI) -> None:
        simulate = {"x-simulate": "status=429; retry-after=2; headers=x-a:1,x-b:y%2Cz"}
        with pytest.raises(RateLimitError) as limited:
            await sdk.models.list(extra_headers=simulate)
        assert limited.value.code == "rate_limit_exceeded"
        headers = limited.value.response.headers
        assert (headers["retry-after"], headers["x-a"], headers["x-b"]) == ("2", "1", "y,z")
        with pytest.raises(InternalServerError) as failed:
            await sdk.models.list(extra_headers={"x-simulate": "status=503"})
        assert failed.value.type == "server_error"

    async def test_a_delay_holds_back_the_head(self, simulator: Running) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        assert (await self._ask(simulator, "delay=0.2")).status == 200
        assert clock() - started > 0.19  # uvloop counts in milliseconds

    @pytest.mark.parametrize(
        "text",
        ["status=200", "status=x", "cut=-1", "delay=soon", "delay=nan", "pace=-1", "sttus=429", "headers=x"],
    )
    async def test_a_header_it_cannot_read_is_refused(self, simulator: Running, text: str) -> None:
        answer = await self._ask(simulator, text)
        assert answer.status == 400
        assert "x-simulate" in orjson.loads(answer.body)["error"]["message"]

    def test_nothing_asked_is_no_fault(self) -> None:
        assert Faults.parse(" ; ") == Faults()

    async def test_a_stream_ends_when_its_reader_leaves(self, start: Start) -> None:
        """Nothing of an abandoned stream is left running in the simulator."""
        paced = await start(pace_seconds=0.5)
        before = len(asyncio.all_tasks())
        client = await RawClient.connect("127.0.0.1", paced.port, "sk")
        body = orjson.dumps({"model": "m", "messages": QUESTION, "stream": True})
        json = "Content-Type: application/json\r\n"
        await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=json))
        await client.read_head()
        assert len(asyncio.all_tasks()) > before
        client.reset()

        async def gone() -> bool:
            return len(asyncio.all_tasks()) == before

        async with asyncio.timeout(3):  # the stream would go on for ten seconds
            await found(gone)
