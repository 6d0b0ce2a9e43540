"""The recipes of docs/identity.md, as they stand there, against credentials of each platform's shape.

Keys are made here, claims are those of each platform's documentation. Key sets are fetched by TLS of an authority of
the test, that of a cluster from who asks for a bearer, as its API server does.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import openai
import orjson
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.credentials.keys import Algorithm, Key
from tests.clients.examples import Example, examples
from tests.kit.command import run_command
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.jwks import JwksServer, running_jwks_server
from tests.kit.logins import EC, RSA, Login
from tests.kit.tls import make_certificate, served_with
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.workers import running_workers

PAGE = Path(__file__).parents[2] / "docs" / "identity.md"
BEARER = "what-the-cluster-knows-the-gateway-by"
INFERENCE = "chat.completions:write"
DIRECTORY = "72f988bf-86f1-41af-91ab-2d7cd011db47"


@dataclass(frozen=True)
class Recipe:
    """What a section of the page promises."""

    login: Login
    """Its usual credential."""

    tenant: str
    may: str
    """A scope that it has."""

    may_not: str
    models: list[str] | None
    accepted: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Other claims with which it is let in, all the same."""

    refused: Mapping[str, tuple[Mapping[str, object], str]] = field(default_factory=dict)
    """Claims with which it is not, and the check that they fail."""


def of_service_account(namespace: str, name: str) -> dict[str, object]:
    return {
        "sub": f"system:serviceaccount:{namespace}:{name}",
        "kubernetes.io": {
            "namespace": namespace,
            "node": {"name": "node-1", "uid": str(uuid4())},
            "pod": {"name": f"{name}-7d4", "uid": str(uuid4())},
            "serviceaccount": {"name": name, "uid": str(uuid4())},
        },
    }


def of_workflow(context: str, *, repository: str = "acme@1234567/search@987654321") -> dict[str, object]:
    return {"sub": f"repo:{repository}:{context}"}


def of_client(client: str, roles: list[str] | None) -> dict[str, object]:
    resources = {"account": {"roles": ["view-profile"]}}
    if roles is not None:
        resources["llm-gateway"] = {"roles": roles}
    return {
        "azp": client,
        "client_id": client,
        "preferred_username": f"service-account-{client}",
        "resource_access": resources,
    }


