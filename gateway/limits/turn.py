"""The steps of one turn of the loop, as one call to a script, and the reply told to each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from struct import Struct
from typing import NamedTuple

from gateway.limits.store import Step, StoreUnavailable
from gateway.redis.line import Argument, Call, RedisUnavailable, Reply
from gateway.redis.script import Script

MOST_STEPS = 64
"""In one call: Redis serves everybody, and does nothing else meanwhile."""


_MODES = {"take": b"t", "debit": b"d", "look": b"l", "settle": b"s"}
_GRANTED, _FAILED = 1, 2

# As turn.lua reads and writes it.
_HEAD = Struct("<dd")
_NUMBER = Struct("<H")
_MISSING = [Struct(f"<{count}q") for count in range(256)]


_Quota = tuple[str, bytes]
"""As `Quota.told`."""
_Quotas = tuple[_Quota, ...]
_TOLD = attrgetter("quota.told")
_PERMITS = attrgetter("permits")


class _Plan(NamedTuple):
    """What is the same in all turns whose steps charge the same quotas: turns of one tenant differ in little else."""

    keys: tuple[int | str, ...]
    """How many, and the accounts' keys."""
    quotas: bytes
    charges: Mapping[_Quotas, tuple[Callable[..., bytes], list[int]]]
    """How a step's charges are packed: by what, and the positions of their quotas, each with room for its permits."""


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
        super().__init__(script, writes=any([step.mode != "look" for step in steps]))  # noqa: C419 - half the price
        self._steps = steps
        self._sent: Sequence[Step] = ()
        self._ended = ended
        self._prefix = prefix
        self._head = head

    def words(self) -> Sequence[Argument] | None:
        """What turn.lua takes: the accounts' keys, and the steps that somebody still wants."""
        self._sent = sent = [step for step in self._steps if step.outcome is None or not step.outcome.done()]
        if not sent:
            self._ended(self, ())
            return None
        told = [tuple(map(_TOLD, step.charges)) for step in sent]
        plan = _planned(self._prefix, tuple(dict.fromkeys(told)))
        parts = [self._head, plan.quotas]
        for step, quotas in zip(sent, told, strict=True):
            used, exchange = step.permits, b""
            if step.exchange_id:
                exchange = b"@" + step.exchange_id.encode()
            pack, cells = plan.charges[quotas]
            cells[1::2] = map(_PERMITS, step.charges) if used is None else used
            parts.append(
                b"%b%c%b%c%b" % (_MODES[step.mode], len(exchange), exchange, len(quotas), pack(*cells))
            )
        return (*plan.keys, b"".join(parts))

    def answered(self, reply: Reply) -> None:
        """Tell each step its outcome."""
        unheard = []
        for n, step in enumerate(self._sent):
            outcome = reply[n]
            said = outcome[0]
            if said == _FAILED:
                # The script reads before it writes, so nothing was done.
                step.failed(StoreUnavailable(outcome[1:].decode("utf-8", "replace"), sent=False))
            elif (
                not step.done(said == _GRANTED, _MISSING[len(outcome) // 8].unpack_from(outcome, 1)) and said
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


@lru_cache(maxsize=256)
def _planned(prefix: str, charged: tuple[_Quotas, ...]) -> _Plan:
    """The plan of a turn whose steps charge these quotas, each the first step's ones of several alike."""
    accounts: dict[str, int] = {}
    positions: dict[_Quota, int] = {}
    packed: list[bytes] = []
    for quota in chain.from_iterable(charged):
        if quota not in positions:
            key, terms = quota
            account = accounts.setdefault(key, len(accounts) + 1)
            positions[quota] = len(positions) + 1
            packed += (_NUMBER.pack(account), terms)
    keys = [name for key in accounts for name in account_keys(prefix, key)]
    charges = {}
    for quotas in charged:
        cells = [0] * (2 * len(quotas))
        cells[::2] = [positions[quota] for quota in quotas]
        charges[quotas] = Struct("<" + "Hd" * len(quotas)).pack, cells
    return _Plan((len(keys), *keys), b"".join((_NUMBER.pack(len(positions)), *packed)), charges)


def head_of(lease_microseconds: int, now_microseconds: int) -> bytes:
    """What every turn begins with: how long leases are, and the time; 0: as Redis knows it."""
    return _HEAD.pack(lease_microseconds, now_microseconds)


def account_keys(prefix: str, key: str) -> tuple[str, str]:
    """The hash and the lease list of an account."""
    return f"{prefix}{key}", f"{prefix}{key}:open"
