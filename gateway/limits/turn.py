"""The steps of one turn of the loop, as one call to a script, and the reply told to each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct

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
_CHARGE = Struct("<Hd")
_MISSING = [Struct(f"<{count}q") for count in range(256)]


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
        keys: list[str] = []
        accounts: dict[str, int] = {}
        positions: dict[int, int] = {}
        quotas: list[bytes] = []
        steps: list[bytes] = []
        for step in sent:
            exchange = b"@" + step.exchange_id.encode() if step.exchange_id else b""
            steps.append(b"%b%c%b%c" % (_MODES[step.mode], len(exchange), exchange, len(step.charges)))
            used = step.permits
            for n, charge in enumerate(step.charges):
                quota = charge.quota
                position = positions.get(id(quota))
                if position is None:
                    account = accounts.get(quota.key)
                    if account is None:
                        account = accounts[quota.key] = len(accounts) + 1
                        keys += account_keys(self._prefix, quota.key)
                    quotas += (_NUMBER.pack(account), quota.packed)
                    position = positions[id(quota)] = len(positions) + 1
                steps.append(_CHARGE.pack(position, charge.permits if used is None else used[n]))
        return (len(keys), *keys, b"".join((self._head, _NUMBER.pack(len(positions)), *quotas, *steps)))

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


def head_of(lease_microseconds: int, now_microseconds: int) -> bytes:
    """What every turn begins with: how long leases are, and the time; 0: as Redis knows it."""
    return _HEAD.pack(lease_microseconds, now_microseconds)


def account_keys(prefix: str, key: str) -> tuple[str, str]:
    """The hash and the lease list of an account."""
    return f"{prefix}{key}", f"{prefix}{key}:open"