RECIPES: dict[str, Recipe] = {
    "Kubernetes": Recipe(
        Login(
            issuer="https://kubernetes.default.svc.cluster.local",
            key=RSA,
            kid="hR5dTFcnzhHDhAOeMNnbRYX1sKXYp0kPlUXVWZGFnbM",
            header={},
            of_key={"use": "sig"},
            times=lambda now: {"iat": int(now), "nbf": int(now), "exp": int(now) + 3607},
            claims={"aud": ["llm-gateway"], "jti": str(uuid4()), **of_service_account("search", "indexer")},
            settings={},
            subject="system:serviceaccount:search:indexer",
        ),
        tenant="search",
        may=INFERENCE,
        may_not="files:write",
        models=["gpt-4o*"],
        accepted={"another of the namespace": of_service_account("search", "a.b-c")},
        refused={
            "another namespace": (of_service_account("search-2", "indexer"), "subject"),
            "another of a namespace": (of_service_account("jobs", "nightly2"), "subject"),
            "a namespace by a trick": (of_service_account("search:indexer", "x"), "subject"),
            "no name": (of_service_account("search", ""), "subject"),
            "a node": ({"sub": "system:node:search"}, "subject"),
            "for the API server": ({"aud": ["https://kubernetes.default.svc.cluster.local"]}, "audience"),
            "of another cluster": ({"iss": "https://kubernetes.default.svc"}, "issuer"),
            "of a year": ({"iat": 1_000_000_000, "exp": 4_000_000_000}, "lifetime"),
        },
    ),
    "SPIRE": Recipe(
        Login(
            issuer=None,
            key=EC,
            kid="C6vs25welZOx6WksNYfbMfiw9l96pMnD",
            header={"typ": "JWT"},
            of_key={"use": None},
            claims={"aud": ["llm-gateway"], "sub": "spiffe://example.org/ns/search/sa/indexer"},
            settings={},
            subject="spiffe://example.org/ns/search/sa/indexer",
        ),
        tenant="search",
        may=INFERENCE,
        may_not="files:write",
        models=None,
        accepted={"another of the path": {"sub": "spiffe://example.org/ns/search/sa/api"}},
        refused={
            "an issuer that nobody named": ({"iss": "https://spire-oidc.example.org"}, "issuer"),
            "another trust domain": ({"sub": "spiffe://example.com/ns/search/sa/indexer"}, "issuer"),
            "another namespace": ({"sub": "spiffe://example.org/ns/other/sa/indexer"}, "subject"),
            "deeper": ({"sub": "spiffe://example.org/ns/search/sa/x/indexer"}, "subject"),
            "encoded": ({"sub": "spiffe://example.org/ns/search/sa/x%2Fy"}, "issuer"),
            "the trust domain itself": ({"sub": "spiffe://example.org"}, "issuer"),
            "another audience": ({"aud": ["spiffe://example.org/db"]}, "audience"),
        },
    ),
    "Keycloak": Recipe(
        Login(
            issuer="https://sso.example.com/realms/acme",
            key=RSA,
            kid="FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE",
            header={"typ": "JWT"},
            of_key={"use": "sig", "x5c": ["MIIClz"], "x5t": "abc", "x5t#S256": "def"},
            claims={
                "jti": "trrtcc:6f2a",
                "aud": ["llm-gateway", "account"],
                "sub": "1d9f5c62-3f0e-4d8e-9b35-5c8c8d4a9a11",
                "typ": "Bearer",
                "acr": "1",
                "realm_access": {"roles": ["offline_access", "uma_authorization"]},
                "scope": "email profile",
                "clientHost": "10.0.0.7",
                "email_verified": False,
                **of_client("search-indexer", ["inference"]),
            },
            settings={},
            subject="search-indexer",
        ),
        tenant="search",
        may=INFERENCE,
        may_not="files:write",
        models=None,
        refused={
            "for account alone": ({"aud": "account"}, "audience"),
            "another client": (of_client("other", ["inference"]), "subject"),
            "without a role": (of_client("search-indexer", None), "claims"),
            "a person through that client": (
                {"client_id": None, "azp": "search-indexer", "preferred_username": "ann"},
                "claims",
            ),
            "another realm": ({"iss": "https://sso.example.com/realms/other"}, "issuer"),
        },
    ),
    "Entra ID": Recipe(
        Login(
            issuer=f"https://login.microsoftonline.com/{DIRECTORY}/v2.0",
            key=RSA,
            kid="nOo3ZDrODXEK1jKWhXslHR_KXEg",
            header={"typ": "JWT"},
            of_key={"alg": None, "use": "sig", "x5t": "nOo3", "x5c": ["MIIC"], "issuer": "https://login…"},
            times=lambda now: {"iat": int(now) - 300, "nbf": int(now) - 300, "exp": int(now) + 86400},
            claims={
                "aud": "11112222-bbbb-3333-cccc-4444dddd5555",
                "aio": "E2ZgYLjNv2",
                "azp": "00001111-aaaa-2222-bbbb-3333cccc4444",
                "azpacr": "2",
                "idtyp": "app",
                "oid": "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb",
                "rh": "0.AV",
                "roles": ["inference"],
                "sub": "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb",
                "tid": DIRECTORY,
                "uti": "RQwxT1VnH0",
                "ver": "2.0",
            },
            settings={},
            subject="aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb",
        ),
        tenant="search",
        may=INFERENCE,
        may_not="files:write",
        models=None,
        refused={
            "another application": ({"oid": "aaaaaaaa-0000-1111-2222-cccccccccccc"}, "subject"),
            "in capitals": ({"oid": "AAAAAAAA-0000-1111-2222-BBBBBBBBBBBB"}, "subject"),
            "another directory": ({"iss": "https://login.microsoftonline.com/common/v2.0"}, "issuer"),
            "version 1": ({"iss": f"https://sts.windows.net/{DIRECTORY}/", "ver": "1.0"}, "issuer"),
            "another API": ({"aud": "https://graph.microsoft.com"}, "audience"),
            "without a role": ({"roles": None}, "claims"),
        },
    ),
    "GitHub Actions": Recipe(
        Login(
            issuer="https://token.actions.githubusercontent.com",
            key=RSA,
            kid="cc413527-173f-5a05-976e-9c52b1d7b431",
            header={"typ": "JWT", "x5t": "ykNaY4qM_ta4k2TgZOCEYLkcYlA"},
            of_key={"use": "sig", "x5c": ["MIIDrDCC"], "x5t": "ykNaY4qM_ta4k2TgZOCEYLkcYlA"},
            times=lambda now: {"iat": int(now), "nbf": int(now) - 600, "exp": int(now) + 300},
            claims={
                "jti": str(uuid4()),
                "aud": "llm-gateway",
                "ref": "refs/heads/main",
                "sha": "e4a1b2",
                "repository": "acme/search",
                "repository_id": "987654321",
                "repository_owner": "acme",
                "repository_owner_id": "1234567",
                "repository_visibility": "private",
                "run_id": "1",
                "actor": "ann",
                "event_name": "push",
                "ref_type": "branch",
                "runner_environment": "github-hosted",
                "job_workflow_ref": "acme/search/.github/workflows/evaluate.yml@refs/heads/main",
                **of_workflow("ref:refs/heads/main"),
            },
            settings={},
            subject="repo:acme@1234567/search@987654321:ref:refs/heads/main",
        ),
        tenant="ci",
        may=INFERENCE,
        may_not="files:write",
        models=["gpt-4o-mini"],
        refused={
            "a pull request": (of_workflow("pull_request"), "subject"),
            "another branch": (of_workflow("ref:refs/heads/feature/main"), "subject"),
            "a tag": (of_workflow("ref:refs/tags/main"), "subject"),
            "by names alone": (of_workflow("ref:refs/heads/main", repository="acme/search"), "subject"),
            "the name in other hands": (
                of_workflow("ref:refs/heads/main", repository="acme@666/search@987654321"),
                "subject",
            ),
            "made anew under its name": (
                of_workflow("ref:refs/heads/main", repository="acme@1234567/search@1"),
                "subject",
            ),
            "a fork": (of_workflow("ref:refs/heads/main", repository="eve@2/search@3"), "subject"),
            "the default audience": ({"aud": "https://github.com/acme"}, "audience"),
        },
    ),
}


