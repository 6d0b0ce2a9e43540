"""Two tenants on one upstream key: neither reaches what the upstream stores for the other, by whatever name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio
import websockets

from gateway.operations.table import Operation
from tests.kit.asking import TABLE, Simulator, ask, error_of, form, running_simulator, verdict
from tests.kit.client import FORM, HANDSHAKE, JSON
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHARED_KEY = "sk-shared-by-both"
REFUSED = (403, "shared_upstream")
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

# Stored, yet open to both: models belong to nobody, a secret is sealed to who minted it, and what a response
# refers to stands in its body, which is read.
OPEN = {
    *("listModels", "retrieveModel", "createResponse"),
    *("createRealtimeClientSecret", "createRealtimeTranslationClientSecret"),
    *("createRealtimeSession", "createRealtimeTranscriptionSession"),
}
STATEFUL = [
    operation
    for operation in TABLE
    if operation.object_kind != "none" and not operation.is_administration and operation.id not in OPEN
]

# What a creation needs beside the ids in its path, where `{}` is not enough.
BODIES: dict[str, object] = {
    "createAssistant": {"model": "gpt-4o"},
    "createBatch": {"input_file_id": "{file_id}", "endpoint": CHAT, "completion_window": "24h"},
    "createContainer": {"name": "of A"},
    "createConversation": {"items": [{"type": "message", "role": "user", "content": "of A"}]},
    "createConversationItems": {"items": [{"type": "message", "role": "user", "content": "of A"}]},
    "createFineTuningJob": {"model": "gpt-4o", "training_file": "{file_id}"},
    "createMessage": {"role": "user", "content": "of A"},
    "createRun": {"assistant_id": "{assistant_id}"},
    "createThreadAndRun": {"assistant_id": "{assistant_id}"},
    "createUpload": {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"},
    "createVectorStore": {"file_ids": ["{file_id}"]},
    "createVectorStoreFile": {"file_id": "{file_id}"},
    "createVectorStoreFileBatch": {"file_ids": ["{file_id}"]},
}
FORMS: dict[str, bytes] = {
    "createFile": form(("purpose", b"batch"), ("file", b"of A"), file_at=1),
    "addUploadPart": form(("data", b"of A"), file_at=0),
}


@dataclass
class Situation:
    """Both tenants' gateways, and the ids of what A has stored."""

    simulator: Simulator
    closed: Gateway
    alone: Gateway
    """That of B, where it is the only tenant."""

    ids: Ids

    async def refused_before_the_upstream(
        self, method: str, target: str, body: object = None, headers: str | None = None
    ) -> tuple[int, str | None]:
        """What B is told; fails when the upstream heard of it."""
        heard = len(self.simulator.asked)
        answer = await ask(self.closed, method, target, body, headers=headers, tenant="b")
        assert self.simulator.asked[heard:] == []
        return verdict(answer)


@dataclass
class Ids:
    """The ids of what A has stored, by the template of its path; what the API cannot make has an invented one."""

    by_template: dict[str, str] = field(default_factory=dict)

    def target(self, template: str, *, escaped: bool = False) -> str:
        """The path of A's own object; `escaped` spells the first letter of every id as a percent escape."""
        filled = template
        for found in re.finditer(r"\{\w+\}", template):
            named = self.by_template.get(template[: found.end()], f"{found[0][1:-1]}-of-a")
            filled = filled.replace(found[0], f"%{ord(named[0]):X}{named[1:]}" if escaped else named)
        return filled

    def body(self, body: object) -> bytes:
        """A body as JSON, with A's ids where it says `{file_id}` and the like."""
        names = {template.rpartition("/")[2]: named for template, named in reversed(self.by_template.items())}
        text = orjson.dumps(body).decode()
        return re.sub(r"\{\w+\}", lambda found: names[found[0]], text).encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def situation() -> AsyncIterator[Situation]:
    """A has stored one of every kind; B knows all the ids."""
    async with AsyncExitStack() as stack:
        simulator = await stack.enter_async_context(running_simulator(keys=[SHARED_KEY]))
        settings: dict[str, Any] = {
            "upstream": {"base_url": simulator.base_url, "api_key": SHARED_KEY},
            "allow_uncontained": True,
            "tenants": {"a": EVERY_SCOPE, "b": EVERY_SCOPE},
        }
        closed = await stack.enter_async_context(running_gateway(**settings))
        settings["tenants"] = {"b": EVERY_SCOPE}
        alone = await stack.enter_async_context(running_gateway(**settings))
        yield Situation(simulator, closed, alone, await stored_by_a(simulator))


