"""Which models a tenant may use, wherever a request can name one, and however it spells that."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json  # noqa: TID251 - the other readers
import re
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from gateway.credentials.key_ring import ensure_ring
from tests.conftest import StartGateway
from tests.kit.asking import ask, credential_of, error_of, form, verdict
from tests.kit.client import CHAT, FORM, HANDSHAKE, JSON, RawAnswer, RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.gateway import BY_NAME, Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream, Turn, answer_ok

TRANSCRIPTIONS = "/v1/audio/transcriptions"
REFUSED = (403, "model_not_allowed")
PLAIN = {"scopes": ["*", *BY_NAME]}
RESTRICTED = PLAIN | {"models": ["good", "good-*", "gpt-4o*"]}
MIB = 2**20
QUIET = '{"type":"response.create"}'


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scripted() -> AsyncIterator[ScriptedUpstream]:
    """One upstream for all; what a test sees of it is `upstream`."""
    async with ScriptedUpstream() as scripted:
        yield scripted


@pytest_asyncio.fixture(loop_scope="module")
async def upstream(scripted: ScriptedUpstream) -> ScriptedUpstream:
    """The upstream as if it were new."""
    scripted.requests.clear()
    scripted.plays(answer_ok)
    return scripted


@pytest_asyncio.fixture(loop_scope="module")
async def start_gateway(scripted: ScriptedUpstream) -> AsyncIterator[StartGateway]:
    """Start a gateway for one test; keyword arguments are settings."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Gateway:
            return await stack.enter_async_context(running_gateway(upstream=way_to(scripted), **settings))

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(scripted: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway whose tenant may use every model."""
    async with running_gateway(upstream=way_to(scripted), tenants={"acme": PLAIN}) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def restricted(scripted: ScriptedUpstream) -> AsyncIterator[Gateway]:
    """A gateway whose tenant may use the models `good`, `good-*` and `gpt-4o*`, and has no default."""
    async with running_gateway(
        upstream=way_to(scripted), tenants={"acme": RESTRICTED}, allow_uncontained=True
    ) as running:
        yield running


def way_to(upstream: ScriptedUpstream) -> dict[str, str]:
    return {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}


class TestJsonBody:
    @pytest.mark.parametrize("model", ["good", "good-", "good-mini", "gpt-4o", "gpt-4o-2024-08-06"])
    async def test_allowed_model_passes_with_every_byte_kept(
        self, restricted: Gateway, upstream: ScriptedUpstream, model: str
    ) -> None:
        body = b'{ "n":1.0 ,"model" : "%b","x":"\\u00e9"}\n' % model.encode()

        answer = await ask(restricted, "POST", CHAT, body)

        assert answer.status == 200
        assert upstream.requests[0].body == body

    @pytest.mark.parametrize(
        "model", ["bad", "", " good", "good ", "Good", "GOOD", "goo", "xgood", "gpt-4", "good\n", "gооd", "*"]
    )
    @pytest.mark.parametrize(
        "path", [CHAT, "/v1/responses", "/v1/embeddings", "/v1/audio/speech", "/v1/images/generations"]
    )
    async def test_any_other_spelling_is_another_model(
        self, restricted: Gateway, upstream: ScriptedUpstream, path: str, model: str
    ) -> None:
        answer = await ask(restricted, "POST", path, {"model": model, "input": "x"})

        assert verdict(answer) == REFUSED
        assert error_of(answer)["param"] == "model"
        assert not upstream.requests

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("/v1/realtime/sessions", {"model": "bad"}),
            ("/v1/realtime/client_secrets", {"session": {"type": "realtime", "model": "bad"}}),
            ("/v1/realtime/transcription_sessions", {"input_audio_transcription": {"model": "bad"}}),
            ("/v1/fine_tuning/jobs", {"model": "bad", "training_file": "file-1"}),
            ("/v1/fine_tuning/alpha/graders/run", {"grader": {"type": "score_model", "model": "bad"}}),
            ("/v1/assistants", {"model": "bad"}),
            ("/v1/assistants/asst_1", {"model": "bad"}),
            ("/v1/threads/runs", {"assistant_id": "asst_1", "model": "bad"}),
            ("/v1/threads/thread_1/runs", {"assistant_id": "asst_1", "model": "bad"}),
            ("/v1/videos", {"model": "bad", "prompt": "x"}),
            ("/v1/images/edits", {"model": "bad", "prompt": "x"}),
            ("/v1/evals/e/runs", {"data_source": {"type": "completions", "model": "bad"}}),
            ("/v1/evals", {"testing_criteria": [{"type": "label_model", "model": "bad"}]}),
            ("/v1/responses/input_tokens", {"model": "bad"}),
            ("/v1/responses/compact", {"model": "bad"}),
            ("/v1/moderations", {"model": "bad", "input": "x"}),
            ("/v1/realtime/calls/rtc_1/accept", {"type": "realtime", "model": "bad"}),
            ("/v1/something/new", {"model": "bad"}),
        ],
    )
    async def test_every_operation_that_names_a_model_is_held_to_it(
        self, restricted: Gateway, upstream: ScriptedUpstream, path: str, body: object
    ) -> None:
        assert verdict(await ask(restricted, "POST", path, body)) == REFUSED
        assert not upstream.requests

    @pytest.mark.parametrize(
        "body",
        [
            {"model": "good", "tools": [{"type": "image_generation", "model": "bad"}]},
            {"model": "good", "moderation": {"model": "bad"}},
        ],
    )
    async def test_second_model_of_a_response_is_held_to_it_as_well(
        self, restricted: Gateway, upstream: ScriptedUpstream, body: object
    ) -> None:
        assert verdict(await ask(restricted, "POST", "/v1/responses", body)) == REFUSED
        assert not upstream.requests

    async def test_refusal_names_what_is_allowed(self, restricted: Gateway) -> None:
        error = error_of(await ask(restricted, "POST", CHAT, {"model": "bad"}))

        assert "'bad'" in error["message"]
        assert "good, good-*, gpt-4o*" in error["message"]
        assert error["type"] == "permission_error"

    async def test_credential_narrows_what_its_tenant_may(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        narrow = restricted.credential(models=["good-a", "bad"])
        verdicts = {
            model: verdict(await ask(restricted, "POST", CHAT, {"model": model}, credential=narrow))
            for model in ("good-a", "good-b", "good", "bad")
        }

        assert verdicts == {"good-a": (200, None), "good-b": REFUSED, "good": REFUSED, "bad": REFUSED}
        assert len(upstream.requests) == 1

    async def test_credential_narrows_a_tenant_that_may_all(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        narrow = gateway.credential(models=["gpt-*"])

        assert verdict(await ask(gateway, "POST", CHAT, {"model": "gpt-5"}, credential=narrow)) == (200, None)
        assert verdict(await ask(gateway, "POST", CHAT, {"model": "o3"}, credential=narrow)) == REFUSED
        assert verdict(await ask(gateway, "POST", CHAT, {"model": "o3"})) == (200, None)


class TestAbsentModel:
    @pytest.mark.parametrize(
        "body",
        [b"{}", b' { } ', b'{"model":null,"n":1.0}', b'{"messages" : [ ],\n"top_p":1.50 }', b'{"x":{"model":"bad"}}',
         b'{"x":"\\"model\\":\\"bad\\""}', b'{\r\n\t"input":"\\u00e9\xc3\xa9"}'],
    )  # fmt: skip
    async def test_is_the_tenants_default_with_every_other_byte_kept(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream, body: bytes
    ) -> None:
        gateway = await start_gateway(tenants={"acme": PLAIN | {"default_model": "good-ü"}})

        answer = await ask(gateway, "POST", "/v1/responses", body)

        sent = upstream.requests[0]
        assert answer.status == 200
        assert orjson.loads(sent.body)["model"] == "good-ü"
        assert int(sent.get("content-length") or 0) == len(sent.body)
        named = '"good-ü"'.encode()
        if b"null" in body:
            assert sent.body == body.replace(b"null", named)
        else:
            assert re.sub(rb'"model":' + named + b",?", b"", sent.body, count=1) == body

    async def test_is_the_default_in_a_chunked_body_too(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": RESTRICTED | {"default_model": "good"}})
        client = await gateway.connect()

        head = client.request_bytes("POST", CHAT, headers=JSON + "Transfer-Encoding: chunked\r\n")
        await client.send(head + b'1\r\n{\r\nb\r\n"input":"x"\r\n1\r\n}\r\n0\r\n\r\n')
        answer = await client.read_answer()

        assert answer.status == 200
        assert upstream.requests[0].body == b'{"model":"good","input":"x"}'
        assert upstream.requests[0].get("transfer-encoding") == "chunked"

    async def test_is_left_alone_where_the_body_names_one(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": PLAIN | {"default_model": "good"}})

        await ask(gateway, "POST", CHAT, b'{"model" :"other"}')

        assert upstream.requests[0].body == b'{"model" :"other"}'

    @pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/embeddings", "/v1/images/generations"])
    @pytest.mark.parametrize("body", [b"{}", b'{"model":null}', b'{"x":{"model":"good"}}'])
    async def test_is_refused_where_it_matters_and_there_is_no_default(
        self, restricted: Gateway, upstream: ScriptedUpstream, path: str, body: bytes
    ) -> None:
        answer = await ask(restricted, "POST", path, body)

        assert verdict(answer) == REFUSED
        assert error_of(answer)["param"] == "model"
        assert not upstream.requests

    async def test_passes_where_every_model_is_allowed(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        assert (await ask(gateway, "POST", CHAT, b"{}")).status == 200
        assert upstream.requests[0].body == b"{}"

    async def test_default_that_cannot_be_set_is_a_bad_request(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        """A body in which the place cannot be found in reasonable time is no defect of the gateway."""
        gateway = await start_gateway(tenants={"acme": PLAIN | {"default_model": "good"}})
        body = b'{"input":[' + b",".join([b'""'] * 210_000) + b'],"x":{"model":"y"}}'

        answer = await ask(gateway, "POST", CHAT, body)

        assert answer.status in (200, 400)


def spellings(first: bytes, second: bytes) -> Iterable[bytes]:
    """Bodies that name two models, in the ways in which readers are known to differ."""
    names = [b'"model"', rb'"\u006dodel"', rb'"mode\u006c"', rb'"\u006D\u006f\u0064\u0065\u006c"']
    for one, two in itertools.product(names, names):
        yield b"{%b:%b,%b:%b}" % (one, first, two, second)
    yield b'{"messages":[{"content":"\\"model\\":"}],"model":%b,"x":1,"model":%b}' % (first, second)
    yield b'{"model":%b,"x":{"model":%b},"model":%b}' % (first, first, second)


class TestReadersThatDiffer:
    """Whatever reader the upstream has, it reads no other model than policy did."""

    @pytest.mark.parametrize("pair", [(b'"good"', b'"bad"'), (b'"bad"', b'"good"'), (b'"good"', b'"good"'),
                                      (b'"good"', b"null"), (b"null", b'"bad"')])  # fmt: skip
    async def test_name_that_is_written_twice_is_refused(
        self, restricted: Gateway, upstream: ScriptedUpstream, pair: tuple[bytes, bytes]
    ) -> None:
        for body in spellings(*pair):
            answer = await ask(restricted, "POST", CHAT, body)
            assert verdict(answer) == (400, "duplicate_parameter"), body
        assert not upstream.requests

    @pytest.mark.parametrize(
        "body",
        [
            b'\xef\xbb\xbf{"model":"good"}',
            '{"model":"good"}'.encode("utf-16"),
            '{"model":"good"}'.encode("utf-16-le"),
            '{"model":"good"}'.encode("utf-32-be"),
            b'{"model":"good"}{"model":"bad"}',
            b'{"model":"good"}\x00',
            b'{"model":"good",}',
            b'{"model":"good"/*,"model":"bad"*/}',
            b"{'model':'good'}",
            b'{model:"good"}',
            b'{"model":"go\xffod"}',
            b'{"model":"\\ud800good"}',
            b'{"model":"good","n":NaN}',
            b'{"model":"good","n":1e999}',
            b'["good"]',
            b'"good"',
            b"null",
            b"[" * 5000 + b"]" * 5000,
            b'{"model":"good"',
            b"model=good",
        ],
    )
    async def test_body_that_is_not_plain_json_is_refused(
        self, restricted: Gateway, upstream: ScriptedUpstream, body: bytes
    ) -> None:
        assert verdict(await ask(restricted, "POST", CHAT, body)) == (400, "invalid_json")
        assert not upstream.requests

    @pytest.mark.parametrize("model", [["good"], {"id": "good"}, 7, True, [["good"]], {}, []])
    async def test_model_that_is_no_text_is_refused(
        self, restricted: Gateway, upstream: ScriptedUpstream, model: object
    ) -> None:
        assert verdict(await ask(restricted, "POST", CHAT, {"model": model})) == (400, "invalid_type")
        assert not upstream.requests

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [
            ("gzip", gzip.compress(b'{"model":"bad"}')),
            ("GZIP", gzip.compress(b'{"model":"bad"}')),
            ("deflate", zlib.compress(b'{"model":"bad"}')),
            ("br", b'{"model":"good"}'),
            ("identity, gzip", gzip.compress(b'{"model":"bad"}')),
            ("x-gzip", b'{"model":"good"}'),
        ],
    )
    @pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/vnd.x+json"])
    async def test_compressed_body_is_refused_unread(
        self, restricted: Gateway, upstream: ScriptedUpstream, encoding: str, body: bytes, kind: str
    ) -> None:
        headers = f"Content-Type: {kind}\r\nContent-Encoding: {encoding}\r\n"

        answer = await ask(restricted, "POST", CHAT, body, headers=headers)

        assert verdict(answer) == (415, "unsupported_media_type")
        assert not upstream.requests

    @pytest.mark.parametrize("charset", ["utf-16", "utf-7", "iso-8859-1", '"utf-16le"', "UTF8-MAC"])
    async def test_other_charset_is_refused_unread(
        self, restricted: Gateway, upstream: ScriptedUpstream, charset: str
    ) -> None:
        headers = f"Content-Type: application/json; charset={charset}\r\n"

        answer = await ask(restricted, "POST", CHAT, b'{"model":"good"}', headers=headers)

        assert verdict(answer) == (415, "unsupported_media_type")
        assert not upstream.requests

    @pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"'])
    async def test_utf_8_may_be_said(self, restricted: Gateway, charset: str) -> None:
        headers = f"Content-Type: application/json; charset={charset}\r\n"

        assert (await ask(restricted, "POST", CHAT, b'{"model":"good"}', headers=headers)).status == 200

    @pytest.mark.parametrize(
        "headers",
        [
            "",
            "Content-Type: text/plain\r\n",
            "Content-Type: application/x-www-form-urlencoded\r\n",
            "Content-Type: multipart/form-data; boundary=edge\r\n",
            "Content-Type: multipart/form-data\r\n",
            "Content-Type: multipart/mixed; boundary=edge\r\n",
            "Content-Type: application/json\r\nContent-Type: multipart/form-data; boundary=edge\r\n",
            "Content-Type: application/json, multipart/form-data; boundary=edge\r\n",
        ],
    )
    @pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/images/edits", "/v1/something/new"])
    async def test_json_is_judged_whatever_it_is_called(
        self, restricted: Gateway, upstream: ScriptedUpstream, path: str, headers: str
    ) -> None:
        answer = await ask(restricted, "POST", path, b'{"model":"bad"}', headers=headers)

        assert 400 <= answer.status < 500
        assert not any(seen.complete for seen in upstream.requests)

    async def test_form_where_json_belongs_is_judged(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        answer = await ask(restricted, "POST", CHAT, form(("model", b"bad")), headers=FORM)

        assert 400 <= answer.status < 500
        assert not any(seen.complete for seen in upstream.requests)

    @pytest.mark.parametrize("name", ["Model", "MODEL", "mOdel"])
    async def test_reader_that_is_blind_to_case_reads_no_second_model(
        self, restricted: Gateway, upstream: ScriptedUpstream, name: str
    ) -> None:
        """Go's standard library, behind many servers of this API, takes either for the other."""
        answer = await ask(restricted, "POST", CHAT, b'{"model":"good","%b":"bad"}' % name.encode())

        assert answer.status == 400
        assert not upstream.requests

    async def test_whatever_passes_names_an_allowed_model_to_every_reader(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        """Bodies put together at random from fragments that readers are known to trip over."""
        fragments = [
            *(
                b'"model":"good"',
                b'"model":"bad"',
                rb'"\u006dodel":"bad"',
                b'"model":null',
                b'"model":["bad"]',
            ),
            *(b'"x":{"model":"bad"}', rb'"x":"\",\"model\":\"bad"', b'"n":1', rb'"mode\u006c":"good-x"'),
            *(b'"model" : "good"', b'"x":[{"model":"bad"}]', rb'"x\\":"model"', b'"model\x20":"bad"'),
        ]
        bodies = [
            b"{" + b",".join(chosen) + b"}"
            for size in (1, 2, 3)
            for chosen in itertools.permutations(fragments, size)
        ][::9]
        async with await RawClient.connect(
            restricted.host, restricted.port, restricted.credential()
        ) as client:
            for body in bodies:
                await client.send(client.request_bytes("POST", CHAT, body, headers=JSON))
                answer = await client.read_answer()
                if answer.get("connection") == "close":
                    await client.close()
                    client.reader, client.writer = await asyncio.open_connection(
                        restricted.host, restricted.port
                    )

        assert len(upstream.requests) > 10
        for seen in upstream.requests:
            first: dict[str, Any] = {}
            for name, value in json.loads(seen.body, object_pairs_hook=list):
                first.setdefault(name, value)
            for model in (first["model"], json.loads(seen.body)["model"]):
                assert model == "good" or model.startswith("good-"), seen.body


class TestForm:
    @pytest.mark.parametrize(
        "path", [TRANSCRIPTIONS, "/v1/audio/translations", "/v1/images/edits", "/v1/videos"]
    )
    @pytest.mark.parametrize("model_first", [True, False])
    async def test_model_is_judged_before_and_behind_the_file(
        self, restricted: Gateway, upstream: ScriptedUpstream, path: str, model_first: bool
    ) -> None:
        verdicts = []
        for model in (b"good", b"bad"):
            parts = [("model", model), ("file", b"RIFF" * 1000)]
            body = form(*parts, file_at=1) if model_first else form(*reversed(parts), file_at=0)
            verdicts.append(verdict(await ask(restricted, "POST", path, body, headers=FORM)))

        assert verdicts == [(200, None), REFUSED]
        assert upstream.requests[0].complete
        assert not any(seen.complete for seen in upstream.requests[1:])

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (form(("file", b"x"), file_at=0), "model_not_allowed"),
            (form(("model", b"good"), ("model", b"bad")), "bad_form"),
            (form(("model", b"good"), ("model", b"good")), "bad_form"),
            (form(("model", b"good"), file_at=0), "bad_form"),
            (form(("model", b"good\r\n")), "model_not_allowed"),
            (form(("model", b"")), "model_not_allowed"),
            (form(("model", b"good")).replace(b'name="model"', b"name*=utf-8''model"), "bad_form"),
            (form(("model", b"good"), ("x", b"y")).replace(b"edge--\r\n", b""), "bad_form"),
            (form(("model", b"good")) + b"--edge\r\n", "bad_form"),
            (b"preamble\r\n" + form(("model", b"good")), "bad_form"),
        ],
    )
    async def test_form_that_two_readers_could_read_differently_is_refused(
        self, restricted: Gateway, upstream: ScriptedUpstream, body: bytes, code: str
    ) -> None:
        answer = await ask(restricted, "POST", TRANSCRIPTIONS, body, headers=FORM)

        assert verdict(answer)[1] == code
        assert not any(seen.complete for seen in upstream.requests)

    async def test_refused_form_is_never_complete_upstream_when_it_is_chunked(
        self, restricted: Gateway, upstream: ScriptedUpstream
    ) -> None:
        heard = asyncio.Event()
        ended_well: list[bool] = []

        async def listen(turn: Turn) -> None:
            try:
                await turn.read_body()
            finally:
                ended_well.append(turn.seen.complete)
                heard.set()

        upstream.plays(listen)
        client = await restricted.connect()
        body = form(("file", b"x" * 100_000), ("model", b"bad"), file_at=0)
        head = client.request_bytes("POST", TRANSCRIPTIONS, headers=FORM + "Transfer-Encoding: chunked\r\n")
        await client.send(head)
        for at in range(0, len(body), 999):
            piece = body[at : at + 999]
            await client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        await client.send(b"0\r\n\r\n")
        answer = await client.read_answer()
        await asyncio.wait_for(heard.wait(), 5)

        assert verdict(answer) == REFUSED
        assert ended_well == [False]

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
    async def test_compressed_form_is_refused_unread(
        self, restricted: Gateway, upstream: ScriptedUpstream, encoding: str
    ) -> None:
        headers = FORM + f"Content-Encoding: {encoding}\r\n"

        answer = await ask(restricted, "POST", TRANSCRIPTIONS, form(("model", b"good")), headers=headers)

        assert verdict(answer) == (415, "unsupported_media_type")
        assert not upstream.requests

    @pytest.mark.parametrize("model_first", [True, False])
    async def test_refusal_behind_200_megabytes_leaves_the_upstream_without_an_end_and_memory_flat(
        self, tmp_path: Path, model_first: bool
    ) -> None:
        size = 200 * MIB
        received: list[int] = []

        async def count(turn: Turn) -> None:
            total = 0
            while piece := await turn.reader.read(MIB):
                total += len(piece)
            received.append(total)

        file_head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        model = b'--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nbad\r\n'
        before = model + file_head if model_first else file_head
        after = b"\r\n--edge--\r\n" if model_first else b"\r\n" + model + b"--edge--\r\n"
        length = len(before) + size + len(after)
        async with ScriptedUpstream() as upstream, serving(tmp_path, upstream) as (process, credential):
            upstream.plays(count)
            async with await RawClient.connect(process.host, process.port, credential) as client:
                refused = await client.request("POST", TRANSCRIPTIONS, form(("model", b"bad")), headers=FORM)
                assert verdict(refused) == REFUSED
            assert await upstream.all_closed()
            received.clear()
            memory = Path(f"/proc/{process.process.pid}/status")
            held = kilobytes(memory, "VmRSS")
            Path(f"/proc/{process.process.pid}/clear_refs").write_text("5")
            async with await RawClient.connect(process.host, process.port, credential) as client:
                head = client.request_bytes(
                    "POST", TRANSCRIPTIONS, headers=FORM + f"Content-Length: {length}\r\n"
                )
                sent, answer = await uploaded(client, head + before, size, after)
            assert await upstream.all_closed(within_seconds=5)
            grown = kilobytes(memory, "VmHWM") - held

        assert verdict(answer) == REFUSED
        assert grown < 16 * 1024
        if model_first:
            assert sent < size, "the client is not made to send it all"
            assert sum(received) < MIB
        else:
            assert size - 16 * MIB < received[0] < length, "what is on its way is dropped at the refusal"


