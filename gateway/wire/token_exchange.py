"""What is asked of a provider's endpoint to have a subject token exchanged, and what its answer says (RFC 8693).

The body is JSON with two parameters of OpenAI's own, as that API's reference and its Python SDK have it; errors are
OAuth's (RFC 6749, section 5.2). The words of an answer are bounded, and never quote what was shown.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import orjson

_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPES = "urn:ietf:params:oauth:token-type:"

_MOST_SUBJECT_BYTES = 16 * 1024
_MOST_WORDS = 300
_MOST_SECONDS = 7 * 86400.0
_SENDABLE = re.compile(r"[!-~]{8,16384}")
_QUOTED_LETTERS = 24
"""So much of a subject token says something of it; a header alone, which many share, is longer."""


class ExchangeRefused(Exception):
    """The endpoint granted nothing. The message is for operators, and holds no secret."""


class SubjectUnusable(ValueError):
    """What the file holds cannot be shown to anybody. The message does not say what that is."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What opens the upstream, for so long."""

    key: str = field(repr=False)
    seconds: float


def subject_in(content: bytes) -> str:
    """The subject token that a file holds, without white space around it. Raises SubjectUnusable."""
    if len(content) > _MOST_SUBJECT_BYTES:
        raise SubjectUnusable(f"holds more than {_MOST_SUBJECT_BYTES} bytes")
    try:
        subject = content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise SubjectUnusable("holds what no JWT is made of") from None
    if not subject:
        raise SubjectUnusable("is empty")
    if not _SENDABLE.fullmatch(subject):
        raise SubjectUnusable("holds more, or less, than one JWT")
    return subject


def exchange_body(subject: str, kind: str, *, provider: str, account: str) -> bytes:
    """The body of the request; `kind` is `jwt` or `id_token`."""
    return orjson.dumps(
        {
            "grant_type": _GRANT_TYPE,
            "subject_token": subject,
            "subject_token_type": _TYPES + kind,
            "identity_provider_id": provider,
            "service_account_id": account,
        }
    )


def granted(status: int, body: bytes, subject: str) -> Granted:
    """What an answer grants to whoever showed `subject`. Raises ExchangeRefused."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if status != 200:
        raise ExchangeRefused(f"answered {status}{_said(document, subject)}")
    if not isinstance(document, dict):
        raise ExchangeRefused("answered 200 with what is no JSON object")
    key, seconds, kind = document.get("access_token"), document.get("expires_in"), document.get("token_type")
    if not isinstance(key, str) or not _SENDABLE.fullmatch(key):
        raise ExchangeRefused("answered 200 without a usable access_token")
    if kind is not None and (not isinstance(kind, str) or kind.lower() != "bearer"):
        raise ExchangeRefused("answered 200 with a token_type that is not Bearer")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise ExchangeRefused("answered 200 without a usable expires_in")
    return Granted(key, min(float(seconds), _MOST_SECONDS))


def _said(document: object, subject: str) -> str:
    """The endpoint's own words, as far as it has some that can be shown."""
    if not isinstance(document, dict):
        return ""
    error = document.get("error")
    if isinstance(error, dict):  # as the API itself words errors
        words = [error.get("code"), error.get("message")]
    else:
        words = [error, document.get("error_description")]
    # Cut before it is searched: a long answer must not keep the loop.
    text = ": ".join(word[:_MOST_WORDS] for word in words if isinstance(word, str) and word)[:_MOST_WORDS]
    if not text:
        return ""
    if _quotes(text, subject):
        return " (its words quote what was shown, and are withheld)"
    return f" ({ascii(text)[1:-1][:_MOST_WORDS]})"


def _quotes(text: str, subject: str) -> bool:
    """Whether a text holds a piece of the subject token that is longer than chance."""
    pieces = (
        subject[begin : begin + _QUOTED_LETTERS]
        for begin in range(max(1, len(subject) - _QUOTED_LETTERS + 1))
    )
    return any(piece in text for piece in pieces)
