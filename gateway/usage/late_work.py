"""Work whose usage is said after the answer that began it: who began it, and what is counted once it is said. Pure.

A background response, a run that is polled, a batch, a fine-tuning job, a video, the run of an eval: somebody makes an
object, and whoever asks for it when it is final sees what it used. That is counted once, for who made it, in place of
what was counted when it was made. What is remembered of an object is a record of its maker and a mark; it is kept by
the upstream's answers alone, under a key that tenants who cannot reach each other's objects do not share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, NamedTuple, Protocol, Self

import orjson

from gateway.limits.terms import Dimension, account_key
from gateway.usage.reported import NUMBERS, Usage

DAY_SECONDS = 86_400
KEPT_SECONDS = 35 * DAY_SECONDS
"""How long an object is remembered since something was last made or counted of it."""

COUNTED_SECONDS = 34 * DAY_SECONDS
"""How long after an object was made it may be counted though nobody remembers it: later its mark may be gone."""

NOTHING_USED = Usage()
_TEXT_LIMIT = 256
_DIGITS = 32


class Place(NamedTuple):
    """Where objects are that one may ask for who may ask for any of them."""

    storage: str
    """The server that stores them: ids of different ones say nothing of each other."""

    tenant: str
    """Whose they are: nobody may ask for another's."""

    def key(self, kind: str, object_id: str) -> str:
        """Where an object is remembered. All keys of a place share a slot of a cluster."""
        named = "\0".join((self.storage, kind, object_id)).encode("utf-8", "surrogatepass")
        return f"{account_key(self.tenant)}:object:{hashlib.sha256(named).hexdigest()[:_DIGITS]}"


class Maker(NamedTuple):
    """Who made an object, for what: everything that later usage is charged to and counted under."""

    tenant: str
    subject: str
    model: str
    """As it was named when the object was made; empty where nobody named one."""

    operation: str
    credential_id: str = ""
    limits: Mapping[str, int] | None = None
    """The credential's own."""

    def written(self) -> bytes:
        """As it is stored."""
        credential = (self.credential_id, dict(self.limits)) if self.limits else ()
        return orjson.dumps([*_texts(self[:4]), *credential])

    @classmethod
    def read(cls, written: bytes) -> Self:
        """What another gateway wrote; members that a later version adds are passed over."""
        return cls(*orjson.loads(written)[:6])


class Part(NamedTuple):
    """What one exchange was counted with for an object before its usage was said."""

    subject: str
    model: str
    operation: str
    usage: Usage = NOTHING_USED
    """What the ledger has, and limits on LLM tokens hold: an estimate."""

    batch_input: int = 0
    """LLM tokens that the limit on batches holds."""

    known: str = ""
    """What the ledger has of how its usage is known; empty: nothing."""

    def written(self) -> bytes:
        """As it is stored: numbers by their names, so that kinds may be added."""
        return orjson.dumps([*_texts(self[:3]), self.usage.amounts(), self.batch_input, self.known])

    @classmethod
    def read(cls, written: bytes) -> Self:
        """What another gateway wrote, of which it may know kinds that are not known here."""
        subject, model, operation, amounts, *more = orjson.loads(written)[:6]
        usage = Usage(**{kind: amount for kind, amount in amounts.items() if kind in Usage._fields})
        return cls(subject, model, operation, usage, *more)


@dataclass(frozen=True, slots=True)
class Note:
    """That an object was made, or worked on, by an exchange which could not say what it used."""

    key: str
    exchange_id: str
    maker: Maker
    part: Part
    is_charged: bool = True
    """Whether limits hold already what it was counted with; else they are charged, unless the object was counted."""


@dataclass(frozen=True, slots=True)
class Claim:
    """That an object's usage has been seen: whoever claims it first counts it."""

    key: str
    exchange_id: str
    maker: Maker
    """Who is taken for its maker where nobody is remembered."""

    shown: Shown
    counts_unknown: bool
    """Whether it is counted though nobody remembers it."""

    own: Part | None = None
    """What the exchange itself has been counted with, where its own answer said the usage."""


Step = Note | Claim


class Found(NamedTuple):
    """What is remembered of an object that nobody had counted."""

    maker: Maker
    parts: Sequence[Part]


class Shown(NamedTuple):
    """The usage that a final object shows, by model; an empty name stands for the one that it was made with."""

    kind: str
    id: str
    made_at: float | None
    """In unix seconds, where it says so."""

    by_model: tuple[tuple[str, Usage], ...]
    model: str = ""
    """What it calls its model, where that is one."""

    in_background: bool = True
    """Whether the answer that made it did not wait for its end."""

    def named(self, maker: Maker) -> Iterator[tuple[str, Usage]]:
        """The same with the names under which it is counted."""
        for name, usage in self.by_model:
            yield name or maker.model or self.model, usage

    @property
    def usage(self) -> Usage:
        """All of it."""
        return sum((usage for _, usage in self.by_model), NOTHING_USED)

    def counts_unknown(self, now: float) -> bool:
        """Whether it is counted though nobody remembers it: no other answer has said it, and no mark can be gone."""
        return self.in_background and (self.made_at is None or now - self.made_at < COUNTED_SECONDS)


class LateWorkStore(Protocol):
    """Where objects are remembered. Raises StoreUnavailable (of limits) and nothing else."""

    async def take(self, steps: Sequence[Step]) -> list[Found | None]:
        """Take steps of one place, in their order, once however often they are told.

        Of a claim: what is remembered, where nobody else had counted the object. Of a note: an empty record where it
        came too late, because the object has been counted without it.
        """

    async def close(self) -> None:
        """Let go of connections; nothing else may be called afterwards."""


BY_BATCH = frozenset({"batch", "fine_tuning_job", "eval_run"})
"""Kinds that the API takes from its pool of batches: no limit by the minute or on LLM tokens knows of them."""


_BY_DAY = [
    dimension for dimension in Dimension if dimension.is_reported and dimension.period_seconds == DAY_SECONDS
]


def still_to_charge(kind: str, usage: Usage, parts: Sequence[Part]) -> dict[Dimension, int]:
    """What the limits on this kind of work do not hold yet, where they hold these parts; who holds all is absent.

    None by the minute: what took hours would lock it for hours.
    """
    if kind in BY_BATCH:
        missing = {
            Dimension.BATCH_INPUT_TOKENS_PER_DAY: usage.input - sum(part.batch_input for part in parts)
        }
    else:
        missing = {
            dimension: ceil(
                getattr(usage, dimension.counts)
                - sum(getattr(part.usage, dimension.counts) for part in parts)
            )
            for dimension in _BY_DAY
        }
    return {dimension: amount for dimension, amount in missing.items() if amount > 0}


def negative(usage: Usage) -> Usage:
    """What takes this back where it was counted."""
    numbers: tuple[Any, ...] = usage[:NUMBERS]
    return Usage(*[-amount for amount in numbers])


def _texts(texts: Iterable[Any]) -> list[str]:
    # Half of a surrogate pair could not be written anywhere.
    return [text[:_TEXT_LIMIT].encode("utf-8", "replace").decode() for text in texts]
