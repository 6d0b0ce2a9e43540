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


def test_a_link_that_leads_in_a_circle_is_an_error_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to("a.key")
    with pytest.raises(OSError, match=r"symbolic links.*a\.key"):
        KeyFile(tmp_path / "a.key").key()


def test_a_key_that_was_about_to_be_made_is_remembered_until_it_is_there(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "a.key")
    assert file.about_to_be_made_at() is None
    file.announce()
    assert file.about_to_be_made_at() is not None
    assert (file.key(), file.pending()) == (None, None)
    file.keep(KEY)
    assert (file.about_to_be_made_at(), file.pending()) == (None, KEY)
    file.put_in_force()
    assert (file.about_to_be_made_at(), file.pending(), file.key()) == (None, None, KEY)
