"""A model server that nobody here wrote: llama.cpp, with a random model made on the spot, behind the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import xllamacpp  # type: ignore[import-untyped]
from openai import AsyncOpenAI, AuthenticationError

from tests.kit.gateway import Gateway, running_gateway

SERVER_KEY = "sk-llama-only-the-gateway-knows"
MODEL = "llama-tiny-random"
QUESTION: Any = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say anything."}],
    "max_tokens": 24,
    "temperature": 0,
    "seed": 1,
    "extra_body": {"cache_prompt": False},
}

# What differs between two equal calls to the same server.
RANDOM_FIELDS = ("id", "created", "timings")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    write_random_model(path)
    return path


@pytest.fixture(scope="module")
def server_url(model_file: Path) -> Iterator[str]:
    """The base URL of llama.cpp's own OpenAI-compatible server, which lives as long as its object."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file)
    parameters.model_alias = {MODEL}
    parameters.api_keys = [SERVER_KEY]
    parameters.port = 0
    parameters.n_ctx = 256
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = 1
    parameters.warmup = False
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    yield f"{server.listening_address}/v1"
    del server


@pytest.fixture
async def gateway(server_url: str) -> AsyncIterator[Gateway]:
    async with running_gateway(upstream={"base_url": server_url, "api_key": SERVER_KEY}) as running:
        yield running


@pytest.fixture
async def direct(server_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(api_key=SERVER_KEY, base_url=server_url, max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
async def behind(gateway: Gateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        api_key=gateway.credential(), base_url=gateway.base_url, max_retries=0, timeout=10
    ) as client:
        yield client


async def test_chat_through_the_gateway_is_what_the_server_answers(
    direct: AsyncOpenAI, behind: AsyncOpenAI
) -> None:
    expected = await direct.chat.completions.create(**QUESTION)
    answer = await behind.chat.completions.create(**QUESTION)

    assert expected.usage is not None
    assert expected.usage.completion_tokens == QUESTION["max_tokens"]
    assert without_random_fields(answer.model_dump()) == without_random_fields(expected.model_dump())


async def test_streamed_chat_through_the_gateway_has_the_same_chunks_in_the_same_order(
    direct: AsyncOpenAI, behind: AsyncOpenAI
) -> None:
    asked = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}

    expected = [chunk.model_dump() async for chunk in await direct.chat.completions.create(**asked)]
    chunks = [chunk.model_dump() async for chunk in await behind.chat.completions.create(**asked)]

    whole = await direct.chat.completions.create(**QUESTION)
    said = "".join(choice["delta"]["content"] or "" for chunk in chunks for choice in chunk["choices"])
    assert said == whole.choices[0].message.content
    assert len(chunks) > QUESTION["max_tokens"]
    assert [*map(without_random_fields, chunks)] == [*map(without_random_fields, expected)]


async def test_the_server_knows_only_the_gateways_key_and_the_gateway_only_its_own_credentials(
    gateway: Gateway, direct: AsyncOpenAI, behind: AsyncOpenAI
) -> None:
    with pytest.raises(AuthenticationError):
        await direct.with_options(api_key=gateway.credential()).chat.completions.create(**QUESTION)
    with pytest.raises(AuthenticationError):
        await behind.with_options(api_key=SERVER_KEY).chat.completions.create(**QUESTION)


def without_random_fields(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in RANDOM_FIELDS}


def write_random_model(path: Path) -> None:
    """Write a llama of one layer with random weights, whose vocabulary is the 256 bytes.

    Only letters have an output, so that what it says is readable UTF-8.
    """
    width, heads, hidden = 32, 2, 64
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    kinds += [gguf.TokenType.BYTE] * 256
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocabulary)
    writer.add_token_scores([0.0] * len(vocabulary))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    generator = np.random.default_rng(7)

    def weights(*shape: int) -> Any:
        return generator.standard_normal(shape, dtype=np.float32) * 0.3

    outputs = weights(len(vocabulary), width)
    letters = [3 + byte for byte in b"abcdefghijklmnopqrstuvwxyz"]
    outputs[[row for row in range(len(vocabulary)) if row not in letters]] = 0
    writer.add_tensor("token_embd.weight", weights(len(vocabulary), width))
    writer.add_tensor("output.weight", outputs)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        writer.add_tensor(f"blk.0.{name}.weight", weights(width, width))
    writer.add_tensor("blk.0.ffn_gate.weight", weights(hidden, width))
    writer.add_tensor("blk.0.ffn_up.weight", weights(hidden, width))
    writer.add_tensor("blk.0.ffn_down.weight", weights(width, hidden))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
