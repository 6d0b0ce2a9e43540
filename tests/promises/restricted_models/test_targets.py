"""A model in the path or the query is judged as the upstream would read it."""

from __future__ import annotations

import pytest

from tests.kit.asking import ask, verdict
from tests.kit.client import HANDSHAKE
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream
from tests.promises.restricted_models.conftest import REFUSED

pytestmark = pytest.mark.asyncio(loop_scope="module")


class TestPath:
    @pytest.mark.parametrize(
        "spelled",
        [
            "good",
            "%67ood",
            "goo%64",
            "good%2Dx",
            "gpt-4o-mini",
            "%67%6F%6F%64",
            "good-org%2Fname",
            "good-a%2fb",
        ],
    )
    async def test_allowed_model_goes_up_as_it_was_spelled(
        self, restricted: Gateway, upstream: ScriptedUpstream, spelled: str
    ) -> None:
        assert (await ask(restricted, "GET", f"/v1/models/{spelled}")).status == 200
        assert upstream.requests[0].target == f"/v1/models/{spelled}"

    @pytest.mark.parametrize(
        "spelled",
        ["bad", "%62ad", "Good", "good%20", "g%6F", "ft:gpt-4o:acme::1", "goo", "good%2Fbad", "bad%2Fgood-x"],
    )
    @pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
    async def test_other_model_is_refused_however_it_is_spelled(
        self, restricted: Gateway, upstream: ScriptedUpstream, method: str, spelled: str
    ) -> None:
        answer = await ask(restricted, method, f"/v1/models/{spelled}")

        assert answer.status == 403
        assert not upstream.requests

    @pytest.mark.parametrize(
        "spelled",
        [
            "%2567ood",
            "good%252Fbad",
            "good%2F..%2Fbad",
            "good-%2F%2fx",
            "good%5Cbad",
            "good/../bad",
            "good%00",
            "g%ffod",
            "good;bad",
        ],
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
