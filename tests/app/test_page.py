"""The operators' page in a real browser: what it shows, on which screens, and what names in it cannot do."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator

import pytest

from tests.app.page_shown import DRAWN, served
from tests.kit.chromium import Page, chromium_page
from tests.kit.states import HOSTILE, state
from tests.kit.waiting import until

DESK, TELEPHONE = (1280, 900), (360, 740)

CONTRASTS = """
(() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.offsetParent || element.closest("noscript")) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${walker.currentNode.data} ${ratio.toFixed(2)}`);
  }
  return poor;
})()
"""
"""Texts whose contrast is below what WCAG 2 asks for at AA."""

NAMES_IN_TREE = "[...document.querySelectorAll('#tables bdi')].map((one) => one.textContent).join('\\n')"


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with chromium_page() as opened:
        await opened.looks(width=DESK[0], height=DESK[1], dark=False)
        yield opened


class Told:
    """A gateway whose figures grow as time goes by."""

    def __init__(self, tenants: int = 3, *, names: tuple[str, ...] = ()) -> None:
        self.began = time.monotonic()
        self.tenants, self.names = tenants, names
        self.asked = 0
        self.members: dict[str, object] = {}

    def __call__(self) -> object:
        self.asked += 1
        seconds = time.monotonic() - self.began
        return state(self.tenants, names=self.names, seconds=seconds, **self.members)


async def test_it_fits_a_telephone_and_a_desk_and_can_be_read_dark_and_light_with_200_tenants(
    page: Page,
) -> None:
    told = Told(200, names=HOSTILE)
    async with served(told) as listener:
        for dark in (False, True):
            for width, height in (DESK, TELEPHONE):
                await page.looks(width=width, height=height, dark=dark)
                await page.open(f"{listener.base}/", until=DRAWN)
                assert await page.value("document.documentElement.scrollWidth") <= width
                assert await page.value(CONTRASTS) == []
                ground = await page.value("getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, ground[4:-1].split(","))) < 384) is dark
                assert len(await page.picture(whole=False)) > 20_000, "something is drawn"
        await page.value("document.querySelector('#tenants .more').click()")
        assert await page.value("document.querySelectorAll('#tenants tbody tr').length") == 200
        assert await page.value("document.documentElement.scrollWidth") <= TELEPHONE[0]
    assert page.complaints == []


async def test_it_asks_its_own_listener_and_nobody_else(page: Page) -> None:
    async with served(Told()) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        assert page.asked_for
        assert all(url.startswith(listener.base) for url in page.asked_for), page.asked_for
    assert page.complaints == []


async def test_names_are_text_whatever_is_in_them(page: Page) -> None:
    async with served(Told(20, names=HOSTILE)) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        shown = await page.value(NAMES_IN_TREE)
        for name in HOSTILE[:5]:
            assert name in shown
        assert "\ufffdgnp.exe\ufffd" in shown
        assert "line\ufffdbreak\ufffdtab\ufffdnul" in shown
        assert not set("\u202e\u202c\x00\t") & set(shown)
        assert (await page.value("document.title")).startswith("Gateway gateway-0")
        assert (
            await page.value("document.querySelectorAll('#tables :is(img, script, iframe, a)').length") == 0
        )
    assert page.complaints == []


async def test_rates_are_of_what_came_between_two_looks(page: Page) -> None:
    async with served(Told()) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        assert "–" in await page.value("document.getElementById('sums').textContent")
        await page.until("!document.getElementById('sums').textContent.includes('–')")
        # 40, 39 and 38 requests a second; fractions of one come and go.
        total = await page.value("Number(document.querySelectorAll('#sums dd')[1].firstChild.data)")
        assert 100 <= total <= 130


async def test_tables_are_sorted_by_their_heads_and_say_so(page: Page) -> None:
    async with served(Told(30)) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        first = "document.querySelector('#tenants tbody th').textContent"
        head = "document.querySelectorAll('#tenants thead th')[0]"
        assert await page.value(first) == "tenant-000"
        assert await page.value(f"{head}.getAttribute('aria-sort')") is None
        for way, expected in (("ascending", "tenant-000"), ("descending", "tenant-029")):
            await page.value(f"{head}.querySelector('button').click()")
            assert await page.value(f"{head}.getAttribute('aria-sort')") == way
            assert await page.value(first) == expected
        await page.value(f"{head}.querySelector('button').click()")
        assert await page.value(first) == "tenant-000"


async def test_the_filter_leaves_what_has_all_its_words(page: Page) -> None:
    async with served(Told(200)) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        await page.value("document.getElementById('filter').focus()")
        await page.do("Input.insertText", text="Tenant-19")
        assert await page.value("document.querySelectorAll('#tenants tbody tr').length") == 10
        assert "10 of 200" in await page.value("document.querySelector('#tenants h2').textContent")
        assert (
            await page.value("document.querySelector('#errors .note').textContent") == "None fits the filter."
        )


async def test_it_can_be_used_by_keys_alone_and_read_aloud(page: Page) -> None:
    async with served(Told()) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        reached = []
        for _ in range(14):
            for kind in ("keyDown", "keyUp"):
                await page.do(
                    "Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9
                )
            reached.append(
                await page.value("document.activeElement.textContent || document.activeElement.id")
            )
        assert reached[:3] == ["Skip to the figures", "filter", "Pause"]
        assert {"Tenant", "In flight", "Limits in use"} <= set(reached)
        tree = (await page.do("Accessibility.getFullAXTree"))["nodes"]
        roles = {
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree
            if not node["ignored"]
        }
        for table in ("Tenants 3", "Upstreams 2", "Workers 4", "Redis"):
            assert ("table", table) in {(role, name.strip()) for role, name in roles}
        for role, name in (
            ("searchbox", "Filter"),
            ("rowheader", "tenant-000"),
            ("columnheader", "In flight"),
        ):
            assert (role, name) in roles


async def test_on_a_telephone_it_is_still_tables_to_who_hears_it(page: Page) -> None:
    async with served(Told()) as listener:
        await page.looks(width=TELEPHONE[0], height=TELEPHONE[1], dark=False)
        await page.open(f"{listener.base}/", until=DRAWN)
        tree = (await page.do("Accessibility.getFullAXTree"))["nodes"]
        roles = [node["role"]["value"] for node in tree if not node["ignored"]]
        assert {"table", "row", "rowheader", "columnheader", "cell"} <= set(roles)


async def test_it_says_when_the_gateway_cannot_be_reached_and_goes_on_when_it_can(page: Page) -> None:
    told = Told()
    async with served(told) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        port = listener.port
    await page.until("!document.getElementById('trouble').hidden")
    assert (
        await page.value("document.getElementById('trouble').textContent") == "The gateway cannot be reached."
    )
    assert "old" in await page.value("document.getElementById('age').textContent")
    assert await page.value(f"Boolean({DRAWN})"), "what was known is still to be read"
    async with served(told, port=port):
        await page.until("document.getElementById('trouble').hidden")


async def test_it_says_what_is_wrong_with_the_gateway(page: Page) -> None:
    told = Told()
    told.members = {
        "ready": False,
        "reasons": [{"code": "stopping", "message": "The gateway is stopping."}],
        "redis": [{"server": "redis-0:6379", "up": False, "round_trips": 0, "seconds": 0.0}],
        "configuration": {"valid": False, "loaded": None},
    }
    async with served(told) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        said = await page.value("document.getElementById('notices').innerText")
        assert "Not ready. The gateway is stopping." in said
        assert "Redis redis-0:6379 does not answer." in said
        assert "The configuration on disk is wrong" in said
        assert (await page.value("document.title")).startswith("(!)")


async def test_paused_it_asks_no_more(page: Page) -> None:
    told = Told()
    async with served(told) as listener:
        await page.open(f"{listener.base}/", until=DRAWN)
        await page.value("document.getElementById('pause').click()")
        assert await page.value("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
        asked = told.asked
        await page.value("new Promise((resolve) => setTimeout(resolve, 4000))")
        assert told.asked <= asked + 1
        await page.value("document.getElementById('pause').click()")
        await until(lambda: told.asked > asked + 1)


async def test_a_quiet_gateway_that_has_nothing_is_shown_too(page: Page) -> None:
    told = Told(0)
    nothing: dict[str, object] = {name: [] for name in ("oldest", "slowest", "upstreams", "errors", "redis")}
    told.members = {**nothing, "credentials": None}
    async with served(told) as listener:
        await page.open(f"{listener.base}/", until="document.querySelector('#workers tbody tr')")
        notes = await page.value("[...document.querySelectorAll('.note')].map((one) => one.textContent)")
        assert "There have been none." in notes
        assert "There is no register, which is in Redis, or it cannot be read." in notes
    assert page.complaints == []


async def test_with_the_key_it_is_shown_elsewhere_and_when_that_counts_no_more_it_says_so_and_stops(
    page: Page,
) -> None:
    told, keys = Told(), ["the-operators-key-0123456789"]

    async def shows(key: str) -> None:
        shown = base64.b64encode(f"ops:{key}".encode()).decode()
        headers = {"X-Forwarded-For": "192.0.2.1", "Authorization": f"Basic {shown}"}
        await page.do("Network.setExtraHTTPHeaders", headers=headers)

    async with served(told, key=lambda: keys[0]) as listener:
        await shows(keys[0])
        await page.open(f"{listener.base}/", until=DRAWN)
        keys[0] = keys[0][::-1]
        await page.until("!document.getElementById('trouble').hidden")
        assert "operator's key. Reload" in await page.value("document.getElementById('trouble').textContent")
        asked = len(page.asked_for)
        await page.value("new Promise((resolve) => setTimeout(resolve, 4000))")
        assert len(page.asked_for) == asked