async def stored_by_a(simulator: Simulator) -> Ids:
    """Make one of every kind, directly upstream."""
    ids = Ids()
    # What others refer to comes first, and what hangs under something after it.
    first = {"createFile": 0, "createAssistant": 1, "createThread": 1, "createVectorStore": 1}
    creations = [o for o in STATEFUL if o.object_action == "create"] + [TABLE.by_id("createResponse")]
    creations.sort(key=lambda o: (first.get(o.id, 2), o.path.count("{")))
    async with directly(simulator) as upstream:
        for operation in creations:
            body, headers = body_for(operation, ids)
            kind = {"Content-Type": headers.partition(": ")[2].strip()}
            async with upstream.post(ids.target(operation.path), data=body, headers=kind) as answer:
                assert answer.status == 200, (operation.id, await answer.text())
                made = await answer.json(content_type=None)
            for named in TABLE:
                item = re.match(re.escape(operation.path) + r"/\{\w+\}", named.path)
                if item is not None and isinstance(made.get("id"), str):
                    ids.by_template[item[0]] = made["id"]
    await asyncio.sleep(0.2)  # the simulator's batches and runs come to their end
    return ids


def directly(simulator: Simulator) -> aiohttp.ClientSession:
    """A's own way to the upstream, past the gateway."""
    headers = {"Authorization": f"Bearer {SHARED_KEY}"}
    return aiohttp.ClientSession(simulator.base_url.removesuffix("/v1"), headers=headers)


def body_for(operation: Operation, ids: Ids) -> tuple[bytes | None, str]:
    """What is sent along, and how it is called."""
    if operation.id in FORMS:
        return FORMS[operation.id], FORM
    if not operation.request_types:
        return None, ""
    if operation.request_types == ("multipart/form-data",):
        return form(("model", b"gpt-4o"), ("name", b"of A")), FORM
    return ids.body(BODIES.get(operation.id, {"model": "gpt-4o", "input": "x", "name": "of A"})), JSON


async def snapshot(situation: Situation) -> dict[str, tuple[int, bytes]]:
    """Everything of A's that can be read, as the upstream itself answers it."""
    seen: dict[str, tuple[int, bytes]] = {}
    async with directly(situation.simulator) as upstream:
        for operation in STATEFUL:
            if operation.object_action in ("read", "list") and operation.method == "GET":
                async with upstream.get(situation.ids.target(operation.path)) as answer:
                    seen[operation.id] = answer.status, await answer.read()
    return seen


async def test_there_is_something_of_a_to_be_reached(situation: Situation) -> None:
    seen = await snapshot(situation)

    readable = {name for name, (status, _) in seen.items() if status == 200}
    assert readable >= {
        *("retrieveFile", "downloadFile", "retrieveBatch", "getThread", "getMessage", "getRun"),
        *("getAssistant", "getVectorStore", "getVectorStoreFile", "getResponse", "listInputItems"),
        *("getConversation", "listConversationItems", "retrieveContainer", "retrieveFineTuningJob"),
        *("getEval", "getEvalRun", "getVideo", "getSkill", "listFiles", "listBatches", "listVectorStores"),
    }
    assert len(readable) >= 45


