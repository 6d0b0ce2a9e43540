"""What the operator is told: on standard error, in lines that arrive whole, whoever else writes there."""

from __future__ import annotations

import logging
import sys

from gateway.exchange import whole_lines

_MOST_SECONDS = 0.5
"""How long whoever tells something waits for a reader, where standard error itself does not wait."""


def tell(text: str) -> None:
    """Say one thing to whoever runs this."""
    _write(f"gateway: {text}\n")


def tell_what_is_logged(who: str) -> None:
    """Say from now on also what modules log; `who` says it: the gateway, or which of its workers."""
    handler = _Told()
    handler.setFormatter(logging.Formatter(f"{who}: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)


class _Told(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 (logging's own way with what goes wrong in it)
            self.handleError(record)


def _write(lines: str) -> None:
    """Write lines; lost where nobody reads."""
    sys.stderr.flush()  # what was printed before comes before
    try:
        for portion in whole_lines.portions(lines.encode(errors="backslashreplace")):
            whole_lines.write(sys.stderr.fileno(), portion, most_seconds=_MOST_SECONDS)
    except OSError:
        pass
