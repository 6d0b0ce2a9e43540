"""What policy reads in a JSON body, and the bodies on which no policy can rely."""

import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.wire.request_fields import (
    POLICY_NAMES,
    BodyRefused,
    Fault,
    RequestFields,
    parse,
)
from gateway.wire.request_fields import read as read_document
from tests.wire.test_json_members import spelled_out


def read(body: bytes, **how) -> RequestFields:
    return read_document(body, parse(body), **how)


def refusal(body: bytes, **how) -> Fault:
    with pytest.raises(BodyRefused) as caught:
        read(body, **how)
    return caught.value.fault


def test_policy_fields_are_read():
    body = (
        b'{"model":"gpt-4o","stream":true,"n":2,"best_of":3,"max_tokens":16,"max_completion_tokens":64,'
        b'"messages":[{"role":"user","content":"hi"}]}'
    )
    fields = read(body)
    assert (fields.model, fields.stream, fields.choices, fields.max_output) == ("gpt-4o", True, 3, 64)
    assert parse(body) == orjson.loads(body)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"model":null,"stream":null,"n":null,"max_tokens":null}', b'{"n":0,"max_tokens":0}'],
)
def test_an_empty_body_null_and_zero_read_as_absent(body):
    fields = read(body)
    assert (fields.model, fields.stream, fields.choices, fields.max_output) == (None, False, 1, None)


@pytest.mark.parametrize("none", [b'"inf"', b"-1", b"-1.0", b"-2"])
@pytest.mark.parametrize("name", [b"max_tokens", b"max_completion_tokens", b"max_output_tokens"])
def test_a_maximum_may_say_that_there_is_none(name, none):
    """Whatever else states one: who knows which is read."""
    assert read(b'{"%b":%b}' % (name, none)) == RequestFields()
    for other in (b"max_tokens", b"max_completion_tokens", b"max_output_tokens"):
        if other != name:
            assert read(b'{"%b":5,"%b":%b}' % (other, name, none)) == RequestFields()
            assert read(b'{"%b":%b,"%b":5}' % (name, none, other)) == RequestFields()


def test_a_whole_number_may_have_a_point():
    assert read(b'{"max_output_tokens":1e3,"n":2.0}') == RequestFields(
        choices=2, max_output=1000, maximum="max_output_tokens"
    )


@pytest.mark.parametrize(
    "body",
    [
        b"not json", b" ", b"[]", b'"model"', b"null", b"{", b'{"model":"a"}{}', b'{"model":"a"} x',
        b'\xef\xbb\xbf{"model":"a"}', '{"model":"a"}'.encode("utf-16"), '{"model":"a"}'.encode("utf-16-le"),
        b'{"model":"\xff"}', b'{"model":"\\ud800"}', b'{"n":NaN}', b'{"model":"a",}', b"{'model':'a'}",
        b'{"model":"a"/**/}', b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)  # fmt: skip
def test_what_is_not_a_json_object_in_utf8_is_refused(body):
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":["gpt-4o"]}', "model"),
        (b'{"model":{"id":"gpt-4o"}}', "model"),
        (b'{"model":1}', "model"),
        (b'{"model":true}', "model"),
        (b'{"stream":"true"}', "stream"),
        (b'{"stream":1}', "stream"),
        (b'{"n":"2"}', "n"),
        (b'{"n":true}', "n"),
        (b'{"n":1.5}', "n"),
        (b'{"n":[1]}', "n"),
        (b'{"max_tokens":{}}', "max_tokens"),
        (b'{"session":[]}', "session"),
    ],
)
def test_a_policy_field_of_another_type_is_refused(body, param):
    refused = refusal(body, model_path=("session", "model") if param == "session" else ("model",))
    assert (refused.code, refused.param) == ("invalid_type", param)


def test_a_model_is_not_longer_than_any_name():
    assert read(b'{"model":"' + b"m" * 1024 + b'"}').model == "m" * 1024
    refused = refusal(b'{"model":"' + b"m" * 1025 + b'"}')
    assert (refused.code, refused.param) == ("invalid_value", "model")


