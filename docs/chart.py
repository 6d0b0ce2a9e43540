"""Draw docs/performance.svg: CPU and memory of the gateway beside its peers, as multiples of the baseline's.

Standard library only; the same bytes every time. A row to a work, one mark to a peer on a logarithmic scale, the
gateway's with its value and its spread. Marks differ in shape as well as in colour. Colours follow whether the
reader's screen is light or dark, on a card of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from docs.measured import DIRECT, GATEWAY, UNLIMITED, Measured, Spread
from docs.performance import ABSOLUTES, COSTS, number

FILE = Path(__file__).with_name("performance.svg")
ROWS = (*COSTS, next(row for row in ABSOLUTES if row.figure == "stream_kib"))

WIDTH = 1200
_LEFT, _RIGHT, _TOP, _ROW, _BOTTOM = 372, 40, 104, 44, 44
_NAMES_X = 24
_LEAST, _MOST = 0.1, 10.0
"""Of the scale, where nobody is beyond."""

COLOURS = {
    "gateway": ("#c2410c", "#fb923c"),
    "envoy": ("#6d28d9", "#a78bfa"),
    "envoy-cached": ("#a855f7", "#d8b4fe"),
    "nginx": ("#15803d", "#4ade80"),
    "haproxy": ("#1d4ed8", "#60a5fa"),
    "litellm": ("#b91c1c", "#f87171"),
    "portkey": ("#0f766e", "#2dd4bf"),
    "floor": ("#6b7280", "#9ca3af"),
}
"""On a light card and on a dark one."""

SHAPES = {
    "gateway": "M-8 0 A8 8 0 1 0 8 0 A8 8 0 1 0 -8 0 z",
    "envoy": "M-1.5 -11 H1.5 V11 H-1.5 z",
    "envoy-cached": "M-5 0 L0 -8 L5 0 L0 8 z",
    "nginx": "M-6 -6 H6 V6 H-6 z",
    "haproxy": "M0 -8 L8 0 L0 8 L-8 0 z",
    "litellm": "M0 -7 L7 6 L-7 6 z",
    "portkey": "M0 7 L7 -6 L-7 -6 z",
    "floor": "M-7 -2 H-2 V-7 H2 V-2 H7 V2 H2 V7 H-2 V2 H-7 z",
}


def svg(measured: Measured) -> str:
    """The whole chart."""
    height = _TOP + len(ROWS) * _ROW + _BOTTOM
    body = "\n".join(f"  {element}" for element in _elements(measured, height))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" '
        "font-family=\"-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n"
        f"  <title>{escape(_title(measured))}</title>\n"
        f"  <desc>{escape(in_words(measured))}</desc>\n"
        f"{body}\n</svg>\n"
    )


def shown(measured: Measured, path: str) -> Iterator[str]:
    """The chart in a document, with what it shows of the gateway in words for who does not see it."""
    own = [
        f"{row.label.partition(', KiB')[0]}: {number(found[GATEWAY].median)}"
        for row in ROWS
        if GATEWAY in (found := _spreads(measured, row.work, row.figure))
    ]
    said = "; ".join(own) or "nothing has been measured yet"
    yield f"![{_title(measured)}. This gateway: {said}]({path})"


def in_words(measured: Measured) -> str:
    """What the chart shows, for who does not see it."""
    said = []
    for row in ROWS:
        spreads = _spreads(measured, row.work, row.figure)
        if spreads:
            peers = ", ".join(
                f"{measured.peers[name].label} {number(spread.median)}" for name, spread in spreads.items()
            )
            said.append(f"{row.label}: {peers}.")
    return " ".join(said) or "Nothing has been measured yet."


def _title(measured: Measured) -> str:
    return f"CPU and memory as multiples of {_label(measured, measured.baseline)}'s: less is better"


def _label(measured: Measured, name: str) -> str:
    return measured.peers[name].label if name in measured.peers else name.capitalize()


def _spreads(measured: Measured, work: str, figure: str) -> dict[str, Spread]:
    found = {
        name: Spread.of(measured.ratio(work, figure, name).values())
        for name in measured.names()
        if name not in (DIRECT, UNLIMITED)
    }
    return {name: spread for name, spread in found.items() if spread is not None}


def _elements(measured: Measured, height: int) -> Iterator[str]:
    yield f"<style>{_style()}</style>"
    yield f'<rect class="paper" x="1" y="1" width="{WIDTH - 2}" height="{height - 2}" rx="12"/>'
    yield _text(_NAMES_X, 34, _title(measured), size=18, weight=600)
    spreads = [_spreads(measured, row.work, row.figure) for row in ROWS]
    medians = [spread.median for row in spreads for spread in row.values()]
    least = 10 ** math.floor(math.log10(min([_LEAST * 1.001, *medians])))
    most = 10 ** math.ceil(math.log10(max([_MOST * 0.999, *medians])))

    def x(ratio: float) -> float:
        share = math.log10(min(max(ratio, least), most) / least) / math.log10(most / least)
        return round(_LEFT + share * (WIDTH - _LEFT - _RIGHT), 1)

    yield from _legend(measured, [name for name in measured.names() if any(name in row for row in spreads)])
    bottom = _TOP + len(ROWS) * _ROW
    for decade in range(round(math.log10(least)), round(math.log10(most)) + 1):
        for step in (1, 2, 5):
            ratio = step * 10.0**decade
            if ratio <= most:
                kind = "one" if ratio == 1 else "line" if step == 1 else "fine"
                yield f'<path class="{kind}" d="M{x(ratio)} {_TOP} V{bottom}"/>'
                yield _text(x(ratio), bottom + 22, f"{ratio:g} ×", size=11, anchor="middle", kind="faint")
    for position, (row, found) in enumerate(zip(ROWS, spreads, strict=True)):
        y = _TOP + position * _ROW + _ROW // 2
        per = f"CPU per {row.per}" if row.per else "KiB"
        yield _text(_NAMES_X, y - 2, row.label.partition(", KiB")[0], size=13, weight=600)
        yield _text(_NAMES_X, y + 14, per, size=11, kind="faint")
        yield f'<path class="line" d="M{_NAMES_X} {y + _ROW // 2} H{WIDTH - _RIGHT}"/>'
        if not found:
            yield _text(x(1) + 12, y + 4, "not measured yet", size=11, kind="faint")
        for name in sorted(found, key=lambda name: name == GATEWAY):
            yield _mark(name, x(found[name].median), y)
        if GATEWAY in found:
            own = found[GATEWAY]
            yield f'<path class="stroke-gateway" d="M{x(own.low)} {y} H{x(own.high)}"/>'
            yield _text(
                x(own.median),
                y - 11,
                f"{number(own.median)} ×",
                size=12,
                weight=600,
                anchor="middle",
                kind=GATEWAY,
            )


def _legend(measured: Measured, names: list[str]) -> Iterator[str]:
    x = float(_NAMES_X + 8)
    for name in names:
        label = _label(measured, name)
        yield _mark(name, x, 62)
        yield _text(x + 15, 66, label, size=12.5, weight=600 if name == GATEWAY else 400)
        x += 40 + 7.4 * len(label)


def _mark(name: str, x: float, y: float) -> str:
    known = name if name in SHAPES else "floor"
    return f'<path class="{known}" transform="translate({x:g} {y:g})" d="{SHAPES[known]}"/>'


def _text(
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    weight: int = 400,
    anchor: str = "start",
    kind: str = "ink",
) -> str:
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    return (
        f'<text class="{kind}" x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{bold}>'
        f"{escape(words)}</text>"
    )


def _style() -> str:
    plain = {
        "paper": ("fill:{};stroke:{}", ("#fbfaf7", "#c9c5bb"), ("#1b1f24", "#3b424b")),
        "ink": ("fill:{}", ("#23282f",), ("#e6e8eb",)),
        "faint": ("fill:{}", ("#5b636e",), ("#a2abb6",)),
        "line": ("stroke:{}", ("#dcd8ce",), ("#363d46",)),
        "fine": ("stroke:{};stroke-dasharray:2 4", ("#e4e0d6",), ("#2c323a",)),
        "one": ("stroke:{};stroke-width:1.5", ("#6d28d9",), ("#a78bfa",)),
        "stroke-gateway": ("stroke:{};stroke-width:3;stroke-linecap:round", ("#c2410c",), ("#fb923c",)),
    } | {name: ("fill:{}", (light,), (dark,)) for name, (light, dark) in COLOURS.items()}
    light = "".join(f".{name}{{{rule.format(*colours)}}}" for name, (rule, colours, _) in plain.items())
    dark = "".join(f".{name}{{{rule.format(*colours)}}}" for name, (rule, _, colours) in plain.items())
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
