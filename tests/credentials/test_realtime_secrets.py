"""Realtime secrets: what a tenant gets opens the gateway, never the upstream."""

from __future__ import annotations

import time
from functools import partial

import orjson
import pytest

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import (
    CredentialExpired,
    CredentialMalformed,
    CredentialNotAccepted,
)
from gateway.credentials.realtime_secrets import (
    MintedSecret,
    NothingToReplace,
    replace_secret,
    seal,
    unseal,
)
from gateway.operations.table import OperationTable, Rewrite
from gateway.wire.minted_secret import find_secret
from tests.conftest import StartGateway
from tests.kit import records
from tests.kit.client import HANDSHAKE, JSON
from tests.kit.gateway import Gateway
from tests.kit.upstream import Script, ScriptedUpstream, Turn

NOW = 1_800_000_000.0
UPSTREAM_SECRET = "ek_68af296e8e408191a1120a5ba2eeb9e4"


principal = partial(
    records.principal,
    scopes=frozenset({"realtime:write", "realtime:mint", "files:read"}),
    issued_at=NOW - 60,
    expires_at=NOW + 3600,
)
"""Somebody who may mint."""


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA", "ES256", "RS256"])
def test_any_worker_with_the_ring_opens_what_one_has_sealed(algorithm: str) -> None:
    ring = KeyRing.ephemeral(algorithm)

    opened = unseal(seal(MintedSecret(UPSTREAM_SECRET, principal(), NOW + 60), ring), ring, now=NOW)

    assert opened.upstream_secret == UPSTREAM_SECRET
    assert opened.principal == principal(scopes=frozenset({"realtime:write", "realtime:mint"}))


def test_sealed_secret_shows_nothing_and_cannot_be_changed() -> None:
    ring = KeyRing.ephemeral()
    sealed = seal(MintedSecret(UPSTREAM_SECRET, principal(), NOW + 60), ring)

    assert UPSTREAM_SECRET not in sealed
    for at in range(len("ek_gw_"), len(sealed), 7):
        changed = sealed[:at] + ("A" if sealed[at] != "A" else "B") + sealed[at + 1 :]
        with pytest.raises((CredentialMalformed, CredentialNotAccepted)):
            unseal(changed, ring, now=NOW)


def test_foreign_ring_does_not_open_it() -> None:
    sealed = seal(MintedSecret(UPSTREAM_SECRET, principal(), NOW + 60), KeyRing.ephemeral())

    with pytest.raises(CredentialNotAccepted):
        unseal(sealed, KeyRing.ephemeral(), now=NOW)


@pytest.mark.parametrize("text", ["ek_gw_", "ek_gw_!", "ek_gw_AAAA", "ek_gw_" + "A" * 20_000, "ek_gw_é"])
def test_garbage_is_refused_in_the_declared_way(text: str) -> None:
    with pytest.raises((CredentialMalformed, CredentialNotAccepted)):
        unseal(text, KeyRing.ephemeral(), now=NOW)


def test_expiry_is_the_earlier_of_the_upstreams_and_the_credentials() -> None:
    ring = KeyRing.ephemeral()
    body = orjson.dumps({"value": UPSTREAM_SECRET, "expires_at": NOW + 600})

    replaced = orjson.loads(
        replace_secret(body, find_secret(body), principal(expires_at=NOW + 60), ring, now=NOW)
    )

    unseal(replaced["value"], ring, now=NOW + 59)
    with pytest.raises(CredentialExpired):
        unseal(replaced["value"], ring, now=NOW + 60)


def test_every_other_byte_of_the_answer_is_kept() -> None:
    ring = KeyRing.ephemeral()
    body = (
        b'{ "client_secret" : {"value":"%b", "expires_at":1800000060 } ,"z":1.50 }' % UPSTREAM_SECRET.encode()
    )

    replaced = replace_secret(body, find_secret(body), principal(), ring, now=NOW)

    head, tail = body.split(UPSTREAM_SECRET.encode())
    assert replaced.startswith(head + b"ek_gw_")
    assert replaced.endswith(tail)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"value":7}',
        b'{"client_secret":"x"}',
        b'{"value":"\\u0065k_1"}',
        b"\x1f\x8b",
        b'{"value":"ek 1"}',
    ],
)
def test_answer_without_a_readable_secret_does_not_pass(body: bytes) -> None:
    with pytest.raises(NothingToReplace):
        replace_secret(body, find_secret(body), principal(), KeyRing.ephemeral(), now=NOW)


