"""How entries are written into Redis: names of keys, digests of ids, arguments of scripts. Pure."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import orjson

from gateway.objects.store import Intent, Made, Named, Scope
from gateway.operations.stored_kinds import StoredKind, StoredKinds

MOST_ID_BYTES: Final = 512
"""What is longer is no id of any upstream's, and is nobody's."""

DIGEST_BYTES: Final = 12
_SCOPE_DIGEST_BYTES: Final = 9
_AHEAD_SECONDS: Final = 86_400
_REMEMBERED = 4096
Word = str | bytes | int


@lru_cache(_REMEMBERED)
def base_key(prefix: str, scope: Scope) -> str:
    """Where all of a tenant's entries are, in the slot of a cluster that its limits have (`limits.terms`).

    Names are digested: there may be thousands of keys, and a tenant's name may hold anything.
    """
    slot = hashlib.sha256(scope.tenant.encode()).hexdigest()[:8]
    names = orjson.dumps([scope.tenant, scope.storage])
    whose = base64.urlsafe_b64encode(hashlib.blake2b(names, digest_size=_SCOPE_DIGEST_BYTES).digest())
    return f"{prefix}{{{slot}}}:o:{whose.decode()}"


def index_key(prefix: str) -> str:
    """Where it is noted which tenants have had which storage."""
    return f"{prefix}objects"


def digest_of(object_id: str) -> bytes:
    """What is kept of an id of a kind that is not listed."""
    return hashlib.blake2b(_bytes(object_id), digest_size=DIGEST_BYTES).digest()


def is_id(object_id: str) -> bool:
    """Whether it may be the id of something that is recorded."""
    try:
        return 0 < len(object_id.encode()) <= MOST_ID_BYTES
    except UnicodeEncodeError:
        return False  # half a character


def words_of(kinds: StoredKinds, named: Iterable[Named]) -> list[Word]:
    """Objects as scripts are told of them."""
    words: list[Word] = []
    for kind_name, object_id in named:
        words += _name(kinds[kind_name], object_id)
    return words


def words_of_made(kinds: StoredKinds, made: Iterable[Made], now: float) -> list[Word]:
    """Objects as scripts are told that they were made."""
    words: list[Word] = []
    for one in made:
        if not is_id(one.id):
            continue
        kind = kinds[one.kind]
        second = _second(one.created_at, now)
        expires = one.expires_at
        if expires is None and kind.kept_seconds is not None:
            expires = second + kind.kept_seconds
        is_known = expires is not None and math.isfinite(expires) and 0 < expires < 2**40
        words += (*_name(kind, one.id), second, math.ceil(expires) if expires and is_known else 0)
    return words


def words_of_digests(kind: StoredKind, digests: Iterable[tuple[bytes, int]]) -> list[Word]:
    """The same of some whose ids nobody knows, each with the last day on which it counts (0: for ever)."""
    words: list[Word] = []
    for digest, day in digests:
        words += (kind.name, 0, digest, 0, (day - 1) * _AHEAD_SECONDS if day else 0)
    return words


def intent_words(kinds: StoredKinds, intent: Intent | None) -> tuple[Word, Word, Word]:
    """An intent as it is kept, and what it may leave."""
    if intent is None:
        return "", "", ""
    kept = orjson.dumps([intent.kind, intent.subject, intent.at])
    return intent.exchange_id, kept, leaves_of(kinds, [intent.kind])


def leaves_of(kinds: StoredKinds, made: Iterable[str]) -> Word:
    """Kinds of which more may come of objects of such kinds than any answer tells."""
    return " ".join(dict.fromkeys(left for kind in made for left in kinds[kind].leaves))


def intent_of(exchange_id: bytes, kept: bytes) -> Intent:
    """An intent as it was kept."""
    kind, subject, at = orjson.loads(kept)
    return Intent(exchange_id.decode(), kind, subject, at)


def text_of(object_id: bytes) -> str:
    """An id as it was kept."""
    return object_id.decode()


def slices(words: Sequence[Word], each: int, most: int) -> Iterable[Sequence[Word]]:
    """Words of `most` objects at a time, of `each` words every one; once if there are none."""
    return (words[at : at + each * most] for at in range(0, max(len(words), 1), each * most))


def _name(kind: StoredKind, object_id: str) -> tuple[Word, Word, Word]:
    if kind.is_listed:
        return kind.name, 1, _bytes(object_id)
    return kind.name, 0, digest_of(object_id)


def _second(created_at: float, now: float) -> int:
    """Of creation, unless what the upstream says of it cannot be."""
    if math.isfinite(created_at) and 0 < created_at < now + _AHEAD_SECONDS:
        return int(created_at)
    return int(now)


def _bytes(object_id: str) -> bytes:
    return object_id.encode("utf-8", "surrogatepass")
