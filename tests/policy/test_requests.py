"""What a request may do: its operation's one scope, what is closed until opened, and what a batch runs."""

from __future__ import annotations

import orjson
import pytest

from gateway.policy.model_list import filtered_models
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask, error_of, verdict
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.records import caller
from tests.kit.upstream import ScriptedUpstream

UNCONTAINED = ("/v1/chatkit", "/v1/realtime/calls")


class TestScope:
    async def test_of_every_operation_is_needed_and_enough(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key", "admin_api_key": "sk-admin"}
        gateway = await start_gateway(upstream=way, allow_uncontained=True)
        everything = set(gateway.app.services.table.scopes)
        without, with_it = {}, {}
        for operation in TABLE:
            if operation.is_session and not operation.is_among_sessions:
                continue  # without an upgrade it is another operation, or none
            target = operation.path.replace("{", "").replace("}", "")
            method, body = operation.method, b"{}" if operation.method == "POST" else None
            others = everything - {operation.scope}
            without[operation.id] = verdict(await ask(gateway, method, target, body, scopes=others))
            assert not upstream.requests, operation.id
            with_it[operation.id] = (
                await ask(gateway, method, target, body, scopes={operation.scope})
            ).status
            upstream.requests.clear()

        assert without == dict.fromkeys(without, (403, "missing_scope"))
        assert 403 not in with_it.values()

    @pytest.mark.parametrize(
        ("method", "scope"),
        [("GET", "unlisted:read"), ("SEARCH", "unlisted:write"), ("POST", "unlisted:write"), ("PUT", "unlisted:write"),
         ("DELETE", "unlisted:write"), ("PATCH", "unlisted:write"), ("OPTIONS", "unlisted:write")],
    )  # fmt: skip
    async def test_of_an_unlisted_path_is_needed_and_enough(
        self, gateway: Gateway, upstream: ScriptedUpstream, method: str, scope: str
    ) -> None:
        everything = set(gateway.app.services.table.scopes)
        refused = await ask(gateway, method, "/v1/brand/new", scopes=everything - {scope})
        assert not upstream.requests
        passed = await ask(gateway, method, "/v1/brand/new", scopes={scope})

        assert (refused.status, passed.status) == (403, 200)
        assert upstream.requests[0].target == "/v1/brand/new"

    async def test_that_a_mistyped_path_would_need_is_said_last(self, start_gateway: StartGateway) -> None:
        gateway = await start_gateway(tenants={"acme": EVERY_SCOPE, "beta": EVERY_SCOPE})
        lacking, shared = [
            error_of(await ask(gateway, "POST", "/v1/chat/completion", {}, scopes=scopes))["message"]
            for scopes in (["chat.completions:write"], None)
        ]

        assert lacking.startswith(
            "POST /v1/chat/completion is no operation that this gateway knows. Check the path"
        )
        assert "POST /v1/chat/completions" in lacking
        assert lacking.index("closest") < lacking.index("unlisted:write")
        assert "the gateway does not know" in shared
        assert "operation unlisted" not in shared

    @pytest.mark.parametrize(
        ("method", "target", "closest"),
        [
            ("GET", "/v1/v1/models", "GET /v1/models"),
            ("POST", "/v1/v1/chat/completions?x=1", "POST /v1/chat/completions"),
            ("POST", "/v1/chat/completion", "POST /v1/chat/completions"),
            ("POST", "/v1/chat", "POST /v1/chat/completions"),
            ("POST", "/v1/embedding", "POST /v1/embeddings"),
            ("POST", "/v1/image/generation", "POST /v1/images/generations"),
            ("POST", "/v1/engines/davinci/completions", "POST /v1/completions"),
            ("POST", "/v1/transcriptions", "POST /v1/audio/transcriptions"),
            ("GET", "/v1/threads/thread_abc123/message", "GET /v1/threads/{thread_id}/messages"),
            ("GET", "/v1/realtime/session", "POST /v1/realtime/sessions"),
            ("GET", "/v1/models/meta-llama/Llama-3.1-8B-Instruct", "GET /v1/models/{model}"),
            ("GET", "/v1/nope", None),
            ("PUT", "/v1/zzz/%C3%BC", None),
        ],
    )
    async def test_of_unlisted_paths_is_no_word_where_the_tenant_cannot_have_it(
        self,
        start_gateway: StartGateway,
        upstream: ScriptedUpstream,
        method: str,
        target: str,
        closest: str | None,
    ) -> None:
        """Whoever has mistyped a path is told that, and of what could have been meant."""
        gateway = await start_gateway(tenants={"acme": {"scopes": ["*"]}})

        answer = await ask(gateway, method, target)

        error = error_of(answer)
        assert (answer.status, error["code"]) == (404, "unknown_operation")
        assert (f"The closest that it knows is {closest}." in error["message"]) == (closest is not None)
        assert ("closest" in error["message"]) == (closest is not None)
        assert "unlisted" not in error["message"]
        assert not upstream.requests

    @pytest.mark.parametrize(
        ("method", "target", "allow"),
        [
            ("PUT", "/v1/models", "GET, HEAD"),
            ("GET", "/v1/embeddings", "POST"),
            ("OPTIONS", "/v1/chat/completions?x", "GET, HEAD, POST"),
            ("PATCH", "/v1/threads/runs", "DELETE, GET, HEAD, POST"),
            ("GET", "/v1/responses", "POST"),
        ],
    )
    async def test_of_an_unlisted_method_is_said_which_there_are(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, method: str, target: str, allow: str
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {"scopes": ["*"]}, "beta": EVERY_SCOPE})

        never = await ask(gateway, method, target)
        might = await ask(gateway, method, target, tenant="beta", scopes=["models:read"])

        assert verdict(never) == (405, "method_not_allowed")
        assert never.get("allow") == allow
        assert verdict(might) == (403, "missing_scope")
        for answer in (never, might):
            assert f"the path has {allow}." in error_of(answer)["message"]
        assert not upstream.requests

    async def test_that_is_missing_is_named_with_whom_to_ask(self, gateway: Gateway) -> None:
        error = error_of(await ask(gateway, "POST", "/v1/chat/completions", {}, scopes=["models:read"]))

        assert error["type"] == "permission_error"
        assert "chat.completions:write" in error["message"]
        assert "credential" in error["message"]

    async def test_is_needed_of_the_tenant_as_well(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {"scopes": ["models:*"]}})

        refused = await ask(gateway, "GET", "/v1/files", scopes=["files:read"])

        assert verdict(refused) == (403, "missing_scope")
        assert "tenant acme" in error_of(refused)["message"]
        assert (await ask(gateway, "GET", "/v1/models", scopes=["models:read"])).status == 200
        assert len(upstream.requests) == 1


