"""Embeddings, moderations and images."""

from __future__ import annotations

import struct
import zlib
from base64 import b64decode

import aiohttp
import pytest
from openai import (
    AsyncOpenAI,
    BadRequestError,
)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # image variations
class TestVectorsAndImages:
    async def test_an_embedding_depends_on_the_text_alone(self, lenient_sdk: AsyncOpenAI) -> None:
        sdk = lenient_sdk  # asks for base64 and decodes it only after validation
        made = await sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two", "one"])
        one, two, again = (item.embedding for item in made.data)
        assert one == again != two
        assert len(one) == 1536
        assert sum(x * x for x in one) == pytest.approx(1.0, abs=1e-3)
        assert made.usage.prompt_tokens == made.usage.total_tokens > 0

    async def test_floats_and_base64_are_the_same_vector(self, http: aiohttp.ClientSession) -> None:
        vectors = []
        for form in ("float", "base64"):
            body = {"model": "m", "input": "x", "encoding_format": form, "dimensions": 12}
            async with http.post("/v1/embeddings", json=body) as answer:
                vectors.append((await answer.json())["data"][0]["embedding"])
        assert struct.unpack("<12f", b64decode(vectors[1])) == pytest.approx(vectors[0])

    async def test_an_absurd_number_of_dimensions_is_refused(self, sdk: AsyncOpenAI) -> None:
        with pytest.raises(BadRequestError) as refused:
            await sdk.embeddings.create(model="m", input="x", dimensions=10**9)
        assert refused.value.param == "dimensions"

    async def test_lists_of_numbers_are_embedded_too(self, lenient_sdk: AsyncOpenAI) -> None:
        sdk = lenient_sdk
        assert len((await sdk.embeddings.create(model="m", input=[1, 2, 3])).data) == 1
        assert len((await sdk.embeddings.create(model="m", input=[[1, 2], [3]])).data) == 2

    async def test_nothing_is_flagged(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.moderations.create(input=["one", "two"])
        assert [result.flagged for result in made.results] == [False, False]

    async def test_an_image_is_a_png(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.images.generate(prompt="a cat", model="gpt-image-1", n=2)
        assert made.data is not None
        assert made.usage is not None
        assert len(made.data) == 2
        picture = b64decode(made.data[0].b64_json or "")
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        at = picture.index(b"IDAT")
        (length,) = struct.unpack(">I", picture[at - 4 : at])
        assert len(zlib.decompress(picture[at + 4 : at + 4 + length])) == 8 * (1 + 3 * 8)
        (checksum,) = struct.unpack(">I", picture[at + 4 + length :][:4])
        assert checksum == zlib.crc32(picture[at : at + 4 + length])

    async def test_the_older_models_give_links_and_take_pictures(self, sdk: AsyncOpenAI) -> None:
        drawn = await sdk.images.generate(prompt="a cat", model="dall-e-3")
        edited = await sdk.images.edit(prompt="a dog", image=("a.png", b"png"), model="dall-e-2")
        varied = await sdk.images.create_variation(image=("a.png", b"png"), response_format="b64_json")
        assert drawn.data and edited.data and varied.data
        assert (drawn.data[0].url or "").startswith("https://simulator.invalid/")
        assert edited.data[0].revised_prompt == "Simulated image for: a dog"
        assert varied.data[0].b64_json
