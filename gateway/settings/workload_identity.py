"""What an operator can set about an upstream that is opened without a secret: `[upstream.workload_identity]`.

The file holds what the platform says of this workload; the provider's endpoint exchanges that for what opens the
upstream, for an hour mostly (RFC 8693). Names, types and endpoint are those of the public API's reference
("Workload identity token exchange"), and of its Python SDK (`openai/auth/_workload.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from gateway.settings.issuer import is_loopback
from gateway.settings.section import Section

OFFICIAL_ENDPOINT = "https://auth.openai.com/oauth/token"

_Id = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]


def by_tls_or_here(url: str, http_proxy: str | None = None) -> bool:
    """Whether what goes to a URL can be read by nobody on the way; without TLS it is the proxy that is asked."""
    parts = urlsplit(url)
    return parts.scheme == "https" or all(
        is_loopback(urlsplit(asked).hostname or "") for asked in (url, http_proxy) if asked is not None
    )


def _endpoint(value: str) -> str:
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("expected a URL without spaces and control characters")
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.fragment:
        raise ValueError(f"expected an absolute https URL, such as {OFFICIAL_ENDPOINT}")
    if not by_tls_or_here(value):
        raise ValueError("is sent to by https only (http is for this machine's own addresses)")
    if "@" in parts.netloc:
        raise ValueError("expected no login in the URL: the file is all that is shown there")
    return value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("expected an absolute path: it is read again for as long as the gateway runs")
    return path


class WorkloadIdentity(Section):
    """Opens an upstream without a secret: what the platform says of this workload is exchanged for it, again and
    again."""

    token_file: Annotated[Path, AfterValidator(_absolute)]
    """Holds what the platform says of this workload: a JWT, as a projected volume of Kubernetes has it. Read anew for
    each exchange."""

    identity_provider_id: _Id
    """Which of the account's identity providers is to believe it."""

    service_account_id: _Id
    """As which service account the gateway comes then; that one's project is the gateway's."""

    subject_token_type: Literal["jwt", "id_token"] = "jwt"  # noqa: S105 (a kind of it)
    """What the file holds: a JWT as of Kubernetes or SPIFFE, or an ID token of OpenID Connect."""

    token_endpoint: Annotated[str, AfterValidator(_endpoint)] = OFFICIAL_ENDPOINT
    """Where it is exchanged. Any other than the public API's own is for an upstream that is another too, whose
    `base_url` stands in the same table."""

    @property
    def is_official(self) -> bool:
        """Whether the public API itself is asked."""
        return self.token_endpoint == OFFICIAL_ENDPOINT

    @property
    def account(self) -> str:
        """What stays the same of it, in the place of a key: whoever has both has one account."""
        return f"{self.token_endpoint} {self.identity_provider_id} {self.service_account_id}"
