"""Batches name models line by line, and the list of models shows what may be used."""

from __future__ import annotations

import gzip
from typing import Any

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask, error_of, verdict
from tests.kit.client import CHAT
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.promises.restricted_models.conftest import REFUSED

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestBatch:
    BATCH = {"input_file_id": "file-1", "endpoint": CHAT, "completion_window": "24h"}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("endpoint", "scope"),
        [
            (CHAT, "chat.completions:write"),
            ("/v1/embeddings", "embeddings:write"),
            ("/v1/responses", "responses:write"),
            ("/v1/something/new", "unlisted:write"),
        ],
    )
    async def test_needs_the_scope_of_what_it_calls(
        self, gateway: Gateway, upstream: ScriptedUpstream, endpoint: str, scope: str
    ) -> None:
        body = self.BATCH | {"endpoint": endpoint}
        without = await ask(gateway, "POST", "/v1/batches", body, scopes=["batches:write"])
        with_it = await ask(gateway, "POST", "/v1/batches", body, scopes=["batches:write", scope])

        assert verdict(without) == (403, "missing_scope")
        assert scope in error_of(without)["message"]
        assert error_of(without)["param"] == "endpoint"
        assert with_it.status == 200
        assert len(upstream.requests) == 1

    @pytest.mark.parametrize(
        ("endpoint", "said"),
        [
            ("/v1/chat/completion", "The closest that it knows is POST /v1/chat/completions."),
            ("/v1/models", "the path has GET, HEAD."),
        ],
    )
    async def test_of_what_is_unknown_is_told_what_comes_closest(
        self, gateway: Gateway, endpoint: str, said: str
    ) -> None:
        refused = await ask(
            gateway, "POST", "/v1/batches", self.BATCH | {"endpoint": endpoint}, scopes=["batches:write"]
        )

        assert verdict(refused) == (403, "missing_scope")
        assert said in error_of(refused)["message"]
        assert "unlisted:write" in error_of(refused)["message"]

    async def test_needs_it_of_the_tenant_too(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {"scopes": ["batches:*", "files:*"]}})

        assert verdict(await ask(gateway, "POST", "/v1/batches", self.BATCH)) == (403, "missing_scope")
        assert not upstream.requests

    @pytest.mark.parametrize(
        "endpoint",
        [[CHAT], {"x": CHAT}, 7, "", "chat", "/v1//chat", "/V1/chat/completions", "/v1/chat/../organization",
         "https://api.example.com/v1/chat/completions", "/v1/organization/unknown"],
    )  # fmt: skip
    async def test_endpoint_that_is_no_operation_is_refused(
        self, gateway: Gateway, upstream: ScriptedUpstream, endpoint: object
    ) -> None:
        answer = await ask(gateway, "POST", "/v1/batches", self.BATCH | {"endpoint": endpoint})

        assert answer.status == 400
        assert not upstream.requests

    @pytest.mark.parametrize(
        "body",
        [
            b'{"endpoint":"/v1/embeddings","endpoint":"/v1/chat/completions"}',
            rb'{"endpoint":"/v1/embeddings","\u0065ndpoint":"/v1/chat/completions"}',
        ],
    )
    async def test_endpoint_that_is_written_twice_is_refused(
        self, gateway: Gateway, upstream: ScriptedUpstream, body: bytes
    ) -> None:
        answer = await ask(gateway, "POST", "/v1/batches", body, scopes=["batches:write", "embeddings:write"])

        assert answer.status == 400
        assert not upstream.requests

    async def test_is_closed_to_who_may_use_some_models_only(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        """Its models stand in a file that has long been uploaded."""
        assert verdict(await ask(restricted, "POST", "/v1/batches", self.BATCH)) == REFUSED
        assert not upstream.requests


class TestListOfModels:
    LIST = (
        b'{"object":"list","data":[{"id":"bad","object":"model","created":1},'
        b'{"id":"good","object":"model","created":2,"x":{"y":[1.5]}},{"id":"gpt-4o"},{"no":"id"},{"id":7},"good"]}'
    )

    async def test_shows_what_may_be_used_and_nothing_else(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(answering(self.LIST))

        answer = await ask(restricted, "GET", "/v1/models")

        assert answer.clean_end
        assert orjson.loads(answer.body) == {
            "object": "list",
            "data": [{"id": "good", "object": "model", "created": 2, "x": {"y": [1.5]}}, {"id": "gpt-4o"}],
        }
        assert upstream.requests[0].get("accept-encoding") == "identity"

    async def test_is_narrowed_by_the_credential(
        self, restricted: Gateway, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(answering(self.LIST))

        for one in (restricted, gateway):
            answer = await ask(one, "GET", "/v1/models", models=["gpt-4o", "o3"])
            assert [entry["id"] for entry in orjson.loads(answer.body)["data"]] == ["gpt-4o"]

    async def test_is_unchanged_for_who_may_use_all(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(answering(self.LIST))

        assert (await ask(gateway, "GET", "/v1/models")).body == self.LIST

    @pytest.mark.parametrize(
        ("status", "fields", "body"),
        [
            (200, b"", b'{"models":[{"id":"bad"}]}'),
            (200, b"", b'[{"id":"bad"}]'),
            (200, b"", b'{"data":{"bad":1}}'),
            (200, b"", b"bad"),
            (206, b"Content-Range: bytes 0-36/99\r\n", b'{"object":"list","data":[{"id":"bad"}'),
            (200, b"Content-Encoding: compress\r\n", gzip.compress(LIST)),
        ],
    )
    async def test_answer_in_which_the_models_are_not_found_does_not_pass(
        self, restricted: Gateway, upstream: ScriptedUpstream, status: int, fields: bytes, body: bytes
    ) -> None:
        upstream.plays(answering(body, status=status, fields=fields))

        answer = await ask(restricted, "GET", "/v1/models", headers="Range: bytes=0-36\r\n")

        assert answer.status == 502
        assert b'"bad"' not in answer.body

    async def test_error_of_the_upstream_passes_unchanged(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(answering(b'{"error":{"message":"busy"}}', status=503))

        answer = await ask(restricted, "GET", "/v1/models")

        assert (answer.status, answer.body) == (503, b'{"error":{"message":"busy"}}')


def answering(body: bytes, *, status: int = 200, fields: bytes = b"") -> Any:
    """A script: one answer to everything."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(
            b"HTTP/1.1 %d Said\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status, fields, len(body), body)
        )

    return script
