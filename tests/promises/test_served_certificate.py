"""The certificate that the gateway serves with: refused where it cannot be used, replaced without cutting anybody."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import openai
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from openai import AsyncOpenAI

from tests.kit.asking import running_simulator
from tests.kit.client import RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.gateway import running_gateway
from tests.kit.tls import served_pair
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to

QUESTION: list[Any] = [{"role": "user", "content": "Who is there?"}]
KEY = {"OPENAI_API_KEY": "sk-upstream-key"}


def mounted(folder: Path, pair: dict[str, Any], version: str) -> None:
    """Mount a pair as Kubernetes does: `..data` is a link that is replaced."""
    (folder / f"..{version}").mkdir(parents=True)
    for name, key in (("tls.crt", "tls_certificate"), ("tls.key", "tls_key")):
        (folder / f"..{version}" / name).write_bytes(Path(pair[key]).read_bytes())
        (folder / f"..{version}" / name).chmod(0o600)
    (folder / "..data_tmp").symlink_to(f"..{version}")
    (folder / "..data_tmp").replace(folder / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


def trusting(pair: dict[str, Any]) -> ssl.SSLContext:
    """How a client speaks that believes this certificate alone."""
    return ssl.create_default_context(cafile=pair["tls_certificate"])


async def reaches(command: RunningCommand, tls: ssl.SSLContext) -> bool:
    """Whether a newcomer believes who answers."""
    try:
        async with await RawClient.connect(command.host, command.port, "none", tls=tls) as client:
            return (await client.request("GET", "/v1/models")).status == 401
    except ssl.SSLCertVerificationError:
        return False


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_new_pair_is_for_newcomers_and_a_wrong_one_for_nobody(
    workers: int, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    old, new, third = (served_pair(tmp_path, name) for name in ("old", "new", "third"))
    folder = tmp_path / "mounted"
    mounted(folder, old, "1")
    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", str(workers)),
        *("--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys")),
        *("--set", f"tls_certificate={folder / 'tls.crt'}", "--set", f"tls_key={folder / 'tls.key'}"),
        **KEY,
    ) as command:
        stays = await RawClient.connect(command.host, command.port, "none", tls=trusting(old))

        mounted(folder, new, "2")
        await comes_to(True, lambda: reaches(command, trusting(new)))
        assert [await reaches(command, trusting(new)) for _ in range(8)] == [True] * 8
        assert not await reaches(command, trusting(old))
        assert (await stays.request("GET", "/v1/models")).status == 401

        mounted(folder, {**third, "tls_key": new["tls_key"]}, "3")
        await command.says("is not the key of the first certificate in")
        assert [await reaches(command, trusting(new)) for _ in range(4)] == [True] * 4

        mounted(folder, third, "4")
        command.signal(signal.SIGHUP)
        await comes_to(True, lambda: reaches(command, trusting(third)))
        if workers > 1:
            command.signal(signal.SIGUSR2)
            await command.says("all workers have been replaced", 20)
            assert [await reaches(command, trusting(third)) for _ in range(8)] == [True] * 8
        else:
            assert (await stays.request("GET", "/v1/models")).status == 401
        await stays.close()

        command.signal()
        assert await command.exit_code() == 0


async def test_the_sdk_is_served_by_tls_sessions_included(tmp_path: Path) -> None:
    async with (
        running_simulator() as simulator,
        running_gateway(
            upstream={"base_url": simulator.base_url, "api_key": "sk-simulator"}, **served_pair(tmp_path)
        ) as gateway,
    ):
        assert gateway.tls is not None
        sdk = AsyncOpenAI(
            api_key=gateway.credential(),
            base_url=gateway.base_url,
            http_client=openai.DefaultAsyncHttpxClient(verify=gateway.tls),
        )
        async with sdk:
            stream = await sdk.chat.completions.create(model="gpt-4o-mini", messages=QUESTION, stream=True)
            said = [chunk.choices[0].delta.content or "" async for chunk in stream]
            async with sdk.realtime.connect(
                model="gpt-realtime", websocket_connection_options=cast(Any, {"ssl": gateway.tls})
            ) as session:
                first = await session.recv()

    assert "".join(said)
    assert first.type == "session.created"


def encrypted(pair: dict[str, Any]) -> None:
    key = load_pem_private_key(Path(pair["tls_key"]).read_bytes(), None)
    Path(pair["tls_key"]).write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a passphrase"))
    )


def of_another(pair: dict[str, Any]) -> None:
    other = served_pair(Path(pair["tls_key"]).parent, "other")
    pair["tls_key"] = other["tls_key"]


def without_key(pair: dict[str, Any]) -> None:
    del pair["tls_key"]


def without_certificate(pair: dict[str, Any]) -> None:
    del pair["tls_certificate"]


def swapped(pair: dict[str, Any]) -> None:
    pair["tls_certificate"], pair["tls_key"] = pair["tls_key"], pair["tls_certificate"]


def cut_off(pair: dict[str, Any]) -> None:
    content = Path(pair["tls_key"]).read_bytes()
    Path(pair["tls_key"]).write_bytes(content[: len(content) // 2])


def not_there(pair: dict[str, Any]) -> None:
    pair["tls_key"] += ".old"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (encrypted, "is encrypted"),
        (of_another, "is not the key of the first certificate"),
        (without_key, "tls_key: is not set, and tls_certificate is"),
        (without_certificate, "tls_certificate: is not set, and tls_key is"),
        (swapped, "holds no certificate"),
        (cut_off, "holds no private key"),
        (not_there, "cannot be read: No such file"),
        (None, "expired at"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "serve"])
async def test_a_pair_that_cannot_be_used_is_refused_at_once(
    verb: str, spoil: Callable[[dict[str, Any]], None] | None, words: str, tmp_path: Path
) -> None:
    pair = served_pair(tmp_path, valid_days=1 if spoil else -1)
    if spoil is not None:
        spoil(pair)
    flags = [flag for name, value in pair.items() for flag in ("--set", f"{name}={value}")]

    async with asyncio.timeout(20):
        told = await run_command(verb, "--keys-dir", str(tmp_path / "keys"), *flags, **KEY)

    assert told.code != 0
    assert words in told.stderr