@asynccontextmanager
async def serving(directory: Path, upstream: ScriptedUpstream) -> AsyncIterator[tuple[RunningCommand, str]]:
    """`gateway serve` for a tenant that may use the model `good`, and a credential for its transcriptions."""
    ring, _ = ensure_ring(directory / "keys")
    credential = credential_of(ring, ["audio.transcriptions:write"])
    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--keys-dir", str(directory / "keys"), "--upstream", upstream.base_url),
        *("--set", 'tenants.default.models=["good"]'),
    ) as process:
        yield process, credential


async def uploaded(client: RawClient, before: bytes, size: int, after: bytes) -> tuple[int, RawAnswer]:
    """Send a large form until it is sent or answered; returns how much of the file went, and the answer."""
    answering = asyncio.create_task(client.read_answer())
    piece = bytes(MIB)
    sent = 0
    try:
        await client.send(before)
        while sent < size and not answering.done():
            await client.send(piece)
            sent += len(piece)
        if not answering.done():
            await client.send(after)
    except ConnectionError:
        pass  # refused while sending: the answer came first
    return sent, await asyncio.wait_for(answering, 10)


def kilobytes(status: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


class TestPath:
    @pytest.mark.parametrize(
        "spelled", ["good", "%67ood", "goo%64", "good%2Dx", "gpt-4o-mini", "%67%6F%6F%64"]
    )
    async def test_allowed_model_goes_up_as_it_was_spelled(
        self, restricted: Gateway, upstream: ScriptedUpstream, spelled: str
    ) -> None:
        assert (await ask(restricted, "GET", f"/v1/models/{spelled}")).status == 200
        assert upstream.requests[0].target == f"/v1/models/{spelled}"

    @pytest.mark.parametrize(
        "spelled", ["bad", "%62ad", "Good", "good%20", "g%6F", "ft:gpt-4o:acme::1", "goo"]
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    async def test_other_model_is_refused_however_it_is_spelled(
        self, restricted: Gateway, upstream: ScriptedUpstream, method: str, spelled: str
    ) -> None:
        answer = await ask(restricted, method, f"/v1/models/{spelled}")

        assert answer.status == 403
        assert not upstream.requests

    @pytest.mark.parametrize(
        "spelled", ["%2567ood", "good%2Fbad", "good/../bad", "good%00", "g%ffod", "good;bad"]
    )
    async def test_spelling_with_two_meanings_is_refused(
        self, restricted: Gateway, upstream: ScriptedUpstream, spelled: str
    ) -> None:
        assert verdict(await ask(restricted, "GET", f"/v1/models/{spelled}")) == (400, "ambiguous_target")
        assert not upstream.requests


class TestQuery:
    @pytest.mark.parametrize("query", ["model=good", "x=1&model=good&y", "model=%67ood", "%6dodel=good"])
    async def test_allowed_model_goes_up_as_it_was_spelled(
        self, restricted: Gateway, upstream: ScriptedUpstream, query: str
    ) -> None:
        await ask(restricted, "GET", f"/v1/realtime?{query}", headers=HANDSHAKE)

        assert upstream.requests[0].target == f"/v1/realtime?{query}"

    @pytest.mark.parametrize(
        ("query", "refusal"),
        [
            ("model=bad", REFUSED),
            ("%6dodel=%62ad", REFUSED),
            ("model=good+x", REFUSED),
            ("model=", REFUSED),
            ("", REFUSED),
            ("MODEL=good", REFUSED),
            ("model%5B%5D=good", REFUSED),
            ("intent=transcription", REFUSED),
            ("model=good&model=bad", (400, "duplicate_parameter")),
            ("model=bad&model=good", (400, "duplicate_parameter")),
            ("model=good&mode%6c=bad", (400, "duplicate_parameter")),
            ("model=good&%6D%6f%64%65%6C=good", (400, "duplicate_parameter")),
        ],
    )
    async def test_any_other_query_is_refused_before_the_handshake(
        self, restricted: Gateway, upstream: ScriptedUpstream, query: str, refusal: tuple[int, str]
    ) -> None:
        answer = await ask(restricted, "GET", f"/v1/realtime?{query}", headers=HANDSHAKE)

        assert verdict(answer) == refusal
        assert not upstream.requests

    @pytest.mark.parametrize(
        "query", ["model=good-;model=bad", "model=good-%3Bmodel=bad", "x;model=bad&model=good-"]
    )
    async def test_reader_that_splits_at_semicolons_reads_no_second_model(
        self, restricted: Gateway, upstream: ScriptedUpstream, query: str
    ) -> None:
        answer = await ask(restricted, "GET", f"/v1/realtime?{query}", headers=HANDSHAKE)

        assert 400 <= answer.status < 500 or "%3B" in query
        assert not upstream.requests or "%3B" in query


class TestRealtime:
    EVIL = (
        b'{"type":"session.update","session":{"model":"bad"}}',
        b'{"type":"anything","session":{"type":"realtime","model":"bad"}}',
        rb'{"type":"session.update","s\u0065ssion":{"model":"bad"}}',
        rb'{"type":"session.update","session":{"\u006dodel":"bad"}}',
        b'{"session":{"model":"good"},"session":{"model":"bad"}}',
        b'{"session":{"model":"bad"},"session":{"model":"good"}}',
        b'{"session":{"model":"good","model":"bad"}}',
        b'{"session":{"model":["bad"]}}',
        b'{"session" \n:\t{"x":[{}],"model":\r"bad"}}',
        b'{"session":{"model":"bad"}} trailing',
        '{"session":{"model":"bad"}}'.encode("utf-16"),
    )

    @pytest.mark.parametrize("event", EVIL)
    @pytest.mark.parametrize("how", ["text", "binary", "fragmented"])
    async def test_session_may_not_change_to_another_model(self, echo: Echo, event: bytes, how: str) -> None:
        if how != "binary":
            try:
                event.decode()
            except UnicodeDecodeError:
                how = "binary"
        async with echo.talking() as client:
            await client.send(QUIET)
            if how == "text":
                await client.send(event.decode())
            elif how == "binary":
                await client.send(event)
            else:
                await client.send([event[at : at + 7].decode() for at in range(0, len(event), 7)])
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert closed.value.rcvd.reason
        assert echo.heard == [QUIET]

    async def test_refusal_names_the_model_and_is_logged_as_one(self, echo: Echo) -> None:
        logged = len(echo.gateway.lines.raw)
        async with echo.talking() as client:
            await client.send(self.EVIL[0].decode())
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)
            line = (await echo.gateway.lines.wait(logged + 1))[logged]

        assert closed.value.rcvd is not None
        assert "'bad'" in closed.value.rcvd.reason
        assert (line["status"], line["ending"]) == (101, "refused")

    @pytest.mark.parametrize(
        "event",
        [
            '{"type":"session.update","session":{"model":"good-mini"}}',
            '{"type":"session.update","session":{"model":null,"voice":"marin"}}',
            '{"type":"session.update","session":{"instructions":"use the \\"model\\": \\"bad\\""}}',
            '{"type":"conversation.item.create","item":{"content":"model bad"}}',
            '{"type":"x","item":{"model":"bad"}}',
            "ping",
        ],
    )
    async def test_what_sets_no_other_model_passes(self, echo: Echo, event: str) -> None:
        async with echo.talking() as client:
            await client.send(event)
            assert await asyncio.wait_for(client.recv(), 5) == event

        assert echo.heard == [event]

    async def test_large_event_passes_and_large_change_of_session_does_not(self, echo: Echo) -> None:
        sound = '{"type":"input_audio_buffer.append","audio":"' + "A" * 3 * MIB + '"}'
        change = '{"pad":"' + "A" * 3 * MIB + '","session":{"model":"bad"}}'
        async with echo.talking() as client:
            await client.send(sound)
            assert await asyncio.wait_for(client.recv(), 10) == sound
            await client.send(change)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)

        assert echo.heard == [sound]
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in (1008, 1009)

    async def test_unrestricted_tenant_may_change_as_it_likes(self, echo: Echo) -> None:
        async with echo.talking("free") as client:
            await client.send(self.EVIL[0].decode())
            assert await asyncio.wait_for(client.recv(), 5) == self.EVIL[0].decode()

        assert echo.heard == [self.EVIL[0].decode()]

    @pytest.mark.parametrize("scope", ["unlisted:read", "unlisted:write"])
    async def test_socket_on_an_unlisted_path_is_not_open_to_a_restricted_reader(
        self, restricted: Gateway, upstream: ScriptedUpstream, scope: str
    ) -> None:
        """Nobody knows where its events name their models, and they write."""
        answer = await ask(restricted, "GET", "/v1/responses", headers=HANDSHAKE, scopes=[scope])

        assert answer.status == 403
        assert not upstream.requests


@dataclass
class Echo:
    """A realtime upstream that says back what it hears, and the gateway in front of it."""

    gateway: Gateway
    heard: list[str | bytes]

    @asynccontextmanager
    async def talking(self, tenant: str = "acme") -> AsyncIterator[ClientConnection]:
        """A session with the model `good`."""
        self.heard.clear()
        async with connect(
            f"ws://{self.gateway.host}:{self.gateway.port}/v1/realtime?model=good",
            additional_headers={"Authorization": f"Bearer {self.gateway.credential(tenant=tenant)}"},
            max_size=None,
            compression=None,
        ) as client:
            yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo() -> AsyncIterator[Echo]:
    """For all sessions of this module."""
    heard: list[str | bytes] = []

    async def listen(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                heard.append(message)
                if message != QUIET:
                    await connection.send(message)
        except websockets.ConnectionClosed:
            pass

    async with serve(listen, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        upstream = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-upstream-key"}
        tenants = {"acme": RESTRICTED, "free": PLAIN}
        async with running_gateway(upstream=upstream, tenants=tenants, shared_objects="allow") as gateway:
            yield Echo(gateway, heard)


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
            (200, b"Content-Encoding: gzip\r\n", gzip.compress(LIST)),
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