@pytest.mark.parametrize("way", ["plainly", "with ids in the query", "percent-encoded", "as HEAD"])
async def test_no_stateful_operation_is_open_to_b_with_the_ids_of_a(situation: Situation, way: str) -> None:
    before = await snapshot(situation)
    verdicts = {}
    for operation in STATEFUL:
        method, target = operation.method, situation.ids.target(operation.path)
        body, headers = body_for(operation, situation.ids)
        match way:
            case "with ids in the query":
                target += f"?limit=5&after={situation.ids.target('/v1/files/{file_id}')[10:]}&purpose=batch"
            case "percent-encoded":
                target = situation.ids.target(operation.path, escaped=True)
            case "as HEAD" if method == "GET":
                method = "HEAD"
        verdicts[operation.id] = await situation.refused_before_the_upstream(method, target, body, headers)

    wanted: dict[str, tuple[int, str | None]] = dict.fromkeys(verdicts, REFUSED)
    if way == "as HEAD":
        wanted |= {o.id: (403, None) for o in STATEFUL if o.method == "GET"}  # HEAD has no body to read
    assert verdicts == wanted
    assert await snapshot(situation) == before, "nothing of A's has changed"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "SUBSCRIBE"])
async def test_paths_that_nobody_knows_are_closed(situation: Situation, method: str) -> None:
    for target in ("/v1/files/search", "/v1/threads", "/v1/memories/of-a", "/v1/batches/x/y/z?after=1"):
        if (method, target) != ("POST", "/v1/threads"):
            assert await situation.refused_before_the_upstream(method, target) == REFUSED


@pytest.mark.parametrize(
    "target", ["/v1/realtime?model=gpt-realtime&call_id={}", "/v1/realtime?%63all_id={}"]
)
async def test_the_live_call_of_a_cannot_be_joined(situation: Situation, target: str) -> None:
    """The query picks a running call instead of opening a session."""
    answer = await situation.refused_before_the_upstream("GET", target.format("rtc_A"), headers=HANDSHAKE)

    assert answer == REFUSED


REFERENCES: dict[str, dict[str, object]] = {
    "previous_response_id": {"previous_response_id": "{response_id}"},
    "conversation": {"conversation": "{conversation_id}"},
    "conversation object": {"conversation": {"id": "{conversation_id}"}},
    "prompt": {"prompt": {"id": "pmpt_A", "version": "2"}},
    "item_reference": {"input": [{"type": "item_reference", "id": "msg_A"}]},
    "item reference without a type": {"input": [{"id": "msg_A"}]},
    "item reference of type null": {"input": [{"type": None, "id": "msg_A"}]},
    "generated image": {"input": [{"type": "image_generation_call", "id": "ig_A"}]},
    "stored reasoning": {"input": [{"type": "reasoning", "id": "rs_A", "summary": []}]},
    "input_file": {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "{file_id}"}]}]},
    "input_image": {
        "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "{file_id}"}]}]
    },
    "file_search": {"tools": [{"type": "file_search", "vector_store_ids": ["{vector_store_id}"]}]},
    "container": {"tools": [{"type": "code_interpreter", "container": "{container_id}"}]},
    "container files": {"tools": [{"type": "x", "container": {"type": "auto", "file_ids": ["{file_id}"]}}]},
    "container_reference": {
        "tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "c"}}]
    },
    "skill_reference": {
        "tools": [
            {"type": "shell", "environment": {"skills": [{"type": "skill_reference", "skill_id": "s"}]}}
        ]
    },
    "mask": {"tools": [{"type": "image_generation", "input_image_mask": {"file_id": "{file_id}"}}]},
    "screenshot": {"input": [{"type": "computer_call_output", "output": {"file_id": "{file_id}"}}]},
    "store": {"store": True},
    "store as a number": {"store": 1},
    "store as text": {"store": "true"},
    "audio of an answer": {"messages": [{"role": "assistant", "audio": {"id": "audio_A"}}]},
    "audio of an answer with more beside it": {
        "messages": [{"role": "assistant", "audio": {"id": "audio_A", "name": "x", "content": "y"}}]
    },
    "generated image with an empty result": {
        "input": [{"type": "image_generation_call", "id": "ig_A", "result": ""}]
    },
    "item reference with content beside it": {
        "input": [{"type": "item_reference", "id": "m", "content": "x"}]
    },
    "names in other letters": {"Previous_Response_ID": "{response_id}"},
    "voice": {"voice": {"id": "voice_A"}},
    "voice of an answer": {"audio": {"format": "wav", "voice": {"id": "voice_A"}}},
    "file part": {
        "messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "{file_id}"}}]}]
    },
    "training_file": {"training_file": "{file_id}"},
    "input_file_id": {"input_file_id": "{file_id}"},
    "thread_id": {"thread_id": "{thread_id}"},
    "assistant_id": {"assistant_id": "{assistant_id}"},
    "deeply nested": {"x": [[{"y": [{"z": [[[{"file_id": "{file_id}"}]]]}]}]]},
    "in a list of mixed things": {"x": [1, None, "file_id", {"file_ids": [None, "{file_id}"]}]},
    "session prompt": {"session": {"type": "realtime", "prompt": {"id": "pmpt_A"}}},
}


