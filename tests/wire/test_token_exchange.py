"""What is shown to an endpoint, and what its answers grant: nothing that is not whole, and no secret in any word."""

from __future__ import annotations

from time import perf_counter

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.token_exchange import (
    ExchangeRefused,
    Granted,
    SubjectUnusable,
    exchange_body,
    granted,
    subject_in,
)

SUBJECT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ3b3JrbG9hZCJ9.c2lnbmF0dXJl"


def test_the_body_has_the_parameters_of_the_reference() -> None:
    assert orjson.loads(exchange_body(SUBJECT, "id_token", provider="idp_1", account="svc_1")) == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": SUBJECT,
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "identity_provider_id": "idp_1",
        "service_account_id": "svc_1",
    }


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (b"short", "one JWT"),
        (b"one.two.three four.five.six", "one JWT"),
        (b"one.two\x00.three", "one JWT"),
        ("ünicode.of.some".encode(), "no JWT is made of"),
        (b"a" * 16385, "more than 16384 bytes"),
    ],
)
def test_what_is_no_jwt_is_not_shown_and_not_told(content: bytes, says: str) -> None:
    with pytest.raises(SubjectUnusable, match=says) as refused:
        subject_in(content)
    assert b"two" not in str(refused.value).encode()


@given(st.text(alphabet=" \t\r\n", max_size=4), st.text(alphabet=" \t\r\n", max_size=4))
def test_white_space_around_it_is_none_of_it(before: str, after: str) -> None:
    assert subject_in(f"{before}{SUBJECT}{after}".encode()) == SUBJECT


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"access_token": "granted-1", "expires_in": 3600}, Granted("granted-1", 3600.0)),
        ({"access_token": "granted-1", "expires_in": 0.5, "token_type": "bearer"}, Granted("granted-1", 0.5)),
        ({"access_token": "granted-1", "expires_in": 1e30}, Granted("granted-1", 7 * 86400.0)),
    ],
)
def test_a_grant_is_a_key_and_how_long_it_counts(members: dict[str, object], expected: Granted) -> None:
    assert granted(200, orjson.dumps(members), SUBJECT) == expected
    assert expected.key not in repr(expected)


@pytest.mark.parametrize(
    "members",
    [
        None,
        [],
        "granted",
        {},
        {"access_token": "granted-1"},
        {"access_token": "granted-1", "expires_in": None},
        {"access_token": "granted-1", "expires_in": "3600"},
        {"access_token": "granted-1", "expires_in": True},
        {"access_token": "granted-1", "expires_in": 0},
        {"access_token": "granted-1", "expires_in": -1},
        {"access_token": "", "expires_in": 3600},
        {"access_token": "short", "expires_in": 3600},
        {"access_token": ["granted-1"], "expires_in": 3600},
        {"access_token": "granted 1 2", "expires_in": 3600},
        {"access_token": "granted\r\nx: 1", "expires_in": 3600},
        {"access_token": "gränted-1", "expires_in": 3600},
        {"access_token": "g" * 16385, "expires_in": 3600},
        {"access_token": "granted-1", "expires_in": 3600, "token_type": "N_A"},
        {"access_token": "granted-1", "expires_in": 3600, "token_type": 1},
    ],
)
def test_what_is_no_whole_grant_is_none_and_its_key_is_not_told(members: object) -> None:
    with pytest.raises(ExchangeRefused, match="answered 200") as refused:
        granted(200, orjson.dumps(members), SUBJECT)
    assert "granted" not in str(refused.value)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            400,
            b'{"error":"invalid_grant","error_description":"No mapping."}',
            "answered 400 (invalid_grant: No mapping.)",
        ),
        (401, b'{"error":"invalid_subject_token"}', "answered 401 (invalid_subject_token)"),
        (403, b'{"error":{"code":"forbidden","message":"Not you."}}', "answered 403 (forbidden: Not you.)"),
        (500, b"<html>", "answered 500"),
        (302, b"", "answered 302"),
        (204, b"", "answered 204"),
        (400, b'{"error":{"code":7}}', "answered 400"),
        (400, b'{"error":"a\\u001b[31m\\n"}', r"answered 400 (a\x1b[31m\n)"),
    ],
)
def test_a_refusal_is_told_in_the_endpoints_words(status: int, body: bytes, words: str) -> None:
    with pytest.raises(ExchangeRefused) as refused:
        granted(status, body, SUBJECT)
    assert str(refused.value) == words


@given(st.integers(0, len(SUBJECT) - 24), st.text(max_size=20))
def test_words_that_quote_any_piece_of_what_was_shown_are_withheld(begin: int, around: str) -> None:
    piece = SUBJECT[begin : begin + 24]
    body = orjson.dumps({"error": "invalid_grant", "error_description": f"{around}{piece}{around}"})
    with pytest.raises(ExchangeRefused, match="are withheld") as refused:
        granted(400, body, SUBJECT)
    assert piece not in str(refused.value)


def test_words_have_a_bound() -> None:
    body = orjson.dumps({"error": "e" * 10_000})
    with pytest.raises(ExchangeRefused) as refused:
        granted(400, body, SUBJECT)
    assert len(str(refused.value)) < 350


def test_words_without_end_keep_the_loop_for_no_time() -> None:
    subject = "eyJhbGciOiJSUzI1NiIsImtpZ" * 600
    body = orjson.dumps({"error": "e", "error_description": "eyJhbGciOiJSUzI1NiIsImt" * 2500})
    took = []
    for _ in range(3):
        began = perf_counter()
        with pytest.raises(ExchangeRefused):
            granted(400, body, subject)
        took.append(perf_counter() - began)
    assert min(took) < 0.1
