"""The steps of one turn of the loop, as one call to a script, and the reply told to each of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

from gateway.limits.charges import Charges, QuotaSet
from gateway.limits.store import Step, StoreUnavailable
from gateway.limits.terms import TICKS_PER_PERIOD, Dimension
from gateway.redis.line import Argument, Call, RedisUnavailable, Reply
from gateway.redis.script import Script

MOST_STEPS = 64
"""In one call: Redis serves everybody, and does nothing else meanwhile."""


_KEPT_RECEIPTS = 256
"""Many times as many turns as are under way when a connection breaks."""

_MODES = {"take": b"t", "debit": b"d", "look": b"l", "settle": b"s", "give back": b"g"}
_GRANTED, _FAILED = 1, 2

# As turn.lua reads and writes it.
_HEAD = Struct("<dd")
_NUMBER = Struct("<d").pack
_NO_RECEIPT = _NUMBER(0)
_GRAINS = Struct("<d")
_DIMENSIONS = frozenset(dimension.value for dimension in Dimension)
_COUNT, _COUNTS = Struct("<B").pack, Struct("<HH")
_ACCOUNT = Struct("<H")
_NUMBERS = [bytes((number,)) for number in range(MOST_STEPS)]


class _Plan(NamedTuple):
    """How a set of quotas is told to the script: the same in all turns in which something is charged to it."""

    keys: tuple[bytes, ...]
    """Of the accounts, two each."""

    terms: bytes
    pack: Callable[..., bytes]
    """What a step takes of each."""

    missing: Callable[[bytes, int], tuple[int, ...]]
    """What is missing of each, in the reply to one step."""


class Receipts:
    """Numbers turns of which it may have to be known what they took for good, and says where that stands.

    There are few such keys: a later turn has that of an earlier one when it is long since known what became of that.
    """

    def __init__(self, prefix: str, *, apart: bool) -> None:
        """`apart`: the keys of each tenant are in a place of their own."""
        self._prefix = f"{prefix}turn:{secrets.token_hex(4)}."
        self._apart = apart
        self._last = 0

    def next(self) -> int:
        """The number of the next turn."""
        self._last += 1
        return self._last

    def key(self, number: int, charges: Charges) -> str:
        """Where it stands: in the place of what is charged."""
        key = f"{self._prefix}{number % _KEPT_RECEIPTS}"
        if self._apart:
            account = charges.quotas.quotas[0].key
            key += account[: account.index("}") + 1]
        return key


class Turn(Call):
    """Steps that travel together, and share nothing else: each is decided, and fails, by itself.

    `ended` hears when all of them know, of those that were granted to somebody who does not wait any more (None: there
    was no answer), and what undoes what may have been taken for good without anybody hearing of it.
    """

    __slots__ = ("_ended", "_for_good", "_head", "_number", "_numbers", "_prefix", "_sent", "_steps")

    def __init__(
        self,
        script: Script,
        steps: Sequence[Step],
        ended: Callable[[Turn, Sequence[Step] | None, Undoing | None], None],
        prefix: str,
        head: bytes,
        numbers: Receipts,
    ) -> None:
        super().__init__(script, writes=steps[0].mode != "look" or any(step.mode != "look" for step in steps))
        self._steps = steps
        self._sent: list[tuple[Step, _Plan]] = []
        self._for_good: list[Step] = []
        """Those that take for good, in their order."""
        self._number = 0
        """Of its receipt, if it leaves one."""
        self._numbers = numbers
        self._ended = ended
        self._prefix = prefix
        self._head = head

    def words(self) -> Sequence[Argument] | None:
        """What turn.lua takes: the accounts' keys, and the steps that somebody still wants."""
        prefix = self._prefix
        known: dict[QuotaSet, tuple[bytes, _Plan]] = {}
        keys: list[Argument] = [0]
        sets, steps = [self._head, _NO_RECEIPT, b""], list[bytes]()
        self._sent = sent = []
        self._for_good = for_good = []
        for step in self._steps:
            outcome = step.outcome
            if outcome is not None and outcome.done():
                continue
            quotas = step.charges.quotas
            told = known.get(quotas)
            if told is None:
                plan: _Plan = quotas.plans.get(prefix) or _planned(quotas, prefix)
                told = known[quotas] = _NUMBERS[len(known)], plan
                keys += plan.keys
                sets.append(plan.terms)
            number, plan = told
            steps += number, _MODES[step.mode], step.holder or step.named(), plan.pack(*step.permits)
            sent.append((step, plan))
            if not step.exchange_id and step.mode != "look":
                for_good.append(step)
        if not sent:
            self._ended(self, None, None)
            return None
        if for_good:
            self._number = self._number or self._numbers.next()
            sets[1] = _NUMBER(self._number)
            keys.append(self._numbers.key(self._number, for_good[0].charges))
        keys[0] = len(keys) - 1
        sets[2] = _COUNT(len(known))
        keys.append(b"".join(sets + steps))
        return keys

    def answered(self, reply: Reply) -> None:
        """Tell each step its outcome."""
        unheard = []
        for (step, plan), outcome in zip(self._sent, reply):  # noqa: B905 - strict costs more than all of it
            said = outcome[0]
            if said == _FAILED:
                # The script reads before it writes, so nothing was done.
                step.failed(StoreUnavailable(outcome[1:].decode("utf-8", "replace"), sent=False))
            elif (
                not step.done(said == _GRANTED, plan.missing(outcome, 1) if len(outcome) > 1 else ()) and said
            ):
                unheard.append(step)
        self._ended(self, unheard, self._undoing(unheard) if unheard else None)

    def failed(self, unavailable: RedisUnavailable) -> None:
        """Tell each step why. What was to be taken for good is undone, if it was: it counts as not taken."""
        for step in self._steps:
            outage = StoreUnavailable(str(unavailable), sent=unavailable.sent and bool(step.exchange_id))
            outage.__cause__ = unavailable
            step.failed(outage)
        self._ended(self, None, self._undoing(self._for_good) if unavailable.sent else None)

    def _undoing(self, steps: Sequence[Step]) -> Undoing | None:
        """What undoes these, as far as they take for good."""
        places = [(at, step.charges) for at, step in enumerate(self._for_good, 1) if step in steps]
        if not places:
            return None
        key = self._numbers.key(self._number, self._for_good[0].charges)
        return Undoing(self._prefix, self._number, key, places)


