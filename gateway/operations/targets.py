"""What makes a request target ambiguous: whatever two readers could read differently is refused. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_PATH_BYTES: Final = 2048
MAX_QUERY_BYTES: Final = 8192

# A target that needs no second look: no escape, no segment that is empty or begins with a dot.
_PLAIN: Final = re.compile(r"(?:/(?!\.)[\w.~!$&'()*+,=:@-]+)+(?:\?[!-\"$-~]*)?", re.ASCII)

_DOT_SEGMENT: Final = re.compile(r"/\.\.?(?:/|\Z)")

_TARGET_FAULTS: Final = (
    (re.compile(r"\A(?!/)"), "the request target must be a path that begins with '/', not a URL"),
    (re.compile(r"#"), "the request target must not have a fragment ('#')"),
    (re.compile(r"[^!-~]"), "the request target must be printable ASCII: percent-encode the rest"),
)
_PATH_FAULTS: Final = (
    (re.compile(r"\\"), "the path must not contain a backslash"),
    (re.compile(r";"), "the path must not contain ';'"),
    (re.compile(r"//"), "the path must not contain an empty segment ('//')"),
    (re.compile(r"%(?![0-9A-Fa-f]{2})"), "the path has a '%' that two hexadecimal digits do not follow"),
    (re.compile(r"[^\w.~!$&'()*+,=:@/%-]"), "the path has a character that must be percent-encoded"),
    (
        re.compile(r"%(?:[01].|7F|2F|5C|25|3B|3F|23)", re.IGNORECASE),
        "the path must not contain a control character or one of / \\ % ; ? # in percent-encoding",
    ),
)
_DELIMITER: Final = re.compile(r"[/\\;?#%.]")
_SLASH: Final = re.compile(r"%2[Ff]")


class TargetRefused(ValueError):
    """The target could be read in two ways. `reason` is for the caller and quotes nothing of the target."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TargetOverlong(TargetRefused):
    """The target is longer than any that the API has."""


def read_path(target: str, before_models: Collection[str] = ()) -> tuple[str, str]:
    """Return the path of a target raw and percent-decoded. Raise TargetRefused if it is ambiguous.

    `before_models`: behind these a last segment names a model, which may have slashes, percent-encoded.
    """
    # So short a target is within the limits of path and query both.
    if len(target) <= MAX_PATH_BYTES and _PLAIN.fullmatch(target) is not None:
        path = target.partition("?")[0]
        return path, path
    return _examined(target, before_models)


def has_slash(path: str) -> bool:
    """Whether a path that was read has a percent-encoded slash, which only the name of a model can have."""
    return _SLASH.search(path) is not None


def _examined(target: str, before_models: Collection[str]) -> tuple[str, str]:
    _refuse_faults(target, _TARGET_FAULTS)
    path, _, query = target.partition("?")
    if len(path) > MAX_PATH_BYTES:
        raise TargetOverlong(f"the path is longer than {MAX_PATH_BYTES} bytes")
    if len(query) > MAX_QUERY_BYTES:
        raise TargetOverlong(f"the query is longer than {MAX_QUERY_BYTES} bytes")
    _refuse_faults(_without_slashes(path, before_models), _PATH_FAULTS)
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise TargetRefused("the percent escapes in the path must spell UTF-8") from None
    if not decoded.isascii():
        _refuse_disguises(decoded)
    if _DOT_SEGMENT.search(decoded):
        raise TargetRefused("the path must not contain the segments '.' and '..', in any encoding")
    if "//" in decoded or (decoded.endswith("/") and not path.endswith("/")):
        raise TargetRefused("the slashes in a model's name must stand between other characters")
    return path, decoded


def _without_slashes(path: str, before_models: Collection[str]) -> str:
    """The path with something harmless in place of each slash that a model's name has."""
    for before in before_models:
        model = path.removeprefix(before)
        if model != path and "/" not in model:
            return before + _SLASH.sub("-", model)
    return path


def _refuse_disguises(decoded: str) -> None:
    """Refuse what falls away, or becomes a delimiter, for readers that put text into its plainest form."""
    plainest = unicodedata.normalize("NFKC", decoded)
    if len(_DELIMITER.findall(plainest)) != len(_DELIMITER.findall(decoded)):
        raise TargetRefused("the path has a character that could be read as a delimiter, such as a wide '/'")
    if any(unicodedata.category(character) == "Cf" for character in plainest):
        raise TargetRefused("the path must not contain invisible characters")


def _refuse_faults(text: str, faults: Iterable[tuple[re.Pattern[str], str]]) -> None:
    for pattern, reason in faults:
        if pattern.search(text):
            raise TargetRefused(reason)
