"""One fetch of another issuer's key set: where it is, what opens it, and what keeps it from being had, in words."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway.credentials.unasked import unasked
from gateway.settings.certificates import trusted_certificates
from gateway.settings.issuer import IssuerSettings
from gateway.settings.kept_file import KeptFile
from gateway.settings.read_anew import read_anew
from gateway.settings.section import SettingsInvalid

MAX_DOCUMENT_BYTES = 64 * 1024

_MOST_BEARER_BYTES = 16_000
_OK, _REDIRECTS, _UNAUTHORIZED, _FORBIDDEN = 200, range(300, 400), 401, 403


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where a key set is, and how it is asked for."""

    url: str
    ca_file: KeptFile | None = None
    """Whose certificates are believed there; None: those that the system's authorities vouch for."""

    bearer_file: Path | None = None
    """Holds what is sent along to be let in. It is read for each fetch."""

    @classmethod
    def of(cls, issuer: IssuerSettings) -> KeySource:
        """That of an issuer with a jwks_url."""
        return cls(str(issuer.jwks_url), issuer.jwks_ca_file, issuer.jwks_bearer_token_file)


class FetchFailed(Exception):
    """A key set that could not be fetched. The message is for the log and for operators, and holds no secret."""


async def fetched(source: KeySource) -> bytes:
    """The document there; the caller sets the deadline. Raises FetchFailed.

    One connection, nothing kept, nothing followed, so what opens it goes to that host alone. Proxies and logins of the
    environment are not used. A compressed answer stays so, and is no key set then.
    """
    headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    if source.bearer_file is not None:
        headers["Authorization"] = f"Bearer {await asyncio.to_thread(read_bearer, source.bearer_file)}"
    try:
        trusted = await asyncio.to_thread(trusted_certificates, source.ca_file, key="jwks_ca_file")
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=None),
            ) as session,
            session.get(source.url, allow_redirects=False, ssl=trusted) as answer,
        ):
            if answer.status != _OK:
                raise FetchFailed(_said(answer.status, source))
            document = bytearray()
            async for piece in answer.content.iter_any():
                document += piece
                if len(document) > MAX_DOCUMENT_BYTES:
                    raise FetchFailed(f"answered with more than {MAX_DOCUMENT_BYTES} bytes")
            return bytes(document)
    except SettingsInvalid as invalid:
        raise FetchFailed(str(invalid)) from None
    except aiohttp.ClientConnectorCertificateError as error:
        raise FetchFailed(_doubted(error.certificate_error, source)) from None
    except (aiohttp.ClientError, OSError) as error:
        raise FetchFailed(f"cannot be asked: {unasked(error)}") from None


def read_bearer(file: Path) -> str:
    """What a file holds at present. Raises FetchFailed, which does not tell it."""
    try:
        content = read_anew(file, _MOST_BEARER_BYTES)
    except OSError as error:
        raise FetchFailed(f"{file} cannot be read: {error.strerror}") from None
    if len(content) > _MOST_BEARER_BYTES:
        raise FetchFailed(f"{file} has more than {_MOST_BEARER_BYTES} bytes")
    bearer = content.decode("latin-1").strip()
    if not bearer:
        raise FetchFailed(f"{file} is empty")
    if not all("!" <= letter <= "~" for letter in bearer):
        raise FetchFailed(f"{file} holds what no header can")
    return bearer


def _said(status: int, source: KeySource) -> str:
    """What an answer means that has no key set."""
    said = f"answered with status {status}"
    if status in _REDIRECTS:
        return f"{said}: redirects are not followed, write down where it leads"
    if status not in (_UNAUTHORIZED, _FORBIDDEN):
        return said
    if source.bearer_file is None:
        return f"{said}: it wants to know who asks; jwks_bearer_token_file names a file with what opens it"
    if status == _UNAUTHORIZED:
        return f"{said}: it does not accept what jwks_bearer_token_file {source.bearer_file} holds"
    return (
        f"{said}: whoever jwks_bearer_token_file {source.bearer_file} is of may not read the keys; a service account "
        "of Kubernetes needs the role system:service-account-issuer-discovery"
    )


def _doubted(error: Exception, source: KeySource) -> str:
    """What is wrong with a certificate."""
    why = error.verify_message if isinstance(error, ssl.SSLCertVerificationError) else str(error)
    if source.ca_file is None:
        hint = "jwks_ca_file names authorities to believe in place of the system's"
    else:
        hint = f"believed is who stands in jwks_ca_file {source.ca_file.path}"
    return f"its certificate is not accepted: {why}; {hint}"
