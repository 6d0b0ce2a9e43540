"""Which exchanges have a line in the log, and when it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.endings import Ending
from gateway.errors import CredentialMissing, CredentialRefused, GatewayError
from gateway.exchange.exchange import Exchange, Times
from gateway.exchange.log import access_record, start_record
from gateway.exchange.log_forms import Encode
from gateway.exchange.log_writer import LogWriter
from gateway.exchange.refusal_budget import RefusalBudget
from gateway.settings.log import Log

_ID_DIGITS = 8
"""The last ones of a request's id, by which chance decides: the same for whoever asks."""

_FIRST_ERROR_STATUS = 400
_BAD_CREDENTIALS = (CredentialMissing, CredentialRefused)


class ExchangeLog:
    """Writes the line of an exchange that is over, unless it is one of many alike, and of one that runs for long.

    Of successes a part has lines, as the settings say. A success is an exchange that is complete, with a status below
    400, asked of the upstream at most once and by its first answer, and not slow. Of refused credentials only so many
    of one client have lines; all else has one. One that made something to be found again always has.
    """

    def __init__(
        self,
        writer: LogWriter,
        settings: Log,
        *,
        encode: Encode,
        worker: int,
        dropped: Callable[[int], None],
        withheld: Callable[[str], None],
    ) -> None:
        """`withheld` is told why, of each line that is not written."""
        self._writer = writer
        self._write = writer.write
        self._encode = encode
        self._worker = worker
        self._dropped = dropped
        self._withheld = withheld
        self._samples = settings.sampled_successes < 1
        # What had a line when it had run for long has one at its end.
        self._slow_seconds = min(settings.slow_seconds, settings.start_seconds or settings.slow_seconds)
        self._end_of_sample = round(settings.sampled_successes * 16**_ID_DIGITS)
        self._budget = RefusalBudget(settings.refusals_per_second, tell=self._tell, worker=worker)

    @property
    def waiting_bytes(self) -> int:
        """What is not written yet."""
        return self._writer.waiting_bytes

    def ended(self, exchange: Exchange, times: Times) -> bool:
        """An exchange is over; whether it has a line, which metrics may name."""
        error = exchange.error
        if error is not None:
            if isinstance(error, _BAD_CREDENTIALS) and not self._has_room(exchange, error):
                return False
        elif self._samples and self._is_one_of_many(exchange, times):
            return False
        try:
            record = access_record(exchange, times, worker=self._worker)
            # What is lost of the registry of stored objects is found again by lines that say what was made.
            self._write(self._encode(record), is_kept="created" in record)
        except MemoryError:
            self._dropped(1)
            return False
        return True

    def runs(self, exchange: Exchange, now: float) -> None:
        """An exchange has run for long, and goes on."""
        try:
            self._write(self._encode(start_record(exchange, exchange.times(now), worker=self._worker)))
        except MemoryError:
            self._dropped(1)

    async def close(self) -> None:
        """Write what is still to be told, waiting a little for a slow reader."""
        self._budget.close()
        await asyncio.to_thread(self._writer.close)

    def _has_room(self, exchange: Exchange, error: GatewayError) -> bool:
        if self._budget.has_room(exchange.client, error.code):
            return True
        self._withheld("budget")
        return False

    def _is_one_of_many(self, exchange: Exchange, times: Times) -> bool:
        """Whether it is a success, and chance has it left out."""
        if (
            exchange.ending is not Ending.COMPLETE
            or exchange.status is None
            or exchange.status >= _FIRST_ERROR_STATUS
            or exchange.detail is not None
            or exchange.attempts > 1
            or (exchange.recorder is not None and exchange.recorder.created)
            or times.whole > self._slow_seconds
            or int(exchange.id[-_ID_DIGITS:], 16) < self._end_of_sample
        ):
            return False
        self._withheld("sampled")
        return True

    def _tell(self, record: dict[str, Any]) -> None:
        self._write(self._encode(record))