@pytest.mark.parametrize("number", [b"-1", b"99999999999999999999", b"1e300"])
def test_a_number_out_of_range_is_refused(number):
    refused = refusal(b'{"n":' + number + b"}")
    assert (refused.code, refused.param) == ("invalid_value", "n")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"cheap","model":"dear"}',
        b'{"model":"same","model":"same"}',
        b'{"model":"cheap","\\u006dodel":"dear"}',
        b'{"\\u006dodel":"cheap","mod\\u0065l":"dear"}',
        b'{"\\u006Dodel":"cheap","x":1,"model" : "dear"}',
        b'{"a":{"b":["model","}"]},"model":"cheap","c":"\\"","model":"dear"}',
        b'{"stream":false,"model":"m","stream":true}',
        b'{"max_tokens":1,"max\\u005ftokens":100}',
        b'{"n":1, "n":2}',
        b'{"store":false,"store":true}',
    ],
)
def test_a_policy_field_written_twice_is_refused_however_it_is_spelled(body):
    assert refusal(body).code == "duplicate_parameter"


@pytest.mark.parametrize("name", sorted(POLICY_NAMES))
def test_no_letter_of_a_policy_field_can_be_hidden_by_an_escape(name):
    for at, letter in enumerate(name):
        for escape in (f"\\u{ord(letter):04x}", f"\\u{ord(letter):04X}"):
            body = f'{{"{name}":null,"{name[:at]}{escape}{name[at + 1 :]}":null}}'.encode()
            assert (refusal(body).code, refusal(body).param) == ("duplicate_parameter", name)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","metadata":{"model":"x","n":"y"},"tools":[{"model":1},{"model":2}]}',
        b'{"messages":[{"content":"say \\"model\\" and \\"model\\""}],"model":"m"}',
        b'{"model":"m","messages":["model","model","model"]}',
        b'{"\\u006dodel":"m"}',
        b'{"content":"\\u0061bc \\\\u006dodel","model":"m"}',
        b'{"other":1,"other":2,"model":"m"}',
        b' {\n\t"model" :\r"m" , "x" : [ ] } ',
        b'{"model":"m","":0,"\\"":"{","\\\\":"}"}',
    ],
)
def test_the_same_name_elsewhere_is_no_repetition(body):
    assert read(body).model == "m"


def test_the_model_may_stand_in_a_nested_object():
    path = ("session", "model")
    body = b'{"expires_after":{},"session":{"type":"realtime","model":"gpt-realtime","tools":[{"model":1}]}}'
    assert read(body, model_path=path).model == "gpt-realtime"
    assert read(b'{"session":{}}', model_path=path).model is None
    assert read(b'{"model":"not this one"}', model_path=path).model is None
    assert refusal(b'{"session":{"model":"a","model":"b"}}', model_path=path).param == "session.model"
    assert refusal(b'{"session":{"model":"a"},"session":{"model":"b"}}', model_path=path).param == "session"
    assert refusal(b'{"session":{"model":["a"]}}', model_path=path).param == "session.model"


@settings(max_examples=150, deadline=None)
@given(spelled_out())
def test_an_accepted_body_has_one_model_to_every_parser(case):
    body, pairs = case
    try:
        fields = read(body)
    except BodyRefused:
        return
    models = [value for name, value in pairs if name == "model"]
    assert models in ([], [fields.model])
    others = [name for name, _ in pairs if name in ("n", "stream", "store")]
    assert len(others) == len(set(others))


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=50), st.text(st.sampled_from('{}[]":,\\u06dmodel1e '), max_size=50).map(str.encode)
    )
)
def test_no_input_raises_anything_but_a_refusal(body):
    try:
        read(body)
    except BodyRefused:
        pass


@pytest.mark.parametrize(
    "filling", [b'"model",', b"[],", b'{"model":"\\u006dodel"},', b'"\\\\\\\\\\\\",', b"1,2,3,4,5,"]
)
def test_a_large_hostile_body_is_read_quickly(filling):
    body = b'{"model":"m","messages":[' + filling * (4_000_000 // len(filling)) + b'"model"]}'
    started = time.process_time()
    orjson.loads(body)
    parsed = time.process_time()
    assert read(body).model == "m"
    assert time.process_time() - parsed < 1.5 + 3 * (parsed - started)
