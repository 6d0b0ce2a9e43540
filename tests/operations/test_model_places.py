"""Where a request names its model: the table's words led to places, and what stands there."""

from __future__ import annotations

import re

import orjson
import pytest

from gateway.errors import BadRequest
from gateway.operations.model_places import (
    SIGNS_IN_EVENTS,
    field_may_name_model,
    may_name_models,
    model_in_path,
    model_in_query,
    models_in,
    places,
)
from gateway.operations.table import UNLISTED_READ, UNLISTED_WRITE, OperationTable

TABLE = OperationTable.load()


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
def test_words_of_the_table_lead_to_places(
    operation: str,
    body: tuple[str, ...] | None,
    form: str | None,
    path: str | None,
    query: str | None,
    required: bool,
) -> None:
    found = places(TABLE.by_id(operation))

    assert (found.body, found.form, found.path, found.query) == (body, form, path, query)
    assert found.required is required


def test_every_place_that_the_table_speaks_of_is_understood() -> None:
    """A column that nobody can read would be an operation whose model nobody judges."""
    spoken = {
        operation.id: places(operation)
        for operation in TABLE
        if re.search(r"\b(?:body|form|path|query)\.", operation.model_location)
        and not re.search(r"input file|\[\]|models\b", operation.model_location)
    }

    assert len(spoken) > 30
    for name, found in spoken.items():
        assert (found.body, found.form, found.path, found.query) != (None,) * 4, name


def test_only_runs_and_their_like_may_lack_a_model_that_matters() -> None:
    """Their model was named, and judged, when the assistant or the run was created."""
    inherited = {operation.id for operation in TABLE if "inherited" in operation.model_location}

    assert inherited == {"createRun", "createThreadAndRun", "submitToolOuputsToRun"}
    assert all(places(TABLE.by_id(name)).may_lack for name in inherited)
    for name in (
        "createChatCompletion",
        "createResponse",
        "createEmbedding",
        "createImage",
        "createModeration",
    ):
        assert not places(TABLE.by_id(name)).may_lack


def test_path_parameters_that_hold_a_model_exist_in_the_path() -> None:
    for operation in TABLE:
        named = places(operation).path
        assert named is None or named in operation.id_params


def test_unlisted_writes_are_looked_at_too() -> None:
    assert places(UNLISTED_WRITE).body == ("model",)
    assert places(UNLISTED_READ).body is None


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


@pytest.mark.parametrize(
    ("body", "models"),
    [
        (b'{"model":"a"}', ["a"]),
        (b'{"model":"a","tools":[{"type":"x","model":"b"}],"moderation":{"model":"c"}}', ["a", "b", "c"]),
        (b'{"session":{"audio":{"input":{"transcription":{"model":"a"}}}}}', ["a"]),
        (b'{"testing_criteria":[{"model":"a"},[[{"model":"b"}]]]}', ["a", "b"]),
        (b'{"models":["a","b",7]}', ["a", "b"]),
        (rb'{"x":{"\u006dodel":"a"}}', ["a"]),
        (b'{"metadata":{"model":"a"},"tools":[{"parameters":{"properties":{"model":{"const":"b"}}}}]}', []),
        (b'{"text":{"format":{"schema":{"default":{"model":"a"}}}}}', []),
        (b'{"input":"the \\"model\\":\\"a\\"","n":1}', []),
        (b'{"model":null,"x":{"model":7}}', []),
        (b'{"data":[{"item":{"model":"T"},"sample":{"model":"Ford"}}]}', []),
    ],
)
def test_models_of_a_body_are_found_at_any_depth(body: bytes, models: list[str]) -> None:
    assert sorted(models_in(orjson.loads(body))) == models
    if models:
        assert may_name_models(body, known=0)
        assert SIGNS_IN_EVENTS.search(body)


def test_search_by_bytes_spares_a_body_with_nothing_but_the_one_model_that_is_known() -> None:
    assert not may_name_models(b'{"model":"a","messages":[{"content":"x"}]}', known=1)
    assert not may_name_models(b'{"messages":[]}', known=0)


@pytest.mark.parametrize("name", ["Model", "MODEL", "mOdel", "Models"])
def test_name_that_differs_in_nothing_but_case_is_refused(name: str) -> None:
    document = {"x": [{name: "a"}]}

    assert may_name_models(orjson.dumps(document), known=0)
    with pytest.raises(BadRequest):
        list(models_in(document))


@pytest.mark.parametrize(
    ("name", "suspicious"),
    [
        ("model", True), ("session[model]", True), ("Model", True), ("models[]", True), ("x.model", True),
        ("model_name", False), ("file", False), ("supermodel", False), ("prompt", False),
    ],
)  # fmt: skip
def test_field_of_a_form_is_known_by_the_steps_of_its_name(name: str, suspicious: bool) -> None:
    assert field_may_name_model(name) is suspicious
