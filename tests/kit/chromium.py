"""A Chromium without a window, driven by its DevTools protocol: pages as people see them."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit.waiting import comes_to

_START_SECONDS = 30.0


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.complaints: list[str] = []
        """What it has said went wrong: uncaught errors, what a policy has kept from being loaded or run."""

        self.asked_for: list[str] = []
        """The addresses that it wanted anything from."""

        self._hearing = asyncio.create_task(self._hear())

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        return await asyncio.wait_for(answer, 20)

    async def looks(self, *, width: int, height: int, dark: bool) -> None:
        """Be so large, narrow like a telephone, and dark or light as its owner likes."""
        await self.do(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.do("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url: str, *, until: str = "document.readyState === 'complete'") -> None:
        """Go there, and wait until this is so."""
        await self.do("Page.navigate", url=url)
        await self.until(until)

    async def until(self, expression: str, *, within_seconds: float = 15.0) -> None:
        """Wait until it is true in the page."""

        async def is_so() -> bool:
            return bool(await self.value(f"Boolean({expression})"))

        await comes_to(True, is_so, within_seconds)

    async def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        done = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    async def picture(self, *, whole: bool = True) -> bytes:
        """How it looks, as PNG."""
        done = await self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(done["data"])

    async def close(self) -> None:
        await self._socket.close()
        await asyncio.wait({self._hearing})

    async def _hear(self) -> None:
        async for message in self._socket:
            said = message.json()
            asked = self._asked.pop(said.get("id", 0), None)
            if asked is not None and not asked.done():
                if "error" in said:
                    asked.set_exception(AssertionError(said["error"]["message"]))
                else:
                    asked.set_result(said["result"])
            elif said.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(said["params"]["exceptionDetails"]))
            elif said.get("method") == "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])
            elif said.get("method") == "Network.requestWillBeSent":
                self.asked_for.append(said["params"]["request"]["url"])


@asynccontextmanager
async def chromium_page() -> AsyncIterator[Page]:
    """A fresh browser with one empty page, which has never been anywhere."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program is not None, "needs chromium on PATH: apt-get install chromium"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = await asyncio.create_subprocess_exec(
            program,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--mute-audio", "--hide-scrollbars", "--lang=en-US", "--no-proxy-server"),
            *(f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(folder) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = await answer.json()
                address = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
                socket = await session.ws_connect(address, max_msg_size=0)
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.do(f"{domain}.enable")
                try:
                    yield page
                finally:
                    await page.close()
        finally:
            browser.kill()
            await browser.wait()


async def _port(file: Path) -> int:
    """Where it listens, which it writes down when it does."""

    async def is_there() -> bool:
        return file.exists() and file.read_text().count("\n") > 0

    await comes_to(True, is_there, _START_SECONDS)
    return int(file.read_text().splitlines()[0])
