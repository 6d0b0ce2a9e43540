"""What an upstream's error says, read before any of it goes down: no client may see the gateway's own key: rewrite (e).

An error that is about the key becomes one of the gateway's, and so does one that quotes it. What cannot be read keeps
its status and its header fields, which clients act upon, and loses its body: a refusal that has nothing to do
with the key must not turn into something to be asked again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import orjson

from gateway.errors import CredentialRefused, UpstreamRefusedKey
from gateway.proxy.call import Call
from gateway.wire.answer_head import Head, is_event_stream
from gateway.wire.codings import codings, decoded
from gateway.wire.quoting import quotes, reach

# Larger refusals are not the short JSON that an API answers about a key.
_REFUSAL_BYTES = 64 * 1024
_ENCODED_BYTES = 2**20
"""Of an error in a content coding, before and after; longer ones are not read."""

_AT_A_TIME_BYTES = 32 * 1024
_ABOUT_A_KEY = re.compile(rb"api[ _-]?key|secret|\bsk-", re.IGNORECASE)


class Unread:
    """An error's body is withheld; `body` takes its place."""

    def __init__(self, status: int) -> None:
        error = {
            "message": f"The upstream answered {status}, with a body that this gateway cannot read and so withholds.",
            "type": "upstream_error",
            "param": None,
            "code": "upstream_unread",
        }
        self.body = orjson.dumps({"error": error})


class KeySearch:
    """Stands between an error that is too long to be waited for and the client; what quotes the key does not pass."""

    def __init__(self, status: int, secrets: Sequence[bytes]) -> None:
        self._status = status
        self._secrets = secrets
        self._reach = reach(secrets)
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what may pass. Raises UpstreamRefusedKey."""
        text = self._held + piece
        if quotes(text, self._secrets):
            raise _refused(self._status)
        passes = max(0, len(text) - self._reach)
        self._held = text[passes:]
        return text[:passes]

    def usual(self) -> None:
        """Each piece is searched."""

    def end(self) -> bytes:
        """The end of it."""
        return self._held


async def read_error(call: Call, head: Head) -> Unread | KeySearch | None:
    """Judge what is no success; return what has to become of its body, None where it passes as it is.

    Raises UpstreamRefusedKey, or CredentialRefused where the key was the caller's realtime secret.
    """
    if head.status == 401:
        if call.exchange.caller.upstream_secret is not None:
            raise CredentialRefused("This realtime secret is no longer accepted. Ask for a new one.")
        call.to.refused()
        raise _refused(head.status)
    reply, secrets = call.reply, call.to.secrets
    if reply.finished:
        return None
    applied = codings(value for name, value in head.fields if name.lower() == b"content-encoding")
    if not applied and is_event_stream(head):
        return KeySearch(head.status, secrets)
    body = await reply.peek(_ENCODED_BYTES if applied else _REFUSAL_BYTES)
    if body is None:
        return Unread(head.status) if applied else KeySearch(head.status, secrets)
    text: bytes | None = body
    if applied:
        text = await asyncio.to_thread(decoded, body, applied, most_bytes=_ENCODED_BYTES)
    if text is None:
        return Unread(head.status)
    about = head.status == 403 and len(text) <= _REFUSAL_BYTES and _ABOUT_A_KEY.search(text) is not None
    if about or await _quotes(text, secrets):
        call.to.refused()
        raise _refused(head.status)
    return None


async def _quotes(text: bytes, secrets: Sequence[bytes]) -> bool:
    """Search a text without keeping the loop for long."""
    step = _AT_A_TIME_BYTES
    for begin in range(0, len(text), step):
        if begin:
            await asyncio.sleep(0)
        if quotes(text[begin : begin + step + reach(secrets)], secrets):
            return True
    return False


def _refused(status: int) -> UpstreamRefusedKey:
    return UpstreamRefusedKey(
        "The upstream refused the gateway's own key. This is not your credential's fault; "
        "tell the gateway's operator.",
        detail=f"upstream answered {status}",
    )