@pytest.mark.parametrize("name", REFERENCES)
async def test_body_that_names_what_a_has_stored_is_refused(situation: Situation, name: str) -> None:
    body = situation.ids.body({"model": "gpt-4o", "input": "hello"} | REFERENCES[name])

    verdicts = {
        path: await situation.refused_before_the_upstream("POST", path, body)
        for path in (
            RESPONSES,
            CHAT,
            "/v1/responses/compact",
            "/v1/realtime/client_secrets",
            "/v1/audio/speech",
        )
    }

    assert verdicts == dict.fromkeys(verdicts, REFUSED)


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model":"m","previous_response\u005fid":"resp_A"}',
        rb'{"model":"m","\u0070\u0072evious_response_id":"resp_A"}',
        rb'{"model":"m","input":[{"role":"user","content":[{"type":"input_file","\u0066ile_id":"f"}]}]}',
        rb'{"model":"m","\u0073tore":true}',
        rb'{"model":"m","input":[{"type":"\u0069tem_reference","id":"msg_A"}]}',
        rb'{"model":"m","input":[{"\u0074ype":"item_reference","id":"msg_A"}]}',
        b'{"model":"m",\n\t"previous_response_id"\r\n :\t"resp_A"}',
    ],
)
async def test_escapes_and_blanks_hide_nothing(situation: Situation, body: bytes) -> None:
    assert await situation.refused_before_the_upstream("POST", RESPONSES, body) == REFUSED


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","store":true,"store":false}',
        b'{"model":"m","previous_response_id":"resp_A","previous_response_id":null}',
        rb'{"model":"m","conversation":null,"c\u006fnversation":"conv_A"}',
        b'{"model":"m","input":[{"content":[{"file_id":"file-A","file_id":7}]}]}',
        rb'{"model":"m","input":[{"file_id":7,"f\u0069le_id":"file-A"}]}',
        b'{"model":"m","input":[{"type":"item_reference","type":"message","id":"msg_A"}]}',
    ],
)
async def test_name_that_is_written_twice_is_refused(situation: Situation, body: bytes) -> None:
    status, _ = await situation.refused_before_the_upstream("POST", RESPONSES, body)

    assert status in (400, 403)


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/octet-stream\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: multipart/form-data; boundary=edge\r\n",
        "Content-Type: multipart/mixed; boundary=edge\r\n",
        "Content-Type: APPLICATION/JSON\r\n",
        "Content-Type: application/vnd.api+json\r\n",
    ],
)
@pytest.mark.parametrize("path", [RESPONSES, CHAT, "/v1/images/edits", "/v1/images/generations"])
async def test_reference_is_found_whatever_the_body_is_called(
    situation: Situation, path: str, headers: str
) -> None:
    """An upstream may read JSON out of a body that is called something else."""
    body = situation.ids.body({"model": "m", "images": [{"file_id": "{file_id}"}]})
    heard = len(situation.simulator.asked)

    answer = await ask(situation.closed, "POST", path, body, headers=headers, tenant="b")

    assert 400 <= answer.status < 500
    if path != "/v1/images/edits" or "form-data" not in headers:
        assert situation.simulator.asked[heard:] == []  # a form is judged while it goes up