class Undoing(NamedTuple):
    """What steps took for good that nobody heard of: undone once, however often that is tried."""

    prefix: str
    number: int
    """Of the turn of which they were."""

    receipt: str
    """The key under which Redis has what came of it. Should it come later, nothing comes of it."""

    places: Sequence[tuple[int, Charges]]
    """Their places in it, from 1, and what they were to take."""

    @property
    def key(self) -> str:
        """One of its keys: all are in one place."""
        return self.receipt

    def words(self, head: bytes) -> Sequence[Argument]:
        """What turn.lua takes."""
        keys: list[Argument] = [0]
        sets, steps = [head, _NUMBER(-self.number), _COUNT(len(self.places))], list[bytes]()
        for number, (place, charges) in enumerate(self.places):
            plan: _Plan = charges.quotas.plans.get(self.prefix) or _planned(charges.quotas, self.prefix)
            keys += plan.keys
            sets.append(plan.terms)
            steps += _NUMBERS[number], b"u", b"\2#" + bytes((place,)), plan.pack(*charges.permits)
        keys.append(self.receipt)
        keys[0] = len(keys) - 1
        keys.append(b"".join(sets + steps))
        return keys


def _planned(quotas: QuotaSet, prefix: str) -> _Plan:
    accounts: dict[str, int] = {}
    packed: list[bytes] = []
    for quota in quotas:
        key, terms = quota.told
        packed += (_ACCOUNT.pack(accounts.setdefault(key, len(accounts) + 1)), terms)
    plan = quotas.plans[prefix] = _Plan(
        tuple(name.encode() for key in accounts for name in account_keys(prefix, key)),
        _COUNTS.pack(len(accounts), len(quotas)) + b"".join(packed),
        Struct(f"<{len(quotas)}d").pack,
        Struct(f"<{len(quotas)}q").unpack_from,
    )
    return plan


def held_in(packed: bytes) -> dict[Dimension, int]:
    """Permits of each dimension that an exchange holds, as buckets.lua keeps them."""
    permits: dict[Dimension, int] = {}
    at = 0
    while at < len(packed):
        begin, end = at + 1, at + 1 + packed[at]
        name, (grains,) = packed[begin:end].decode(), _GRAINS.unpack_from(packed, end)
        at = end + _GRAINS.size
        if name in _DIMENSIONS:
            permits[Dimension(name)] = -(-int(grains) // TICKS_PER_PERIOD)
    return permits


def head_of(lease_microseconds: int, now_microseconds: int) -> bytes:
    """What every turn begins with: how long leases are, and the time; 0: as Redis knows it."""
    return _HEAD.pack(lease_microseconds, now_microseconds)


def account_keys(prefix: str, key: str) -> tuple[str, str]:
    """The hash and the lease list of an account."""
    return f"{prefix}{key}", f"{prefix}{key}:open"
