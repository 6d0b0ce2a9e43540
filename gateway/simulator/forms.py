"""Uploaded bytes: read part by part as they arrive, kept up to a limit, served whole or in ranges."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import BodyPartReader, web

KEPT_BYTES: Final = 8 * 2**20
_PIECE_BYTES: Final = 2**16
_FILLER: Final = bytes(_PIECE_BYTES)


@dataclass(slots=True)
class Content:
    """The bytes of a file: its first `KEPT_BYTES`, and how many there were."""

    filename: str
    media_type: str
    kept: bytes
    length_bytes: int

    @classmethod
    def of(cls, filename: str, media_type: str, data: bytes) -> Content:
        return cls(filename, media_type, data, len(data))

    @classmethod
    def joined(cls, filename: str, media_type: str, parts: list[Content]) -> Content:
        """One file from its parts, in order."""
        kept = bytearray()
        length_bytes = 0
        for part in parts:
            if len(kept) == length_bytes:
                kept += part.kept[: KEPT_BYTES - len(kept)]
            length_bytes += part.length_bytes
        return cls(filename, media_type, bytes(kept), length_bytes)

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` up to `stop`; those that were not kept are zero."""
        for at in range(start, stop, _PIECE_BYTES):
            length_bytes = min(_PIECE_BYTES, stop - at)
            piece = self.kept[at : at + length_bytes]
            yield piece if len(piece) == length_bytes else piece + _FILLER[: length_bytes - len(piece)]


async def read_form(request: web.Request) -> dict[str, Any]:
    """The fields of a multipart body: text as str, files as Content, `name[]` as a list under `name`.

    Memory stays bounded however large a file is. Raise ValueError if the body is not well-formed multipart.
    """
    form: dict[str, Any] = {}
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.name is None:
            raise ValueError("every part of a form must have a name")
        value = await part.text() if part.filename is None else await _receive(part, part.filename)
        if part.name.endswith("[]"):
            form.setdefault(part.name[:-2], []).append(value)
        else:
            form[part.name] = value
    return form


async def _receive(part: BodyPartReader, filename: str) -> Content:
    kept = bytearray()
    length_bytes = 0
    while chunk := await part.read_chunk(_PIECE_BYTES):
        kept += chunk[: KEPT_BYTES - len(kept)]
        length_bytes += len(chunk)
    media_type = part.headers.get("Content-Type", "application/octet-stream")
    return Content(filename, media_type, bytes(kept), length_bytes)
