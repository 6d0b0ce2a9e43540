"""Every model that a body or a form could name is found, however it is spelled."""

from __future__ import annotations

import orjson
import pytest

from gateway.policy.named_models import field_may_name_model, may_name_models, models_in
from gateway.policy.unnamed_models import unnamed_in
from gateway.wire.request_fields import BodyRefused
from gateway.wire.strict_json import USER_NAMED


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
        (b'{"file_id":"file-1","attributes":{"model":"T","Models":"A"}}', []),
    ],
)
def test_models_of_a_body_are_found_at_any_depth(body: bytes, models: list[str]) -> None:
    assert sorted(models_in(orjson.loads(body))) == models
    if models:
        assert may_name_models(body, known=0)


@pytest.mark.parametrize("name", sorted(USER_NAMED | {"item", "sample", "tool_choice"}))
def test_a_name_that_callers_choose_hides_no_model(name: str) -> None:
    graders = {name: {"type": "score_model", "model": "a"}}

    for document in (
        {"grader": {"graders": graders}},
        {"x": [{"Graders": [[graders]]}]},
        {"graders": {"type": "multi", "graders": graders}},
        {"graders": {"x": {"type": "multi", "graders": graders}}},
    ):
        assert list(models_in(document)) == ["a"]
        del graders[name]["model"]
        assert [member.rpartition(".")[2] for member in unnamed_in(document)] == ["model"]
        graders[name]["model"] = "a"


def test_search_by_bytes_spares_a_body_with_nothing_but_the_one_model_that_is_known() -> None:
    assert not may_name_models(b'{"model":"a","messages":[{"content":"x"}]}', known=1)
    assert not may_name_models(b'{"messages":[]}', known=0)


@pytest.mark.parametrize("name", ["Model", "MODEL", "mOdel", "Models"])
def test_name_that_differs_in_nothing_but_case_is_refused(name: str) -> None:
    document = {"x": [{name: "a"}]}

    assert may_name_models(orjson.dumps(document), known=0)
    with pytest.raises(BodyRefused):
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
