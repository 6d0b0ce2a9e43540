"""Which key is in a file is told by what the upstream shows of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.upstream.key_file import KeyFile, is_of

KEY = "sk-svcacct-abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize(
    ("redacted", "same"),
    [
        ("sk-svcacct-abc...wxyz", True),
        ("sk-s********************wxyz", True),
        ("sk-…wxyz", True),
        ("...wxyz", True),
        ("sk-...xyz", True),
        ("sk-...wxyy", False),
        ("sk-proj-...wxyz", False),
        (f"{KEY[:20]}...{KEY[17:]}", False),
    ],
)
def test_a_key_is_the_one_that_begins_and_ends_like_it(redacted: str, same: bool) -> None:
    assert is_of(KEY, redacted) is same
    assert not is_of(None, redacted)


@pytest.mark.parametrize("redacted", ["", "sk-...", "...xyz", "****", KEY, "sk-svcacct-...yz"])
def test_what_shows_too_little_tells_nothing(redacted: str) -> None:
    with pytest.raises(ValueError, match="too little"):
        is_of(KEY, redacted)


def test_a_file_of_something_else_is_no_key(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "a.key")
    assert file.key() is None
    file.path.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="something else"):
        file.key()
    file.path.write_bytes("ключ".encode())
    with pytest.raises(ValueError, match="something else"):
        file.key()
    file.path.write_bytes(b"\n")
    assert file.key() is None