class TestClosed:
    async def test_sessions_that_run_past_the_gateway_are_closed_until_opened(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        closed, opened = await start_gateway(), await start_gateway(allow_uncontained=True)
        operations = [operation for operation in TABLE if operation.path.startswith(UNCONTAINED)]
        assert len(operations) >= 7
        for operation in operations:
            target = operation.path.replace("{", "").replace("}", "")
            refused = await ask(closed, operation.method, target, b"{}")
            assert verdict(refused) == (403, "operation_closed")
            assert not upstream.requests
            assert (await ask(opened, operation.method, target, b"{}")).status == 200
            upstream.requests.clear()

    async def test_is_said_before_the_scope_that_could_not_help(self, gateway: Gateway) -> None:
        answer = await ask(gateway, "POST", "/v1/realtime/calls", {}, scopes=["models:read"])

        assert verdict(answer) == (403, "operation_closed")

    @pytest.mark.parametrize(
        ("tenant", "code"), [("stranger", "unknown_tenant"), ("asleep", "tenant_disabled")]
    )
    async def test_tenant_that_may_not_call_at_all_is_told_so(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, tenant: str, code: str
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {}, "asleep": {"enabled": False}})

        for target in ("/v1/models", "/gateway/me", "/v1/a//b"):
            answer = await ask(gateway, "GET", target, tenant=tenant)
            assert answer.status == (400 if "//" in target else 403)
            assert verdict(answer)[1] in (code, "ambiguous_target")
        assert not upstream.requests


class TestModels:
    @pytest.mark.parametrize(
        ("models", "own", "allowed"),
        [
            (None, None, {"a", "b", "ab"}),
            (["a"], None, {"a"}),
            (None, ("a",), {"a"}),
            (["a*"], ("*b",), {"ab"}),
            (["a"], ("b",), set()),
            ([], None, set()),
            (None, (), set()),
            (["*"], ("*",), {"a", "b", "ab"}),
        ],
    )
    def test_are_those_that_both_the_tenant_and_the_credential_allow(
        self, models: list[str] | None, own: tuple[str, ...] | None, allowed: set[str]
    ) -> None:
        asking = caller(models=models, own=own)

        assert {model for model in ("a", "b", "ab") if asking.refusal_of(model) is None} == allowed
        assert asking.restricted is (models is not None or own is not None)

    def test_refusal_quotes_a_bounded_part_of_the_model(self) -> None:
        refusal = caller(models=["a"]).refusal_of("x" * 10_000)

        assert refusal is not None
        assert len(refusal) < 400

    @pytest.mark.parametrize(
        ("body", "kept"),
        [
            (b'{"data":[]}', {"data": []}),
            (b'{"data":[{"id":"a"},{"id":"b"}]}', {"data": [{"id": "a"}]}),
            (b'{"data":[{"id":"b"}],"has_more":false}', {"data": [], "has_more": False}),
            (
                b'{"data":[{"id":"b"},{"id":"a"},{"id":"b"}],"first_id":"b","last_id":"b"}',
                {"data": [{"id": "a"}], "first_id": "a", "last_id": "a"},
            ),
            (
                b'{"data":[{"id":"b"}],"first_id":"b","last_id":"b"}',
                {"data": [], "first_id": None, "last_id": None},
            ),
            (b'{"data":["a",{"id":["a"]},{},null]}', {"data": []}),
        ],
    )
    def test_list_shows_the_allowed_ones(self, body: bytes, kept: object) -> None:
        filtered = filtered_models(body, caller(models=["a"]).model_rules)
        assert filtered is not None
        assert orjson.loads(filtered) == kept

    @pytest.mark.parametrize(
        "body", [b"", b"b", b"[]", b"null", b"{}", b'{"data":{"id":"b"}}', b'{"models":["b"]}']
    )
    def test_answer_in_which_no_models_are_found_does_not_pass(self, body: bytes) -> None:
        assert filtered_models(body, caller(models=["a"]).model_rules) is None
