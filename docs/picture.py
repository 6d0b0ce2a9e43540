"""Draw docs/overview.svg: `python -m docs.picture`. Standard library only; the same bytes every time.

The card has a background of its own, so that the picture reads on light pages and on dark ones.
"""

from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).with_name("overview.svg")

LINKS = (
    ("record", "one log line,", "one metric set"),
    ("answer", "errors in the", "API's shape"),
    ("authenticate", "credential to", "tenant, subject"),
    ("authorize", "scope, model,", "what is shared"),
    ("limit", "permits taken,", "slots, settling"),
    ("meter", "usage is read", "as it goes by"),
    ("forward", "pieces pass,", "both ways"),
)
"""What a request passes, in this order: name and two lines of explanation."""

WIDTH, HEIGHT = 1200, 368
PAPER, LINE, INK, FAINT = "#fbfaf7", "#c9c5bb", "#23282f", "#5b636e"
BLUE, GREEN, AMBER = "#1f5f99", "#2c6e49", "#8a5a00"

_LINK_WIDTH, _LINK_HEIGHT, _LINK_GAP = 104, 84, 10
_GATEWAY_X, _GATEWAY_Y = 196, 22
_GATEWAY_WIDTH = len(LINKS) * (_LINK_WIDTH + _LINK_GAP) + 2 * 12 - _LINK_GAP
_GATEWAY_HEIGHT = 192
_LINK_Y = _GATEWAY_Y + 42
_ANSWER_Y = _GATEWAY_Y + 164


def svg() -> str:
    """The whole picture."""
    body = "\n".join(f"  {element}" for element in _elements())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" '
        "font-family=\"-apple-system, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n"
        "  <title>A request passes record, answer, authenticate, authorize, limit, meter and forward; "
        "the answer comes back piece by piece</title>\n"
        f"{body}\n</svg>\n"
    )


def _elements() -> Iterator[str]:
    yield "<defs>" + "".join(_arrow_head(colour) for colour in (BLUE, GREEN, AMBER)) + "</defs>"
    yield _box(1, 1, WIDTH - 2, HEIGHT - 2, fill=PAPER, stroke=LINE, radius=12)
    gateway_right = _GATEWAY_X + _GATEWAY_WIDTH
    middle_y = _LINK_Y + _LINK_HEIGHT // 2

    yield _box(_GATEWAY_X, _GATEWAY_Y, _GATEWAY_WIDTH, _GATEWAY_HEIGHT, fill="#ffffff", stroke=BLUE)
    yield _text(_GATEWAY_X + 14, _GATEWAY_Y + 25, "gateway", colour=BLUE, size=16, bold=True, anchor="start")
    yield from _party(20, "services", ("official SDKs,", "curl, browsers"))
    yield from _party(WIDTH - 20 - 110, "upstream", ("the API, or what", "speaks it"))

    for position, (name, *explained) in enumerate(LINKS):
        x = _link_x(position)
        yield _box(x, _LINK_Y, _LINK_WIDTH, _LINK_HEIGHT, fill="#eef4fa", stroke="#9dbbd6", radius=6)
        yield _text(x + _LINK_WIDTH // 2, _LINK_Y + 26, name, bold=True, size=13)
        for line, words in enumerate(explained):
            yield _text(x + _LINK_WIDTH // 2, _LINK_Y + 49 + 16 * line, words, colour=FAINT, size=10.5)
        if position:
            yield _line((x - _LINK_GAP, middle_y), (x - 1, middle_y), BLUE, head=False)

    yield _line((130, middle_y), (_link_x(0) - 2, middle_y), BLUE)
    yield _text((130 + _GATEWAY_X) // 2, middle_y - 24, "/v1", colour=BLUE, size=11)
    yield _text((130 + _GATEWAY_X) // 2, middle_y - 9, "credential", colour=BLUE, size=11)
    last = _link_x(len(LINKS) - 1) + _LINK_WIDTH
    yield _line((last, middle_y), (WIDTH - 132, middle_y), BLUE)
    yield _text((gateway_right + WIDTH - 130) // 2, middle_y - 24, "/v1", colour=BLUE, size=11)
    yield _text((gateway_right + WIDTH - 130) // 2, middle_y - 9, "own key", colour=BLUE, size=11)

    yield _line((WIDTH - 130, _ANSWER_Y), (132, _ANSWER_Y), GREEN)
    words = "the answer, piece by piece, unchanged; what is watched on the way is watched after it was sent"
    yield _text((_GATEWAY_X + gateway_right) // 2, _ANSWER_Y + 18, words, colour=GREEN, size=12)

    below = _GATEWAY_Y + _GATEWAY_HEIGHT
    yield from _beside(_link_x(0), below, "log", "one JSON line each,", "on standard output")
    yield from _beside(
        _link_x(2) - 20, below, "Prometheus", "/metrics, /livez, /readyz:", "a private listener"
    )
    yield from _beside(
        _link_x(4) - 36, below, "Redis", "optional: limits, usage,", "revocations of all gateways"
    )


def _party(x: int, name: str, lines: tuple[str, str]) -> Iterator[str]:
    """A box at the side, as high as the gateway."""
    yield _box(x, _GATEWAY_Y, 110, _GATEWAY_HEIGHT, fill="#f1efe9", stroke=LINE)
    yield _text(x + 55, _GATEWAY_Y + 25, name, bold=True, size=16)
    for line, words in enumerate(lines):
        yield _text(x + 55, _GATEWAY_Y + 50 + 16 * line, words, colour=FAINT, size=11)


def _beside(x: int, above: int, name: str, *lines: str) -> Iterator[str]:
    """A box below the gateway that it tells something."""
    width, y = 176, above + 48
    yield _line((x + width // 2, above), (x + width // 2, y - 2), AMBER)
    yield _box(x, y, width, 80, fill="#fdf6e7", stroke="#d9bf86", radius=6)
    yield _text(x + width // 2, y + 26, name, bold=True, size=14)
    for line, words in enumerate(lines):
        yield _text(x + width // 2, y + 47 + 16 * line, words, colour=FAINT, size=11)


def _link_x(position: int) -> int:
    return _GATEWAY_X + 12 + position * (_LINK_WIDTH + _LINK_GAP)


def _box(x: int, y: int, width: int, height: int, *, fill: str, stroke: str, radius: int = 8) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
    )


def _text(
    x: int,
    y: int,
    words: str,
    *,
    colour: str = INK,
    size: float = 12,
    bold: bool = False,
    anchor: str = "middle",
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x}" y="{y}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def _line(start: tuple[int, int], end: tuple[int, int], colour: str, *, head: bool = True) -> str:
    marker = f' marker-end="url(#head-{colour[1:]})"' if head else ""
    return (
        f'<line x1="{start[0]}" y1="{start[1]}" x2="{end[0]}" y2="{end[1]}" '
        f'stroke="{colour}" stroke-width="2"{marker}/>'
    )


def _arrow_head(colour: str) -> str:
    return (
        f'<marker id="head-{colour[1:]}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'
    )


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
