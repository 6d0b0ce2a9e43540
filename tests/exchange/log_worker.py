"""A process that writes lines as a gateway's worker does: `INDEX COUNT LENGTH`, to its standard output."""

from __future__ import annotations

import asyncio
import sys

from gateway.exchange.log_forms import encode
from gateway.exchange.log_writer import LogWriter


async def write(index: int, count: int, length: int) -> None:
    """Write `count` lines of about `length` bytes, faster than they are taken, and none is dropped."""
    dropped: list[int] = []
    log = LogWriter(1, dropped=dropped.append)
    for number in range(count):
        log.write(encode({"worker": index, "number": number, "text": "x" * (length + number % 97)}))
        if number % 200 == 199:
            await asyncio.sleep(0.001)
            while log.waiting_bytes > 2**20:
                await asyncio.sleep(0.01)
    await asyncio.to_thread(log.close, 60.0)
    assert not dropped, dropped


if __name__ == "__main__":
    asyncio.run(write(*map(int, sys.argv[1:])))
