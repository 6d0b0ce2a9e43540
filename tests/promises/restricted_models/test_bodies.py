"""Which models a tenant may use, wherever a request can name one, and however it spells that."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json  # noqa: TID251 - the other readers
import re
import zlib
from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask, error_of, form, verdict
from tests.kit.client import CHAT, FORM, JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream
from tests.promises.restricted_models.conftest import REFUSED, RESTRICTED

pytestmark = pytest.mark.asyncio(loop_scope="module")


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

    async def test_model_that_was_refused_stands_in_the_log(
        self, start_gateway: StartGateway, upstream: ScriptedUpstream
    ) -> None:
        gateway = await start_gateway(tenants={"acme": RESTRICTED})

        await ask(gateway, "POST", CHAT, {"model": "bad"})
        (line,) = await gateway.lines.wait(1)

        assert (line["model"], line["error"], line["ending"]) == ("bad", "model_not_allowed", "refused")

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
        gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"default_model": "good-ü"}})

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
        gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"default_model": "good"}})

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
        gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"default_model": "good"}})
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
            b'\xef\xbb\xbf\xef\xbb\xbf{"model":"good"}',
            b' \xef\xbb\xbf{"model":"good"}',
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
            ("gzip", gzip.compress(b'{"model":"bad"}', mtime=0)),
            ("GZIP", gzip.compress(b'{"model":"bad"}', mtime=0)),
            ("deflate", zlib.compress(b'{"model":"bad"}')),
            ("br", b'{"model":"good"}'),
            ("identity, gzip", gzip.compress(b'{"model":"bad"}', mtime=0)),
            ("x-gzip", b'{"model":"good"}'),
            ("deflate\r\nContent-Encoding: identity", b'{"model":"good"}'),
            ("br\r\nContent-Encoding:", b'{"model":"good"}'),
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

    @pytest.mark.parametrize(
        "charset",
        ["utf-16", "utf-7", "ibm037", '"utf-16le"', "UTF8-MAC", "utf-8; charset=utf-7",
         'utf-8"; CHARSET ="utf-7', "utf-8; charset*=utf-8''utf-7", "utf-8; charset*0=utf-7"],
    )  # fmt: skip
    async def test_other_charset_is_refused_unread(
        self, restricted: Gateway, upstream: ScriptedUpstream, charset: str
    ) -> None:
        headers = f"Content-Type: application/json; charset={charset}\r\n"

        answer = await ask(restricted, "POST", CHAT, b'{"model":"good"}', headers=headers)

        assert verdict(answer) == (415, "unsupported_media_type")
        assert not upstream.requests

    @pytest.mark.parametrize("charset", ["utf-8", "UTF-8", '"utf-8"', "utf8", "UTF8; x=y"])
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
