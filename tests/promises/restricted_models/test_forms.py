"""A model in a form is judged wherever it stands, and what is refused never reaches its end."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import ask, credential_of, form, verdict
from tests.kit.client import FORM, MIB, RawAnswer, RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.promises.restricted_models.conftest import REFUSED, TRANSCRIPTIONS

pytestmark = pytest.mark.asyncio(loop_scope="module")

AND_AGAIN = "gzip\r\nContent-Encoding: identity"
"""Of two fields some readers take the last, some the first, some both."""


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
            (b"X: preamble\r\n" + form(("model", b"good")), "bad_form"),
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

    @pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", AND_AGAIN])
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
            try:
                while piece := await turn.reader.read(MIB):
                    total += len(piece)
            finally:
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
