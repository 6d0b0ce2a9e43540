"""Asking a provider's endpoint what a workload identity opens, once: the file is read, shown, and the answer judged."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import aiohttp
from pydantic import SecretStr
from yarl import URL

from gateway.credentials.unasked import unasked
from gateway.settings.certificates import trusted_certificates
from gateway.settings.kept_file import KeptFile
from gateway.settings.read_anew import read_anew
from gateway.settings.section import revealed
from gateway.settings.upstream import Upstream
from gateway.settings.workload_identity import WorkloadIdentity
from gateway.wire.token_exchange import (
    ExchangeRefused,
    Granted,
    SubjectUnusable,
    exchange_body,
    granted,
    subject_in,
)

MOST_SECONDS = 10.0
"""For all of it; the public API's SDK waits as long."""

_MOST_ANSWER_BYTES = 64 * 1024
_MOST_FILE_BYTES = 64 * 1024
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "Accept-Encoding": "identity",
}


class WayOut(NamedTuple):
    """How an endpoint is reached: as the upstream is."""

    http_proxy: str | None
    ca_file: KeptFile | None

    @classmethod
    def of(cls, upstream: Upstream) -> Self:
        """As settings have it."""
        return cls(revealed(upstream.http_proxy), upstream.ca_file)

    @classmethod
    def told(cls, document: Mapping[str, Any]) -> Self:
        """As another process has told it."""
        ca = document["ca_file"]
        kept = None if ca is None else KeptFile(Path(ca["path"]), SecretStr(ca["content"]))
        return cls(document["http_proxy"], kept)

    def document(self) -> Mapping[str, object]:
        """For another process of this machine."""
        ca = self.ca_file
        kept = None if ca is None else {"path": str(ca.path), "content": ca.content.get_secret_value()}
        return {"http_proxy": self.http_proxy, "ca_file": kept}


class NothingGranted(Exception):
    """There is nothing to open the upstream with. The message is for operators, and holds no secret."""

    def __init__(self, result: str, message: str) -> None:
        """`result`: a word for metrics."""
        super().__init__(message)
        self.result = result


async def ask_endpoint(identity: WorkloadIdentity, way: WayOut) -> Granted:
    """What the endpoint grants for what the file holds now. Raises NothingGranted.

    One connection, nothing kept, nothing followed: what is shown goes to this URL alone.
    """
    try:
        subject = await asyncio.to_thread(subject_of, identity.token_file)
    except SubjectUnusable as unusable:
        raise NothingGranted("no_subject", f"{identity.token_file} {unusable}") from None
    body = exchange_body(
        subject,
        identity.subject_token_type,
        provider=identity.identity_provider_id,
        account=identity.service_account_id,
    )
    try:
        async with asyncio.timeout(MOST_SECONDS):
            status, answer = await _post(identity.token_endpoint, body, way)
    except TimeoutError:
        raise _failed(identity, f"no answer within {MOST_SECONDS:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # Errors of a proxy may have its URL, which may have a login.
        raise _failed(identity, type(error).__name__ if way.http_proxy else unasked(error)) from None
    try:
        return granted(status, answer, subject)
    except ExchangeRefused as refused:
        raise NothingGranted("refused", f"{identity.token_endpoint} {refused}") from None


def subject_of(file: Path) -> str:
    """What a file shows of this workload now. Raises SubjectUnusable, which says what is wrong with the file."""
    try:
        return subject_in(read_anew(file, _MOST_FILE_BYTES))
    except OSError as error:
        raise SubjectUnusable(f"cannot be read: {error.strerror}") from None


def _failed(identity: WorkloadIdentity, why: str) -> NothingGranted:
    return NothingGranted("failed", f"{identity.token_endpoint} cannot be asked: {why}")


async def _post(url: str, body: bytes, way: WayOut) -> tuple[int, bytes]:
    trusted = await asyncio.to_thread(trusted_certificates, way.ca_file)
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session,
        session.post(
            URL(url, encoded=True), data=body, allow_redirects=False, ssl=trusted, proxy=way.http_proxy
        ) as answer,
    ):
        said = bytearray()
        async for piece in answer.content.iter_any():
            said += piece
            if len(said) > _MOST_ANSWER_BYTES:
                raise ValueError(f"it answers more than {_MOST_ANSWER_BYTES} bytes")
        return answer.status, bytes(said)
