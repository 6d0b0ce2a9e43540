"""What an answer of the gateway's own says."""

import orjson

from tests.kit.client import RawAnswer


def assert_refused(answer: RawAnswer, status: int, code: str) -> None:
    """The answer is the gateway's own refusal in the API's shape."""
    error = orjson.loads(answer.body)["error"]
    assert (answer.status, error["code"]) == (status, code)
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.get("content-type") == "application/json"


def assert_upstream_fault(answer: RawAnswer, status: int, code: str) -> None:
    """The answer is the gateway's own error about the upstream."""
    error = orjson.loads(answer.body)["error"]
    assert (answer.status, error["type"], error["code"]) == (status, "upstream_error", code), error