def configuration(title: str) -> str:
    """The TOML block of a section."""
    _, _, section = PAGE.read_text("utf-8").partition(f"\n## {title}\n")
    [block] = re.findall(r"^```toml\n(.*?)^```", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    return str(block)


@dataclass
class Site:
    """A gateway with a recipe's configuration, and the issuer that it names."""

    gateway: Gateway
    issuer: JwksServer
    file: Path
    """Where a workload's credential lies."""

    async def me(self, credential: str) -> tuple[int, dict[str, Any]]:
        client = await self.gateway.connect()
        client.credential = credential
        answer = await client.request("GET", "/gateway/me")
        return answer.status, orjson.loads(answer.body)


@asynccontextmanager
async def running(
    title: str,
    directory: Path,
    upstream: ScriptedUpstream,
    *,
    document: bytes | None = None,
    **more: object,
) -> AsyncIterator[Site]:
    """Only where keys are, and the upstream, is another than in the document."""
    text, recipe = configuration(title), RECIPES[title]
    [name] = tomllib.loads(text)["issuers"]
    certificate, bearer = make_certificate(directory, "authority"), directory / "bearer"
    bearer.write_text(BEARER)
    bearer.chmod(0o600)
    async with running_jwks_server(served_with(certificate)) as issuer:
        issuer.document = recipe.login.published() if document is None else document
        here: dict[str, Any] = {"jwks_url": issuer.url, "jwks_ca_file": str(certificate[0]), **more}
        if "jwks_bearer_token_file" in text:
            issuer.bearer, here["jwks_bearer_token_file"] = BEARER, str(bearer)
        file = directory / "gateway.toml"
        file.write_text(text.replace("env:OPENAI_API_KEY", "sk-upstream-key"))
        async with running_gateway(
            file=file, upstream={"base_url": upstream.base_url}, issuers={name: here}
        ) as gateway:
            yield Site(gateway, issuer, directory / "credential")


@pytest.mark.parametrize("title", RECIPES)
async def test_configuration_of_a_recipe_is_whole_and_valid(title: str, tmp_path: Path) -> None:
    text = configuration(title)
    for path in re.findall(r'"(/var/run/[^"]+)"', text):
        here = tmp_path / Path(path).name
        here.write_bytes(
            make_certificate(tmp_path, "authority")[0].read_bytes() if "ca" in path else b"secret"
        )
        here.chmod(0o600)
        text = text.replace(path, str(here))
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    done = await run_command(
        *("check", "--config", str(file), "--keys-dir", str(tmp_path / "keys")), OPENAI_API_KEY="sk-x"
    )
    assert (done.code, done.stderr) == (0, ""), done.stderr
    assert "The configuration is valid" in done.stdout


def test_every_configuration_of_the_page_is_some_recipes() -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks == [configuration(title) for title in RECIPES]


@pytest.mark.parametrize("title", RECIPES)
async def test_credential_of_a_platform_gets_what_its_recipe_says_and_no_more(
    title: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    recipe = RECIPES[title]
    async with running(title, tmp_path, upstream) as site:
        status, said = await site.me(recipe.login.credential())

        assert status == 200, (said, site.gateway.lines.raw)
        assert (said["tenant"], said["subject"]) == (recipe.tenant, recipe.login.subject)
        assert recipe.may in said["scopes"] and recipe.may_not not in said["scopes"]
        assert said["models"]["credential"] == recipe.models
        for changes in recipe.accepted.values():
            status, said = await site.me(recipe.login.credential(**changes))
            assert (status, said["tenant"]) == (200, recipe.tenant)
        for why, (changes, check) in recipe.refused.items():
            refusals = f'gateway_credential_refusals_total{{reason="{check}"}}'
            before = site.gateway.metric(refusals)
            status, said = await site.me(recipe.login.credential(**changes))
            assert (status, said["error"]["code"]) == (401, "invalid_api_key"), why
            assert site.gateway.metric(refusals) == before + 1, (why, site.gateway.lines.raw[-1])
        forged = replace(recipe.login, key=Key.generate(recipe.login.key.algorithm, recipe.login.kid))
        status, said = await site.me(forged.credential())
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")


async def test_who_was_refused_for_its_subject_is_named_in_the_log_and_not_in_the_answer(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    login = RECIPES["Kubernetes"].login
    async with running("Kubernetes", tmp_path, upstream) as site:
        _, said = await site.me(login.credential(**of_service_account("other", "x")))
        [line] = await site.gateway.lines.wait(1)
        assert "system:serviceaccount:other:x" in line["detail"]
        assert "subject" not in said["error"]["message"] and "system:" not in said["error"]["message"]


@pytest.mark.parametrize("title", RECIPES)
async def test_an_sdk_with_a_function_for_its_key_sends_what_the_file_holds_at_each_request(
    title: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    login = RECIPES[title].login
    upstream.plays(answers_hello)
    async with running(title, tmp_path, upstream) as site:
        site.file.write_text(login.credential(jti="first") + "\n")
        answers: list[str] = []

        def ask_twice() -> None:
            with OpenAI(
                base_url=site.gateway.base_url, api_key=lambda: site.file.read_text().strip(), max_retries=0
            ) as client:
                for renewed in ("second", "third"):
                    answers.append(said(client.chat.completions.create(**QUESTION)))
                    site.file.write_text(login.credential(jti=renewed) + "\n")

        await asyncio.to_thread(ask_twice)

        async def read() -> str:
            return (await asyncio.to_thread(site.file.read_text)).strip()

        async with AsyncOpenAI(base_url=site.gateway.base_url, api_key=read, max_retries=0) as client:
            answers.append(said(await client.chat.completions.create(**QUESTION)))
            site.file.write_text(login.credential(aud="somebody else"))
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.chat.completions.create(**QUESTION)
        assert refused.value.code == "invalid_api_key"

        assert answers == ["Hello."] * 3
        lines = await site.gateway.lines.wait(4)
        assert [line.get("credential") for line in lines] == ["first", "second", "third", None]
        assert {line.get("subject") for line in lines[:3]} == {login.subject}
        assert all(line["tenant"] == RECIPES[title].tenant for line in lines[:3])


QUESTION: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]}
ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-mini",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)


RESPONSE = orjson.dumps(
    {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-4o-mini",
        "status": "completed",
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Hello.", "annotations": []}],
            }
        ],
    }
)


