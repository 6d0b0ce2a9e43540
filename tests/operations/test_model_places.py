"""Where a request names its model: the table's column led to places, and what stands there."""

from __future__ import annotations

import pytest

from gateway.errors import BadRequest
from gateway.operations.model_places import ModelPlaces, model_in_path, model_in_query
from gateway.operations.table import UNLISTED_READ, UNLISTED_WRITE, RunsModel
from tests.kit.asking import TABLE


@pytest.mark.parametrize(
    ("operation", "body", "form", "path", "query", "required"),
    [
        ("createChatCompletion", ("model",), None, None, None, True),
        ("createResponse", ("model",), None, None, None, False),
        ("createTranscription", None, "model", None, None, True),
        ("createImageEdit", ("model",), "model", None, None, False),
        ("createRealtimeClientSecret", ("session", "model"), None, None, None, False),
        ("createEvalRun", ("data_source", "model"), None, None, None, False),
        ("retrieveModel", None, None, "model", None, True),
        ("connectRealtime", None, None, None, "model", True),
        ("listFiles", None, None, None, None, False),
    ],
)
def test_the_column_leads_to_places(
    operation: str,
    body: tuple[str, ...] | None,
    form: str | None,
    path: str | None,
    query: str | None,
    required: bool,
) -> None:
    found = TABLE.by_id(operation).model

    assert (found.body, found.form, found.path, found.query) == (body, form, path, query)
    assert found.required is required


def test_only_runs_and_their_like_may_lack_a_model_that_matters() -> None:
    """They use none, or one that was judged when the run was created; or who may not use all has to name it."""
    lacking = {operation.id: operation.runs_model for operation in TABLE if operation.model.may_lack}
    assert lacking == {
        **dict.fromkeys(
            ("submitToolOuputsToRun", "modifyAssistant", "runGrader", "validateGrader", "updateAgent")
        ),
        **dict.fromkeys(
            (
                *("createRun", "createThreadAndRun", "createEvalRun", "createVoice"),
                *("createVideoRemix", "createVideoEdit", "createVideoExtend", "createLiveFork"),
                *("createAgentSession", "createAgentAutomation", "updateAgentAutomation"),
            ),
            RunsModel.INHERITED,
        ),
    }


def test_a_column_that_nobody_can_read_is_refused() -> None:
    """It would be an operation whose model nobody judges."""
    with pytest.raises(TypeError):
        ModelPlaces.read({"bodies": "model"})


def test_unlisted_writes_are_looked_at_too() -> None:
    assert UNLISTED_WRITE.model.body == ("model",)
    assert UNLISTED_READ.model.body is None


@pytest.mark.parametrize(
    ("raw", "model"),
    [
        ("gpt-4o", "gpt-4o"),
        ("%67pt-4o", "gpt-4o"),
        ("a%20b", "a b"),
        ("a+b", "a+b"),
        ("%C3%BC", "ü"),
        ("ft:x:y", "ft:x:y"),
    ],
)
def test_model_of_a_path_is_read_as_the_upstream_reads_it(raw: str, model: str) -> None:
    assert model_in_path(raw) == model


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("/v1/realtime", None),
        ("/v1/realtime?", None),
        ("/v1/realtime?model=gpt-realtime", "gpt-realtime"),
        ("/v1/realtime?x=1&model=a&y=2", "a"),
        ("/v1/realtime?%6Dodel=a", "a"),
        ("/v1/realtime?m%6fdel=%61", "a"),
        ("/v1/realtime?model=a+b", "a b"),
        ("/v1/realtime?model=", ""),
        ("/v1/realtime?model", ""),
        ("/v1/realtime?Model=a", None),
        ("/v1/realtime?xmodel=a", None),
        ("/v1/realtime?x=model=a", None),
        ("/v1/realtime?models=a", None),
        ("/v1/realtime?model=a?model=b", "a?model=b"),
    ],
)
def test_model_of_a_query_is_found_however_it_is_spelled(target: str, model: str | None) -> None:
    assert (
        model_in_query(target, strict=False) == model_in_query(target.replace("[]", ""), strict=True) == model
    )


@pytest.mark.parametrize("query", ["model=a&model=b", "model=a&model=a", "model=a&%6dodel=b", "model&model="])
@pytest.mark.parametrize("strict", [True, False])
def test_model_that_a_query_names_twice_is_refused(query: str, strict: bool) -> None:
    with pytest.raises(BadRequest) as caught:
        model_in_query(f"/v1/realtime?{query}", strict=strict)

    assert (caught.value.code, caught.value.param) == ("duplicate_parameter", "model")


@pytest.mark.parametrize(
    "query", ["model=a;model=b", "x;model=b&model=a", "model=a&model[]=b", "model[0]=b&model=a"]
)
def test_where_it_matters_a_query_must_read_the_same_to_all(query: str) -> None:
    assert model_in_query(f"/v1/realtime?{query}", strict=False) is not None
    with pytest.raises(BadRequest):
        model_in_query(f"/v1/realtime?{query}", strict=True)