@pytest.mark.parametrize("path", [RESPONSES, CHAT])
async def test_form_where_json_belongs_is_refused(situation: Situation, path: str) -> None:
    body = form(("model", b"gpt-4o"), ("input", b"x"), ("previous_response_id", b"resp_A"))

    status, _ = await situation.refused_before_the_upstream("POST", path, body, FORM)

    assert 400 <= status < 500


@pytest.mark.parametrize("name", ["file_id", "image[][file_id]", "images[0][file_id]", "image.file_id"])
async def test_field_of_a_form_that_names_a_stored_object_is_refused(situation: Situation, name: str) -> None:
    body = form(("model", b"gpt-image-1"), (name, b"file-A"))
    answer = await ask(situation.closed, "POST", "/v1/images/edits", body, headers=FORM, tenant="b")

    assert verdict(answer) == REFUSED


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"model": "gpt-4o", "messages": [{"role": "user", "content": 'my "file_id" is "file-A"'}]}),
        (CHAT, {"model": "gpt-4o", "messages": [], "store": False, "audio": {"voice": "alloy", "format": "wav"}}),
        (CHAT, {"model": "gpt-4o", "messages": [{"role": "assistant", "audio": None}]}),
        (RESPONSES, {"model": "gpt-4o", "input": "hello", "previous_response_id": None, "conversation": None}),
        (RESPONSES, {"model": "gpt-4o", "input": [{"role": "user", "content": "hello"}], "store": None}),
        (RESPONSES, {"model": "gpt-4o", "input": "x", "tools": [{"type": "x", "container": {"type": "auto"}}]}),
        (
            RESPONSES,
            {
                "model": "gpt-4o",
                "input": [
                    {"role": "user", "content": "weather?"},
                    {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"text": "?"}]},
                    {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "call_1", "output": '{"file_id":"x"}'},
                    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"},
                ],
            },
        ),
        (CHAT, {"model": "gpt-4o", "messages": [], "metadata": {"user_id": "u-1", "file_id": "f"}}),
        (CHAT, {"model": "gpt-4o", "messages": [], "user": "u-1", "safety_identifier": "u-1", "prompt_cache_key": "k"}),
        (RESPONSES, {"model": "gpt-4o", "input": "x", "metadata": {"customer_id": "c-1", "id": "7"}}),
        (RESPONSES, {"model": "gpt-4o", "input": "x", "tools": [{"type": "mcp", "server_label": "s", "server_url": "u",
                     "connector_id": "connector_gmail", "headers": {"x_tenant_id": "t"}}]}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["file_id", "store"]}),
        ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "store the conversation"}),
        ("/v1/moderations", {"input": "conversation"}),
        ("/v1/images/generations", {"model": "gpt-image-1", "prompt": "a container"}),
        ("/v1/audio/speech", {"model": "tts-1", "input": "hello", "voice": "alloy"}),
    ],
)  # fmt: skip
async def test_what_names_nothing_stored_passes(situation: Situation, path: str, body: object) -> None:
    answer = await ask(situation.closed, "POST", path, body, tenant="b")

    assert answer.status == 200, answer.body
    assert situation.simulator.asked[-1] == ("POST", path)