PATHS = {
    "createRealtimeClientSecret": "/v1/realtime/client_secrets",
    "createRealtimeSession": "/v1/realtime/sessions",
    "createRealtimeTranscriptionSession": "/v1/realtime/transcription_sessions",
    "createRealtimeTranslationClientSecret": "/v1/realtime/translations/client_secrets",
}


def test_every_minting_operation_has_a_path_here() -> None:
    assert set(PATHS) == {o.id for o in OperationTable.load() if o.rewrite is Rewrite.REALTIME_SECRET}


def minting_upstream(document: dict[str, object], encoding: bytes = b"") -> Script:
    """A script that answers with a secret."""
    body = orjson.dumps(document)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (encoding, len(body), body)
        )

    return script


@pytest.mark.parametrize("path", PATHS.values())
async def test_upstream_secret_never_reaches_the_tenant(
    gateway: Gateway, upstream: ScriptedUpstream, path: str
) -> None:
    until = int(time.time()) + 600
    upstream.plays(minting_upstream({"client_secret": {"value": UPSTREAM_SECRET, "expires_at": until}}))
    client = await gateway.connect()

    answer = await client.request("POST", path, b"{}", headers=JSON)

    assert answer.status == 200
    assert UPSTREAM_SECRET.encode() not in answer.body
    assert orjson.loads(answer.body)["client_secret"]["value"].startswith("ek_gw_")
    assert upstream.requests[0].get("accept-encoding") == "identity"
    await client.close()


async def test_minting_needs_its_own_scope(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    client = await gateway.connect()
    client.credential = gateway.credential(["realtime:write"])

    answer = await client.request("POST", PATHS["createRealtimeSession"], b"{}")

    assert answer.status == 403
    assert b"realtime:mint" in answer.body
    assert not upstream.requests
    await client.close()


async def test_answer_that_hides_its_secret_is_withheld(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(minting_upstream({"value": UPSTREAM_SECRET}, encoding=b"Content-Encoding: gzip\r\n"))
    client = await gateway.connect()

    answer = await client.request("POST", PATHS["createRealtimeClientSecret"], b"{}")

    assert answer.status == 502
    assert UPSTREAM_SECRET.encode() not in answer.body
    await client.close()


async def test_sealed_secret_opens_nothing_but_the_websocket(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    sealed = seal(
        MintedSecret(UPSTREAM_SECRET, principal(expires_at=time.time() + 60), time.time() + 60), gateway.ring
    )
    client = await gateway.connect()
    client.credential = sealed

    answer = await client.request("GET", "/v1/models")

    assert answer.status == 401
    assert not upstream.requests
    await client.close()


async def test_sealed_secret_goes_up_as_the_upstreams_own(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    key = gateway.ring.signing_key
    assert key is not None
    minter = principal(expires_at=time.time() + 60, issuer="gateway", key_id=key.kid)
    sealed = seal(MintedSecret(UPSTREAM_SECRET, minter, time.time() + 60), gateway.ring)
    client = await gateway.connect()
    client.credential = sealed

    await client.request(
        "GET",
        "/v1/realtime?model=gpt-realtime",
        headers=HANDSHAKE,
    )

    assert upstream.requests[0].get("authorization") == f"Bearer {UPSTREAM_SECRET}"
    await client.close()


@pytest.mark.parametrize(
    "path", ["/v1/chatkit/sessions", "/v1/realtime/calls", "/v1/realtime/calls/c1/accept"]
)
async def test_sessions_that_run_past_the_gateway_are_closed_unless_opened(
    start_gateway: StartGateway, upstream: ScriptedUpstream, path: str
) -> None:
    closed, opened = await start_gateway(), await start_gateway(allow_uncontained=True)
    statuses = []
    for gateway in (closed, opened):
        client = await gateway.connect()
        statuses.append((await client.request("POST", path, b"{}")).status)
        await client.close()

    assert statuses == [403, 200]
    assert len(upstream.requests) == 1
