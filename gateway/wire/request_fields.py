"""What policy reads in a JSON request body, such that no other parser can read it differently.

The body goes up as it came, to a parser that is not ours. So a name that policy relies on must be written
once: of `{"model": "a", "model": "b"}` some parsers take the first value, some the last, and the second
name may as well be spelled `"\\u006dodel"`. orjson itself refuses what lenient parsers accept: a BOM, UTF-16,
NaN, comments, text behind the document, more than 1024 levels.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from gateway.wire.json_members import hides_letters, members

_COUNTS = ("n", "best_of")
_MAXIMA = ("max_tokens", "max_completion_tokens", "max_output_tokens")

POLICY_NAMES = frozenset(
    (*_COUNTS, *_MAXIMA, "background", "conversation", "endpoint", "input_file_id", "model", "session")
) | {"previous_response_id", "service_tier", "store", "stream", "stream_options"}
"""Top-level names that policy reads, and which therefore must not occur twice."""

_QUOTED = {name: b'"' + name.encode() + b'"' for name in POLICY_NAMES}
_IS_READ: Callable[[str], bool] = _QUOTED.__contains__
_JUDGED = frozenset((*_COUNTS, *_MAXIMA, "stream"))
_MAX_EXACT = 2**53
_MOST_MODEL_CHARACTERS = 1024


class Fault(NamedTuple):
    """Why nobody can rely on a body: `code` and `message` are for the caller, `param` is at fault."""

    code: str
    message: str
    param: str | None = None


class BodyRefused(ValueError):
    """Policy cannot rely on this body."""

    def __init__(self, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.fault = Fault(code, message, param)


class RequestFields(NamedTuple):
    """A request body as policy sees it. A member that is null counts as absent."""

    model: str | None = None
    stream: bool = False
    choices: int = 1
    """How many answers are computed: the larger of `n` and `best_of`."""
    max_output: int | None = None
    """The largest of the API's three names for the most LLM tokens per answer; None when there is no cap, or one of
    them says that there is none."""
    maximum: str | None = None
    """The name that states it."""


def parse(body: bytes) -> dict[str, Any]:
    """The document of a body, an empty one for an empty body. Raises BodyRefused.

    Names outside of POLICY_NAMES may have been written twice. Where memory does not suffice, a MemoryError says so.
    """
    if not body:
        return {}
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):
            raise MemoryError from None  # the fault of no body
        raise BodyRefused("invalid_json", f"The body is not valid JSON in UTF-8: {error.msg}.") from None
    if not isinstance(document, dict):
        raise BodyRefused("invalid_json", "The body must be a JSON object.")
    return document


def read(
    body: bytes, document: Mapping[str, Any], *, model_path: Sequence[str] = ("model",)
) -> RequestFields:
    """Read the document of a body, which `parse` made of it.

    `model_path` leads to the model through nested objects, as in `("session", "model")`. Raises BodyRefused
    for a policy name that is written twice, and for one whose value has a type that the API does not know for it.
    Linear in the size of the body.
    """
    if not body:
        return RequestFields()
    try:
        return _read(body, document, model_path)
    except BodyRefused:
        _walk(body, model_path)  # what is written twice is told before what is wrong with it
        raise


def _read(body: bytes, document: Mapping[str, Any], path: Sequence[str]) -> RequestFields:
    single = body.find(b"\\") < 0 or not hides_letters(body)
    if len(path) > 1:
        single = single and all(body.count(f'"{name}"'.encode()) < 2 for name in path)
    stream, choices, max_output, maximum, unbounded = False, 1, None, None, False
    for name in filter(_IS_READ, document):
        # These bytes cannot stand inside a string, where quotes are escaped.
        if single and body.count(_QUOTED[name]) > 1:
            single = False
        if name not in _JUDGED or (value := document[name]) is None:
            continue
        if name == "stream":
            stream = _flag(value, name)
            continue
        if type(value) is int and 0 <= value <= _MAX_EXACT:
            number = value
        elif name in _MAXIMA and _is_unbounded(value):
            unbounded = True
            continue
        else:
            number = _number(value, name)
        if name in _COUNTS:
            choices = max(choices, number)
        elif number and (max_output is None or number > max_output):
            max_output, maximum = number, name
    if unbounded:  # who knows which of them is read
        max_output, maximum = None, None
    if not single:
        _walk(body, path)
    model = document.get(path[0])
    if type(model) is not str or len(path) > 1 or len(model) > _MOST_MODEL_CHARACTERS:
        model = _model(document, path)
    # As RequestFields(…): every small body is read, and its frame costs as much as reading a name.
    return tuple.__new__(RequestFields, (model, stream, choices, max_output, maximum))


def _walk(body: bytes, path: Sequence[str]) -> None:
    """Refuse a body that has a policy name, or a step of the path where it leads, more than once."""
    at = 0
    for depth, step in enumerate(path):
        names = {step} if depth else POLICY_NAMES | {step}
        seen: dict[str, int] = {}
        for member in members(body, at):
            if member.name in seen:
                param = ".".join((*path[:depth], member.name))
                raise BodyRefused("duplicate_parameter", f"{param} is given more than once.", param=param)
            if member.name in names:
                seen[member.name] = member.value_from
        at = seen.get(step, -1)
        if at < 0 or body[at] != ord("{"):
            return


def _model(document: Mapping[str, Any], path: Sequence[str]) -> str | None:
    value: Any = document.get(path[0])
    for depth, step in enumerate(path[1:], 1):
        if value is None:
            return None
        if not isinstance(value, dict):
            param = ".".join(path[:depth])
            raise BodyRefused("invalid_type", f"{param} must be an object.", param=param)
        value = value.get(step)
    if value is None:
        return None
    if type(value) is str and len(value) <= _MOST_MODEL_CHARACTERS:
        return value
    param = ".".join(path)
    if not isinstance(value, str):
        raise BodyRefused("invalid_type", f"{param} must be a string.", param=param)
    raise BodyRefused(
        "invalid_value", f"{param} is longer than {_MOST_MODEL_CHARACTERS} characters.", param=param
    )


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise BodyRefused("invalid_type", f"{name} must be true or false.", param=name)
    return value


def _is_unbounded(value: object) -> bool:
    """Whether a maximum is none: `"inf"`, as the realtime operations write it, or below 0, as many servers do."""
    return value == "inf" or (type(value) in (int, float) and value < 0)  # type: ignore[operator]


def _number(value: object, name: str) -> int:
    """A count that is not simply one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BodyRefused("invalid_type", f"{name} must be an integer.", param=name)
    if not 0 <= value <= _MAX_EXACT:
        raise BodyRefused("invalid_value", f"{name} is out of range.", param=name)
    return value
