"""The gateway's own errors: status, type and code are interface, and every one is rendered in the API's shape."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from gateway import errors
from gateway.errors import Ending, GatewayError, LimitExceeded, MethodRefused, UpstreamBroken

INVALID, FORBIDDEN, UPSTREAM, SERVER = (
    "invalid_request_error",
    "permission_error",
    "upstream_error",
    "server_error",
)
# Changing a line of this table breaks clients that rely on it.
TABLE = {
    "CredentialMissing": (401, INVALID, "missing_api_key"),
    "CredentialRefused": (401, INVALID, "invalid_api_key"),
    "CredentialLapsed": (401, INVALID, "expired_api_key"),
    "CredentialWithdrawn": (401, INVALID, "revoked_api_key"),
    "ScopeMissing": (403, FORBIDDEN, "missing_scope"),
    "ModelNotAllowed": (403, FORBIDDEN, "model_not_allowed"),
    "TenantUnknown": (403, FORBIDDEN, "unknown_tenant"),
    "TenantDisabled": (403, FORBIDDEN, "tenant_disabled"),
    "SharedUpstream": (403, FORBIDDEN, "shared_upstream"),
    "UnmeteredOperation": (403, FORBIDDEN, "unmetered_operation"),
    "OperationClosed": (403, FORBIDDEN, "operation_closed"),
    "BadRequest": (400, INVALID, "bad_request"),
    "TargetAmbiguous": (400, INVALID, "ambiguous_target"),
    "NeverFits": (400, INVALID, "request_too_large_for_limit"),
    "NotFound": (404, INVALID, "not_found"),
    "OperationUnknown": (404, INVALID, "unknown_operation"),
    "MethodRefused": (405, INVALID, "method_not_allowed"),
    "MethodUnknown": (501, INVALID, "method_unknown"),
    "RequestTimeout": (408, INVALID, "request_timeout"),
    "BodyTooLarge": (413, INVALID, "request_too_large"),
    "JsonTooComplex": (413, INVALID, "json_too_complex"),
    "TargetTooLong": (414, INVALID, "target_too_long"),
    "MediaTypeRefused": (415, INVALID, "unsupported_media_type"),
    "ExpectationRefused": (417, INVALID, "expectation_failed"),
    "UpgradeRequired": (426, INVALID, "websocket_version"),
    "WebsocketUnsupported": (426, INVALID, "websocket_unsupported"),
    "HeadersTooLarge": (431, INVALID, "headers_too_large"),
    "LimitExceeded": (429, "requests", "rate_limit_exceeded"),
    "UpstreamUnreachable": (502, UPSTREAM, "upstream_unreachable"),
    "UpstreamBroken": (502, UPSTREAM, "upstream_broken"),
    "UpstreamRefusedKey": (502, UPSTREAM, "upstream_refused_key"),
    "UpstreamTimeout": (504, UPSTREAM, "upstream_timeout"),
    "VersionRefused": (505, INVALID, "http_version_not_supported"),
    "IssuerUnavailable": (503, SERVER, "issuer_unavailable"),
    "UpstreamIdentityUnavailable": (503, SERVER, "upstream_identity_unavailable"),
    "LimitsUnavailable": (503, SERVER, "limits_unavailable"),
    "Overloaded": (503, SERVER, "overloaded"),
    "Draining": (503, SERVER, "draining"),
    "LoopDetected": (508, SERVER, "loop_detected"),
    "Internal": (500, SERVER, "internal_error"),
}
NEVER_SENT = {"ClientLeft"}
KINDS = {"GatewayError", "ClientFault", "PermissionFault", "UpstreamFault", "GatewayFault"}


def made(name: str) -> GatewayError:
    """An error as the gateway would raise it."""
    kind = getattr(errors, name)
    if kind is LimitExceeded:
        return LimitExceeded("Too many.", type="requests", retry_after_seconds=1.5)
    if kind is MethodRefused:
        return MethodRefused("Do something else.", allow=("GET", "HEAD"))
    error = kind("Do something else.", param="model", detail="for the log only")
    assert isinstance(error, GatewayError)
    return error


def test_table_is_complete_and_nothing_else_is_an_error() -> None:
    classes = {
        name for name, found in inspect.getmembers(errors, inspect.isclass) if issubclass(found, GatewayError)
    }

    assert classes == TABLE.keys() | NEVER_SENT | KINDS


@pytest.mark.parametrize("name", TABLE)
def test_status_type_and_code_are_those_of_the_table(name: str) -> None:
    error = made(name)

    assert (error.status, error.type, error.code) == TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_body_has_the_apis_shape_and_nothing_of_the_log(name: str) -> None:
    error = made(name)
    body = orjson.loads(error.body())

    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"] == error.message
    assert b"for the log only" not in error.body()
    assert body["error"]["param"] == (None if name in ("LimitExceeded", "MethodRefused") else "model")


@pytest.mark.parametrize("name", [*TABLE, *NEVER_SENT])
def test_tree_in_the_modules_docstring_says_the_same(name: str) -> None:
    (line,) = [line for line in (errors.__doc__ or "").splitlines() if f"─ {name} " in line]
    _, said = line.split(f"{name} ", 1)

    if name in NEVER_SENT:
        assert "never sent" in said
    else:
        status, kind, code = TABLE[name]
        assert said.split()[0] == str(status)
        assert kind in said
        assert code in said


def test_tree_in_the_modules_docstring_has_the_shape_of_the_classes() -> None:
    drawn = re.findall(r"^    ([│├└─ ]+)(\w+)", errors.__doc__ or "", re.MULTILINE)

    assert [(len(lead), name) for lead, name in drawn] == list(branches(GatewayError, depth=3))


def branches(kind: type[GatewayError], *, depth: int) -> Iterator[tuple[int, str]]:
    for below in kind.__subclasses__():
        if below.__module__ != errors.__name__:
            continue  # the private listener has a few of its own
        yield depth, below.__name__
        yield from branches(below, depth=depth + 3)


def test_whose_fault_it_is_shows_in_the_ending() -> None:
    endings = {name: made(name).ending for name in TABLE}

    assert {name for name, ending in endings.items() if ending is Ending.UPSTREAM_LOST} == {
        *("UpstreamUnreachable", "UpstreamBroken", "UpstreamRefusedKey")
    }
    assert endings["UpstreamTimeout"] is Ending.TIMED_OUT
    assert endings["Internal"] is Ending.FAILED
    assert all(
        ending is Ending.REFUSED
        for name, ending in endings.items()
        if TABLE[name][0] < 500
        or name in ("VersionRefused", "IssuerUnavailable", "LimitsUnavailable", "Overloaded")
    )


def raised() -> Iterator[ast.Call]:
    """Every place where an error of the gateway is made."""
    for file in Path(errors.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TABLE:
                yield node


def test_log_says_which_bound_or_which_defect_it_was() -> None:
    """Whose message the log does not have: without a detail the operator would know the code alone."""
    told = {
        "RequestTimeout",
        "BodyTooLarge",
        "JsonTooComplex",
        "IssuerUnavailable",
        "LimitExceeded",
        "LimitsUnavailable",
        "Overloaded",
    }
    told |= {"LoopDetected", "Internal", "UpstreamRefusedKey"}
    silent = [
        (name, call.lineno)
        for call in raised()
        if (name := ast.unparse(call.func)) in told
        if all(keyword.arg != "detail" for keyword in call.keywords)
    ]

    assert silent == []
    assert made("UpstreamBroken").detail == "for the log only"
    assert UpstreamBroken("It broke off.").detail == "It broke off."


def test_code_of_a_bad_request_may_be_narrowed_for_one_instance_only() -> None:
    assert errors.BadRequest("x", code="invalid_json").code == "invalid_json"
    assert errors.BadRequest("x").code == "bad_request"


@pytest.mark.parametrize(
    "name", ["CredentialMissing", "CredentialRefused", "CredentialLapsed", "CredentialWithdrawn"]
)
def test_every_401_says_how_to_authenticate(name: str) -> None:
    headers = dict(made(name).headers())

    assert headers["WWW-Authenticate"].startswith("Bearer")
    assert ("invalid_token" in headers["WWW-Authenticate"]) is (name != "CredentialMissing")


@pytest.mark.parametrize(
    ("seconds", "headers"),
    [
        (0.0, {"retry-after": "1", "retry-after-ms": "1"}),
        (0.0004, {"retry-after": "1", "retry-after-ms": "1"}),
        (0.3, {"retry-after": "1", "retry-after-ms": "300"}),
        (1.0001, {"retry-after": "2", "retry-after-ms": "1001"}),
        (120.0, {"retry-after": "120", "retry-after-ms": "120000"}),
        (3600.0, {"retry-after": "3600", "retry-after-ms": "3600000", "x-should-retry": "false"}),
        (None, {"x-should-retry": "false"}),
    ],
)
def test_limit_says_when_to_come_back_rounded_up_and_whether_to_sleep_for_it(
    seconds: float | None, headers: dict[str, str]
) -> None:
    error = LimitExceeded("Too many.", type="tokens", retry_after_seconds=seconds)

    assert dict(error.headers()) == headers
    assert error.type == "tokens"


@pytest.mark.parametrize("name", ["IssuerUnavailable", "LimitsUnavailable", "Overloaded"])
def test_what_passes_says_when_to_try_again(name: str) -> None:
    assert dict(made(name).headers()) == {"retry-after": "1"}


def test_issuer_whose_keys_cannot_be_had_says_when_they_are_asked_for_again() -> None:
    error = errors.IssuerUnavailable("Later.", retry_after_seconds=28.2)

    assert dict(error.headers()) == {"retry-after": "29"}


@pytest.mark.parametrize("name", ["UpstreamRefusedKey", "LoopDetected"])
def test_what_only_an_operator_can_mend_is_not_asked_again(name: str) -> None:
    assert dict(made(name).headers()) == {"x-should-retry": "false"}


@pytest.mark.parametrize("message", ['quotes " and \\ and \r\n breaks', "\x00\x1b[31m", "ü – \U0001f600", ""])
def test_any_message_is_rendered_as_json(message: str) -> None:
    body = errors.NotFound(message).body()

    assert orjson.loads(body)["error"]["message"] == message
    assert not any(byte < 0x20 for byte in body)


def test_a_refused_method_says_which_are_served() -> None:
    assert MethodRefused("No.", allow=("GET", "HEAD")).headers() == [("Allow", "GET, HEAD")]


def test_a_code_may_be_narrowed_for_one_error_and_for_that_alone() -> None:
    assert errors.UpgradeRequired("No.", code="narrower").code == "narrower"
    assert errors.UpgradeRequired("No.").code == "websocket_version"
