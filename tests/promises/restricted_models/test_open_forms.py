"""A form that was not judged runs nothing, in front of an upstream that reads open forms and does not wait.

It takes the text of a model's field for the model as soon as it has a byte of it, at the end of the bytes if the
form has none of its own, and answers when it likes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.conftest import StartGateway
from tests.kit.asking import error_of, form, verdict
from tests.kit.client import FORM, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.promises.restricted_models.conftest import REFUSED, TRANSCRIPTIONS

pytestmark = pytest.mark.asyncio(loop_scope="module")

FILE = b"RIFF" * 8
RAN = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\nit ran!"
TOO_LARGE = (
    b"HTTP/1.1 413 Payload Too Large\r\nContent-Type: application/json\r\nContent-Length: 13\r\n"
    b'Connection: close\r\n\r\n{"error":413}'
)
_MODEL = re.compile(rb'name="model"\r\n\r\n([^\r\n]+)')


class OpenFormReader:
    """What the upstream has run, and whether it thought that it had the whole request."""

    def __init__(self) -> None:
        self.ran: list[bytes] = []
        self.wholes: list[bytes] = []

    async def at_once(self, turn: Turn) -> None:
        """Run the model that is named as soon as anything of it is there, and answer."""
        while piece := await turn.reader.read(65536):
            turn.seen.body += piece
            if named := _MODEL.search(turn.seen.body):
                self.ran.append(named[1])
                await turn.send(RAN)
                await turn.gone()
                return

    async def before_anything(self, turn: Turn) -> None:
        """Run what runs by default, before a byte has been read."""
        await turn.send(RAN)
        await self._listen(turn)

    async def at_the_end(self, turn: Turn) -> None:
        """Run what the request says when its framing says that it is whole."""
        await self._listen(turn)
        await turn.send(RAN)

    async def at_the_hang_up(self, turn: Turn) -> None:
        """Take the mere end of the connection for the end of the form, whatever length was stated."""
        while piece := await turn.reader.read(65536):
            turn.seen.body += piece
        self.wholes.append(turn.seen.body)

    async def _listen(self, turn: Turn) -> None:
        try:
            whole = await turn.read_body()
        finally:
            self.ran += _MODEL.findall(turn.seen.body)
        if turn.seen.complete:
            self.wholes.append(whole)


Send = Callable[[RawClient, list[bytes]], Coroutine[Any, Any, None]]


async def with_length(client: RawClient, pieces: list[bytes]) -> None:
    length = sum(map(len, pieces))
    await _in_pieces(client, FORM + f"Content-Length: {length}\r\n", pieces)


async def chunked(client: RawClient, pieces: list[bytes]) -> None:
    framed = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]
    await _in_pieces(client, FORM + "Transfer-Encoding: chunked\r\n", [*framed, b"0\r\n\r\n"])


async def _in_pieces(client: RawClient, headers: str, pieces: list[bytes]) -> None:
    head = client.request_bytes("POST", TRANSCRIPTIONS, headers=headers)
    try:
        for piece in (head, *pieces):
            await client.send(piece)
            await asyncio.sleep(0.001)  # a piece of its own for whoever reads
    except ConnectionError:
        pass  # it was refused meanwhile


def cut(body: bytes, at: int) -> list[bytes]:
    return [piece for piece in (body[:at], body[at:]) if piece]


BAD_LAST = form(("file", FILE), ("model", b"bad"))
BAD_FIRST = form(("model", b"bad"), ("file", FILE))
OPEN = b"edge--\r\n"
BODIES = {
    "the model last": BAD_LAST,
    "the model first": BAD_FIRST,
    "no closing boundary": BAD_LAST.removesuffix(b"--edge--\r\n"),
    "no line end either": BAD_LAST.removesuffix(b"\r\n--edge--\r\n"),
    "an open boundary": BAD_LAST.removesuffix(OPEN) + b"edge\r\n",
    "no model": form(("file", FILE)),
    "no model and no end": form(("file", FILE)).removesuffix(b"--edge--\r\n"),
    "a second model behind the end": form(("model", b"good"), ("file", FILE)) + BAD_LAST,
    "a second model": form(("model", b"good"), ("model", b"bad"), ("file", FILE)),
}


@pytest.mark.parametrize("send", [with_length, chunked])
@pytest.mark.parametrize("acts", ["at_once", "before_anything", "at_the_end", "at_the_hang_up"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
async def test_what_was_not_judged_runs_nothing_wherever_it_is_cut(
    restricted: Gateway, upstream: ScriptedUpstream, body: bytes, acts: str, send: Send
) -> None:
    reader = OpenFormReader()
    upstream.plays(getattr(reader, acts))

    async def attempt(at: int) -> int:
        client = await RawClient.connect(restricted.host, restricted.port, restricted.credential())
        async with client:
            sending = asyncio.create_task(send(client, cut(body, at)))
            answer = await client.read_answer()
            await sending
            assert b"ran" not in answer.body
            assert error_of(answer)["code"] in ("model_not_allowed", "bad_form"), answer
            return answer.status

    statuses = set()
    cuts = range(1, len(body), 2)
    for begin in range(0, len(cuts), 16):
        statuses |= set(await asyncio.gather(*(attempt(at) for at in cuts[begin : begin + 16])))

    assert statuses <= {400, 403}
    assert set(reader.ran) <= {b"good"}
    assert not reader.wholes


@pytest.mark.parametrize("body", [BAD_LAST, BODIES["no line end either"]], ids=["whole", "open"])
async def test_nothing_of_a_models_name_goes_up_before_it_is_judged_byte_by_byte(
    restricted: Gateway, upstream: ScriptedUpstream, body: bytes
) -> None:
    reader = OpenFormReader()
    upstream.plays(reader.at_once)
    client = await restricted.connect()

    sending = asyncio.create_task(with_length(client, [body[at : at + 1] for at in range(len(body))]))
    answer = await client.read_answer()
    await sending

    assert verdict(answer)[1] in ("model_not_allowed", "bad_form")
    assert not reader.ran


async def test_an_answer_that_comes_before_the_form_is_judged_waits_for_the_verdict(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    reader = OpenFormReader()
    upstream.plays(reader.before_anything)
    good = form(("file", FILE), ("model", b"good"))
    answers = {}
    for name, body in (("good", good), ("bad", BAD_LAST)):
        client = await restricted.connect()
        head = client.request_bytes("POST", TRANSCRIPTIONS, headers=FORM + f"Content-Length: {len(body)}\r\n")
        await client.send(head + body[:40])
        reading = asyncio.create_task(client.read_answer())
        done, _ = await asyncio.wait({reading}, timeout=0.1)
        assert not done
        await client.send(body[40:])
        answers[name] = await reading

    assert (answers["good"].status, answers["good"].body) == (200, b"it ran!")
    assert verdict(answers["bad"]) == REFUSED
    assert reader.wholes == [good]


async def test_an_early_error_of_the_upstream_reaches_the_client_while_it_uploads(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse(turn: Turn) -> None:
        await turn.reader.read(10)
        await turn.send(TOO_LARGE)
        await turn.gone()

    upstream.plays(refuse)
    client = await restricted.connect()
    await client.send(
        client.request_bytes("POST", TRANSCRIPTIONS, headers=FORM + "Content-Length: 100000000\r\n")
        + form(("model", b"good"), ("file", FILE)).removesuffix(b"\r\n--edge--\r\n")
    )

    answer = await client.read_answer()

    assert (answer.status, answer.body) == (413, b'{"error":413}')


async def test_an_upstream_that_answers_early_and_leaves_is_heard_when_the_form_was_good(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    async def answer_and_leave(turn: Turn) -> None:
        await turn.reader.read(10)
        await turn.send(RAN)
        turn.close()

    upstream.plays(answer_and_leave)
    for model, expected in ((b"good", (200, None)), (b"bad", REFUSED)):
        body = form(("file", b"x" * 300_000), ("model", model))
        client = await restricted.connect()
        head = client.request_bytes("POST", TRANSCRIPTIONS, headers=FORM + f"Content-Length: {len(body)}\r\n")
        await client.send(head + body[:1000])
        await asyncio.sleep(0.05)  # until the upstream has left
        await client.send(body[1000:])
        assert verdict(await client.read_answer()) == expected


async def test_a_form_over_its_models_limit_runs_nothing_although_it_was_answered_early(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    reader = OpenFormReader()
    upstream.plays(reader.before_anything)
    limits = {"models": {"good": {"max_requests_per_1_minute": 1}}}
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"limits": limits}})
    body = form(("file", FILE), ("model", b"good"))
    answers = []
    for _ in range(2):
        client = await gateway.connect()
        await with_length(client, cut(body, 50))
        answers.append((await client.read_answer()).status)

    assert answers == [200, 429]
    assert reader.wholes == [body]
