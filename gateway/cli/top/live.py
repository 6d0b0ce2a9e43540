"""The live view: asks, draws, and listens to keys, until somebody leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gateway.cli.top.asking import Gateways
from gateway.cli.top.choices import Choices
from gateway.cli.top.concerns import concerns
from gateway.cli.top.readings import Reading, Readings
from gateway.cli.top.screen import Picture, drawn
from gateway.cli.top.tables import gateway_of, sound, tables_of
from gateway.cli.top.terminal import Keys


def picture_of(readings: list[Reading], chosen: int | None = None) -> Picture:
    """What there is to be seen of these gateways, or of one of them."""
    seen = readings if chosen is None else readings[chosen : chosen + 1]
    tables = tables_of(seen)
    return Picture(
        tables,
        [gateway_of(reading) for reading in readings],
        concerns(readings, tables),
        datetime.now().astimezone(),
        None if chosen is None else seen[0].now.name,
    )


class LiveView:
    """One terminal, and what is shown on it."""

    def __init__(self, gateways: Gateways, *, interval_seconds: float) -> None:
        self._gateways = gateways
        self._interval_seconds = interval_seconds
        self._readings = Readings()
        self._choices = Choices()
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live = Live(Text(" asking …"), console=self._console, screen=True, auto_refresh=False)
        self._keys = Keys(sys.stdin.fileno())
        self._read: list[Reading] = []
        self._picture: Picture | None = None
        self._left = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Show it until somebody leaves; the exit code."""
        loop = asyncio.get_running_loop()
        with self._keys, self._live:
            self._live.refresh()
            handlers: dict[signal.Signals, Callable[[], None]] = {
                signal.SIGINT: lambda: self._leave(128 + signal.SIGINT),
                signal.SIGTERM: lambda: self._leave(128 + signal.SIGTERM),
                signal.SIGHUP: lambda: self._leave(128 + signal.SIGHUP),
                signal.SIGWINCH: self._draw,
                signal.SIGTSTP: self._stop,
            }
            for number, handle in handlers.items():
                loop.add_signal_handler(number, handle)
            if self._keys.are_there:
                loop.add_reader(self._keys.descriptor, self._press)
            asking = asyncio.create_task(self._go_on_asking())
            try:
                await asyncio.wait(
                    [asking, leaving := asyncio.create_task(self._left.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                leaving.cancel()
                if asking.done():
                    asking.result()
            finally:
                asking.cancel()
                loop.remove_reader(self._keys.descriptor)
                for number in handlers:
                    loop.remove_signal_handler(number)
        return self._code

    async def _go_on_asking(self) -> None:
        while True:
            answers = [sound(answer) for answer in await self._gateways.ask()]
            self._read = self._readings.add(answers)
            if not self._choices.holds:
                self._look()
                self._draw()
            await asyncio.sleep(self._interval_seconds)

    def _look(self) -> None:
        if self._read:
            self._picture = picture_of(self._read, self._choices.gateway)

    def _draw(self) -> None:
        if self._picture is not None:
            width, height = self._console.size
            self._live.update(drawn(self._picture, self._choices, width=width, height=height), refresh=True)

    def _press(self) -> None:
        choices = self._choices
        held, gateway = choices.holds, choices.gateway
        for key in self._keys.pressed():
            choices.press(key, gateways=len(self._read))
        if not self._keys.are_there:
            asyncio.get_running_loop().remove_reader(self._keys.descriptor)
        if choices.quits:
            self._leave(0)
        if choices.gateway != gateway or (held and not choices.holds):
            self._look()
        self._draw()

    def _leave(self, code: int) -> None:
        self._code = code
        self._left.set()

    def _stop(self) -> None:
        """Ctrl-Z: the shell has the terminal until it brings this to the front again."""
        self._live.stop()
        self._keys.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._keys.take()
        self._live.start()
        self._draw()
