"""What runs a model without naming one: callers who may use some models only have to name it there, or are refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask, error_of, form, verdict
from tests.kit.client import CHAT, FORM
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream
from tests.promises.restricted_models.conftest import REFUSED, RESTRICTED

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESPONSES = "/v1/responses"
EVALS = "/v1/evals"
RUNS = "/v1/evals/e1/runs"
SECRETS = "/v1/realtime/client_secrets"
GRADE = "/v1/fine_tuning/alpha/graders/run"

UNNAMED: dict[str, tuple[str, dict[str, Any], str]] = {
    "image tool": (RESPONSES, {"model": "good", "tools": [{"type": "image_generation"}]}, "tools[0].model"),
    "second tool": (
        RESPONSES,
        {"model": "good", "tools": [{"type": "web_search"}, {"type": "image_generation", "model": None}]},
        "tools[1].model",
    ),
    "empty name": (RESPONSES, {"model": "good", "tools": [{"type": "image_generation", "model": 7}]}, "tools[0].model"),
    "tool that nobody knows": (RESPONSES, {"model": "good", "tools": [{"type": "video_generation"}]}, "tools[0].model"),
    "tool in a list of found tools": (
        RESPONSES,
        {"model": "good", "input": [{"type": "tool_search_output", "tools": [{"type": "image_generation"}]}]},
        "input[0].tools[0].model",
    ),
    "tool in a namespace": (
        RESPONSES,
        {"model": "good", "tools": [{"type": "namespace", "tools": [{"type": "image_generation"}]}]},
        "tools[0].tools[0].model",
    ),
    "another spelling": (RESPONSES, {"model": "good", "Tools": [{"TYPE": "Image_Generation"}]}, "Tools[0].model"),
    "a chat's tool": (CHAT, {"model": "good", "tools": [{"type": "image_generation"}]}, "tools[0].model"),
    "pictures drawn by another model": (
        RESPONSES,
        {"model": "good", "tools": [{"type": "image_generation", "model": "good", "output_format": "svg"}]},
        "tools[0].svg.model",
    ),
    "a picture drawn by another model": (
        "/v1/images/generations",
        {"model": "good", "prompt": "x", "output_format": "svg"},
        "svg.model",
    ),
    "moderation beside": (RESPONSES, {"model": "good", "moderation": {"policy": {}}}, "moderation.model"),
    "stored prompt": (RESPONSES, {"prompt": {"id": "pmpt_1"}}, "model"),
    "stored prompt of a session": (
        SECRETS,
        {"session": {"type": "realtime", "prompt": {"id": "pmpt_1"}}},
        "session.model",
    ),
    "conversation": (RESPONSES, {"conversation": "conv_1", "input": "x"}, "model"),
    "previous response": (RESPONSES, {"previous_response_id": "resp_1", "input": "x"}, "model"),
    "run of an assistant": ("/v1/threads/t1/runs", {"assistant_id": "asst_1"}, "model"),
    "new thread and run of an assistant": ("/v1/threads/runs", {"assistant_id": "asst_1"}, "model"),
    "run with its model null": ("/v1/threads/t1/runs", {"assistant_id": "asst_1", "model": None}, "model"),
    "remix": ("/v1/videos/v1/remix", {"prompt": "x"}, "model"),
    "edit of a video": ("/v1/videos/edits", {"prompt": "x", "video": {"id": "v1"}}, "model"),
    "extension of a video": ("/v1/videos/extensions", {"prompt": "x", "video": {"id": "v1"}, "seconds": "4"}, "model"),
    "run of an eval": (RUNS, {"data_source": {"type": "completions"}}, "data_source.model"),
    "graders of an eval": (RUNS, {"data_source": {"type": "jsonl", "source": {}}}, "data_source.model"),
    "eval that judges": (
        EVALS,
        {"testing_criteria": [{"type": "string_check"}, {"type": "label_model", "labels": []}]},
        "testing_criteria[1].model",
    ),
    "eval that scores": (EVALS, {"testing_criteria": [{"type": "score_model"}]}, "testing_criteria[0].model"),
    "eval that compares": (
        EVALS,
        {"testing_criteria": [{"type": "text_similarity", "evaluation_metric": "cosine"}]},
        "testing_criteria[0].evaluation_metric",
    ),
    "grader": (GRADE, {"grader": {"type": "score_model"}}, "grader.model"),
    "grader of several": (
        GRADE,
        {"grader": {"type": "multi", "graders": {"a": {"type": "score_model"}}}},
        "grader.graders.a.model",
    ),
    "grader that is called like data": (
        GRADE,
        {"grader": {"type": "multi", "graders": {"item": {"type": "score_model"}}}},
        "grader.graders.item.model",
    ),
    "grader of a fine-tuning": (
        "/v1/fine_tuning/jobs",
        {"model": "good", "method": {"reinforcement": {"grader": {"type": "score_model"}}}},
        "method.reinforcement.grader.model",
    ),
    "tools of an eval's run": (
        RUNS,
        {"data_source": {"model": "good", "sampling_params": {"tools": [{"type": "image_generation"}]}}},
        "data_source.sampling_params.tools[0].model",
    ),
    "transcription of a session": (
        SECRETS,
        {"session": {"model": "good", "audio": {"input": {"transcription": {"language": "de"}}}}},
        "session.audio.input.transcription.model",
    ),
    "transcription, as it was": (
        "/v1/realtime/sessions",
        {"model": "good", "input_audio_transcription": {}},
        "input_audio_transcription.model",
    ),
    "moderation": ("/v1/moderations", {"input": "x"}, "model"),
    "picture": ("/v1/images/generations", {"prompt": "x"}, "model"),
    "unlisted": ("/v1/brand/new", {"model": "good", "tools": [{"type": "image_generation"}]}, "tools[0].model"),
}  # fmt: skip

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "image tool": (RESPONSES, {"model": "good", "tools": [{"type": "image_generation", "model": "good-image"}]}),
    "svg": (RESPONSES, {"model": "good", "tools": [
        {"type": "image_generation", "model": "good", "output_format": "svg", "svg": {"model": "good"}}]}),
    "choice of a tool": (RESPONSES, {"model": "good", "tools": [{"type": "image_generation", "model": "good"}],
        "tool_choice": {"type": "allowed_tools", "tools": [{"type": "image_generation"}]}}),
    "tools that run none": (RESPONSES, {"model": "good", "tools": [
        {"type": "function", "name": "f", "parameters": {"properties": {"tools": {"type": "image_generation"}}}},
        {"type": "file_search", "vector_store_ids": ["vs_1"]}, {"type": "web_search_preview_2025_03_11"},
        {"type": "web_search"}, {"type": "code_interpreter", "container": {"type": "auto"}}, {"type": "mcp"},
        {"type": "computer_use_preview"}, {"type": "custom", "name": "c"}, {"type": "local_shell"}]}),
    "tools of a chat": (CHAT, {"model": "good", "tools": [{"type": "function", "function": {"name": "f"}}]}),
    "what a server listed": (RESPONSES, {"model": "good", "input": [
        {"type": "mcp_list_tools", "tools": [{"name": "f", "input_schema": {"type": "image_generation"}}]}]}),
    "an image that was made": (RESPONSES, {"model": "good", "input": [{"type": "image_generation_call", "id": "i"}]}),
    "stored prompt": (RESPONSES, {"model": "good", "prompt": {"id": "pmpt_1"}}),
    "prompt that is a text": ("/v1/images/generations", {"model": "good", "prompt": "image_generation"}),
    "run": ("/v1/threads/t1/runs", {"assistant_id": "a", "model": "good"}),
    "remix": ("/v1/videos/v1/remix", {"prompt": "x", "model": "good"}),
    "run of an eval": (RUNS, {"data_source": {"type": "completions", "model": "good"}}),
    "eval": (EVALS, {"testing_criteria": [{"type": "label_model", "model": "good"}, {"type": "python"},
        {"type": "text_similarity", "evaluation_metric": "bleu"}]}),
    "rows of an eval": (RUNS, {"data_source": {"model": "good", "source": {"content": [
        {"item": {"type": "score_model", "moderation": {}, "tools": [{"type": "x"}]}}]}}}),
    "grader that is called like data": (GRADE, {"grader": {"type": "multi", "graders": {
        "metadata": {"type": "score_model", "model": "good"}}}}),
    "what a file is found by": ("/v1/vector_stores/vs_1/files", {"file_id": "f", "attributes": {"model": "T"}}),
    "graders that are called like what runs one": (GRADE, {"grader": {"type": "multi", "graders": {
        "tools": {"type": "python"}, "moderation": {"type": "string_check"}}}}),
    "grader without a model": (GRADE, {"grader": {"type": "string_check"}}),
    "what a caller names itself": (RESPONSES, {"model": "good", "metadata": {"transcription": {}}}),
    "transcription": (SECRETS, {"session": {"model": "good",
        "audio": {"input": {"transcription": {"model": "good"}}}}}),
    "no transcription": (SECRETS, {"session": {"model": "good", "audio": {"input": {"transcription": None}}}}),
    "a run that waits for its tools": ("/v1/threads/t1/runs/r1/submit_tool_outputs", {"tool_outputs": []}),
    "an assistant's other settings": ("/v1/assistants/a1", {"name": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNNAMED)
async def test_what_runs_a_model_has_to_name_it(
    restricted: Gateway, gateway: Gateway, upstream: ScriptedUpstream, case: str
) -> None:
    path, body, param = UNNAMED[case]

    answer = await ask(restricted, "POST", path, body)

    assert verdict(answer) == REFUSED, answer.body
    error = error_of(answer)
    assert error["param"] == param
    assert param in error["message"]
    assert not upstream.requests
    assert (await ask(gateway, "POST", path, body)).status in (200, 502), "who may use every model need not"


@pytest.mark.parametrize("case", NAMED)
async def test_what_names_its_model_or_runs_none_passes(
    restricted: Gateway, upstream: ScriptedUpstream, case: str
) -> None:
    path, body = NAMED[case]

    answer = await ask(restricted, "POST", path, body)

    assert answer.status in (200, 502), answer.body  # 502: an answer of the simulated API without a secret
    assert orjson.loads(upstream.requests[0].body) == body


@pytest.mark.parametrize(
    "case", [case for case, (_, body) in NAMED.items() if b'"good' in orjson.dumps(body)]
)
async def test_what_is_named_has_to_be_allowed(
    restricted: Gateway, upstream: ScriptedUpstream, case: str
) -> None:
    path, body = NAMED[case]
    raw = orjson.dumps(body)
    last = raw.rindex(b'"good')

    answer = await ask(restricted, "POST", path, raw[:last] + raw[last:].replace(b'"good', b'"bad', 1))

    assert verdict(answer) == REFUSED
    assert not upstream.requests


@pytest.mark.parametrize("path", ["/v1/videos/v1/remix", "/v1/videos/edits", "/v1/videos/extensions"])
async def test_a_form_has_to_name_the_model_too(
    restricted: Gateway, upstream: ScriptedUpstream, path: str
) -> None:
    answers = [
        await ask(restricted, "POST", path, form(("prompt", b"x"), *more), headers=FORM)
        for more in ([], [("model", b"bad")], [("model", b"good")])
    ]

    assert [verdict(answer) for answer in answers] == [REFUSED, REFUSED, (200, None)]


async def test_a_session_in_a_form_is_held_to_it(restricted: Gateway, upstream: ScriptedUpstream) -> None:
    session = orjson.dumps({"model": "good", "audio": {"input": {"transcription": {}}}})

    answer = await ask(
        restricted, "POST", "/v1/realtime/calls", form(("sdp", b"v=0"), ("session", session)), headers=FORM
    )

    assert verdict(answer) == REFUSED
    assert error_of(answer)["param"] == "session.audio.input.transcription.model"


@pytest.mark.parametrize(
    "path", ["/v1/videos/v1/remix", RESPONSES, "/v1/threads/t1/runs", "/v1/images/generations"]
)
async def test_no_body_names_no_model(restricted: Gateway, upstream: ScriptedUpstream, path: str) -> None:
    for body in (None, b""):
        assert verdict(await ask(restricted, "POST", path, body, headers="")) == REFUSED
    assert not upstream.requests


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_what_nobody_knows_runs_no_model_unnamed_without_a_body_either(
    restricted: Gateway, gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    for body in (None, b""):
        refused = await ask(restricted, method, "/v1/things/t1/run", body, headers="")
        assert verdict(refused) == REFUSED
        assert "'model'" in error_of(refused)["message"]
    assert not upstream.requests
    for target in ("/v1/things/t1/run?model=good", "/v1/engines/good/run"):
        assert (await ask(restricted, method, target)).status == 200
    assert (await ask(restricted, "DELETE", "/v1/things/t1")).status == 200
    assert (await ask(gateway, method, "/v1/things/t1/run")).status == 200


async def test_a_workflow_has_models_that_nobody_sees(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await ask(restricted, "POST", "/v1/chatkit/sessions", {"workflow": {"id": "wf_1"}, "user": "u"})

    assert verdict(answer) == REFUSED
    assert not upstream.requests


@pytest.mark.parametrize("value", [b"svg", b"SVG", b" svg "])
async def test_pictures_of_a_form_are_not_drawn_by_another_model(
    restricted: Gateway, gateway: Gateway, upstream: ScriptedUpstream, value: bytes
) -> None:
    body = form(("model", b"good"), ("prompt", b"x"), ("output_format", value), ("image", b"i"), file_at=3)

    refused = await ask(restricted, "POST", "/v1/images/edits", body, headers=FORM)

    assert verdict(refused) == REFUSED
    assert error_of(refused)["param"] == "svg.model"
    assert not any(seen.complete for seen in upstream.requests)
    png = body.replace(value, b"png")
    assert (await ask(restricted, "POST", "/v1/images/edits", png, headers=FORM)).status == 200
    assert (await ask(gateway, "POST", "/v1/images/edits", body, headers=FORM)).status == 200


async def test_a_default_model_stands_beside_a_stored_prompt_and_nowhere_else(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": RESTRICTED | {"default_model": "good"}})
    prompt = {"prompt": {"id": "pmpt_1"}}

    passed = await ask(gateway, "POST", RESPONSES, prompt)
    refused = await ask(gateway, "POST", RESPONSES, {**prompt, "tools": [{"type": "image_generation"}]})

    assert passed.status == 200
    assert orjson.loads(upstream.requests[0].body) == {**prompt, "model": "good"}
    assert verdict(refused) == REFUSED
    assert error_of(refused)["param"] == "tools[0].model"


@pytest.mark.parametrize(
    "path",
    ["/v1/engines/bad/completions", "/v1/%65ngines/bad/completions", "/v1/deployments/bad/chat",
     "/v1/Models/bad:generate", "/v1/x/models/bad", "/v1/engines/good/models/bad"],
)  # fmt: skip
async def test_an_unknown_path_names_no_model_that_is_closed(
    restricted: Gateway, upstream: ScriptedUpstream, path: str
) -> None:
    for method in ("POST", "GET", "PUT"):
        answer = await ask(restricted, method, path, {"model": "good"})
        assert verdict(answer) in (REFUSED, (400, "ambiguous_target"))
    assert not upstream.requests
    allowed = path.replace("bad", "good").replace("%65", "e").replace("M", "m")
    assert (await ask(restricted, "POST", allowed, {"model": "good"})).status == 200
