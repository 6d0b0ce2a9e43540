"""Authorities come from what a file held, and from nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway.settings.certificates import trusted_certificates
from gateway.settings.kept_file import KeptFile
from gateway.settings.section import SettingsInvalid
from tests.kit.tls import make_certificate


def file_with(content: bytes) -> KeptFile:
    return KeptFile(Path("/nonexistent/ca.pem"), SecretStr(content.decode("latin-1")))


@pytest.fixture
def authorities(tmp_path: Path) -> list[bytes]:
    return [make_certificate(tmp_path, name)[0].read_bytes() for name in ("one", "two", "three")]


def test_every_certificate_of_a_file_counts_whatever_stands_between_them(authorities: list[bytes]) -> None:
    content = "# Főtanúsítvány\n".encode() + b"\xff# label\r\n".join(authorities) + b"the end"

    assert trusted_certificates(file_with(content)).cert_store_stats()["x509"] == 3


def test_the_same_content_is_the_same_trust(authorities: list[bytes]) -> None:
    """So that a reload which says nothing new of it lets connections stay."""
    first = trusted_certificates(file_with(authorities[0]))

    assert trusted_certificates(file_with(authorities[0])) is first
    assert trusted_certificates(file_with(authorities[1])) is not first


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"no certificate",
        lambda all_of_them: (
            all_of_them[0] + b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
        ),
        lambda all_of_them: all_of_them[0].replace(b"MII", b"M\xffI"),
        lambda all_of_them: all_of_them[0] + all_of_them[1].replace(b" CERT", b" TRUSTED CERT"),
        lambda all_of_them: all_of_them[0].replace(b"END", b"FIN"),
        lambda all_of_them: all_of_them[0] + all_of_them[1][:100],
        lambda all_of_them: all_of_them[0][:100] + b"\n" + all_of_them[1],
    ],
    ids=[
        "empty",
        "other text",
        "one that is none",
        "no base64",
        "a trusted one",
        "no end",
        "cut off",
        "cut off before another",
    ],
)
def test_a_file_with_anything_that_cannot_be_used_is_refused_whole(
    spoil: object, authorities: list[bytes]
) -> None:
    """Never in favour of the system's authorities, nor of fewer than are meant."""
    assert callable(spoil)
    with pytest.raises(SettingsInvalid, match=r"upstream\.ca_file: /nonexistent/ca\.pem: cannot be used"):
        trusted_certificates(file_with(spoil(authorities)))
