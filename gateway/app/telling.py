"""What the operator is told: on standard error, in lines that arrive whole, whoever else writes there.

Whoever tells something has a loop to turn: a reader that has stopped reading is waited for once, and then nobody waits
until it reads again. What it does not take is lost.
"""

from __future__ import annotations

import logging
import sys

from gateway.exchange import whole_lines

_PATIENCE_SECONDS = 0.5


class _StandardError:
    def __init__(self) -> None:
        self._patience_seconds = _PATIENCE_SECONDS

    def write(self, lines: str) -> None:
        try:
            sys.stderr.flush()  # what was printed before comes before
            for portion in whole_lines.portions(lines.encode(errors="backslashreplace")):
                whole_lines.write(sys.stderr.fileno(), portion, most_seconds=self._patience_seconds)
        except TimeoutError:
            self._patience_seconds = 0.0
        except OSError:
            pass  # nobody reads any more
        else:
            self._patience_seconds = _PATIENCE_SECONDS


_standard_error = _StandardError()


def tell(text: str) -> None:
    """Say one thing to whoever runs this."""
    _standard_error.write(f"gateway: {text}\n")


def tell_what_is_logged(who: str) -> None:
    """Say from now on also what modules log; `who` says it: the gateway, or which of its workers."""
    handler = _Told()
    handler.setFormatter(logging.Formatter(f"{who}: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class _Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _standard_error.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 (logging's own way with what goes wrong in it)
            self.handleError(record)
