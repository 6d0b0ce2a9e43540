"""Finding a secret in a text that quotes it."""

from __future__ import annotations

import pytest

from gateway.wire.quoting import quotes, reach

SECRET = b"sk-A/b+c=d"


@pytest.mark.parametrize(
    "text",
    [
        b"sk-A/b+c=d",
        b'{"message":"Bearer sk-A/b+c=d."}',
        b"sk-A\\/b+c=d",
        b"sk-A\\\\/b+c=d",
        b"\\u0073k-A/b\\u002bc\\u003Dd",
        b"\\\\u0073k-A/b\\\\u002bc=d",
        b"\\x73k-A/b+c=d",
        b"sk-A%2Fb%2bc%3Dd",
        b"sk-A%252Fb%252Bc%253Dd",
        b"&#115;k-A/b+c=d",
        b"&#x73;k-A&#x2F;b+c=d",
        b"&#00115;k-A/b+c=d",
        "sk-A/b+c=d".encode("utf-16"),
        "\\u0073k-A/b+c=d".encode("utf-16-le"),
    ],
)
def test_every_spelling_is_found(text: bytes) -> None:
    assert quotes(text, (b"another-secret", SECRET))
    assert quotes(b"x\\n%20\\\\" + text + b"&#65;\\u0041", (SECRET,))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"sk-A/b+c",
        b"SK-A/B+C=D",
        b"sk-A\\u20acb+c=d",
        b"%zz&#x;\\u00",
        b"c2stQS9iK2M9ZA==",
        b"sk-A/b c=d",
    ],
)
def test_what_is_not_the_secret_is_not_found(text: bytes) -> None:
    assert not quotes(text, (SECRET,))
    assert not quotes(text, ())


def test_a_search_in_pieces_that_looks_back_so_far_misses_nothing() -> None:
    longest = b"".join(b"\\\\\\\\u00%02x" % character for character in SECRET)

    assert quotes(longest, (SECRET,))
    assert len(longest) <= reach((SECRET,))
    assert reach(()) == 0
