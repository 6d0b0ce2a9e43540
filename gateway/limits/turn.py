"""The steps of one turn of the loop, as one call to a script, and the reply told to each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

from gateway.limits.charges import QuotaSet
from gateway.limits.store import Step, StoreUnavailable
from gateway.redis.line import Argument, Call, RedisUnavailable, Reply
from gateway.redis.script import Script

MOST_STEPS = 64
"""In one call: Redis serves everybody, and does nothing else meanwhile."""


_MODES = {"take": b"t", "debit": b"d", "look": b"l", "settle": b"s"}
_GRANTED, _FAILED = 1, 2

# As turn.lua reads and writes it.
_HEAD = Struct("<dd")
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


class Turn(Call):
    """Steps that travel together, and share nothing else: each is decided, and fails, by itself.

    `ended` hears when all of them know, and of those that were granted to somebody who does not wait any more.
    """

    __slots__ = ("_ended", "_head", "_prefix", "_sent", "_steps")

    def __init__(
        self,
        script: Script,
        steps: Sequence[Step],
        ended: Callable[[Turn, Sequence[Step]], None],
        prefix: str,
        head: bytes,
    ) -> None:
        super().__init__(script, writes=steps[0].mode != "look" or any(step.mode != "look" for step in steps))
        self._steps = steps
        self._sent: list[tuple[Step, _Plan]] = []
        self._ended = ended
        self._prefix = prefix
        self._head = head

    def words(self) -> Sequence[Argument] | None:
        """What turn.lua takes: the accounts' keys, and the steps that somebody still wants."""
        prefix = self._prefix
        known: dict[QuotaSet, tuple[bytes, _Plan]] = {}
        keys: list[Argument] = [0]
        sets, steps = [self._head, b""], list[bytes]()
        self._sent = sent = []
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
        if not sent:
            self._ended(self, ())
            return None
        keys[0] = len(keys) - 1
        sets[1] = _COUNT(len(known))
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
        self._ended(self, unheard)

    def failed(self, unavailable: RedisUnavailable) -> None:
        """Tell each step why."""
        for step in self._steps:
            outage = StoreUnavailable(str(unavailable), sent=unavailable.sent)
            outage.__cause__ = unavailable
            step.failed(outage)
        self._ended(self, ())


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


def head_of(lease_microseconds: int, now_microseconds: int) -> bytes:
    """What every turn begins with: how long leases are, and the time; 0: as Redis knows it."""
    return _HEAD.pack(lease_microseconds, now_microseconds)


def account_keys(prefix: str, key: str) -> tuple[str, str]:
    """The hash and the lease list of an account."""
    return f"{prefix}{key}", f"{prefix}{key}:open"
