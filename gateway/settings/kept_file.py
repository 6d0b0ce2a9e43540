"""Files that the configuration names, taken over with it: what counts is what they held when it was read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from gateway.settings.exposure import exposures

MOST_KEYS_BYTES = 64 * 1024
MOST_CERTIFICATES_BYTES = 4 * 2**20
MOST_AUTHORITIES_BYTES = 256 * 1024
"""Of certificates that are read while the loop waits: a hundred and fifty of them."""

CONTENT = "content"
"""What the member of a KeptFile with what it held is called; it may be a secret."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that is not read again."""

    path: Path

    content: SecretStr
    """What it held, a character for each byte."""

    def __bytes__(self) -> bytes:
        return self.content.get_secret_value().encode("latin-1")


def kept(path: Path, *, most_bytes: int, guarded: bool) -> dict[str, object]:
    """A KeptFile, as it is gathered. ValueError says why a file cannot be one.

    `guarded`: what strangers could have written is none.
    """
    try:
        if guarded:
            file = path.resolve()  # the operator has said where it is, be it a link
            dangers = "; ".join(exposures(file.parent, file, secret=False))
            if dangers:
                raise ValueError(dangers)
        with path.open("rb") as stream:
            content = stream.read(most_bytes + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(content) > most_bytes:
        raise ValueError(f"is larger than {most_bytes} bytes")
    return {"path": str(path), CONTENT: SecretStr(content.decode("latin-1"))}
