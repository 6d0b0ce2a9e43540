"""Every operation of the table, and what no table lists, reaches the upstream with its exact method and target."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from gateway.operations.table import Operation, OperationTable
from tests.kit.client import HANDSHAKE, JSON, RawAnswer, RawClient
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream, Seen, Turn

UPSTREAM_KEY = "sk-upstream-key"
ADMIN_KEY = "sk-admin-key"

# What no router may touch: an escape, a colon, parameters that look alike, brackets, an order.
PARAMETER = "ft:gpt-4o-mini:acme::a%20b~{name}"
QUERY = "?include[]=step_details.tool_calls[*].file_search.results[*].content&limit=2&a=%41&beta=true&&z="

MULTIPART = (
    b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n\x00\xff\r\n--edge--\r\n'
)
BODY = b'{ "model":"gpt-4o-mini" , "input":"\\u00e9" }'

# An empty list, and a realtime secret for the operations that mint one.
SECRET = b"ek_of_the_upstream"
ANSWER = b'{"object":"list","data":[],"value":"%b","expires_at":4102444800}' % SECRET

OPERATIONS = [
    operation
    for operation in OperationTable.load()
    if not operation.is_session or operation.is_among_sessions  # others are asked for with an upgrade alone
]
ADMINISTRATION = [operation for operation in OPERATIONS if operation.is_administration]
UNCONTAINED = [
    operation
    for operation in OPERATIONS
    if operation.path.startswith(("/v1/chatkit/sessions", "/v1/realtime/calls"))
]


@dataclass
class Path:
    """The way from a client through a gateway to the upstream."""

    gateway: Gateway
    upstream: ScriptedUpstream

    async def travel(
        self, method: str, target: str, body: bytes | None = None, **more: str
    ) -> tuple[RawAnswer, Seen]:
        """Send a request; returns the answer and what the upstream saw, which is exactly one request."""
        before = len(self.upstream.requests)
        async with await self.gateway.connect() as client:
            answer = await client.request(method, target, body, **more)
        assert len(self.upstream.requests) == before + 1, answer
        return answer, self.upstream.requests[-1]


async def answer_everything(turn: Turn) -> None:
    """Answer `ANSWER`, of which HEAD gets the length only."""
    await turn.read_body()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
    await turn.send(head + (b"" if turn.seen.method == "HEAD" else ANSWER))


async def _path(*, everything: bool) -> AsyncIterator[Path]:
    async with ScriptedUpstream() as scripted:
        scripted.plays(answer_everything)
        upstream = {"base_url": scripted.base_url, "api_key": UPSTREAM_KEY}
        if everything:
            upstream["admin_api_key"] = ADMIN_KEY
        async with running_gateway(upstream=upstream, allow_uncontained=everything) as gateway:
            yield Path(gateway, scripted)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path() -> AsyncIterator[Path]:
    """With everything open that an operator can open."""
    async for made in _path(everything=True):
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def path_by_default() -> AsyncIterator[Path]:
    async for made in _path(everything=False):
        yield made


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
async def test_operation_is_forwarded_with_its_exact_method_and_target(
    path: Path, operation: Operation
) -> None:
    target, body, headers = example_request(operation)

    answer, seen = await path.travel(operation.method, target, body, headers=headers)

    assert (seen.method, seen.target) == (operation.method, target)
    assert seen.body == (body or b"")
    assert seen.complete
    key = ADMIN_KEY if operation in ADMINISTRATION else UPSTREAM_KEY
    assert seen.all("authorization") == [f"Bearer {key}"]
    assert answer.status == 200
    if operation.scope == "realtime:mint":
        assert SECRET not in answer.body
    else:
        assert answer.body == ANSWER


async def test_every_operation_is_logged_by_its_own_name(path: Path) -> None:
    sent = {}
    for operation in OPERATIONS:
        target, body, headers = example_request(operation)
        answer, _ = await path.travel(operation.method, target, body, headers=headers)
        sent[answer.get("x-gateway-request-id")] = operation

    assert len(sent) == len(OPERATIONS)
    for request_id, line in (await lines_of(path.gateway, sent.keys())).items():
        operation = sent[request_id]
        assert (line["operation"], line["method"]) == (operation.id, operation.method)
        assert (line["status"], line["ending"]) == (200, "complete")


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/ft:gpt-4o-mini:acme::abc",
        "/v1/threads/thread_1/runs/run_1/steps/step_1"
        "?include[]=step_details.tool_calls[*].file_search.results[*].content",
        "/v1/files?after=file-%C3%A9&limit=&limit=1&purpose=fine-tune%2Bx+y",
        "/v1/models?q=%2F..%2f//;%00",
    ],
)
async def test_awkward_target_reaches_the_upstream_byte_for_byte(path: Path, target: str) -> None:
    answer, seen = await path.travel("GET", target)

    assert (answer.status, seen.method, seen.target) == (200, "GET", target)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"])
async def test_unlisted_path_is_forwarded_with_any_method(path: Path, method: str) -> None:
    target = "/v1/things-of-tomorrow/thing_1:do?dry=%74rue"
    body = BODY if method in ("POST", "PUT", "PATCH", "DELETE") else None

    answer, seen = await path.travel(method, target, body, headers=JSON if body else "")

    assert answer.status == 200
    assert (seen.method, seen.target, seen.body) == (method, target, body or b"")
    assert await operation_of(path.gateway, answer) == "unlisted"


@pytest.mark.parametrize(
    ("method", "scope"),
    [("GET", "unlisted:read"), ("HEAD", "unlisted:read"), ("PATCH", "unlisted:write"), ("OPTIONS", None)],
)
async def test_unlisted_path_needs_the_scope_for_unlisted_paths(
    path: Path, method: str, scope: str | None
) -> None:
    everything_else = path.gateway.app.services.trust.verifier.verify(path.gateway.credential()).scopes
    reduced = everything_else - ({scope} if scope else {"unlisted:read", "unlisted:write"})
    credential = path.gateway.credential(reduced)
    before = len(path.upstream.requests)

    async with await RawClient.connect(path.gateway.host, path.gateway.port, credential) as client:
        answer = await client.request(method, "/v1/things-of-tomorrow")

    assert answer.status == 403
    if method != "HEAD":
        assert b'"missing_scope"' in answer.body
        assert (scope or "unlisted:").encode() in answer.body
    assert len(path.upstream.requests) == before


async def test_head_is_forwarded_as_head_and_its_answer_has_no_body(path: Path) -> None:
    async with await path.gateway.connect() as client:
        answer = await client.request("HEAD", "/v1/models/gpt-4o-mini")
        seen = path.upstream.requests[-1]
        again = await client.request("GET", "/v1/models/gpt-4o-mini")

    assert (seen.method, seen.target) == ("HEAD", "/v1/models/gpt-4o-mini")
    assert (answer.status, answer.get("content-length")) == (200, str(len(ANSWER)))
    assert (again.status, again.body) == (200, ANSWER)
    assert await operation_of(path.gateway, answer) == "retrieveModel"


@pytest.mark.parametrize("operation", [*ADMINISTRATION, *UNCONTAINED], ids=lambda operation: operation.id)
async def test_operation_that_the_operator_did_not_open_is_closed(
    path_by_default: Path, operation: Operation
) -> None:
    target, body, headers = example_request(operation)

    async with await path_by_default.gateway.connect() as client:
        answer = await client.request(operation.method, target, body, headers=headers)

    assert answer.status == 403
    assert b'"operation_closed"' in answer.body
    assert path_by_default.upstream.requests == []


def example_request(operation: Operation) -> tuple[str, bytes | None, str]:
    """A target, a body of the first kind that the operation takes, and the header lines that go with it."""
    target = operation.path + QUERY
    for name in operation.id_params:
        target = target.replace(f"{{{name}}}", PARAMETER.format(name=name))
    if operation.id == "connectRealtime":
        return target, None, HANDSHAKE
    match operation.request_types:
        case ():
            return target, None, ""
        case ("application/json", *_):
            return target, BODY, JSON
        case ("multipart/form-data", *_):
            return target, MULTIPART, "Content-Type: multipart/form-data; boundary=edge\r\n"
        case _:
            media_type = operation.request_types[0]
            return target, b"v=0\r\n\x00\xff", f"Content-Type: {media_type}\r\n"


async def lines_of(gateway: Gateway, request_ids: Iterable[str | None]) -> dict[str | None, dict[str, Any]]:
    """The log lines of answered exchanges, by their request id; fails when one does not come."""
    wanted = set(request_ids)
    async with asyncio.timeout(5):
        while True:
            found = {line["request_id"]: line for line in await gateway.lines.wait(0)}
            if wanted <= found.keys():
                return {request_id: found[request_id] for request_id in wanted if request_id}
            await asyncio.sleep(0.01)


async def operation_of(gateway: Gateway, answer: RawAnswer) -> Any:
    """The name under which an answered exchange was logged."""
    request_id = answer.get("x-gateway-request-id")
    return (await lines_of(gateway, [request_id]))[request_id]["operation"]