@pytest.mark.parametrize(
    "name", ["file_id", "vector_store_ids", "container", "conversation", "prompt", "store"]
)
async def test_schema_of_a_tool_may_have_a_property_of_such_a_name(situation: Situation, name: str) -> None:
    schema = {
        "type": "object",
        "properties": {name: {"type": "string", "description": "which one"}},
        "required": [name],
    }
    tool = {"type": "function", "name": "open", "parameters": schema, "strict": True}
    asked = {"model": "gpt-4o", "input": "x", "tools": [tool], "text": {"format": {"schema": schema}}}
    chat = {"model": "gpt-4o", "messages": [], "tools": [{"type": "function", "function": tool}]}

    for path, body in ((RESPONSES, asked), (CHAT, chat)):
        assert (await ask(situation.closed, "POST", path, body, tenant="b")).status == 200


@pytest.mark.parametrize("keyword", ["default", "const", "examples", "enum"])
async def test_schema_of_a_tool_may_give_examples_of_ids(situation: Situation, keyword: str) -> None:
    example = {"order_id": "o-1", "file_id": "f-1"}
    schema = {"type": "object", keyword: example if keyword in ("default", "const") else [example]}
    tool = {"type": "function", "name": "open", "parameters": schema}

    answer = await ask(
        situation.closed, "POST", RESPONSES, {"model": "m", "input": "x", "tools": [tool]}, tenant="b"
    )

    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    "event",
    [
        '{"type":"session.update","session":{"prompt":{"id":"pmpt_A"}}}',
        '{"type":"session.update","session":{"type":"realtime","audio":{"output":{"voice":{"id":"voice_A"}}}}}',
        r'{"type":"session.update","session":{"\u0070rompt":{"id":"pmpt_A"}}}',
        '{"type":"conversation.item.create","item":{"content":[{"type":"input_image","file_id":"file-A"}]}}',
    ],
)
async def test_realtime_event_names_nothing_stored(situation: Situation, event: str) -> None:
    """What is refused in a body that opens a session is refused in the events that change it."""
    gateway = situation.closed
    async with websockets.connect(
        f"ws://{gateway.host}:{gateway.port}/v1/realtime?model=gpt-realtime",
        additional_headers={"Authorization": f"Bearer {gateway.credential(tenant='b')}"},
        compression=None,
    ) as client:
        await client.recv()  # session.created
        await client.send(event)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), 5)

    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


async def test_realtime_event_may_name_what_is_of_its_own_session(situation: Situation) -> None:
    gateway = situation.closed
    async with websockets.connect(
        f"ws://{gateway.host}:{gateway.port}/v1/realtime?model=gpt-realtime",
        additional_headers={"Authorization": f"Bearer {gateway.credential(tenant='b')}"},
        compression=None,
    ) as client:
        await client.recv()
        await client.send(
            '{"type":"conversation.item.create","event_id":"e1","previous_item_id":"item_0",'
            '"item":{"id":"item_1","type":"message","role":"user","content":[{"type":"input_text","text":"hi"}]}}'
        )
        heard = orjson.loads(await asyncio.wait_for(client.recv(), 5))

    assert heard["type"].startswith("conversation.item.")


async def test_forms_without_references_pass(situation: Situation) -> None:
    audio = form(("file", b"RIFF"), ("model", b"whisper-1"), file_at=0)
    image = form(("image", b"PNG"), ("prompt", b"a cat"), ("model", b"gpt-image-1"), file_at=0)

    for path, body in (("/v1/audio/transcriptions", audio), ("/v1/images/edits", image)):
        assert (await ask(situation.closed, "POST", path, body, headers=FORM, tenant="b")).status == 200


