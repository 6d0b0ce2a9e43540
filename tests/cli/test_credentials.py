"""The commands around credentials, run as an operator runs them."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import orjson
import pytest

from gateway.cli import main
from gateway.credentials import jws
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, Key
from gateway.credentials.principal import Principal
from gateway.credentials.verifier import Verifier
from gateway.settings.settings import Credentials
from tests.kit.jwks import THEIRS, running_jwks_server, their_credential
from tests.kit.redis import RedisServer, free_port

CONFIG = """
redis_url = "{redis_url}"

[credentials]
leeway_seconds = 1

[tenants.acme]
scopes = ["inference", "files:*"]
models = ["gpt-*"]

[tenants.off]
enabled = false
"""


class Operator:
    """Runs commands with a configuration, a key directory and nothing else of this machine."""

    def __init__(self, directory: Path, redis_url: str | None = None) -> None:
        self.directory = directory
        self.keys_dir = directory / "keys"
        self.config = directory / "gateway.toml"
        text = CONFIG.format(redis_url=redis_url)
        self.config.write_text(text if redis_url else text.replace('redis_url = "None"', ""))

    def arguments(self, *words: str, keys_dir: Path | None = None) -> list[str]:
        return [*words, "--config", str(self.config), "--keys-dir", str(keys_dir or self.keys_dir)]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Run a command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "gateway", *self.arguments(*words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *words: str, stdin: str = "", keys_dir: Path | None = None, code: int | None = 0, **environ: str
    ) -> tuple[str, str]:
        """What a command wrote to standard output and to standard error; fails unless it ends with `code`, if any.

        In this process, for a start of Python takes longer than all else; `start` does it for a few.
        """
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            for name, value in environ.items():
                patch.setenv(name, value)
            try:
                ended: object = main(self.arguments(*words, keys_dir=keys_dir))
            except SystemExit as usage:
                ended = usage.code
        assert code in (ended, None), out.getvalue() + err.getvalue()
        return out.getvalue(), err.getvalue()

    def issue(self, *words: str) -> str:
        out, _ = self.run("credential", "issue", "--tenant", "acme", "--scope", "models:read", *words)
        return out.strip()

    def principal(self, credential: str) -> Principal:
        ring = KeyRing.load(self.keys_dir)
        return Verifier(ring, Credentials()).verify(credential)

    def verdict(self, credential: str) -> str:
        out, _ = self.run("credential", "inspect", stdin=credential, code=None)
        return out.splitlines()[-1].split(maxsplit=1)[1]

    def accepted(self, credential: str) -> bool:
        return self.verdict(credential) == "accepted"


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    return Operator(tmp_path)


# Issuing.


def test_issued_credential_says_what_was_asked_for_and_is_shown_once(operator: Operator) -> None:
    out, err = operator.run(
        *("credential", "issue", "--tenant", "acme", "--subject", "billing", "--ttl", "2h"),
        *("--scope", "files:*", "--scope", "models:read", "--model", "gpt-4o*", "--model", "gpt-5"),
        *("--limit", "max_requests_per_1_minute=5", "--limit", "max_tokens_per_1_day=1000"),
    )
    [credential] = out.split()
    principal = operator.principal(credential)
    assert (principal.tenant, principal.subject) == ("acme", "billing")
    assert principal.scopes == {"files:read", "files:write", "models:read"}
    assert principal.models == ("gpt-4o*", "gpt-5")
    assert principal.limits == {"max_requests_per_1_minute": 5, "max_tokens_per_1_day": 1000}
    assert principal.expires_at - principal.issued_at == 7200
    assert principal.credential_id in err
    assert credential not in err and credential.rsplit(".", 1)[1] not in err


@pytest.mark.parametrize(
    ("words", "problem", "code"),
    [
        (["--scope", "filez:read"], "did you mean", 1),
        (["--scope", "models:read", "--limit", "max_requests_per_1_hour=5"], "max_requests_per_1_minute", 2),
        (["--scope", "models:read", "--limit", "max_requests_per_1_minute=0"], "positive", 2),
        (["--scope", "models:read", "--limit", "max_requests_per_1_minute"], "positive", 2),
        (["--scope", "models:read", "--subject", ""], "sub is not 1 to 256 printable characters", 1),
        (["--scope", "models:read", "--ttl", "400d"], "--ttl 400d: at most 90d", 1),
        (
            ["--scope", "models:read", "--limit", "max_requests_per_1_minute=5", "--set", "workers=2"],
            "redis_url",
            1,
        ),
    ],
    ids=str,
)
def test_what_cannot_be_issued_is_explained(
    operator: Operator, words: list[str], problem: str, code: int
) -> None:
    out, err = operator.run("credential", "issue", "--tenant", "acme", *words, code=code)
    assert problem in err and not out


def test_issuing_warns_of_what_the_gateway_would_refuse_all_the_same(operator: Operator) -> None:
    _, err = operator.run("credential", "issue", "--tenant", "acme", "--scope", "threads:read")
    assert "acme may not use threads:read" in err


def test_unknown_tenant_is_an_error_everywhere(operator: Operator) -> None:
    for words in (
        ("credential", "issue", "--scope", "models:read"),
        ("credential", "revoke"),
        ("limits", "show"),
        ("limits", "reset"),
        ("limits", "guesses"),
        ("bench",),
    ):
        out, err = operator.run(*words, "--tenant", "acne", code=1)
        assert not out
        assert "acne" in err and "did you mean acme?" in err
        assert not operator.keys_dir.exists()


# Explaining.


def test_credential_is_read_from_stdin_a_file_or_the_environment(operator: Operator, tmp_path: Path) -> None:
    credential = operator.issue("--subject", "billing")
    file = tmp_path / "credential"
    file.write_text(f"Bearer {credential}\n")
    answers = {
        operator.run("credential", "inspect", stdin=f"{credential}\n")[0],
        operator.run("credential", "inspect", "-", stdin=credential, GATEWAY_CREDENTIAL="x")[0],
        operator.run("credential", "inspect", f"@{file}")[0],
        operator.run("credential", "inspect", GATEWAY_CREDENTIAL=credential)[0],
    }
    [answer] = answers
    assert "billing" in answer and answer.endswith("verdict   accepted\n")
    assert credential not in answer and credential.rsplit(".", 1)[1] not in answer


def test_credential_on_the_command_line_is_refused_and_not_repeated(operator: Operator) -> None:
    credential = operator.issue()
    for words in ([credential], [f"@{operator.config}", credential], [credential, credential]):
        out, err = operator.run("credential", "inspect", *words, code=1)
        assert "process list" in err
        assert credential not in out + err and credential.split(".")[2] not in out + err
    _, err = operator.run("credential", "inspect", code=1)
    assert "no credential was given" in err


def test_inspection_says_what_a_credential_may_do(operator: Operator) -> None:
    out, _ = operator.run(
        *("credential", "issue", "--tenant", "acme", "--scope", "models:read", "--scope", "threads:read"),
        *("--model", "gpt-4o", "--limit", "max_requests_per_1_minute=5"),
    )
    said, _ = operator.run("credential", "inspect", stdin=out)
    assert "proved by the signature" in said
    assert re.search(r"^scopes +models:read$", said, re.M)
    assert re.search(r"^  not +threads:read \(beyond", said, re.M)
    assert re.search(r"^may do +2 of \d+ operations: listModels retrieveModel$", said, re.M)
    assert re.search(r"^models +gpt-4o, of those of the tenant \(gpt-\*\)$", said, re.M)
    assert re.search(r"^limit +max_requests_per_1_minute 5", said, re.M)
    assert re.search(r"^  exp +\d+ \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\)$", said, re.M)


def test_inspection_counts_nothing_that_is_closed_here(operator: Operator) -> None:
    out, _ = operator.run("credential", "issue", "--tenant", "acme", "--scope", "realtime:write")
    said, _ = operator.run("credential", "inspect", stdin=out)
    opened, _ = operator.run("credential", "inspect", "--set", "allow_uncontained=true", stdin=out)
    assert re.search(r"^may do +\d of \d+ operations: connectRealtime(?: connectRealtime\w+)*$", said, re.M)
    assert "createRealtimeCall" not in said
    assert "createRealtimeCall" in opened


def test_inspection_needs_no_secret_key(operator: Operator, tmp_path: Path) -> None:
    credential = operator.issue()
    ring = KeyRing.load(operator.keys_dir)
    published = tmp_path / "published.json"
    published.write_bytes(orjson.dumps(ring.public_jwks()))
    nowhere = tmp_path / "nowhere"
    out, _ = operator.run(
        "credential", "inspect", "--jwks", str(published), stdin=credential, keys_dir=nowhere
    )
    assert "proved by the signature" in out and out.endswith("accepted\n")
    public = tmp_path / "public"
    public.mkdir()
    [key] = ring
    (public / f"{key.kid}.json").write_bytes(orjson.dumps(key.public_jwk()))
    out, _ = operator.run("credential", "inspect", stdin=credential, keys_dir=public)
    assert out.endswith("accepted\n")
    out, err = operator.run("credential", "inspect", stdin=credential, keys_dir=nowhere, code=1)
    assert "NOT PROVED" in out and '"acme"' in out and "nowhere" in err
    assert not nowhere.exists(), "looking makes no keys"


@pytest.mark.parametrize(
    ("setting", "verdict"),
    [
        (
            "credentials.audience=elsewhere",
            "refused with 401, as not accepted: aud is not this audience alone",
        ),
        ("credentials.issuer=elsewhere", "refused with 401, as not accepted: iss is no issuer"),
        ("credentials.max_lifetime_seconds=60", "refused with 401, as not accepted: exp is not within"),
    ],
)
def test_inspection_says_why_a_credential_would_be_refused(
    operator: Operator, setting: str, verdict: str
) -> None:
    out, _ = operator.run("credential", "inspect", "--set", setting, stdin=operator.issue(), code=1)
    assert verdict in out


def test_inspection_of_hostile_text_is_safe_to_look_at(operator: Operator) -> None:
    key = Key.generate(Algorithm.EDDSA, "stranger")
    hostile = jws.join(
        key, orjson.dumps({"iss": "gateway", "sub": "a\x1b[2J\u202eb", "exp": 10**18, "x\n": 1})
    )
    out, _ = operator.run("credential", "inspect", stdin=hostile, code=1)
    assert "NOT PROVED" in out and all(line.isprintable() for line in out.splitlines())
    out, _ = operator.run("credential", "inspect", stdin="sk-proj-abc", code=1)
    assert "as malformed" in out and "sk-proj" not in out


async def test_inspection_explains_credentials_of_other_issuers(operator: Operator) -> None:
    async with running_jwks_server() as issuer:
        issuer.publish(THEIRS)
        with operator.config.open("a") as config:
            config.write(
                f'[issuers.login]\nissuer = "https://login.example"\naudience = "gateway"\n'
                f'jwks_url = "{issuer.url}"\ntenant = "acme"\nscopes = ["inference"]\n'
            )
        out, _ = await asyncio.to_thread(operator.run, "credential", "inspect", stdin=their_credential())
        assert re.search(r"^issuer +issuers.login of the configuration$", out, re.M)
        assert re.search(r"^key +t1 \(ES256\)$", out, re.M)
        assert re.search(r"^scopes +models:read$", out, re.M)


def test_what_lets_a_credential_see_the_usage_of_others_is_issued_by_name_only(operator: Operator) -> None:
    out, _ = operator.run("credential", "issue", "--tenant", "acme", "--scope", "usage:read")
    assert operator.principal(out.strip()).scopes == {"usage:read"}
    out, _ = operator.run("credential", "issue", "--tenant", "acme", "--scope", "*,read-only")
    assert "usage:read" not in operator.principal(out.strip()).scopes
    _, err = operator.run("credential", "issue", "--tenant", "acme", "--scope", "usage:*", code=1)
    assert "'usage:*' matches no scope" in err


# Withdrawing.


def test_revocation_by_id_spares_the_others(operator: Operator) -> None:
    first, second = operator.issue(), operator.issue()
    identity = operator.principal(first).credential_id
    out, _ = operator.run("credential", "revoke", "--jti", identity)
    assert identity in out and "two seconds" in out
    assert operator.verdict(first).startswith("refused with 401, as revoked")
    assert operator.verdict(second) == "accepted"


@pytest.mark.parametrize("subject", [[], ["--subject", "alice"]], ids=["tenant", "subject"])
def test_revocation_of_all_until_now_spares_what_is_issued_next(
    operator: Operator, subject: list[str]
) -> None:
    before, other = operator.issue("--subject", "alice"), operator.issue("--subject", "bob")
    operator.run("credential", "revoke", "--tenant", "acme", *subject)
    after = operator.issue("--subject", "alice")
    assert not operator.accepted(before)
    assert operator.accepted(after)
    assert operator.accepted(other) is bool(subject)


@pytest.mark.parametrize(
    ("words", "problem", "code"),
    [
        ([], "required", 2),
        (["--subject", "alice"], "--subject needs --tenant ID as well", 2),
        (["--jti", "a", "--tenant", "acme"], "not allowed with", 2),
        (["--jti", "a", "--subject", "alice"], "--subject needs --tenant", 2),
        (["--jti", ""], "id of a credential", 1),
        (["--tenant", "acme", "--subject", ""], "--subject takes who calls", 1),
        (["--tenant", "acme", "--subject", "a\nb"], "--subject takes who calls", 1),
    ],
    ids=str,
)
def test_revocation_of_nothing_clear_is_refused(
    operator: Operator, words: list[str], problem: str, code: int
) -> None:
    _, err = operator.run("credential", "revoke", *words, code=code)
    assert problem in err
    assert not operator.keys_dir.exists()


def test_revocation_that_could_not_be_written_says_what_is_needed(operator: Operator) -> None:
    (operator.directory / "a-file").touch()
    nowhere = operator.directory / "a-file" / "keys"
    _, err = operator.run("credential", "revoke", "--tenant", "acme", keys_dir=nowhere, code=1)
    assert "nothing was revoked" in err and "redis_url" in err and "keys_dir that can be written" in err


def test_keys_that_nobody_has_made_yet_are_told_how(operator: Operator) -> None:
    for words in (("keys", "rotate"), ("keys", "list")):
        _, err = operator.run(*words, code=1)
        assert "gateway keys generate" in err


def test_what_a_tenant_left_that_is_gone_can_still_be_withdrawn(tmp_path: Path, redis: RedisServer) -> None:
    operator = Operator(tmp_path, redis.url)
    credential = operator.issue()
    operator.config.write_text(operator.config.read_text().replace("tenants.acme", "tenants.acne"))
    out, _ = operator.run("credential", "list", "--tenant", "acme")
    assert operator.principal(credential).credential_id in out
    out, _ = operator.run("credential", "revoke", "--tenant", "acme")
    assert "revoked everything of tenant acme" in out


def test_revocation_that_redis_did_not_take_is_a_failure(tmp_path: Path) -> None:
    operator = Operator(tmp_path, f"redis://:canary@127.0.0.1:{free_port()}/0")
    _, err = operator.run("credential", "revoke", "--tenant", "acme", code=1)
    assert "nothing was revoked" in err and "canary" not in err
    assert len(err.splitlines()) == 1


# The register.


def test_list_shows_what_was_issued_and_never_a_credential(tmp_path: Path, redis: RedisServer) -> None:
    operator = Operator(tmp_path, redis.url)
    first, second = operator.issue("--subject", "alice", "--ttl", "1h"), operator.issue("--subject", "bob")
    identities = [operator.principal(credential).credential_id for credential in (first, second)]
    out, _ = operator.run("credential", "revoke", "--jti", identities[0])
    assert "of alice (tenant acme)" in out
    out, _ = operator.run("credential", "list")
    heading, *rows = (line.split() for line in out.splitlines())
    assert heading[:3] == ["ID", "TENANT", "SUBJECT"]
    assert [row[0] for row in rows] == identities
    assert "revoked" in rows[0] and "valid" in rows[1]
    _, err = operator.run("credential", "revoke", "--jti", "mistyped")
    assert "no credential mistyped is in the register" in err
    out, _ = operator.run("credential", "list", "--tenant", "off")
    assert len(out.splitlines()) == 1
    _, err = operator.run("credential", "list", "--tenant", "acne", code=1)
    assert "did you mean acme?" in err
    out, _ = operator.run("credential", "list", "--tenant", "acme", "--json")
    assert [(one["id"], one["state"]) for one in orjson.loads(out)] == [
        (identities[0], "revoked"),
        (identities[1], "valid"),
    ]
    kept = redis.command("ZRANGE", "gateway:{credentials}:issued", 0, -1)
    assert identities[0] in kept
    for credential in (first, second):
        assert not [part for part in credential.split(".") if part in kept]


def test_list_without_redis_says_what_it_needs(operator: Operator) -> None:
    _, err = operator.run("credential", "list", code=1)
    assert "without Redis" in err


def test_issuing_works_while_redis_is_gone_and_says_what_is_missing(tmp_path: Path) -> None:
    operator = Operator(tmp_path, f"redis://127.0.0.1:{free_port()}/0")
    out, err = operator.run("credential", "issue", "--tenant", "acme", "--scope", "models:read")
    assert operator.principal(out.strip())
    assert "will not show this credential" in err
    _, err = operator.run("credential", "list", code=1)
    assert "Redis" in err


# Keys.


def test_keys_are_listed_rotated_and_retired(tmp_path: Path, redis: RedisServer) -> None:
    operator = Operator(tmp_path, redis.url)
    credential = operator.issue("--subject", "alice")
    [old] = KeyRing.load(operator.keys_dir)
    out, _ = operator.run("keys", "rotate", "--kid", "second", "--algorithm", "ES256")
    assert "second (ES256) signs from now on" in out and f"still verifying: {old.kid}" in out
    out, err = operator.run("keys", "list")
    assert [line.split()[0] for line in out.splitlines()] == ["KID", old.kid, "second"]
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["verifies", "signs"]
    for_programs, _ = operator.run("keys", "list", "--json")
    assert [(key["kid"], key["signs"]) for key in orjson.loads(for_programs)] == [
        (old.kid, False),
        ("second", True),
    ]
    assert not err
    assert operator.accepted(credential)
    _, err = operator.run("keys", "retire", "second", code=1)
    assert "rotate first" in err
    out, _ = operator.run("keys", "retire", old.kid)
    assert "1 credentials that had not expired are cut off" in out and "alice" in out
    assert not operator.accepted(credential)
    listed, _ = operator.run("credential", "list")
    assert "key retired" in listed.splitlines()[1]
    for secret in (str(old.jwk()["d"]), str(KeyRing.load(operator.keys_dir).signing_key.jwk()["d"])):  # type: ignore[union-attr]
        assert secret not in out + err


def test_retiring_says_when_nobody_knows_what_it_cuts_off(operator: Operator) -> None:
    operator.issue()
    [old] = KeyRing.load(operator.keys_dir)
    operator.run("keys", "rotate")
    _, err = operator.run("keys", "retire", old.kid)
    assert "not known without Redis" in err
    _, err = operator.run("keys", "retire", old.kid, code=1)
    assert "no such key" in err


# As processes of their own.


def test_commands_work_from_a_shell_and_the_process_list_shows_no_credential(operator: Operator) -> None:
    issuing = operator.start("credential", "issue", "--tenant", "acme", "--scope", "models:read")
    credential, err = issuing.communicate(timeout=30)
    assert issuing.returncode == 0, err
    inspecting = operator.start("credential", "inspect")
    command_line = Path(f"/proc/{inspecting.pid}/cmdline")
    while not (shown := command_line.read_bytes()):
        assert inspecting.poll() is None
    out, err = inspecting.communicate(credential, timeout=30)
    assert b"inspect" in shown and credential.strip().encode() not in shown
    assert out.endswith("verdict   accepted\n") and not err
    assert inspecting.returncode == 0
    revoking = operator.start("credential", "revoke", "--tenant", "acme")
    assert revoking.communicate(timeout=30)[1] == "" and revoking.returncode == 0
    refused = operator.start("credential", "inspect")
    out, _ = refused.communicate(credential, timeout=30)
    assert refused.returncode == 1 and "as revoked" in out.splitlines()[-1]
