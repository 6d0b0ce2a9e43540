"""Embeddings and moderations: what is computed from the input alone."""

from __future__ import annotations

import math
from array import array
from base64 import b64encode
from functools import lru_cache
from hashlib import shake_128
from typing import Any, Final

from gateway.simulator.call import Call, Handler, JsonObject, Reply, as_json
from gateway.simulator.errors import ApiError
from gateway.simulator.store import new_id
from gateway.simulator.wording import size

_MAX_DIMENSIONS: Final = 3072
_DIMENSIONS: Final = {"text-embedding-3-large": _MAX_DIMENSIONS}
_CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


@lru_cache(maxsize=256)
def vector(text: str, dimensions: int) -> array[float]:
    """A unit vector that depends on the text alone: equal texts are near, unequal ones are not."""
    raw = array("h", shake_128(text.encode()).digest(2 * dimensions))
    length = math.sqrt(sum(x * x for x in raw)) or 1.0
    return array("f", (x / length for x in raw))


def embeddings(body: JsonObject) -> JsonObject:
    """The whole answer; one vector per text or list of numbers in the input."""
    given = body["input"]
    many = isinstance(given, list) and given and not isinstance(given[0], int)
    inputs = given if many else [given]
    texts = [text if isinstance(text, str) else repr(text) for text in inputs]
    dimensions = int(body.get("dimensions") or _DIMENSIONS.get(body["model"], 1536))
    if not 1 <= dimensions <= _MAX_DIMENSIONS:
        raise ApiError(400, f"Expected 1 to {_MAX_DIMENSIONS} dimensions.", param="dimensions")
    as_base64 = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector(text, dimensions), as_base64)}
        for index, text in enumerate(texts)
    ]
    used = sum(map(size, texts))
    usage = {"prompt_tokens": used, "total_tokens": used}
    return {"object": "list", "data": data, "model": body["model"], "usage": usage}


def _encoded(numbers: array[float], as_base64: bool) -> str | list[float]:
    return b64encode(numbers.tobytes()).decode() if as_base64 else numbers.tolist()


def moderation(body: JsonObject) -> JsonObject:
    """The whole answer: nothing is ever flagged, because nothing is ever read."""
    given = body["input"]
    # A list of parts is one input, a list of strings is many.
    inputs = given if isinstance(given, list) and given and isinstance(given[0], str) else [given]
    result: dict[str, Any] = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    model = body.get("model") or "omni-moderation-latest"
    return {"id": new_id("modr-"), "model": model, "results": [result for _ in inputs]}


async def create_embedding(call: Call) -> Reply:
    return as_json(embeddings(await call.body("model", "input")))


async def create_moderation(call: Call) -> Reply:
    return as_json(moderation(await call.body("input")))


HANDLERS: Final[dict[str, Handler]] = {
    "createEmbedding": create_embedding,
    "createModeration": create_moderation,
}
