"""How many answers a form asks for, judged as strictly as in JSON. Pure."""

from __future__ import annotations

import re

from gateway.errors import BadRequest

COUNT_FIELD = "n"

_MOST_DIGITS = 15


def count_in(text: str) -> int:
    """The number that the field has: as many answers are computed, one at least. Raises BadRequest.

    One spelling is taken, ASCII digits: of others nobody knows what the upstream would read.
    """
    if not (text.isascii() and text.isdigit()):
        raise BadRequest(
            f"{COUNT_FIELD} must be an integer, in digits alone.", code="invalid_type", param=COUNT_FIELD
        )
    if len(text) > _MOST_DIGITS:
        raise BadRequest(f"{COUNT_FIELD} is out of range.", code="invalid_value", param=COUNT_FIELD)
    return max(1, int(text))


def check_count_field(name: str) -> None:
    """Refuse a field that is not the one that counts, and could be read as it. Raises BadRequest."""
    if name != COUNT_FIELD and re.split(r"[\[.]", name.strip().casefold())[0].strip() == COUNT_FIELD:
        raise BadRequest(
            f"The field {name[:64]!r} could be read as {COUNT_FIELD!r}. Write it so.",
            code="bad_form",
            param=name,
        )
