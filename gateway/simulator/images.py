"""Images: a real PNG, tiny, of one colour that depends on the prompt."""

from __future__ import annotations

import struct
from base64 import b64encode
from hashlib import shake_128
from typing import Final
from zlib import compress, crc32

from gateway.simulator.call import Call, Handler, JsonObject, Reply, as_json
from gateway.simulator.store import new_id, now
from gateway.simulator.wording import size

_SIDE: Final = 8
_MAX_IMAGES: Final = 10


def png(prompt: str) -> bytes:
    """An 8 by 8 picture, whatever size was asked for."""
    row = b"\x00" + shake_128(prompt.encode()).digest(3) * _SIDE
    head = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", compress(row * _SIDE)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))
        for name, data in chunks
    )


async def create_image(call: Call) -> Reply:
    return as_json(_images(await call.body("prompt")))


async def vary_image(call: Call) -> Reply:
    return as_json(_images(await call.body("image")))


def _images(body: JsonObject) -> JsonObject:
    """The whole answer. The newer models know no links and count what they use."""
    prompt = body.get("prompt") or "a variation"
    newer = str(body.get("model")).startswith("gpt-image")
    image = {"revised_prompt": f"Simulated image for: {prompt}"}
    if newer or body.get("response_format") == "b64_json":
        image["b64_json"] = b64encode(png(prompt)).decode()
    else:
        image["url"] = f"https://simulator.invalid/{new_id('img-')}.png"
    count, read = min(int(body.get("n") or 1), _MAX_IMAGES), size(prompt)
    answer = {"created": now(), "data": [image] * count}
    usage = {
        "input_tokens": read,
        "output_tokens": 256 * count,
        "total_tokens": read + 256 * count,
        "input_tokens_details": {"text_tokens": read, "image_tokens": 0},
    }
    return answer | {"usage": usage} if newer else answer


HANDLERS: Final[dict[str, Handler]] = {
    "createImage": create_image,
    "createImageEdit": create_image,
    "createImageVariation": vary_image,
}