async def test_refusal_says_why_and_whom_to_ask(situation: Situation) -> None:
    answer = await ask(situation.closed, "POST", CHAT, {"model": "m", "store": True}, tenant="b")
    error = error_of(answer)

    assert (answer.status, error["type"], error["code"]) == (403, "permission_error", "shared_upstream")
    assert error["param"] == "store"
    assert "other tenants may have the same upstream account" in error["message"]
    assert "operator" in error["message"]
    assert 'stored_objects = "own"' in error["message"]


async def test_what_a_mentioned_by_no_other_name_stays_out_of_the_refusal(situation: Situation) -> None:
    body = situation.ids.body(REFERENCES["previous_response_id"] | {"model": "m"})
    answer = await ask(situation.closed, "POST", RESPONSES, body, tenant="b")

    assert situation.ids.by_template["/v1/responses/{response_id}"].encode() not in answer.body
    assert "tenant b" in error_of(answer)["message"]


async def test_who_is_alone_reaches_all_that_is_stored(situation: Situation) -> None:
    """The same requests, on a gateway on which B is the only tenant; destructive ones last."""
    order = {"read": 0, "list": 0, "create": 1, "update": 2, "delete": 3}
    verdicts = {}
    for operation in sorted(STATEFUL, key=lambda o: order[o.object_action]):
        target = situation.ids.target(operation.path)
        body, headers = body_for(operation, situation.ids)
        heard = len(situation.simulator.asked)
        answer = await ask(situation.alone, operation.method, target, body, headers=headers, tenant="b")
        assert situation.simulator.asked[heard:] == [(operation.method, target)]
        verdicts[operation.id] = answer.status

    assert 403 not in verdicts.values()
    assert verdicts["retrieveFile"] == verdicts["getResponse"] == verdicts["listBatches"] == 200
    for name, reference in REFERENCES.items():
        body = situation.ids.body({"model": "gpt-4o", "input": "x"} | reference)
        answer = await ask(situation.alone, "POST", RESPONSES, body, tenant="b")
        assert answer.status != 403, name
    assert (await ask(situation.alone, "GET", "/v1/memories/of-a", tenant="b")).status == 404


@pytest.mark.parametrize(
    ("own", "authorization", "project"),
    [
        ({"api_key": "sk-of-b-alone"}, "Bearer sk-of-b-alone", None),
        ({"project": "proj_b"}, f"Bearer {SHARED_KEY}", "proj_b"),
        ({"api_key": "sk-of-b-alone", "project": "proj_b"}, "Bearer sk-of-b-alone", "proj_b"),
    ],
)
async def test_tenant_with_a_way_of_its_own_may_keep_things_there(
    own: dict[str, str], authorization: str, project: str | None
) -> None:
    tenants = {"a": EVERY_SCOPE, "b": EVERY_SCOPE | {"upstream": own, "stored_objects": "own"}}
    async with running_simulator() as simulator:
        upstream = {"base_url": simulator.base_url, "api_key": SHARED_KEY}
        async with running_gateway(upstream=upstream, tenants=tenants) as gateway:
            stored = {"model": "gpt-4o", "input": "x", "store": True}
            made = await ask(gateway, "POST", RESPONSES, stored, tenant="b")
            found = await ask(gateway, "GET", f"{RESPONSES}/{orjson.loads(made.body)['id']}", tenant="b")
            unknown = await ask(gateway, "GET", "/v1/memories", tenant="b")
            other = await ask(gateway, "POST", RESPONSES, stored, tenant="a")

    assert (made.status, found.status, unknown.status) == (200, 200, 404)
    assert (other.status == 200) is ("api_key" in own), "on the same key a has nobody's word that it is alone"
    if other.status == 200:
        assert dict(simulator.headers[3])["authorization"] == f"Bearer {SHARED_KEY}"
        assert "openai-project" not in dict(simulator.headers[3])
    for headers in simulator.headers[:3]:
        assert [value for name, value in headers if name == "authorization"] == [authorization]
        assert [value for name, value in headers if name == "openai-project"] == [project][
            : project is not None
        ]