async def answers_hello(turn: Turn) -> None:
    await turn.read_body()
    body = RESPONSE if turn.seen.target == "/v1/responses" else ANSWER
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    await turn.send(head.encode() + body)


def said(completion: Any) -> str:
    return str(completion.choices[0].message.content)


# What is particular to one of them.


def of_provider(**of_key: object) -> bytes:
    """The keys of SPIRE as the OIDC discovery provider shows them."""
    return replace(RECIPES["SPIRE"].login, of_key=of_key).published()


def of_bundle() -> bytes:
    """The same as a trust bundle has them: no `alg`, marked, among X.509 authorities without a name."""
    login = RECIPES["SPIRE"].login
    jwk = {**(login.key.public_jwk() or {}), "kid": login.kid, "use": "jwt-svid"}
    del jwk["alg"]
    authority = {
        **(Key.generate(Algorithm.ES256, "x").public_jwk() or {}),
        "use": "x509-svid",
        "x5c": ["MIIB"],
    }
    del authority["kid"], authority["alg"]
    return orjson.dumps({"keys": [authority, jwk], "spiffe_sequence": 12, "spiffe_refresh_hint": 300})


@pytest.mark.parametrize(
    "published",
    [lambda: of_provider(use=None), lambda: of_provider(use="sig"), of_bundle],
    ids=["provider", "provider with set_key_use", "bundle"],
)
async def test_keys_of_spire_count_as_each_of_its_servers_shows_them(
    published: Callable[[], bytes], tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    login = RECIPES["SPIRE"].login
    async with running("SPIRE", tmp_path, upstream, document=published()) as site:
        for header in ({"typ": "JWT"}, {"typ": "JOSE"}, {}):
            status, me = await site.me(replace(login, header=header).credential())
            assert (status, me["subject"]) == (200, login.subject)


async def test_spire_with_an_issuer_counts_with_and_without_it(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    login, issuer = RECIPES["SPIRE"].login, "https://spire-oidc.example.org"
    async with running("SPIRE", tmp_path, upstream, issuer=issuer) as site:
        for credential in (login.credential(), login.credential(iss=issuer)):
            assert (await site.me(credential))[0] == 200
        assert (await site.me(login.credential(iss="https://other.example.org")))[0] == 401
        by_key = replace(login, key=RSA, kid="rsa", issuer=issuer)
        site.issuer.document = by_key.published()
        assert (await site.me(by_key.credential()))[0] == 401, "a key that is not there yet"


async def test_keys_of_a_cluster_are_fetched_by_the_supervisor_for_all_workers(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    recipe, text = RECIPES["Kubernetes"], configuration("Kubernetes")
    certificate, bearer = make_certificate(tmp_path, "authority"), tmp_path / "bearer"
    bearer.write_text(BEARER)
    bearer.chmod(0o600)
    async with running_jwks_server(served_with(certificate)) as issuer:
        issuer.document, issuer.bearer = recipe.login.published(), BEARER
        for there, here in (
            ("https://kubernetes.default.svc/openid/v1/jwks", issuer.url),
            ("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt", str(certificate[0])),
            ("/var/run/secrets/kubernetes.io/serviceaccount/token", str(bearer)),
            ("env:OPENAI_API_KEY", "sk-upstream-key"),
        ):
            assert there in text
            text = text.replace(there, here)
        file = tmp_path / "gateway.toml"
        file.write_text(text)
        async with running_workers(tmp_path, upstream.base_url, None, "--config", str(file)) as workers:
            for pid in await workers.all_ready(2):
                client = await workers.connect_to(pid)
                client.credential = recipe.login.credential()
                answer = await client.request("GET", "/gateway/me")
                assert (answer.status, orjson.loads(answer.body)["tenant"]) == (200, "search")
            assert len(issuer.requests) == 1


@pytest.mark.parametrize(
    "example", [one for one in examples(PAGE) if one.language == "python"], ids=lambda one: one.file
)
async def test_python_of_the_page_runs_as_it_stands(
    example: Example, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    login = RECIPES["Kubernetes"].login
    file = tmp_path / example.file
    file.write_text(example.code)
    upstream.plays(answers_hello)
    async with running("Kubernetes", tmp_path, upstream) as site:
        site.file.write_text(f"{login.credential()}\n")
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, str(file)],
            capture_output=True,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "OPENAI_BASE_URL": site.gateway.base_url,
                "LLM_CREDENTIAL_FILE": str(site.file),
            },
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stdout) == (0, "Hello.\n"), done.stderr
